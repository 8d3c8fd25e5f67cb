"""What the decoder of the compact models is trained on: simple stories, our own, and pictures for them."""
from __future__ import annotations

import json
import re

import numpy as np

from recipes.compact import captions, features, lessons, library, own, package
from storyteller import compact, decoder
from storyteller.layers import init_dense
from storyteller.training.corpus import EncodedCorpus
from storyteller.training.vocabulary import save_dictionary

STORY = 'Once upon a time, there was a girl named Lily. Lily and Tim saw Spot. "Hi, Lily!" said Tim.'


def test_other_names_and_openings():
    for seed in range(20):
        told = library.renamed(STORY, np.random.default_rng(seed))
        names = re.search(r"named (\w+)\. (\w+) and (\w+) saw (\w+)\. \"Hi, (\w+)!\" said (\w+)\.$", told).groups()
        girl, boy, dog = names[0], names[2], names[3]
        assert names == (girl, girl, boy, dog, girl, boy) and len({girl, boy, dog}) == 3
        assert girl in library.GIRLS and boy in library.BOYS and told[0].isupper()
    openings = {library.renamed(STORY, np.random.default_rng(seed)).split(" a girl")[0] for seed in range(60)}
    assert openings == {"Once upon a time, there was", "There was", "Once there was", "Long ago there was"}
    assert library.renamed("Once upon a time, Mia ran.", np.random.default_rng(0)).endswith(" ran.")


def test_whole_stories_are_cut():
    sentences = [["word"] * 9 + ["."]] * 13
    for seed in range(9):
        parts = list(library.cut(sentences, np.random.default_rng(seed)))
        assert sum(map(len, parts)) >= 12 and all(len(part) <= 8 for part in parts)
    assert list(library.cut([["a"] * 70], np.random.default_rng(0))) == []     # a sentence too long


def pictures(rows, **of):
    return own.Pictures(np.zeros((rows, 2), np.float32),
                        **{name: {key: np.array(some) for key, some in found.items()} for name, found in of.items()})


def test_stories_and_their_pictures(monkeypatch):
    monkeypatch.setattr(captions, "CLASSES", {3: captions.Class("terrier", ("dog",)), 8: captions.Class("fox", ())})
    found = pictures(6, of_class={3: [0, 1], 8: [5]}, of_noun={"dog": [2, 3], "cat": [3]}, of_kind={"pet": [4]})
    words = {"terrier": 2, "terriers": 3}
    stories = [("pet", "tale", "A {dog} ran. The {dog} slept."), ("hill", "verse", "The {hill}."),
               ("none", "tale", "The {dog} and the {cat}.")]
    told = list(own.told(stories, found, words, 60))
    assert {picture for _, story, picture in told if "ran" in story} == {0, 1, 2, 3, 4}
    assert {picture for _, story, picture in told if "cat" in story} == {0, 1, 3}     # a photo has both
    assert not [story for _, story, _ in told if "hill" in story]
    for _, story, picture in told:
        if "ran" in story:
            assert story.count("{terrier}") in ((0, 2) if picture < 2 else (0,))
    assert any("terrier" in story for _, story, _ in told)


def test_photo_nouns():
    said = ["two dogs run", "a dog and a man", "a man runs"]
    assert features.photo_nouns(said) >= {"dog", "man", "run"} and "two" not in features.photo_nouns(said)
    assert features.photo_nouns(["a bus"]) == {"a", "bus"}


def test_pictures_come_to_the_mean_of_their_captions():
    places, thoughts = np.eye(4, dtype=np.float32), np.arange(8, dtype=np.float32).reshape(4, 2)
    queries = np.array([[1, 0.5, 0, 0], [0, 0, 0.2, 1]], dtype=np.float32)
    np.testing.assert_allclose(library.pictures(places, thoughts, queries, 2), [[1, 2], [5, 6]])


