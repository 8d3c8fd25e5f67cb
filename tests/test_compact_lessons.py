"""What the next decoder of the compact models is trained on: simple stories, our own, and pictures for them."""
from __future__ import annotations

import re

import numpy as np
import pytest

from recipes.compact import lessons, library, own
from storyteller.training.corpus import EncodedCorpus

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


def test_plain_text_of_ours():
    verse = "The {dog} lay down, / and two {dogs} slept."
    assert library.plain(verse) == "The dog lay down, and two dogs slept."


@pytest.mark.parametrize("noun, one", [("dogs", "dog"), ("bus", "bus"), ("buses", "bus"), ("boxes", "box"),
                                       ("women", "woman"), ("teddy bears", "teddy bear"), ("glass", "glass"),
                                       ("dresses", "dress"), ("wolves", "wolf"), ("cherries", "cherry")])
def test_one_of_many(noun, one):
    assert own.singular(noun) == one


def test_another_of_its_kind():
    story = "A {dog} met a small {dog}. Two {dogs} and a {cat} left. An {ant} saw a {dog}."
    assert own.exchanged(story, "dog", "otter") == ("An {otter} met a small {otter}. Two {otters} and a {cat} left. "
                                                    "An {ant} saw an {otter}.")
    assert dict(own.of_classes("piano")) and {noun for _, noun in own.of_classes("piano")} >= {"piano"}
    assert {"terrier", "spaniel"} <= {noun for _, noun in own.of_classes("dog")}
    assert not own.of_classes("grandmother")


def test_captions_that_name_a_class():
    texts = ["a small sea lion rests", "two sea lions swim", "a lion sleeps", "lionesses of the sea"]
    found = own._naming(texts, {4: "sea lion", 7: "lion", 9: "cat"})
    assert {label: list(rows) for label, rows in found.items()} == {4: [0, 1], 7: [0, 1, 2]}


def test_stories_and_their_pictures(monkeypatch):
    found = {"kind": np.array(["", "dog", "dog", ""]), "label": np.array([3, -1, -1, 5])}
    monkeypatch.setattr(own, "of_classes", lambda noun: [(3, "terrier"), (8, "fox")] if noun == "dog" else [])
    words = {"terrier": 2, "terriers": 3}
    stories = [("dog", "tale", "A {dog} ran. The {dog} slept."), ("hill", "verse", "The {hill}.")]
    told = list(own.told(stories, found, words, 40))
    assert len(told) == 40 and {picture for *_, picture in told} == {0, 1, 2}
    for _, story, picture in told:
        assert "{dog}" in story if picture else story.count("{dog}") + story.count("{terrier}") == 2
    assert any("terrier" in story for _, story, _ in told)


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


def test_parts_of_rounds(tmp_path):
    first, later = (lessons.Lessons("", str(tmp_path), number) for number in (0, 5))
    assert first._prose() == ["tales_0", "romance_0", "adventure_0", "verse"]
    assert later._prose() == ["tales_1", "romance_5", "adventure_5", "verse"]
    assert later._part("tales_1") == ("tales", 1, 4, 1) and later._part("fables") == ("fables", 1, 1, 0)
    assert later._part("romance_heldout_part") == ("romance_heldout", 1, 6, 0)
    assert not first.done("prose")
