"""What the compact decoder is trained on: passages that mention what a picture shows."""
from __future__ import annotations

import numpy as np
import pytest

from recipes.compact import pairs, passages
from storyteller.layers import init_dense
from storyteller.training.corpus import EncodedCorpus

WORDS = ["<eos>", "UNK", "the", "dog", "terrier", "ran", "home", ".", "``", "''", "Dog"]
INDEX = {word: i for i, word in enumerate(WORDS)}


@pytest.fixture
def folder(tmp_path):
    """Three passages of sentences of ten words."""
    filler = ["ran", "home"] * 5
    texts = [[["the", "terrier", *filler[:7], "."], [*filler[:9], "."], [*filler[:9], "."]],
             [["``", "dog", *filler[:6], "''", "."], ["the", "dog", *filler[:7], "."], ["rare", *filler[:8], "."]],
             [[*filler[:9], "."], [*filler[:9], "."]]]
    known = {word: i for word, i in INDEX.items() if i > 1}
    EncodedCorpus.build(tmp_path / "toy.sentences", [" ".join(s) for text in texts for s in text], known, verbose=False)
    EncodedCorpus.build(tmp_path / "toy_part", [" ".join(w for s in text for w in s) for text in texts], known,
                        verbose=False)
    np.save(tmp_path / "toy.counts.npy", [len(text) for text in texts])
    return tmp_path


def test_mentions(folder):
    mentions = pairs.Mentions(folder, "toy", WORDS, {"dog", "terrier", "cat"})
    assert list(mentions.of("dog")) == [3, 4] and list(mentions.of("terrier")) == [0]
    assert not len(mentions.of("Dog")) and not len(mentions.of("cat")) and not len(mentions.of("ran"))
    assert list(mentions.unknown) == [0, 0, 0, 0, 0, 1, 0, 0] and list(mentions.spoken) == [0, 0, 0, 2, 0, 0, 0, 0]
    assert mentions.window(0, 30) == (0, 3)
    assert mentions.window(0, 40) == (0, 4)
    assert mentions.window(0, 100) == (0, 6)    # not beyond the next passage
    assert mentions.window(3, 30) is None       # talk
    assert mentions.window(5, 30) is None       # begins with an unknown word
    assert mentions.window(4, 35) == (4, 8)
    assert mentions.window(6, 30) is None       # too short


def test_verbs_are_no_animals(folder, monkeypatch):
    monkeypatch.setattr(pairs, "ENOUGH", 1)
    assert list(pairs.Mentions(folder, "toy", WORDS, {"dog"}).of("dog")) == [4]     # "`` dog", "the dog"
    assert list(pairs.Mentions(folder, "toy", WORDS, {"ran"}).of("ran"))            # never after "the": all


def test_passages_of_classes(folder):
    mentions = pairs.Mentions(folder, "toy", WORDS, {"dog", "terrier"})
    classes = {0: ("scotch terrier", "dogs"), 1: ("the home", "none"), 2: ("siamese", "cats")}
    found = pairs.of_classes(mentions, classes, {"dogs": "dog", "none": "", "cats": "cat kitten"}, 20,
                             np.random.default_rng(0))
    assert {label for label, *_ in found} == {0}
    assert {first for _, first, _ in found} == {0, 4}       # not 3, which is talk
    assert len([first for _, first, _ in found if first == 0]) == pairs.USES


def test_whitened_and_folded():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((400, 6)) * [3, 1, .3, .1, .03, .01] + 5).astype(np.float32)
    m, P = pairs.whitening(vectors, ridge=0)
    np.testing.assert_allclose(np.cov(((vectors - m) @ P).T, bias=True), np.eye(6), atol=1e-3)
    ridged = pairs.whitening(vectors)[1]
    spread = ((vectors - m) @ ridged).std(axis=0)
    assert spread.max() <= 1.001 and spread.min() > 0.01
    arrays = {**init_dense("ff_state", 6, 4, rng), "Wemb": np.ones((2, 2))}
    arrays["ff_state_b"] = rng.standard_normal(4).astype(np.float32)
    folded = pairs.folded(arrays, m, ridged)
    np.testing.assert_allclose(vectors @ folded["ff_state_W"] + folded["ff_state_b"],
                               ((vectors - m) @ ridged) @ arrays["ff_state_W"] + arrays["ff_state_b"], atol=1e-3)
    back = pairs.unfolded(folded, m, ridged)
    np.testing.assert_allclose(back["ff_state_W"], arrays["ff_state_W"], atol=1e-5)
    assert back["Wemb"] is arrays["Wemb"]


def test_make(folder, monkeypatch):
    monkeypatch.setattr(pairs, "KNOWN", 0.2)
    rng = np.random.default_rng(1)
    own = rng.standard_normal((3, 5)).astype(np.float32)
    np.save(folder / "toy_part.vectors.npy", own)
    x, b, c = rng.standard_normal((2, 5)), np.full(5, 2.0), np.full(5, 1.0)
    pairs.make(str(folder), [pairs.Source("toy", b, 20, 2)], WORDS, {0: ("terrier", "dogs")}, {"dogs": "dog"},
               (x, np.zeros(2, int)), c, "told", str(folder))
    told, white = EncodedCorpus(folder / "told"), np.load(folder / "told.vectors.npy")
    assert len(told) == len(white) and white.dtype == np.float32
    with np.load(folder / "whitening.npz") as given:
        vectors = white @ np.linalg.inv(given["P"]) + given["m"]
    plain = EncodedCorpus(folder / "toy_part")
    kinds = []
    for tokens, vector in zip((told[i] for i in range(len(told))), vectors):
        near = [np.abs(vector - row).max() < 1e-3 for row in (*own, *(x - c + b))]
        assert sum(near) == 1
        kinds.append(near.index(True))
        if kinds[-1] < 3:
            assert list(tokens) == list(plain[kinds[-1]])
        else:
            assert {WORDS[i].lower() for i in tokens} & {"dog", "terrier"} and len(tokens) >= pairs.LENGTHS[0]
    assert len([kind for kind in kinds if kind < 3]) == 2 and {3, 4} <= set(kinds)


def test_parts_of_corpora(folder):
    EncodedCorpus.build(folder / "toy", ["the dog", "ran", "home ran home"], {w: i for w, i in INDEX.items() if i > 1},
                        verbose=False)
    passages.part(str(folder), "toy", "half", 1, 2)
    half, sentences = EncodedCorpus(folder / "half"), EncodedCorpus(folder / "half.sentences")
    assert [list(half[i]) for i in range(len(half))] == [[2, 3], [6, 5, 6]]
    assert list(np.load(folder / "half.counts.npy")) == [3, 2] and len(sentences) == 5
