"""The models that come with the package: what a user has right after installing."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storyteller import backend, compact, config, files, generate, telling, text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "images"
RECORDED = Path(__file__).parent / "compact_stories.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """As for a user without settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.delenv(config.VARIABLE, raising=False)
        return generate.load_all(verbose=False)


def words_of(story):
    return re.findall(r"[a-z']+", getattr(story, "text", story).lower())


def test_files():
    assert not [file for file in config.load({}).needed() if not file.found]
    assert sum(entry.stat().st_size for entry in os.scandir(compact.FOLDER) if entry.is_file()) < 78e6
    for name in ("tale", "romance", "adventure", "verse"):
        assert len(np.load(config.load({}).style_path(name))) == len(np.load(config.load({}).path("negbias")))


def test_captions(models):
    captions = models["cap"]
    assert len(captions) >= 35000 and len(set(captions)) == len(captions)
    lengths = [len(caption.split()) for caption in captions]
    assert min(lengths) >= 6 and max(lengths) <= 17
    assert all(re.fullmatch(r"[a-z',. -]+", caption) for caption in captions)
    known = files.load_dictionary(models.config.path("vsemodel") + ".dictionary.pkl")
    words = [word for caption in captions for word in caption.split()]
    assert np.mean([word in known for word in words]) > 0.99


@pytest.mark.parametrize("image", ["ex1.jpg", "ex2.jpg", "ex3.jpg", "ex4.jpg"])
def test_recorded_stories(models, image):
    """The same captions and the same story in both dialects (recorded with PyTensor by tests/record.py)."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[image]
    told = generate.story(models, IMAGES / image, show=False)
    assert [caption.text for caption in told.captions[:5]] == recorded["captions"]
    assert str(told) == recorded["story"]
    assert str(generate.story(models, IMAGES / image, show=False, style="tale")) == recorded["tale"]


def test_through_jax(models):
    """The code path of a GPU, on the CPU."""
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    pytest.importorskip("jax")
    z = generate.load_all(models.config, verbose=False, device="jax")
    told = generate.story(z, IMAGES / "ex2.jpg", show=False)
    assert z.device == "jax" and str(told) == json.loads(RECORDED.read_text(encoding="utf-8"))["ex2.jpg"]["story"]


def test_a_cat_is_seen_and_told_of(models, capsys):
    told = generate.story(models, IMAGES / "ex1.jpg")
    assert "cat" in told.captions[0].text.split()
    assert told.style == "verse" and told.lyric and told.prose and told.text[0].isupper() and " ." not in told.text
    assert 30 <= len(telling.words_of(told.passage)) <= 110
    shown = capsys.readouterr().out
    assert told.captions[0].text in shown and str(told) in shown
    raw = generate.story(models, IMAGES / "ex1.jpg", prose=False, show=False)
    assert raw.text == raw.passage == told.passage and text.detokenize(raw.text) == told.text


def test_styles(models):
    told = {name: words_of(generate.story(models, IMAGES / "ex3.jpg", style=name, show=False))
            for name in ("romance", "adventure", "verse")}
    for one, other in (("romance", "adventure"), ("romance", "verse"), ("adventure", "verse")):
        shared = sum(min(told[one].count(word), told[other].count(word)) for word in set(told[one]))
        assert shared <= len(told[one]) / 2 + 1, (one, other)


def test_verse_rhymes(models):
    rhymes = dict(zip(models["dec"].vocabulary, models["dec"].options["rhymes"]))
    for seed in range(3):
        ends = [words_of(line)[-1] for line in generate.story(models, IMAGES / "ex3.jpg", seed=seed, show=False).lines]
        assert len(ends) >= 4 and len(ends) % 2 == 0
        assert all(rhymes[a] == rhymes[b] > 0 for a, b in zip(ends[::2], ends[1::2]))


def test_the_original_way(models):
    """candidates=0 tells the likeliest passage, as the original does."""
    told = generate.story(models, IMAGES / "ex1.jpg", candidates=0, show=False)
    assert told.passage and told.cost > 0


def test_nothing_configured(tmp_path):
    """A picture's name is all that is needed, anywhere, without a network."""
    environment = {**os.environ, "STORYTELLER_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    environment.pop(config.VARIABLE, None)
    done = subprocess.run([sys.executable, "-m", "storyteller", str(IMAGES / "ex1.jpg")], capture_output=True,
                          text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["ex1.jpg"]
    assert recorded["captions"][0] in done.stdout and recorded["story"] in done.stdout
    assert any((tmp_path / "cache").iterdir())      # what is computed once
