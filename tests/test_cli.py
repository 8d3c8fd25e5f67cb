"""The command line, and what a fresh process imports."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storyteller import cli, generate, skipthoughts
from tests.conftest import GOLDENS

STORY = GOLDENS / "story"
IMAGE = str(STORY / "images" / "06_tiny.png")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(story_settings, z, monkeypatch, capsys):
    """Run a command line on the practice models, which are loaded once for all tests."""
    monkeypatch.setattr(generate, "load_all", lambda config=None, verbose=True: z)

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
    status, _, err = run(IMAGE, "--html", tmp_path / "nowhere" / "stories.html")
    assert status == 1 and "nowhere" in err


def test_errors_are_sentences(run):
    for arguments in (["missing.jpg"], [IMAGE, "--style", "western"], [IMAGE, "-k", "0"],
                      [IMAGE, "--sample", "--temperature", "0"]):
        status, out, err = run(*arguments)
        assert status == 1 and not out and err.startswith("storyteller: ") and "Traceback" not in err
    with pytest.raises(SystemExit) as usage:
        run(IMAGE, "-k", "many")
    assert usage.value.code == 2


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
    assert status == 0 and "2 vectors of 48" in out
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


def test_check_finds_what_is_wrong(tmp_path, capsys):
    models = tmp_path / "models"
    shutil.copytree(STORY, models)
    for path in models.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (models / "models" / "utable.npy").unlink()
    (models / "models" / "uni_skip.npz").write_bytes(b"<!DOCTYPE html>")
    np.save(models / "romance_style.npy", np.zeros(7, np.float32))
    from storyteller import files
    files.save_pickle(models / "decoder.npz.pkl", {**files.load_options(models / "decoder.npz.pkl"),
                                                     "n_words": 500})
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


def test_check_knows_the_published_checksums(tmp_path):
    """A file of the published dimensions with another sum is reported as damaged."""
    from storyteller import StorytellerError, check
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
    for module in ("storyteller", "storyteller.skipthoughts", "storyteller.generate", "storyteller.cli"):
        done = python("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
        assert done.stdout.strip() == "[]", (module, done.stdout, done.stderr)


def test_one_part_alone():
    """The sentence encoder works without loading or importing the rest."""
    done = python("-c", f"""
import sys
from storyteller import skipthoughts
model = skipthoughts.load_model({str(STORY / 'models')!r})
print(skipthoughts.encode(model, ['the sea']).shape)
print(sorted({{'storyteller.vgg', 'storyteller.decoder', 'storyteller.embedding'}} & set(sys.modules)))
""")
    assert done.stdout.split("\n")[:2] == ["(1, 48)", "[]"], done.stderr
