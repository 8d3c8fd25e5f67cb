"""Stories as what people take them for, z as the dict that it was, and the stages of telling."""
from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import pickle
import re
import sys
import types
import weakref

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, generate, images, stories
from storyteller.stories import Caption, Story

WORDS = "She was like a cat . She had not a headache , for she was afraid ."
FAST = dict(k=5, bw=2, maxlen=6, candidates=0, show=False)


def gradient(width=400, height=300):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8)


def a_story(**changes):
    return Story(**{**dict(image="a.jpg", captions=[Caption("a cat .", 0.5)], passage=WORDS, cost=1.0, style="romance",
                           timings={"features": 1.0}, picture=np.zeros((4, 4, 3), np.uint8)), **changes})


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    """The models that come with the package."""
    return generate.load_all({}, verbose=False)


# -- a story as its text ------------------------------------------------------------------------------

def test_a_story_is_its_text(capsys):
    told = a_story()
    assert str(told) == f"{told}" == "%s" % told == WORDS  # noqa: UP031
    assert told + "\n" == WORDS + "\n" and "> " + told == "> " + WORDS and told + told == WORDS + WORDS
    assert f"{told:>100}" == WORDS.rjust(100)
    print(told)
    assert capsys.readouterr().out == WORDS + "\n"
    assert len(repr(told)) < 200 and "\n" not in repr(told)
    assert str(a_story(lyric=True)).count("\n") == 1
    for wrong in (3, None, b"a"):
        with pytest.raises(TypeError):
            told + wrong    # noqa: B018
        with pytest.raises(TypeError):
            wrong + told    # noqa: B018


def test_equal_stories_are_equal():
    told = a_story()
    for same in (copy.deepcopy(told), pickle.loads(pickle.dumps(told)), a_story(timings={"features": 2.0}),
                 dataclasses.replace(told)):
        assert (told == same) is True and told in [same] and hash(told) == hash(same) and len({told, same}) == 1
    for other in (a_story(passage="x"), a_story(picture=None), a_story(picture=np.ones((4, 4, 3), np.uint8)),
                  a_story(captions=[]), a_story(warnings=["blank"]), WORDS, None):
        assert (told == other) is False


def test_a_story_as_json():
    told = a_story(image="caf\udce9\x1b.jpg", warnings=["blank"])
    assert "picture" not in dataclasses.asdict(told)
    json.dumps(dataclasses.asdict(told))
    json.dumps(told.to_dict(), ensure_ascii=False).encode("utf-8")
    assert told.to_dict()["warnings"] == ["blank"]
    told._repr_html_().encode("utf-8")
    stories.html_page([told]).encode("utf-8")


@pytest.mark.parametrize("name, wanted", [
    ("caf\udcc3\udca9.jpg", "caf\xe9.jpg"), ("caf\xe9.jpg", "caf\xe9.jpg"), ("bad\udcff.jpg", "bad\ufffd.jpg"),
    ("\ud800a", "\ufffda")])
def test_names_do_not_depend_on_the_locale(name, wanted):
    """In the C locale the bytes of a name are lone surrogates."""
    assert a_story(image=name).to_dict()["image"] == wanted and wanted in a_story(image=name)._repr_html_()


@pytest.mark.parametrize("wrong", ["x", [a_story(), 3], 3, a_story()])
def test_a_page_of_other_things_than_stories(wrong):
    with pytest.raises(StorytellerError, match="stories"):
        stories.html_page(wrong)


def test_a_page_that_is_read_aloud_or_in_the_dark():
    told = [a_story(image=f"photos/{name}.jpg", picture=gradient(*size), captions=[Caption('a "fat" cat & <dog>', 0.5)])
            for name, size in (("wide", (400, 100)), ("tall", (100, 400)))]
    page = stories.html_page([*told, a_story(captions=[])])
    assert re.findall("<h2>(.*?)</h2>", page) == ["wide.jpg", "tall.jpg", "a.jpg"] and page.count("<h1>") == 1
    assert re.findall('alt="(.*?)"', page) == ["a &quot;fat&quot; cat &amp; &lt;dog&gt;"] * 2 + ["a.jpg"]
    assert page.count('loading="lazy"') == page.count("<img") == page.count("flex:0 1 320px") == 3
    assert "prefers-color-scheme:dark" in page


