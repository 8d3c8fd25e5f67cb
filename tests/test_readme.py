"""The documentation names what is there."""
from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from storyteller import cli

ROOT = Path(__file__).parent.parent


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code that names its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(page.name for page in (ROOT / "docs").glob("*.md")))
def test_commands_of_the_documentation_exist(page):
    """With all their options; what each does is tested with its command."""
    for language, snippet in snippets(ROOT / "docs" / page):
        for line in snippet.splitlines() if language == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == ["storyteller"]:
                command = words.pop(1) if words[1] in cli.COMMANDS else "story"
                parser = importlib.import_module(f"storyteller.cli.{command}").parser()
                try:
                    parser.parse_args(words[1:])
                except SystemExit:
                    pytest.fail(f"{page}: {line}")


def test_links_of_the_repository_are_not_dead():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    made = {"commands.md", "gallery.md"}     # by docs/hooks.py
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img\b[^>]*\bsrc="([^"]+)"', text):
            path, _, anchor = link.partition("#")
            if not re.match(r"[a-z]+:", link) and path not in made:
                target = page.parent / path if path else page
                assert target.exists(), f"{page.name}: {link}"
                if anchor:
                    assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("url", ["", "https://example.org/storyteller"])
def test_links_of_the_long_description_are_absolute(url, monkeypatch):
    setuptools, given = pytest.importorskip("setuptools"), {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert re.search(r'^URL = ".*"$', source, re.MULTILINE)
    source = re.sub(r'^URL = ".*"$', f"URL = {url!r}", source, flags=re.MULTILINE)
    exec(compile(source, "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    text = given["long_description"]
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\bsrc="([^"]+)"', text)
    assert all(re.match("https?:|#", link) for link in links)
    assert (f"{url}/blob/HEAD/docs/compact.md" in links and f"{url}/raw/HEAD/images/ex1.jpg" in links) == bool(url)
    assert "docs/compact.md" in text and len(text) > 3000


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made in Markdown."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_public_names_have_docstrings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import hooks
    modules = hooks.public_modules()
    assert {"storyteller.generate", "storyteller.training.trainer", "storyteller.files"} <= set(modules)
    assert not [name for module in modules for name, described in hooks.documented(module) if not described]