def test_whitened_and_folded():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((400, 6)) * [3, 1, .3, .1, .03, .01] + 5).astype(np.float32)
    m, P = library.whitening(vectors, ridge=0)
    np.testing.assert_allclose(np.cov(((vectors - m) @ P).T, bias=True), np.eye(6), atol=1e-3)
    ridged = library.whitening(vectors)[1]
    spread = ((vectors - m) @ ridged).std(axis=0)
    assert spread.max() <= 1.001 and spread.min() > 0.01
    arrays = {**init_dense("ff_state", 6, 4, rng), "Wemb": np.ones((2, 2))}
    arrays["ff_state_b"] = rng.standard_normal(4).astype(np.float32)
    folded = library.folded(arrays, m, ridged)
    np.testing.assert_allclose(vectors @ folded["ff_state_W"] + folded["ff_state_b"],
                               ((vectors - m) @ ridged) @ arrays["ff_state_W"] + arrays["ff_state_b"], atol=1e-3)


def source(folder, name, passages, vectors):
    EncodedCorpus.build(folder / name, passages, {"a": 2, "b": 3, "c": 4}, verbose=False)
    np.save(folder / f"{name}.vectors.npy", np.asarray(vectors, dtype=np.float16))


def test_sources_mixed(tmp_path):
    source(tmp_path, "one", ["a", "a b", "c"], [[1, 0], [2, 0], [3, 0]])
    source(tmp_path, "two", ["b c", "b"], [[0, 1], [0, 2]])
    library.mix(tmp_path, "both", [library.Share("one", np.array([0, 1])), library.Share("two", style=np.ones(2))])
    corpus = EncodedCorpus(tmp_path / "both")
    assert [list(row) for row in corpus] == [[2], [2, 3], [3, 4], [3]]
    np.testing.assert_array_equal(np.load(tmp_path / "both.vectors.npy"), [[1, 0], [2, 0], [0, 1], [0, 2]])
    with np.load(tmp_path / "both.styles.npz") as styles:
        np.testing.assert_array_equal(styles["which"], [0, 0, 1, 1])
        np.testing.assert_array_equal(styles["styles"], [[2, 0], [1, 1]])


def test_whitened_as_they_are_read():
    rng = np.random.default_rng(0)
    vectors, m, P = rng.standard_normal((9, 4)).astype(np.float16), rng.standard_normal(4), rng.standard_normal((4, 4))
    seen = library.Whitened(vectors, m, P)
    rows = np.array([5, 0, 5])
    assert len(seen) == 9 and seen.shape == (9, 4) and seen[rows].dtype == np.float32
    np.testing.assert_allclose(seen[rows], (vectors[rows] - m) @ P, atol=1e-5)
    np.testing.assert_allclose(seen[:2], (vectors[:2] - m) @ P, atol=1e-5)


def test_the_skip_thoughts_that_are_shipped_are_those_that_were_read(tmp_path):
    assert library.thoughts_folder(str(tmp_path)) == compact.FOLDER
    (tmp_path / "thoughts").mkdir()
    assert library.thoughts_folder(str(tmp_path)) == compact.FOLDER     # not all is there yet
    (tmp_path / "thoughts" / "dictionary.txt").touch()
    assert library.thoughts_folder(str(tmp_path)) == str(tmp_path / "thoughts")


def test_the_course_and_how_it_goes_on():
    lengths, group = np.full(80, 5), np.repeat([0, 1, 2, 3], 20)

    def course():
        return lessons.Curriculum(lengths, group, batch_size=6, maxlen=96, updates=200)
    walk = course()
    read = [rows for _, rows in zip(range(200), walk)]
    of_update = [set(group[rows]) for rows in read]
    assert all(len(found) == 1 for found in of_update)
    first, last = (sum(found == {3} for found in part) for part in (of_update[:120], of_update[120:]))
    assert first < 20 < last            # told of pictures: of 120 updates some 6, of 80 some 29
    assert {int(row) for rows in read for row in rows} >= {*range(40), *range(60, 80)}      # whole epochs of them
    again = course()
    seen = [next(iter(again)) for _ in range(90)]
    state = json.loads(json.dumps(again.get_state()))
    resumed = course()
    resumed.set_state(state)
    for expected, rows in zip(read, seen + [rows for _, rows in zip(range(30), resumed)]):
        np.testing.assert_array_equal(expected, rows)