def test_no_control_characters(capsys):
    stories.print_story(a_story(captions=[Caption("a \x1b[2Jcat\x9b", 0.5)], passage="b \x1b]0;x\x07 \u202e"))
    out = capsys.readouterr().out
    assert "cat" in out and not set("\x1b\x07\x9b\u202e") & set(out)


def test_a_story_holds_no_large_picture():
    pixels = gradient(2000, 1500)
    small = pixels[:40, :40]
    told, gone = a_story(picture=small), weakref.ref(pixels)
    assert told.picture.base is None and a_story(picture=pixels).picture.shape == (360, 480, 3)
    del pixels, small
    assert gone() is None


class Shell:
    """What a story asks of IPython."""

    def __init__(self, kernel):
        self.execution_count, self.shown = 1, []
        if kernel:
            self.kernel = object()


@pytest.mark.parametrize("kernel", [False, True], ids=["terminal", "notebook"])
def test_a_cell_shows_a_story_once(kernel, monkeypatch, capsys):
    shell = Shell(kernel)
    display = types.SimpleNamespace(display=lambda data, raw: shell.shown.append(data))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    told = a_story()
    stories.print_story(told)
    told._ipython_display_()        # what IPython does with the result of a cell
    assert len(shell.shown) + capsys.readouterr().out.count(WORDS) == 1
    assert all(WORDS in data["text/plain"] and "<img" in data["text/html"] for data in shell.shown)
    shell.execution_count += 1      # the next cell shows it if asked to
    told._ipython_display_()
    assert len(shell.shown) == 1 + kernel


# -- z as a dict ---------------------------------------------------------------------------------------------

def test_the_parts_say_what_they_are(compact, caplog):
    assert compact._ipython_key_completions_() == ["stv", "dec", "vse", "net", "cap", "cvec", "bneg", "bpos"]
    for key, says in (("stv", "thought vectors of 1024 numbers"), ("dec", "contexts of 1024 numbers"),
                      ("vse", "images of 1280 features"), ("net", "1280 features")):
        shown = repr(compact[key])
        assert shown.startswith(f"<{type(compact[key]).__name__}: ") and says in shown and len(shown) < 150
    with caplog.at_level("INFO", "storyteller"):
        generate.Models({})["bpos"]
    assert "Loading book style..." in caplog.text and compact.config.paths["posbias"] in caplog.text


def test_dir_is_the_public_names():
    assert dir(generate) == sorted(generate.__all__) and all(hasattr(generate, name) for name in dir(generate))


def test_copies_tell_the_same(compact):
    picture, options = gradient(), dict(k=5, bw=3, maxlen=12, show=False, candidates=None)
    told = generate.story(compact, picture, **options)
    assert told.prose and told.style == "verse"       # by the settings
    for z in (dict(compact), compact.copy(), copy.copy(compact), pickle.loads(pickle.dumps(compact))):
        assert generate.story(z, picture, **options) == told
    tale = generate.story(compact, picture, style="tale", **options)
    assert tale.style == "tale" and generate.story(dict(compact), picture, style="tale", **options) == tale
    assert generate.story({**compact, "bpos": np.asarray(compact["bneg"])}, picture, **options).style == "default"
    for key in ("dec", "stv", "vse", "net"):            # one part of one's own
        part = copy.copy(compact[key])
        del part.settings
        assert generate.story({**compact, key: part}, picture, **options) == told


