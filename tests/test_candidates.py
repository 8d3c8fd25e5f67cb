"""Choosing among passages by the thought they have when read again."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, candidates, generate
from storyteller.decoder import Passage

IMAGE = Path(__file__).parent.parent / "images" / "ex1.jpg"


class Reader:
    """In place of a sentence encoder: a sentence's vector has its number of words of each kind."""

    dim = 3

    def encode(self, texts, verbose=False):
        return np.array([[t.count("dog"), t.count("sea"), 1] for t in texts], dtype=np.float32).reshape(-1, 3)


def passage(text, cost=10.0, finished=True):
    return Passage(text, cost, finished)


def test_thoughts_are_means_over_sentences():
    found = candidates.thoughts(Reader(), [passage("A dog . A dog and a dog . The sea ."), passage("")])
    np.testing.assert_allclose(found, [[1, 1 / 3, 1], [0, 0, 0]])


def test_fit_is_a_cosine_without_styles():
    x, c, b = np.array([3.0, 1, 0]), np.array([1.0, 1, 0]), np.array([0.0, 5, 5])
    fit = candidates.fits(np.array([[4.0, 5, 5], [0, 5, 5], [-1, 5, 5], [1, 6, 5]]), x, c, b)
    np.testing.assert_allclose(fit, [1, 0, -1, np.sqrt(0.5)])


def test_repeats():
    assert candidates.repeats("He went to the sea and he went to the sea".split())
    assert not candidates.repeats("he went to the sea and she went to the shore".split())


def test_order():
    words = " ".join(f"w{i}" for i in range(30))
    fit = {"best": passage(words, 40.0), "cheap": passage(words + " x", 20.0), "open": passage(words, 1.0, False),
           "short": passage("no", 0.1), "again": passage("a b c d e " * 6, 1.0)}
    fits = np.array([0.9, 0.1, 1.0, 1.0, 1.0])
    order = candidates.in_order(list(fit.values()), fits, weight=4.0)
    assert order[:2] == [fit["best"], fit["cheap"]]
    assert candidates.in_order(list(fit.values()), fits, weight=0.0)[0] is fit["cheap"]


def test_the_story_told_is_one_of_more(z):
    options = dict(k=10, bw=5, maxlen=40, show=False)
    told = generate.story(z, IMAGE, candidates=4, n_best=20, **options)
    likeliest = generate.story(z, IMAGE, n_best=20, **options)
    assert {p.text for p in likeliest.alternatives} < {p.text for p in told.alternatives}
    assert told.passage == told.alternatives[0].text
    again = generate.story(z, IMAGE, candidates=4, n_best=20, **options)
    assert again.alternatives == told.alternatives
    with pytest.raises(StorytellerError, match="candidates"):
        generate.story(z, IMAGE, candidates=-1, **options)