def test_the_training_of_the_decoder(tmp_path, monkeypatch):
    """A small one, from texts to an archive that the package takes."""
    rng = np.random.default_rng(0)
    words = [*"abcdefgh", "."]
    library_folder = tmp_path / "library"
    library_folder.mkdir()
    save_dictionary(library_folder / lessons.DICTIONARY, {word: i for i, word in enumerate(words, 2)},
                    dict.fromkeys(words, 1))

    def some(name, n):
        texts = [" ".join(rng.choice(words, int(rng.integers(4, 9)))) + " ." for _ in range(n)]
        EncodedCorpus.build(library_folder / name, texts, {word: i for i, word in enumerate(words, 2)}, verbose=False)
        np.save(library_folder / f"{name}.vectors.npy", rng.standard_normal((n, 8)).astype(np.float16))
        return library.Share(name)
    shares = [(group, some(group, 30)) for group in lessons.GROUPS]
    for name in ("told_heldout", *(f"{name}_part" for name in lessons.HELDOUT)):
        some(name, 12)
    monkeypatch.setattr(lessons, "HELDOUT", dict.fromkeys(lessons.HELDOUT, (1, 12)))
    monkeypatch.setattr(lessons.Lessons, "_shares", lambda self: shares)
    monkeypatch.setattr(lessons.Lessons, "_whitening", lambda self: (np.zeros(8), np.eye(8)))
    monkeypatch.setattr(library, "N_WORDS", 11)
    monkeypatch.setattr(lessons, "UPDATES", 12)
    monkeypatch.setattr(lessons, "DECODER", {**lessons.DECODER, "dim": 6, "dim_word": 5, "n_words": 11,
                                             "batch_size": 8, "warmup": 2, "decay_updates": 12})
    taught = lessons.Lessons("", "", str(tmp_path))
    taught.decoder()
    np.savez(tmp_path / "whitening.npz", m=np.zeros(8), P=np.eye(8))
    (tmp_path / "target").mkdir()
    package.copy_decoder(taught.archive, str(tmp_path / "whitening.npz"), str(library_folder / lessons.DICTIONARY),
                         str(tmp_path / "target"), [np.ones(8)], {})
    dec = decoder.load_model(tmp_path / "target" / "romance.npz", tmp_path / "target" / "romance_dictionary.pkl")
    assert dec.dim == 6 and dec.options["put_back"] == 0.1


def test_rounded():
    x = np.array([1, -1, 1 / 3, 0, 2 ** -20, 1000.4], np.float16)
    short = package.rounded(x, 6)
    np.testing.assert_allclose(short, x, rtol=2 ** -7, atol=2 ** -21)
    assert not (short.view(np.uint16) & 15).any() and len(np.unique(package.rounded(np.arange(
        1, 2, 2 ** -10, dtype=np.float16), 6))) == 65
    np.testing.assert_array_equal(package.rounded(x, 10), x)


def test_what_rhymes():
    sounds = {"day": [["D", "EY1"]], "way": [["W", "EY1"]], "a": [["EY1"]], "sea": [["S", "IY1"]],
              "ca": [["S", "IY1"]], "see": [["S", "IY1"], ["Z", "EY1"]], "one": [["W", "AH1", "N"]]}
    numbers = package.rhymes(["", "day", "sea", "a", "way", "ca", "see", "one", "unknown"], sounds)
    assert numbers[1] == numbers[4] > 0 and numbers[2] == numbers[6] > 0 and numbers[1] != numbers[2]
    assert [numbers[i] for i in (0, 3, 5, 7, 8)] == [0] * 5