def test_z_is_a_dict(compact):
    z = compact.copy()
    assert list(z) == list(generate.PARTS) == z._ipython_key_completions_() and "net" in z and "nets" not in z
    assert z["dec"] is compact["dec"]
    z.update(bpos=z["bneg"])
    assert z["bpos"] is z["bneg"] and compact["bpos"] is not compact["bneg"]
    net = z.pop("net")
    assert net is compact["net"] and "net" not in z and len(z) == 7 and z.get("net") is None
    assert "net" not in z.copy() and "net" not in pickle.loads(pickle.dumps(z))
    with pytest.raises(KeyError):
        z["net"]        # noqa: B018
    with pytest.raises(StorytellerError, match="net"):
        generate.story(z, gradient(), **FAST)
    z["net"] = net
    assert z["net"] is net and len(z) == 8
    with pytest.raises(StorytellerError, match="nets"):
        z["nets"] = net
    assert z != compact and compact == compact and {compact: 1}[compact] == 1


def test_looking_at_z_loads_nothing():
    z = generate.Models({}, verbose=False)
    assert "dec" in z and "dec" in list(z.keys()) and z != generate.Models({}, verbose=False) and z.copy() is not z
    pickle.loads(pickle.dumps(z))
    assert "dec: not loaded" in repr(z) and ": loaded" not in repr(z)


def test_a_pickle_of_z_is_its_settings(compact):
    assert len(pickle.dumps(compact)) < 20_000
    z = compact.copy()
    z["cap"] = ["one of my own"]
    assert pickle.loads(pickle.dumps(z))["cap"] == ["one of my own"]


def test_hashes(compact):
    joblib = pytest.importorskip("joblib")
    assert joblib.hash(compact) == joblib.hash(compact.copy()) == joblib.hash(generate.Models({}, verbose=False))
    z = compact.copy()
    z["cap"] = ["one of my own"]
    assert joblib.hash(z) != joblib.hash(compact)
    joblib.hash(compact["net"])


# -- telling ---------------------------------------------------------------------------------------------------

def test_stages(compact):
    """What story() does, stage by stage."""
    options = dict(maxlen=8, use_unk=False)
    told = generate.story(compact, gradient(), k=5, bw=3, candidates=4, n_best=2, show=False, **options)
    features = generate.image_features(compact, gradient())
    assert features.shape == (compact["net"].n_features,) and np.linalg.norm(features) == pytest.approx(1)
    captions = generate.nearest_captions(compact, features, 5)
    assert captions == told.captions
    thought = generate.shifted_thought(compact, captions)
    np.testing.assert_array_equal(thought, generate.shifted_thought(compact, [c.text for c in captions], "verse"))
    written = generate.write_passages(compact, thought, features, 3, 2, candidates=4, guidance=1.5, captions=captions,
                                      **options)
    assert written == told.alternatives
    assert generate.write_passages(compact, thought, candidates=4, **options)[0].similarity is None


def test_names_of_the_original(compact):
    assert generate.story(compact, image_loc=gradient(), **FAST) == generate.story(compact, gradient(), **FAST)
    assert generate.story(compact, image=gradient(), **FAST) == generate.story(compact, gradient(), **FAST)
    for wrong in ({}, dict(image=gradient(), image_loc=gradient())):
        with pytest.raises(StorytellerError, match="image_loc"):
            generate.story(compact, **wrong, **FAST)
    for name in ("skipthoughts", "decoder", "embedding", "norm", "shift", "load_image", "build_convnet",
                 "compute_features"):
        assert getattr(generate, name)


@pytest.mark.parametrize("z", [None, {}, {"dec": 1}, [], "z", 3], ids=str)
def test_what_is_no_z(z):
    with pytest.raises(StorytellerError):
        generate.story(z, gradient())


@pytest.mark.parametrize("options", [
    dict(seed=1), dict(temperature=0.5), dict(top_k=3), dict(top_p=0.5), dict(candidates=3, seed=-1),
    dict(sample=True, seed=-1), dict(sample=True, seed="a"), dict(sample=True, seed=1.5), dict(sample=True, seed=True),
    dict(sample=True, temperature=float("nan")), dict(sample=True, temperature=-1), dict(sample=True, top_k=0),
    dict(sample=True, top_p=float("nan")), dict(sample=True, top_p=2), dict(strength=float("nan")),
    dict(strength=float("inf")), dict(strength="1"), dict(strength=None), dict(k=0), dict(k=2.5), dict(k=10 ** 9),
    dict(bw=True), dict(n_best="2"), dict(maxlen=0), dict(candidates=-1), dict(candidates=1.5), dict(lyric="yes"),
    dict(prose="no"), dict(sample=None), dict(use_unk=[]), dict(strict="no"), dict(style=3), dict(style="nonsense"),
    dict(style=np.zeros(3)), dict(style=np.array("a")), dict(style=object())],
    ids=lambda options: str(options).partition(" at 0x")[0])
