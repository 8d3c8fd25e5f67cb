"""Pages of the documentation that are made when it is built (mkdocs.yml names this file)."""
from __future__ import annotations

import argparse
import ast
import functools
import importlib
import os
import re
from pathlib import Path

import gallery

ROOT = Path(__file__).resolve().parent.parent
# No part of the public face: what stands behind the commands, readers of single formats, the engine.
INTERNAL = re.compile(r"storyteller\.(__main__|settings|(cli|compact|data|web)(\..*)?|(backend|files)\..*)$")

# Files outside docs/ that are pages, and what other pages' links to them become.
PAGES = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md", "tests/goldens/README.md": "goldens.md",
         "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md", "images/SOURCES.md": "images/SOURCES.md"}


def public_modules() -> list[str]:
    """Names of the modules that the reference describes."""
    files = sorted((ROOT / "storyteller").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not INTERNAL.match(name)]


def on_config(config):
    """The reference's pages stand in the navigation."""
    names = public_modules()
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = [{name.removeprefix("storyteller."): f"reference/{name}.md"} for name in names]
    return config


def on_files(files, config):
    """Add the pages and pictures that do not lie in docs/."""
    from mkdocs.structure.files import File
    made = {f"reference/{name}.md": f"# {name}\n\n::: {name}\n" for name in public_modules()}
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    made |= {"commands.md": commands(), "gallery.md": _gallery()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for picture in sorted((ROOT / "images").glob("*.jpg")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the repository's files become links of the pages."""
    source = {made: source for source, made in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = os.path.dirname(page.file.src_uri)

    def target(link: str) -> str:
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link
        path = os.path.normpath(os.path.join(os.path.dirname(source), path)).replace(os.sep, "/")
        path = PAGES.get(path, path.removeprefix("docs/"))
        return os.path.relpath(path, here or ".").replace(os.sep, "/") + mark + anchor
    markdown = re.sub(r"(\]\()([^)\s]+)(?=\))", lambda found: found[1] + target(found[2]), markdown)
    return re.sub(r'(<img\b[^>]*\bsrc=")([^"]+)', lambda found: found[1] + target(found[2]), markdown)


def on_page_content(html, page, config, files):
    """The docstrings' roles become links, and their examples code: docstrings are reST, pages Markdown."""
    module = page.file.src_uri.removeprefix("reference/").removesuffix(".md")

    def link(found: re.Match) -> str:
        name = found[1].lstrip("~.")
        full = name if name.startswith("storyteller") else f"{module}.{name}"
        return f'<autoref optional identifier="{full}"><code>{name}</code></autoref>'
    html = re.sub(r":(?:func|class|meth|mod|data|attr|exc):<code>([^<]*)</code>", link, html)
    return re.sub(r"(?:<blockquote>\s*){3}<p>(.*?)</p>\s*(?:</blockquote>\s*){3}",
                  lambda found: f"<pre><code>{re.sub('  +# doctest: [+]SKIP', '', found[1])}</code></pre>\n", html,
                  flags=re.DOTALL)


@functools.lru_cache(1)     # `mkdocs serve` builds again and again
def _gallery() -> str:
    return gallery.page()


def commands() -> str:
    """The help of every command."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    from storyteller import cli
    parts = ["# Command line\n"]
    for command in ("story", *cli.COMMANDS):
        module = importlib.import_module(f"storyteller.cli.{command}")
        parts += _helps(module.parser())
    return "\n".join(parts)


def _helps(parser: argparse.ArgumentParser, level: int = 2) -> list[str]:
    parts = [f"{'#' * level} {parser.prog}\n\n```text\n{parser.format_help()}```\n"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, made in action.choices.items():
                if made.prog.endswith(f" {name}"):      # no other name of it
                    parts += _helps(made, level + 1)
    return parts


def documented(name: str) -> list[tuple[str, bool]]:
    """Public functions, classes and methods that a module defines, each with whether it has a docstring.

    A method that a base class describes has one.
    """
    module = importlib.import_module(name)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found = [(name, bool(ast.get_docstring(tree)))]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append((f"{name}.{node.name}", bool(ast.get_docstring(node))))
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    bases = getattr(module, node.name).__mro__[1:]
                    described = any(inner.name in vars(base) and vars(base)[inner.name].__doc__ for base in bases)
                    found.append((f"{name}.{node.name}.{inner.name}", bool(ast.get_docstring(inner)) or described))
    return found
