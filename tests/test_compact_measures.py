"""The measures of recipes.compact.evaluate, on texts whose figures are known."""
from __future__ import annotations

import pytest

from recipes.compact import captions, evaluate, features, passages


def test_mentions():
    assert evaluate.mentions("The Dogs barked.", ["dog", "dogs"])
    assert not evaluate.mentions("A dogma, a hotdog.", ["dog"])


def test_names_class():
    assert evaluate.names_class("two black-footed ferrets run", "black-footed_ferret")
    assert evaluate.names_class("a golden retriever sleeps", "golden retriever")
    assert not evaluate.names_class("a crane fly", "craned")


def test_shuffled_share():
    texts, words = ["a dog", "a cat", "a ship", "a hat"], [["dog"], ["cat"], ["ship"], ["hat"]]
    assert evaluate.shuffled_share(texts, words, rounds=2000) == pytest.approx(1 / 4, abs=0.02)
    assert evaluate.shuffled_share(["a dog and a cat"] * 2, words[:2]) == 1


def test_repeats():
    assert evaluate.repeats("He went to the old house, and he went to the old sea.", 5)
    assert not evaluate.repeats("He went to the sea and she went to the shore.", 5)


def test_overlap():
    assert evaluate.overlap("the sea the sea", "the sea was blue") == pytest.approx(0.5)
    assert evaluate.overlap("a b c d", "e f g h") == 0


def test_commonest():
    assert evaluate.commonest(["No.", "no", "Yes!"]) == ("no", 2)


def test_captions_of_our_own():
    groups = list(captions.groups())
    found = [text for _, group in groups for text in group]
    assert len(found) == len(set(found)) > 40_000
    assert {label for label, _ in groups} == {None, *range(1000)}
    lengths = [len(text.split()) for text in found]
    assert min(lengths) >= 7 and max(lengths) <= 16
    assert all(text.isascii() and text == text.lower() and " a a" not in f" {text}" for text in found)
    assert list(captions.groups())[5] == groups[5]  # the same every time
    assert sum("beagle" in text for text in dict(groups)[162]) == len(dict(groups)[162])


def test_examples_lie_along_the_rows():
    import numpy as np
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
    found = list(passages.passages([str(text)]))
    sizes = [sum(map(len, passage)) for passage in found]
    assert all(30 <= size <= 80 for size in sizes) and sizes[0] == 4 * 13