def test_arguments_are_checked_before_anything_is_computed(options, compact, monkeypatch):
    monkeypatch.setattr(generate, "open_picture", lambda image: pytest.fail("the picture was opened"))
    with pytest.raises(StorytellerError):
        generate.story(compact, gradient(), **{**FAST, **options})


def test_options_are_checked_before_anything_is_loaded():
    z = generate.Models({}, verbose=False)
    for options in (dict(k=0), dict(seed=3, candidates=0), dict(strength=float("nan")), dict(top_k=-1, sample=True)):
        with pytest.raises(StorytellerError):
            generate.story(z, gradient(), **options)
    assert ": loaded" not in repr(z)


def test_captions_and_vectors_of_different_lengths(compact):
    with pytest.raises(StorytellerError, match="cvec"):
        generate.story({**compact, "cap": compact["cap"][:-1]}, gradient(), **FAST)


def test_warnings_of_a_picture(compact, tmp_path, caplog):
    data = io.BytesIO()
    Image.fromarray(gradient()).save(data, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data.getvalue()[:4000])
    for picture, warning in ((tmp_path / "half.jpg", images.TRUNCATED), (np.zeros((9, 9, 3), np.uint8), images.BLANK)):
        caplog.clear()
        told = generate.story(compact, picture, **FAST)
        assert told.warnings == told.to_dict()["warnings"] == [warning]
        assert len(caplog.records) == 1 and caplog.records[0].levelname == "WARNING"
        with pytest.raises(StorytellerError):
            generate.story(compact, picture, strict=True, **FAST)
    assert generate.story(compact, gradient(), strict=True, **FAST).warnings == []


# -- many pictures -------------------------------------------------------------------------------------------------

def test_errors_of_many_name_the_picture(compact, tmp_path, caplog, monkeypatch):
    Image.fromarray(np.linspace(0, 1920, 1600, dtype=np.float32).reshape(40, 40)).save(tmp_path / "terrain.tif")
    Image.fromarray(gradient()).save(tmp_path / "good.png")
    paths = [tmp_path / "terrain.tif", tmp_path / "good.png"]
    assert len(generate.stories(compact, paths, on_error="skip", verbose=False, **FAST)) == 1
    assert "terrain.tif" in caplog.text
    with pytest.raises(StorytellerError, match="terrain.tif"):
        generate.stories(compact, paths, verbose=False, **FAST)

    def fails(*_):
        raise StorytellerError("the context holds NaN")
    monkeypatch.setattr(generate, "nearest_captions", fails)
    with pytest.raises(StorytellerError, match="good.png.*NaN"):
        generate.stories(compact, paths[1:], verbose=False, **FAST)
    with pytest.raises(StorytellerError, match="picture 1"):
        generate.stories(compact, [gradient()], verbose=False, **FAST)


def test_stories_one_by_one(compact):
    asked = []

    def pictures():
        for i in range(3):
            asked.append(i)
            yield gradient(100 + i)
    found = generate.each_story(compact, pictures(), verbose=False, **FAST)
    assert not asked and next(found).passage and asked == [0]
    assert [s.passage for s in found] == [generate.story(compact, gradient(100 + i), **FAST).passage for i in (1, 2)]
    for wrong in ("a.jpg", b"a", gradient(), {"a": 1}, 3, None, os.curdir):
        with pytest.raises(StorytellerError):
            generate.each_story(compact, wrong)
    for wrong in ("ignore", None, np.zeros(3)):
        with pytest.raises(StorytellerError):
            generate.stories(compact, [], on_error=wrong)
