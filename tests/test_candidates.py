"""Choosing among passages by how well they fit the picture."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, candidates, embedding, generate
from storyteller.decoder import Passage

IMAGE = Path(__file__).parent.parent / "images" / "ex1.jpg"


def passage(text, cost=10.0, finished=True):
    return Passage(text, cost, finished)


def test_image_similarity(z):
    query = np.random.default_rng(0).standard_normal(z["vse"].dim).astype(np.float32)
    query /= np.linalg.norm(query)
    found = candidates.image_similarity(z["vse"], [passage("`` A dog runs , '' she said . The sea is blue ."),
                                                   passage(""), passage("The sea is blue .")], query)
    rows = embedding.encode_sentences(z["vse"], ["`` a dog runs , '' she said .", "the sea is blue .",
                                                 "`` a dog runs , '' she said . the sea is blue ."]) @ query
    np.testing.assert_allclose(found, [max(rows[:2]) + rows[2], 0, 2 * rows[1]], atol=1e-6)
    assert not len(candidates.image_similarity(z["vse"], [], query))


def test_repeats():
    words = candidates.words_of
    assert words("`` He did n't , '' she said -- no . Cat 's") == ["he", "didn't", "she", "said", "no", "cat's"]
    assert candidates.repeats(words("He went to the sea , and he went , to the sea"))
    assert not candidates.repeats(words("he went to the sea and she went to a shore"))


def test_quotes_close():
    assert candidates.quotes_close("he went") and candidates.quotes_close("`` no , '' he said , `` no . ''")
    for text in ("`` no , he said .", "no , '' he said .", "`` no `` yes '' ''", "'' no ``"):
        assert not candidates.quotes_close(text)


def test_order():
    words = " ".join(f"w{i}" for i in range(30))
    fit = {"best": passage(words, 40.0), "cheap": passage(words + " x", 20.0), "open": passage(words, 1.0, False),
           "short": passage("no", 0.1), "again": passage("a b c d e " * 6, 1.0),
           "said": passage(words + " ''", 1.0)}
    similarity = np.array([0.9, 0.1, 1.0, 1.0, 1.0, 1.0])
    order = candidates.rerank(list(fit.values()), similarity, weight=4.0)
    assert order[:2] == [fit["best"], fit["cheap"]]
    assert candidates.rerank(list(fit.values()), similarity, weight=0.0)[0] is fit["cheap"]


def test_the_story_told_is_one_of_more(z):
    options = dict(k=10, bw=5, maxlen=40, show=False)
    told = generate.story(z, IMAGE, candidates=4, n_best=20, **options)
    likeliest = generate.story(z, IMAGE, n_best=20, **options)
    assert {p.text for p in likeliest.alternatives} < {p.text for p in told.alternatives}
    assert told.passage == told.alternatives[0].text
    np.testing.assert_allclose([p.similarity for p in told.alternatives], candidates.image_similarity(
        z["vse"], told.alternatives, embedding.encode_images(z["vse"], generate.image_features(z, IMAGE)[None])[0]),
        atol=1e-5)
    assert likeliest.alternatives[0].similarity is None
    assert told.to_dict()["alternatives"][0]["text"] == told.text
    again = generate.story(z, IMAGE, candidates=4, n_best=20, **options)
    assert again.alternatives == told.alternatives
    with pytest.raises(StorytellerError, match="candidates"):
        generate.story(z, IMAGE, candidates=-1, **options)
