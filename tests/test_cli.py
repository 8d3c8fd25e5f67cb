"""The command line, and what a fresh process imports."""
from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, check, cli, compact, decoder, embedding, files, generate, skipthoughts
from tests.conftest import GOLDENS

STORY = GOLDENS / "story"
IMAGE = str(STORY / "images" / "06_tiny.png")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(story_settings, z, monkeypatch, capsys):
    """Run a command line on the practice models, which are loaded once for all tests."""
    monkeypatch.setattr(generate, "load_all", lambda config=None, verbose=True, device=None: z)

    def call(*arguments):
        capsys.readouterr()
        status = cli.main(["--config", str(story_settings), *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err
    call.settings = story_settings
    return call


def test_a_story(run):
    status, out, _ = run(IMAGE, "-k", 10, "-b", 5)
    assert status == 0
    assert out == (STORY / "stdout" / "06_tiny_k10_bw5_lyric0.txt").read_text(encoding="utf-8")
    _, lyric, _ = run(IMAGE, "-k", 10, "--beam-width", 5, "--lyric")
    assert lyric == (STORY / "stdout" / "06_tiny_k10_bw5_lyric1.txt").read_text(encoding="utf-8")


def test_json_and_many(run):
    status, out, err = run(IMAGE, "missing.jpg", STORY / "images" / "01_landscape.jpg", "--json", "--n-best", 2)
    told = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and "missing.jpg" in err
    assert [Path(t["image"]).name for t in told] == ["06_tiny.png", "01_landscape.jpg"]
    assert len(told[0]["alternatives"]) == 2 and len(told[0]["captions"]) == 100


def test_n_best_and_sampling(run):
    _, out, _ = run(IMAGE, "--n-best", 3)
    assert out.count("(cost ") == 2
    drawn = [run(IMAGE, "--sample", "--seed", seed, "--top-p", 0.9, "--temperature", 1.2)[1] for seed in (1, 1)]
    assert drawn[0] == drawn[1]


def test_html(run, tmp_path):
    page = tmp_path / "stories.html"
    status, _, _ = run(IMAGE, "--html", page)
    written = page.read_text(encoding="utf-8")
    assert status == 0 and "data:image/jpeg;base64," in written and "</html>" in written


def test_errors_are_sentences(run):
    for arguments in (["missing.jpg"], [IMAGE, "--style", "western"]):
        status, out, err = run(*arguments)
        assert status == 1 and not out and err.startswith("storyteller: ") and "Traceback" not in err


def usage(*arguments):
    """The exit status of a command line that is refused before anything is loaded."""
    try:
        return cli.main(["--config", "none.py", *arguments])
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", "nan", "1e3", "9" * 30, ""])
def test_wrong_numbers(value):
    for option in ("-k", "-b", "--n-best", "--max-words"):
        assert usage(IMAGE, option, value) == 2
    for command in (["encode", "x", "-o", "y.npy", "--batch-size"], ["style", "make", "x", "-o", "y", "--min-words"],
                    ["vocab", "x", "-o", "y", "--min-count"], ["evaluate", "trec", "x", "y", "--folds"]):
        assert usage(*command, value) == 2


@pytest.mark.parametrize("arguments", [
    ["--temperature", "0"], ["--temperature", "nan"], ["--temperature", "inf"], ["--top-p", "0"], ["--top-p", "1.1"],
    ["--top-k", "0"], ["--seed", "-1"], ["--seed", "1.5"], ["--strength", "nan"], ["--candidates", "-1"],
    ["--candidates", "1001"]])
def test_wrong_options_of_drawing(arguments):
    assert usage(IMAGE, "--sample", *arguments) == 2


def test_wrong_usage(capsys, tmp_path):
    no_candidates = str(tmp_path / "settings.py")
    Path(no_candidates).write_text("telling = {'candidates': 0}\n")
    for option in ("--temperature", "--top-k", "--top-p", "--seed"):
        assert usage(IMAGE, "--candidates", "0", option, "1") == 2
        assert option in capsys.readouterr().err
    for line in (["--sample", "--candidates", "3"], ["--guidance", "1", "--sample"],
                 ["--guidance", "1", "--candidates", "0"], ["--guidance", "1", "--config", no_candidates]):
        assert usage(IMAGE, *line) == 2
        assert line[0] in capsys.readouterr().err
    for line in (["chekc"], ["trian", "decoder", "x"], ["Evaluate", "trec"]):
        assert usage(*line) == 2
        assert "did you mean" in capsys.readouterr().err
    for word in ("photo", "help"):
        assert usage(word) == 2 and "--help" in capsys.readouterr().err
    assert usage("train", "decoder", str(ROOT / "README.md"), "-o", "x.txt") == 2
    assert usage("train", "decoder", "x", "-o", "x.npz", "--embeddings", "a", "--init", "b") == 2
    assert usage("train", "embedding", "-o", "x.npz") == 2
    for wrong, says in (("nowhere/x.html", "does not exist"), (".", "a folder"), ("", "is empty"),
                        ("new/", "a folder")):
        for line in ([IMAGE, "--html"], *([*command, IMAGE, "-o"] for command in (["encode"], ["vocab"],
                                                                                  ["style", "make"]))):
            capsys.readouterr()
            assert usage(*line, wrong and f"{tmp_path}/{wrong}") in (1, 2)
            assert says in capsys.readouterr().err, line
    assert usage("encode", IMAGE, "-o", str(tmp_path / "nowhere" / "x.npy")) == 1


def test_an_output_that_may_not_be_written(capsys, tmp_path, monkeypatch):
    """As on a file system that is read-only, also for root."""
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    assert usage(IMAGE, "--html", str(tmp_path / "x.html")) == 1
    assert "may not be written to" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_output_is_no_input(capsys, tmp_path):
    """Whatever name it is given by; and a page replaces nothing but a page."""
    text, picture, link, page = (tmp_path / name for name in ("t.txt", "a.png", "link", "old.html"))
    text.write_text("He said no .\n")
    shutil.copy(IMAGE, picture)
    link.symlink_to(text)
    for line, output in ((["encode", text], link), (["vocab", text], text), (["vocab", tmp_path], text),
                         (["style", "make", link, "--min-words", "1"], text), ([IMAGE, picture], picture),
                         ([IMAGE], picture), ([IMAGE], text), ([f"{tmp_path}/./a.png"], picture)):
        before = Path(output).read_bytes()
        capsys.readouterr()
        option = "--html" if str(line[-1]).endswith("png") else "-o"
        assert usage(*map(str, line), option, str(output)) == 1
        assert Path(output).name in capsys.readouterr().err and Path(output).read_bytes() == before
    page.write_text("<!DOCTYPE html><p>")
    assert usage(IMAGE, "--html", str(page)) == 1 and "none.py" in capsys.readouterr().err     # came to the settings


def test_files_on_both_sides_of_an_option(run, tmp_path):
    for image in ("a.png", "b.png"):
        shutil.copy(IMAGE, tmp_path / image)
    status, out, _ = run(tmp_path / "a.png", "-q", "-k", 5, tmp_path / "b.png", "-b", 2)
    assert status == 0 and out.count("OUTPUT") == 2
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("He said no .\n")
    status, out, _ = run("style", "make", tmp_path / "a.txt", "-o", tmp_path / "x.npy", tmp_path / "b.txt",
                         "--min-words", 1)
    assert status == 0 and "2 files, 48-dimensional" in out


def test_what_is_told_before_anything_is_loaded(run, monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "load_all", None)
    (tmp_path / "x.npy").write_bytes(b"")
    for line, says in ((["missing.jpg"], "missing.jpg"), (["a.jpg", "b.jpg"], "b.jpg"), ([tmp_path], "folder"),
                       ([IMAGE, IMAGE, "--style", "western"], "western"),
                       ([IMAGE, "--n-best", 5, "-b", 2], "--beam-width of 2"),
                       ([IMAGE, "--style", tmp_path / "x.npy"], "empty")):
        status, out, err = run(*line)
        assert status in (1, 2) and not out and says in err, line
        assert len(err.splitlines()) == (2 if "b.jpg" in line else 1), line


def test_a_style_of_another_model_is_told_once(run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(7, np.float32))
    status, out, err = run(IMAGE, IMAGE, "--style", tmp_path / "x.npy")
    assert status == 1 and not out and err.count("x.npy") == 1


def test_a_picture_on_standard_input(run, monkeypatch, capsys):
    def give(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    give(Path(IMAGE).read_bytes())
    assert json.loads(run("-", "-k", 5, "-b", 2, "--json")[1])["image"] == "standard input"
    give(b"")
    assert run("-")[2].startswith("storyteller: standard input: is empty")
    monkeypatch.setattr(generate, "load_all", None)     # not reached
    status, _, err = run("-", "-")
    assert status == 2 and "standard input" in err


def test_extras_that_messages_name_exist():
    extras = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
    named = {name for path in (ROOT / "storyteller").rglob("*.py")
             for name in re.findall(r"storyteller\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert "plot" in named <= extras


def test_options_before_a_command(run, capsys):
    for before in (["-q"], ["--quiet", f"--config={run.settings}"], ["--config", str(run.settings), "-q"]):
        capsys.readouterr()
        assert cli.main([*before, "check"]) == 0
        assert "found" in capsys.readouterr().out


def test_control_characters(run, monkeypatch, tmp_path):
    """Of names, captions and arguments none reaches the terminal."""
    name = tmp_path / "\x1b[31mred\udcff\x9b.png"
    shutil.copy(IMAGE, name)
    real = generate.story

    def story(*arguments, **options):
        told = real(*arguments, **options)
        told.captions[0] = generate.Caption("a cat \x1b]0;title\x07 \x1b[2J \r on a sofa", 1.0)
        return told
    monkeypatch.setattr(generate, "story", story)
    for line in ([name], [name, IMAGE], [name, "--json"], [name, "--html", tmp_path / "x.html"], [f"{name}x"]):
        _, out, err = run(*line, "-k", 5, "-b", 2)
        assert not any(c in out + err for c in "\x1b\x07\r\x9b\udcff"), line
    shown = json.loads(run(name, "--json", "-k", 5, "-b", 2)[1])["image"]
    assert shown == str(name).replace("\udcff", "\N{REPLACEMENT CHARACTER}")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "red" in page and "\x1b" not in page
    run("encode", f"{name}x", "-o", "x.npy")
    with pytest.raises(SystemExit):
        run(IMAGE, "--\x1b[31m")


def test_several_pictures(run, tmp_path, monkeypatch):
    """An error names its picture; what was told is on the page, whatever ends the telling."""
    real, told, end = generate.story, [], BaseException()

    def story(z, image, *arguments, **options):
        told.append(image)
        if len(told) == 2:
            raise StorytellerError("something is wrong with it")
        if len(told) == 4:
            raise end
        return real(z, image, *arguments, **options)
    monkeypatch.setattr(generate, "story", story)
    page = tmp_path / "page.html"
    for error, status in ((KeyboardInterrupt(), 130), (OSError(5, "no such luck"), 1), (MemoryError(), 1)):
        end = error
        told.clear()
        got, out, err = run(*[IMAGE] * 4, "-k", 5, "-b", 2, "--json", "--html", page)
        assert got == status and len(out.splitlines()) == 2 and "06_tiny.png: something is wrong" in err
        written = page.read_text(encoding="utf-8")
        assert written.count('class="story"') == 2 and written.endswith("</html>\n")
        page.unlink()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_page_that_cannot_be_written(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    status, _, _ = run(IMAGE, "-k", 5, "-b", 2, "--html", tmp_path / "pipe")
    os.close(reader)
    assert status in (0, 1) and (tmp_path / "pipe").is_fifo()


def test_a_full_disk_under_the_page(run, tmp_path):
    """The stories go on, and the page holds what there was room for."""
    resource = pytest.importorskip("resource")
    page = tmp_path / "page.html"
    assert run(IMAGE, "-k", 5, "-b", 2, "--html", page)[0] == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (page.stat().st_size + 100, before[1]))
    try:
        status, out, err = run(*[IMAGE] * 3, "-k", 5, "-b", 2, "--json", "--html", page)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written = page.read_text(encoding="utf-8")
    assert status == 1 and len(out.splitlines()) == 3 and err.count("page.html") == 1 and "first 1 of" in err
    assert written.count('class="story"') == 1 and written.endswith("</html>\n")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["encode", "--help"],
                                       ["style", "make", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0 and "usage: storyteller" in capsys.readouterr().out


def test_encode(run, z, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("he said no .\nthe sea\n", encoding="utf-8")
    status, out, _ = run("encode", texts, "-o", tmp_path / "v.npy")
    assert status == 0 and "2 vectors, 48-dimensional" in out
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"),
                                  skipthoughts.encode(z["stv"], ["he said no .", "the sea"]))


def test_style_make(run, tmp_path):
    for name in ("a", "b"):
        shutil.copy(STORY / "romance_style_sentences.txt", tmp_path / f"{name}.txt")
    status, _, _ = run("style", "make", tmp_path, "-o", tmp_path / "mine_style.npy", "--min-words", 1)
    assert status == 0
    np.testing.assert_allclose(np.load(tmp_path / "mine_style.npy"), np.load(STORY / "romance_style.npy"),
                               atol=1e-5)
    late = ["style", "make", str(tmp_path / "a.txt"), "-o", str(tmp_path / "late.npy"), "--min-words", "1",
            "--quiet", "--config", str(run.settings)]
    assert cli.main(late) == 0 and (tmp_path / "late.npy").exists()
    wrapped = tmp_path / "novel.txt"
    wrapped.write_text("He said\nno .\n\nThe sea\nwas there .\n", encoding="utf-8")
    status, _, err = run("style", "make", wrapped, "-o", tmp_path / "x.npy")
    assert status == 1 and "100 words" in err and not (tmp_path / "x.npy").exists()
    (tmp_path / "none").mkdir()
    assert run("style", "make", tmp_path / "none", "-o", tmp_path / "x.npy")[0] == 1


def test_check(run):
    status, out, _ = run("check")
    assert status == 0 and out.count("found ") == 17
    status, out, _ = run("check", "--json")
    assert {finding["status"] for finding in json.loads(out)} == {"found"}


def test_check_tells_versions(run):
    import platform

    from storyteller import __version__
    _, out, _ = run("check")
    start = out[:out.index("settings:")]
    for part in (f"storyteller: {__version__}", f"python: {platform.python_version()}", platform.system(),
                 f"numpy {np.__version__}", "processors"):
        assert part in start


def test_styles(run, capsys):
    import storyteller
    status, out, _ = run("styles")
    assert status == 0 and "romance" in out and "(the default)" in out
    assert [style["name"] for style in json.loads(run("styles", "--json")[1])] == storyteller.styles(run.settings)
    found = storyteller.styles({})
    assert {"tale", "romance", "adventure", "verse"} <= set(found) and found == sorted(found) and "caption" not in found
    assert storyteller.styles({"posbias": "/none/x.npy", "skmodels": "/none"}) == []


def test_completion(tmp_path):
    pytest.importorskip("argcomplete")

    def completed(line, shell="bash"):
        found = tmp_path / "found"
        done = python("-c", "import sys; from storyteller.cli import main; sys.exit(main())", _ARGCOMPLETE="1",
                      COMP_LINE=line, COMP_POINT=str(len(line)), COMP_TYPE="9", _ARGCOMPLETE_IFS="\n",
                      _ARGCOMPLETE_SHELL=shell, _ARGCOMPLETE_STDOUT_FILENAME=str(found))
        assert done.returncode == 0 and not done.stdout, done.stderr
        return {word.split(":")[0].strip() for word in found.read_text().split("\n")}
    assert {"style", "styles"} <= completed("storyteller st") and "batch" in completed("storyteller ")
    assert {"--style", "--strength", "--strict"} == completed("storyteller x.jpg --st")
    assert completed("storyteller x.jpg --style ") == {"adventure", "romance", "tale", "verse"}
    assert completed("storyteller batch --wo") == {"--workers"} == completed("storyteller -q batch --wo", "zsh")
    assert "images/" in completed("storyteller ima") and "styles" not in completed("storyteller x.jpg st")
    assert "decoder" in completed("storyteller --config x.py train ")


def test_check_finds_what_is_wrong(tmp_path, capsys):
    models = tmp_path / "models"
    shutil.copytree(STORY, models)
    for path in models.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (models / "models" / "utable.npy").unlink()
    (models / "models" / "uni_skip.npz").write_bytes(b"<!DOCTYPE html>")
    np.save(models / "romance_style.npy", np.zeros(7, np.float32))
    options = files.load_options(models / "decoder.npz.pkl")
    files.save_pickle(models / "decoder.npz.pkl", {**options, "n_words": options["n_words"] + 5})
    (models / "config.py").write_text("""
paths = dict(skmodels='models', sktables='models', decmodel='decoder.npz', dictionary='decoder_dictionary.pkl',
             vsemodel='coco_embedding.npz', captions='captions.txt', negbias='caption_style.npy',
             posbias='romance_style.npy', vgg='vgg19.pkl')
""")
    assert cli.main(["check", "--config", str(models / "config.py"), "--json"]) == 1
    status = {Path(f["path"] or f["key"]).name: f["status"] for f in json.loads(capsys.readouterr().out)}
    assert status.pop("utable.npy") == "missing" and status.pop("vgg19.pkl") == "missing"
    assert status.pop("uni_skip.npz") == "damaged"
    assert status.pop("romance_style.npy") == "wrong shape" and status.pop("decoder.npz") == "wrong shape"
    assert set(status.values()) == {"found"}


def test_check_finds_what_does_not_fit(tmp_path, capsys):
    models = Path(shutil.copytree(compact.FOLDER, tmp_path / "m", ignore=shutil.ignore_patterns("*.py", "__pycache__")))

    def found(**changed):
        names = {"decmodel": "romance.npz", "dictionary": "romance_dictionary.pkl", "vsemodel": "embedding.npz",
                 "vgg": "efficientnet_lite0.npz", **changed}
        return {f.file.key: f for f in check.check({key: str(models / name) for key, name in names.items()}, False)
                if f.status != check.FOUND}
    assert not found()
    words = files.load_dictionary(models / "romance_dictionary.pkl")
    for name, count in (("few.pkl", 1), ("fewer.pkl", len(words) // 2 - 2), ("most.pkl", len(words) - 9)):
        files.save_pickle(models / name, dict(list(words.items())[:count]))
    for name in ("few.pkl", "fewer.pkl"):
        (wrong,) = found(dictionary=name).values()
        assert wrong.status == check.SHAPE and f"{name}: names" in wrong.message
        with pytest.raises(StorytellerError, match=f"{name}: names"):
            decoder.load_model(models / "romance.npz", models / name)
    assert not found(dictionary="most.pkl")
    for name in ("embedding.npz", "embedding.npz.pkl"):
        shutil.copy(models / name, models / f"x{name}")
    shutil.copy(models / "few.pkl", models / "xembedding.npz.dictionary.pkl")
    assert set(found(vsemodel="xembedding.npz")) == {"vsemodel"}
    with pytest.raises(StorytellerError, match="xembedding.npz.dictionary.pkl: names 1 of"):
        embedding.load_model(models / "xembedding.npz")
    other = {"vsemodel": str(GOLDENS / "embedding" / "coco_embedding.npz")}
    (wrong,) = [f for f in check.check(other, False) if f.status != check.FOUND]
    assert wrong.file.key == "vgg" and "the joint embedding reads" in wrong.message


def test_check_of_odd_files(tmp_path, capsys, monkeypatch):
    """Whatever stands under a name is told in a sentence; what the package lacks says to install it again."""
    from storyteller import check, compact
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    paths = dict(captions=str(tmp_path / "pipe"), vgg=str(tmp_path / "folder"), posbias=str(tmp_path / "empty"),
                 negbias="\udcff\ud800", vsemodel=str(tmp_path / "none\x1b[31m"), skmodels=str(tmp_path))
    (tmp_path / "s.py").write_text(f"paths = {paths!r}\n", encoding="utf-8")
    monkeypatch.setattr(check, "_published", lambda *arguments: os.open(tmp_path / "none", os.O_RDONLY))
    assert cli.main(["check", "--config", str(tmp_path / "s.py")]) == 1
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(compact, "FOLDER", str(tmp_path / "folder"))
    assert cli.main(["check", "--config", str(tmp_path / "s.py"), "--json"]) == 1
    found = {f["key"]: f for f in json.loads(capsys.readouterr().out)}
    assert "install storyteller again" in found["decmodel"]["message"]
    assert "install storyteller again" not in found["vsemodel"]["message"]


def test_messages_without_logging_configured():
    """A plain script and a notebook show what is loaded; one that configures logging decides itself."""
    code = "from storyteller import generate, compact; z = generate.Models({}); z['bpos']"
    assert "Loading" in python("-c", code).stderr
    assert not python("-c", code.replace("({})", "({}, verbose=False)")).stderr
    assert not python("-c", "import logging; logging.basicConfig(); " + code).stderr


def test_check_knows_the_published_checksums(tmp_path):
    """A file of the published dimensions with another sum is reported as damaged."""
    from storyteller import check
    path = tmp_path / "dictionary.txt"
    path.write_text("UNK\n")
    assert check._published(str(path), False) == ""
    with pytest.raises(StorytellerError, match="26d8a3e6458500013723b380a4b4b55e"):
        check._published(str(path), True)


def python(*arguments, **environment):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **environment}, timeout=120)


def test_imports_are_light():
    """No engine, no image or language library before they are needed."""
    heavy = "{'pytensor', 'theano', 'lasagne', 'jax', 'nltk', 'skimage', 'scipy', 'PIL', 'h5py', 'numba'}"
    for module in ("storyteller", "storyteller.skipthoughts", "storyteller.generate", "storyteller.cli.story"):
        done = python("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
        assert done.stdout.strip() == "[]", (module, done.stdout, done.stderr)


def test_one_part_alone():
    """The sentence encoder works without loading or importing the rest, and on the CPU without an engine."""
    done = python("-c", f"""
import sys
from storyteller import skipthoughts
model = skipthoughts.load_model({str(STORY / 'models')!r})
print(skipthoughts.encode(model, ['the sea']).shape)
print(sorted({{'storyteller.vgg', 'storyteller.decoder', 'storyteller.embedding', 'pytensor', 'theano'}}
             & set(sys.modules)))
""")
    assert done.stdout.split("\n")[:2] == ["(1, 48)", "[]"], done.stderr


# A fresh process, its streams and signals.

SCRIPT = """
import os, sys, types
from storyteller import cli, images, stories
images.check_path = lambda path: None
def story(z, image, *arguments, **options):
    if str(image).startswith("signal"):
        os.kill(os.getpid(), int(image[6:]))
    return stories.Story(str(image), [], "caf\\xe9 \\u2603", 1.0, "none", {})
sys.modules["storyteller.generate"] = types.SimpleNamespace(load_all=lambda *arguments, **options: {}, story=story)
sys.exit(cli.main())
"""


def command(*arguments, shell="", **environment):
    """Run the command line on a story of its own; `shell` says what a shell does with the streams."""
    line = [sys.executable, "-c", SCRIPT, *arguments]
    if shell:
        line = ["sh", "-c", f'exec "$@" {shell}', "sh", *line]
    return subprocess.run(line, cwd=ROOT, capture_output=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize("coding", ["ascii", "cp1252", "utf-8:strict", "latin-1"])
def test_streams_of_other_encodings(coding, tmp_path):
    for line in (["\u732b.jpg", "caf\xe9.jpg"], [b"caf\xe9.jpg", "x.jpg"], ["\u732b.jpg", "--json"],
                 [b"\xff.jpg", "--html", str(tmp_path / "x.html")]):
        done = command(*line, PYTHONIOENCODING=coding, PYTHONUTF8="0")
        assert done.returncode == 0 and b"caf" in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("shell, status", [("<&-", 1), (">/dev/full", 1), (">&-", 1), ("2>&-", 0), ("<&- >&- 2>&-", 1),
                                           (">/dev/full 2>/dev/full", 1), ("2>/dev/full", 0)])
def test_closed_and_full_streams(shell, status):
    if "full" in shell and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = command("-" if "<" in shell else "x.jpg", shell=shell)
    assert done.returncode == status and b"Traceback" not in done.stderr and b"xception" not in done.stderr
    assert shell != ">&-" or b"standard output is closed" in done.stderr
    help_ = command("--help", shell=shell)
    assert b"Traceback" not in help_.stderr and b"xception" not in help_.stderr


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number, status, tmp_path):
    """What was told before is printed and on the page."""
    page = tmp_path / "x.html"
    done = command("a.jpg", f"signal{int(number)}", "b.jpg", "--json", "--html", str(page))
    assert done.returncode == status and done.stderr.count(b"\n") == 1
    assert json.loads(done.stdout)["image"] == "a.jpg"
    written = page.read_text(encoding="utf-8")
    assert written.count('class="story"') == 1 and written.endswith("</html>\n")


def test_a_deleted_working_folder(tmp_path):
    script, gone = tmp_path / "storyteller.py", tmp_path / "gone"
    # As with an editable installation, one path of imports is no path of a folder.
    script.write_text(f"import sys\nsys.path[:1] = [{str(ROOT)!r}, '__editable__']\n"
                      "from storyteller.cli import main\nsys.exit(main())\n")
    gone.mkdir()
    done = subprocess.run(["sh", "-c", 'cd "$0"; rmdir "$0"; exec "$@"', str(gone), sys.executable, str(script), "-q",
                           "-k", "5", "-b", "2", "--max-words", "3", IMAGE], capture_output=True, timeout=120)
    assert done.returncode == 0 and b"OUTPUT" in done.stdout, done.stderr


def test_what_main_leaves_behind():
    """A caller's handlers of signals stay."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    usage("check")
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    done = []
    thread = threading.Thread(target=lambda: done.append(usage("check")))
    thread.start()
    thread.join()
    assert done == [1]


def test_no_page_is_left_where_no_story_was_written(tmp_path, monkeypatch, capsys):
    from storyteller.cli import story as of_story
    from storyteller.stories import Story
    whole, path = of_story._Page._write, tmp_path / "page.html"

    def write(page, text):
        if "<article>" in text:
            raise OSError(27, "File too large")
        whole(page, text)
    monkeypatch.setattr(of_story._Page, "_write", write)
    told = Story("x.jpg", [], "it was .", 1.0, "default", {})
    with of_story._Page(str(path)) as page:
        page.add(told)
    assert page.failed and not path.exists() and "there is none" in capsys.readouterr().err
    monkeypatch.undo()
    with of_story._Page(str(path)) as page:
        page.add(told)
    assert not page.failed and "<article>" in path.read_text(encoding="utf-8")
