"""The README's snippets run as pasted, in order; the documentation names what is there."""
from __future__ import annotations

import glob
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from storyteller import cli, config
from tests.practice import STORY
from tests.test_training import sentences

ROOT = Path(__file__).parent.parent
TINY = "--dim 12 --dim-word 8 --batch-size 8 --max-epochs 1".split()   # the defaults are the published models' sizes
# What is run elsewhere: by .ci/run, or until it is stopped.
ELSEWHERE = ("python3 ", "tests/run", "storyteller serve")


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code that names its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch, vgg_file):
    """A folder with the files that the snippets name."""
    def book(seed):
        lines = [f"{line[0].upper()}{line[1:-2]}." for line in sentences(400, seed)]
        return "\n".join(" ".join(lines[i:i + n]) for i, n in zip(range(0, 400, 25), [25, 10] * 8)) + "\n"

    shutil.copytree(ROOT / "images", tmp_path / "images")
    (tmp_path / "photos").mkdir()
    for copy in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        shutil.copy(ROOT / "images" / "ex2.jpg", tmp_path / copy)
    (tmp_path / "novels").mkdir()
    for seed, name in enumerate(("novel.txt", "heldout.txt", "novels/one.txt", "novels/two.txt")):
        (tmp_path / name).write_text(book(seed), encoding="utf-8")
    for name in ("sentences.txt", "captions.txt"):
        (tmp_path / name).write_text("a cat sits on a table\na dog runs along the sea\n", encoding="utf-8")
    models = tmp_path / "published"     # in the originals' formats and under their names
    shutil.copytree(STORY / "models", models / "skipthoughts")
    for ours, theirs in (("decoder.npz", "romance.npz"), ("decoder.npz.pkl", "romance.npz.pkl"),
                         ("decoder_dictionary.pkl", "romance_dictionary.pkl"), ("captions.txt", "coco_train_caps.txt"),
                         *[(name, name) for name in ("coco_embedding.npz", "coco_embedding.npz.pkl",
                                                     "coco_embedding.npz.dictionary.pkl", "caption_style.npy",
                                                     "romance_style.npy")]):
        shutil.copy(STORY / ours, models / theirs)
    (models / "vgg19.pkl").symlink_to(vgg_file)
    for name in ("caption_style.npy", "romance_style.npy"):
        shutil.copy(STORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/guides.md"])
def test_snippets_run_as_pasted(page, place, capsys):
    names: dict[str, object] = {}
    ran = []
    for language, snippet in snippets(ROOT / page):
        snippet = snippet.replace("'/models/", f"'{place}/published/")
        if language == "python" and "FLAG_CPU_MODE" in snippet:     # a settings file
            (place / "published.py").write_text(snippet, encoding="utf-8")
            settings = config.load(place / "published.py")
            settings.require()
            assert set(settings.paths) == set(config.FILES)
        elif language == "python":
            exec(compile(snippet, page, "exec"), names)
        else:
            for line in snippet.splitlines():
                if line.strip() and not line.startswith(("#", *ELSEWHERE)):
                    program, *words = shlex.split(line, comments=True)
                    assert program == "storyteller", line
                    words = [name for word in words for name in (sorted(glob.glob(word)) or [word])]
                    assert cli.main([*words, *TINY * (words[0] == "train")]) == 0, capsys.readouterr().err
        ran.append(language)
    assert len(ran) > 5 and set(ran) == {"sh", "python"}


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
