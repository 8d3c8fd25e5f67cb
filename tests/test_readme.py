"""The README's snippets run as pasted, in order; the documentation names what is there."""
from __future__ import annotations

import glob
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from storyteller import cli, config, text
from tests.practice import STORY

ROOT = Path(__file__).parent.parent
# What is run elsewhere: by .ci/run, until it is stopped, or with a scheduler.
ELSEWHERE = ("python3 ", "pip ", "tests/run", "storyteller serve", "--dask ")
NEEDS = {"parquet": "pyarrow", "gensim": "gensim"}     # what a snippet names: the package that it takes then
# Sizes and amounts for a test: the last of an option counts.
SMALL = {"train": "--dim 12 --dim-word 8 --batch-size 8 --max-epochs 9 --valid-freq 2 --updates",
         "evaluate decoder": "--passages 4 --reconstruct 1 --beam-width 2"}


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code that names its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch, vgg_file):
    """A folder with the files that the snippets name."""
    captions = text.read_captions(config.load({}).paths["captions"])
    lines = [f"{line[0].upper()}{line[1:]}." for line in captions]

    def book(start):
        """Paragraphs of 10 and of 25 captions, which have some hundred different words."""
        ends = np.cumsum([start, *[10, 25] * 8])
        return "\n".join(" ".join(lines[i:j]) for i, j in zip(ends, ends[1:])) + "\n"

    shutil.copytree(ROOT / "images", tmp_path / "images")
    for folder in ("photos", "novels", "heldout", "letters", "data"):
        (tmp_path / folder).mkdir()
    for copy in ("photo.jpg", "ex1.jpg", "photos/one.jpg", "photos/two.jpg"):
        shutil.copy(ROOT / "images" / "ex2.jpg", tmp_path / copy)
    (tmp_path / "photos.csv").write_text("path\nphotos/one.jpg\n", encoding="utf-8")
    for i, name in enumerate(("novel.txt", "heldout.txt", "novels/one.txt", "novels/two.txt", "heldout/one.txt",
                              "letters/one.txt")):
        (tmp_path / name).write_text(book(1000 * i), encoding="utf-8")
    for name in ("sentences.txt", "captions.txt"):
        (tmp_path / name).write_text("a cat sits on a table\na dog runs along the sea\n", encoding="utf-8")
    for split in ("train", "dev"):
        features = np.random.default_rng(1).normal(size=(8, 4096)).astype(np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        np.save(tmp_path / "data" / f"coco_{split}_ims.npy", np.repeat(features, 5, axis=0))
        (tmp_path / "data" / f"coco_{split}_caps.txt").write_text("\n".join(captions[:40]) + "\n", encoding="utf-8")
    models = tmp_path / "published"     # in the originals' formats and under their names
    shutil.copytree(STORY / "models", models / "skipthoughts")
    for ours, theirs in (("decoder.npz", "romance.npz"), ("decoder.npz.pkl", "romance.npz.pkl"),
                         ("decoder_dictionary.pkl", "romance_dictionary.pkl"), ("captions.txt", "coco_train_caps.txt"),
                         *[(name, name) for name in ("coco_embedding.npz", "coco_embedding.npz.pkl",
                                                     "coco_embedding.npz.dictionary.pkl", "caption_style.npy",
                                                     "romance_style.npy")]):
        shutil.copy(STORY / ours, models / theirs)
    for link in (models / "vgg19.pkl", tmp_path / "vgg19.pkl"):
        link.symlink_to(vgg_file)
    for name in ("caption_style.npy", "romance_style.npy"):
        shutil.copy(STORY / name, tmp_path / name)
    with open(tmp_path / "GoogleNews-vectors-negative300.bin", "wb") as file:
        words = sorted(set(" ".join(lines[2000:2500]).split()))
        file.write(f"{len(words)} 5\n".encode())
        for word, row in zip(words, np.random.default_rng(2).normal(size=(len(words), 5)).astype(np.float32)):
            file.write(word.encode() + b" " + row.tobytes() + b"\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_here(snippet: str) -> bool:
    missing = [name for name, package in NEEDS.items() if not importlib.util.find_spec(package)]
    return not any(part in snippet for part in (*ELSEWHERE, *missing))


def small(words: list[str]) -> list[str]:
    """A command's words, with what bounds its time."""
    for command, options in SMALL.items():
        if words[:len(command.split())] == command.split():
            words = [*words, *options.split(), *["4" if "--resume" in words else "2"] * (command == "train")]
    return words


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{name}.md" for name in ("guides", "training", "scale")]])
def test_snippets_run_as_pasted(page, place, capsys):
    """In order, in one folder, with small texts and sizes.  Those of docs/serve.md run beside a server (test_serve.py),
    the tutorial when the documentation is built; docs/gpu.md needs a GPU."""
    names: dict[str, object] = {"__name__": "__main__"}
    ran = []
    whole = (ROOT / page).read_text(encoding="utf-8")
    for language, snippet in snippets(ROOT / page):
        before = whole.partition(snippet)[0]
        snippet = snippet.replace("'/models/", f"'{place}/published/")
        if language == "python" and "FLAG_CPU_MODE" in snippet:
            # A settings file, which the sentence before names.
            file = re.findall(r"`(\w+\.py)`", before)[-1]
            Path(file).write_text(snippet, encoding="utf-8")
            if page == "README.md":
                settings = config.load(file)
                settings.require()
                assert set(settings.paths) == set(config.FILES)
        elif language == "python":
            if runs_here(snippet):
                exec(compile(snippet, page, "exec"), names)
        else:
            for line in snippet.splitlines():
                if line and not line.startswith("#") and runs_here(line):
                    program, *words = shlex.split(line, comments=True)
                    assert program == "storyteller", line
                    words = [name for word in words for name in (sorted(glob.glob(word)) or [word])]
                    assert cli.main(small(words)) == 0, capsys.readouterr().err
        ran.append(language)
    assert len(ran) >= 2 and set(ran) <= {"sh", "python"}


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


def test_pictures_of_the_gallery_have_sources(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import gallery
    for folder in gallery.FOLDERS:
        listed = gallery.sources(folder)
        assert sorted(listed) == sorted(path.name for path in folder.glob("*.jpg"))
        assert all(len(facts) == 3 and all(facts) for facts in listed.values())


def test_public_names_have_docstrings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import hooks
    modules = hooks.public_modules()
    assert {"storyteller.generate", "storyteller.training.trainer", "storyteller.files"} <= set(modules)
    assert not [name for module in modules for name, described in hooks.documented(module) if not described]
