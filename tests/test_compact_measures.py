"""The measures of recipes.compact.evaluate, on texts whose figures are known, and what the models are trained on."""
from __future__ import annotations

import json
import re

import numpy as np
import pytest

from recipes.compact import captions, features, measures, passages, reading


def test_mentions():
    assert measures.mentions("The Dogs barked.", ["dog", "dogs"])
    assert not measures.mentions("A dogma, a hotdog.", ["dog"])
    assert measures.after_first("A dog ran. It sat. It slept.") == "It sat. It slept."


def test_names_class():
    assert measures.names_class("two black-footed ferrets run", "black-footed_ferret")
    assert measures.names_class("a golden retriever sleeps", "golden retriever")
    assert not measures.names_class("a crane fly", "craned")


def test_shuffled_share():
    texts, words = ["a dog", "a cat", "a ship", "a hat"], [["dog"], ["cat"], ["ship"], ["hat"]]
    assert measures.shuffled_share(texts, words, rounds=2000) == pytest.approx(1 / 4, abs=0.02)
    assert measures.shuffled_share(["a dog and a cat"] * 2, words[:2]) == 1


def test_nouns_shared():
    said = ["two dogs on a red bench", "a dog sits beside a man"]
    assert measures.nouns_shared("The man saw a bench. It was red.", said) == {"man", "bench"}
    assert not measures.nouns_shared("It was red.", said)


def test_distinct():
    assert measures.distinct(["a b a b", "a b"]) == pytest.approx(2 / 4)
    assert measures.distinct(["a b c", "d e f"], most=3) == 1


def test_faults_that_readers_see():
    assert measures.doubled("He ran. The dog saw a big dog.") and not measures.doubled("The dog ran. The dog slept.")
    assert measures.flips("The boy ran. She was sad.") and measures.flips("He sat down. Then she slept.")
    assert not measures.flips("The boy ran. The girl saw him. She was sad.")
    verse = "The dog ran by,\nThe dog ran on;\nThe dog and dog."
    assert measures.doubled(verse) and not measures.doubled(verse[:-13]) and measures.doubled(verse.replace("\n", " "))
    assert measures.after_first(verse) == "The dog ran on; The dog and dog."


def test_told_again_and_copied():
    texts = ["A dog ran. It slept.", "It slept! A cat sat on the old red mat."]
    assert measures.told_again(texts) == pytest.approx(2 / 4)
    known = set(map(hash, measures.sentences("Oh. A cat sat on the old red mat.")))
    assert measures.copied(texts, known) == 1 and measures.copied(texts, set()) == 0


def test_rhymes():
    sounds = {"day": [["D", "EY1"]], "way": [["W", "EY1"]], "sea": [["S", "IY1"]], "free": [["F", "R", "IY1"]],
              "stone": [["S", "T", "OW1", "N"]]}
    assert measures.rhymes(["a long day,", "the way,", "the sea;", "a stone."], sounds) == pytest.approx(2 / 4)
    assert measures.rhymes(["the day,", "the sea,", "a way,", "and free."], sounds) == 1
    assert measures.rhymes(["the day,", "a day,", "unknown."], sounds) == 0


def test_interval():
    mean, low, high = measures.interval([0, 1] * 200)
    assert mean == 0.5 and low == pytest.approx(0.45, abs=0.01) and high == pytest.approx(0.55, abs=0.01)


def test_captions_of_our_own():
    groups = list(captions.groups())
    found = [text for _, group in groups for text in group]
    assert len(found) == len(set(found)) > 35_000
    assert all(re.fullmatch(r"[a-z',. -]+", text) for text in found)
    lengths = [len(text.split()) for text in found]
    assert min(lengths) >= 6 and max(lengths) <= 17
    assert [label for label, _ in groups[:1000]] == list(range(1000))
    assert all(len(group) >= 8 for _, group in groups[:1000])
    assert list(captions.groups())[5] == groups[5]  # the same every time


def test_stories_of_our_own():
    for name, least in (("stories", 14_000), ("stories_heldout", 900)):
        rows = list(captions.read(name))
        assert len(rows) > least and {style for _, style, _ in rows} == {"tale", "romance", "adventure", "verse"}
        assert all(captions.nouns(text) for *_, text in rows)


@pytest.mark.parametrize("many, one", [("dogs", "dog"), ("buses", "bus"), ("boxes", "box"), ("women", "woman"),
                                       ("teddy bears", "teddy bear"), ("glasses", "glass"), ("dresses", "dress"),
                                       ("wolves", "wolf"), ("cherries", "cherry"), ("sheep", "sheep")])
def test_one_and_many(many, one):
    assert captions.singular(many) == captions.singular(one) == one and captions.plural(one) == many


def test_another_of_its_kind():
    story = "A {dog} met a small {dog}. Two {dogs} and a {cat} left. An {ant} saw a {dog}."
    assert captions.exchanged(story, "dog", "otter") == ("An {otter} met a small {otter}. Two {otters} and a {cat} "
                                                         "left. An {ant} saw an {otter}.")
    assert captions.nouns(story) == ["dog", "cat", "ant"]
    assert captions.plain("The {dog} lay down, / and two {dogs} slept.") == "The dog lay down, and two dogs slept."
    assert 207 in captions.of_classes("dog") and not captions.of_classes("grandmother")


def test_examples_lie_along_the_rows():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((20, 300)).astype(np.float32)
    mean = np.full(300, 5, np.float32)
    made = features.from_rows(W, mean, 50)
    rows = W - W.mean(axis=0)
    scores = (made.mean(axis=1) - mean) @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    assert made.shape == (20, 50, 300) and (scores.argmax(axis=1) == np.arange(20)).all()
    assert 2.5 < np.diag(scores).mean() < 5.7


def test_passages_end_where_headings_stand(tmp_path):
    text = tmp_path / "book.txt"
    sentence = "He went down to the sea and looked at the old ship. "
    text.write_text(f"{sentence * 2}\n{sentence * 2}\nCHAPTER II\n{sentence}\n{sentence * 20}\n", encoding="utf-8")
    found = list(passages.passages([str(text)], 30, 80))
    sizes = [sum(map(len, passage)) for passage in found]
    assert all(30 <= size <= 80 for size in sizes) and sizes[0] == 4 * 13


def test_read_without_names(tmp_path):
    for name in ("old", "new"):
        stories = [{"photo": f"{i}.jpg", "seen": "a cat", "story": f"{name} tells {i}"} for i in range(9)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"stories": stories}))
    target = str(tmp_path / "sheet")
    reading.sheet([str(tmp_path / f"{name}.json") for name in ("old", "new")], target, count=5)
    lines = (tmp_path / "sheet.tsv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 5
    marked = [lines[0], *(line[:-1] + ("2\t2" if "new tells" in line else "1\t2") for line in lines[1:])]
    (tmp_path / "marked.tsv").write_text("".join(f"{line}\n" for line in marked))
    found = reading.marks(target, [str(tmp_path / "marked.tsv")])
    assert set(found) == {"old", "new", reading.OWN}
    assert found["old"]["sense"] == (1, 1, 1) and found["new"]["sense"] == (2, 2, 2)
    assert found["new"]["sense, more than old"] == (1, 1, 1)
