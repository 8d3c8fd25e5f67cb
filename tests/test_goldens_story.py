"""The whole run against the original's (family story): standard output byte for byte."""
from __future__ import annotations

import io

import numpy as np
import pytest

from storyteller import StorytellerError, generate, stories, style, vgg
from tests.conftest import GOLDENS, read_json

STORY = GOLDENS / "story"
IMAGES = ("01_landscape.jpg", "02_portrait_odd.png", "06_tiny.png")
WIDTHS = ((100, 50), (10, 5), (5, 1), (500, 3))


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("k, bw", WIDTHS)
def test_story(z, image, k, bw, capsys):
    fact = next(f for f in read_json(STORY / "facts.json")["stories"]
                if (f["image"], f["k"], f["bw"]) == (image, k, bw))
    for lyric in (False, True):
        capsys.readouterr()
        told = generate.story(z, STORY / "images" / image, k=k, bw=bw, lyric=lyric)
        golden = STORY / "stdout" / f"{image.split('.')[0]}_k{k}_bw{bw}_lyric{int(lyric)}.txt"
        assert capsys.readouterr().out == golden.read_text(encoding="utf-8")
        assert told.passage == fact["passage"]
        assert [caption.text for caption in told.captions] == fact["sentences"]


@pytest.mark.parametrize("image", IMAGES)
def test_intermediate_values(z, image):
    from storyteller import embedding, skipthoughts
    golden, name = np.load(STORY / "intermediate.npz"), image.split(".")[0]
    np.testing.assert_allclose(z["cvec"], golden["cvec"], atol=1e-5)
    fc7 = vgg.compute_features(z["net"], vgg.load_image(STORY / "images" / image)[1])[0]
    np.testing.assert_allclose(fc7, golden[f"{name}_fc7"], atol=1e-3 * fc7.max())
    unit = golden[f"{name}_fc7_normalised"]
    joint = embedding.encode_images(z["vse"], unit[None])[0]
    np.testing.assert_allclose(joint, golden[f"{name}_joint_embedding"], atol=1e-5)
    order, scores = embedding.nearest(z["cvec"], joint, 500)
    np.testing.assert_array_equal(order, golden[f"{name}_sorted_args"])
    np.testing.assert_allclose(scores, golden[f"{name}_scores"][order], atol=1e-5)
    for k, bw in WIDTHS:
        vectors = skipthoughts.encode(z["stv"], [z["cap"][i] for i in order[:k]], verbose=False)
        np.testing.assert_allclose(vectors, golden[f"{name}_k{k}_bw{bw}_svecs"], atol=1e-5)
        shifted = style.shift(vectors, z["bneg"], z["bpos"])
        np.testing.assert_allclose(shifted, golden[f"{name}_k{k}_bw{bw}_shift"], atol=1e-5)


def test_style_vectors(z):
    """Both style vectors are means over encoded sentences."""
    for name in ("caption_style", "romance_style"):
        texts = (STORY / f"{name}_sentences.txt").read_text(encoding="utf-8").splitlines()
        made = style.make(z["stv"], texts, min_words=1, verbose=False)
        np.testing.assert_allclose(made, np.load(STORY / f"{name}.npy"), atol=1e-5)


def test_sources_of_an_image(z):
    from PIL import Image
    path = STORY / "images" / "06_tiny.png"
    passages = {generate.story(z, source, k=5, bw=2, show=False).passage for source in (
        path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), open(path, "rb"),
        Image.open(path), np.asarray(Image.open(path)))}
    assert len(passages) == 1


def test_styles(z, tmp_path):
    image = STORY / "images" / "06_tiny.png"
    plain = generate.story(z, image, show=False)
    assert plain.style == "romance" and plain.alternatives[0].text == plain.passage
    named = generate.story(z, image, style="romance", show=False)
    path = generate.story(z, image, style=STORY / "romance_style.npy", show=False)
    array = generate.story(z, image, style=z["bpos"], show=False)
    assert plain.passage == named.passage == path.passage == array.passage
    other = generate.story(z, image, style="caption", show=False)
    assert other.style == "caption"
    assert other.passage == generate.story(z, image, strength=0, show=False).passage
    with pytest.raises(StorytellerError, match="expected romance;"):
        generate.story(z, image, style="western", show=False)
    style.save(tmp_path / "short.npy", np.zeros(7))
    with pytest.raises(StorytellerError, match="short.npy"):
        generate.story(z, image, style=tmp_path / "short.npy", show=False)


def test_plain_dict(z, capsys):
    parts = {key: z[key] for key in z}
    image = STORY / "images" / "06_tiny.png"
    assert generate.story(parts, image).passage == generate.story(z, image).passage
    assert generate.story(parts, image, style="romance") == generate.story(z, image)


def test_n_best_and_sampling(z):
    image = STORY / "images" / "01_landscape.jpg"
    told = generate.story(z, image, n_best=3, show=False)
    costs = [passage.cost for passage in told.alternatives]
    assert len(costs) == 3 and costs == sorted(costs) and told.cost == costs[0]
    drawn = [generate.story(z, image, sample=True, seed=seed, show=False).passage for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_many(z, caplog):
    images = [STORY / "images" / image for image in IMAGES]
    told = generate.stories(z, images, k=10, bw=5)
    assert [t.passage for t in told] == [generate.story(z, i, k=10, bw=5, show=False).passage
                                         for i in images]
    with pytest.raises(StorytellerError, match="missing.jpg"):
        generate.stories(z, [images[2], "missing.jpg"], k=5, bw=1)
    assert len(generate.stories(z, [images[2], "missing.jpg"], k=5, bw=1, on_error="skip")) == 1
    assert "missing.jpg" in caplog.text


def test_how_a_story_is_shown(z):
    told = generate.story(z, STORY / "images" / "02_portrait_odd.png", show=False)
    assert "02_portrait_odd.png" in repr(told) and "\n" not in repr(told)
    page = told._repr_html_()
    assert "data:image/jpeg;base64," in page and told.captions[0].text in page
    as_dict = told.to_dict()
    assert as_dict["passage"] == told.passage and len(as_dict["captions"]) == 100
    import json
    json.dumps(as_dict)
    assert set(told.timings) == {"features", "captions", "thoughts", "passage"}
    told.passage, told.lyric = "<script>, &", True
    assert "<script>" not in told._repr_html_()
    whole = stories.html_page([told, told])
    assert whole.startswith("<!DOCTYPE html>") and "http" not in whole


@pytest.mark.parametrize("passage, lines", [
    (", you know , hey", ["", "you know ", "hey"]), ("you know ,", ["you know ", ""]), ("", [""]),
    ("a,b", ["a", "b"])])
def test_lyric(passage, lines):
    assert stories.lyric_lines(passage) == lines


@pytest.mark.parametrize("options", [{"k": 0}, {"k": -3}, {"bw": 0}, {"k": 2.5}, {"n_best": 0}, {"maxlen": 0},
                                     {"k": "5"}, {"sample": True, "temperature": 0}])
def test_wrong_options(z, options):
    with pytest.raises(StorytellerError, match=f"{next(reversed(options))} is"):
        generate.story(z, STORY / "images" / "06_tiny.png", show=False, **options)


def test_parts_are_loaded_when_needed(story_settings):
    z = generate.Models(story_settings, verbose=False)
    assert "dec: not loaded" in repr(z)
    assert z["dec"].dimctx == 48
    assert "dec: loaded" in repr(z) and "net: not loaded" in repr(z)
    assert len(z) == 8 and set(z) == {"stv", "dec", "vse", "net", "cap", "cvec", "bneg", "bpos"}
