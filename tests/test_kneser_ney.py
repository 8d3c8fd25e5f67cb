"""The n-gram model of the recipes against a slow one that follows the formulas, and what is measured with it."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from recipes.compact import kneser_ney, passages, perplexity
from storyteller import files
from storyteller.training import losses

N_WORDS = 9


def texts(n, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(N_WORDS - 1, 0.5), size=N_WORDS)     # each word has its favourite successors
    found = []
    for _ in range(n):
        words, last = [], 0
        for _ in range(rng.integers(1, 9)):
            last = 1 + int(rng.choice(N_WORDS - 1, p=p[last]))
            words.append(last)
        found.append(words)
    return found


class Slow:
    """Chen & Goodman 1999, equations 22 to 26, over dictionaries."""

    def __init__(self, found, order):
        self.order, self.counts = order, [None] * (order + 1)
        padded = [["<s>"] * max(1, order - 1) + words + [0] for words in found]
        grams = {k: Counter(tuple(text[i - k + 1:i + 1]) for text in padded
                            for i in range(max(1, order - 1), len(text)))
                 for k in range(1, order + 1)}
        for k in range(1, order + 1):
            if k == order:
                self.counts[k] = grams[k]
            else:
                before = Counter(gram[1:] for gram in grams[k + 1])
                self.counts[k] = {gram: grams[k][gram] if gram[0] == "<s>" else before[gram] for gram in grams[k]}

    def p(self, word, context):
        k = len(context) + 1
        lower = self.p(word, context[1:]) if context else 1 / N_WORDS
        counts = self.counts[k]
        n = [max(1, sum(c == i for c in counts.values())) for i in (1, 2, 3, 4)]
        y = n[0] / (n[0] + 2 * n[1])
        d = [0] + [min(max(i - (i + 1) * y * n[i] / n[i - 1], 0.1), i) for i in (1, 2, 3)]
        same = {gram: c for gram, c in counts.items() if gram[:-1] == context}
        total = sum(same.values())
        if not total:
            return lower
        c = same.get((*context, word), 0)
        return (c - d[min(c, 3)]) / total + sum(d[min(c, 3)] for c in same.values()) / total * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_against_the_formulas(order):
    train, heldout = texts(60, 0), texts(8, 1)
    model, slow = kneser_ney.fit(train, order, N_WORDS), Slow(train, order)
    expected = []
    for words in heldout:
        text = ["<s>"] * max(1, order - 1) + words + [0]
        for i in range(max(1, order - 1), len(text)):
            expected.append(np.log(slow.p(text[i], tuple(text[i - order + 1:i]))))
    np.testing.assert_allclose(model.log_probs(heldout), expected, rtol=1e-9)


def test_probabilities_sum_to_one():
    """Over all words after contexts that were seen and that were not."""
    model = kneser_ney.fit(texts(60, 0), 3, N_WORDS)
    for context in ([], [1], [3, 4], [8, 8, 8], [2, 7]):
        last = [model.log_probs([[*context, word]])[len(context)] for word in range(1, N_WORDS)]
        end = model.log_probs([context])[-1]
        assert np.exp([*last, end]).sum() == pytest.approx(1)


def test_beside_a_decoder(tmp_path):
    """A decoder whose output layer knows nothing but how common words are, and the trigrams it is compared with."""
    for folder in ("passages", "vectors", "decoder"):
        (tmp_path / folder).mkdir()
    found = {"romance": texts(60, 0), "romance_part": texts(20, 0), "romance_heldout_part": texts(8, 1)}
    for name, lists in found.items():
        passages.write(str(tmp_path / "passages" / name), np.concatenate(lists), np.array([len(t) for t in lists]))
        np.save(tmp_path / "vectors" / f"{name}_white.vectors.npy", np.zeros((len(lists), 4), np.float32))
    p = losses.init_decoder(4, 3, 5, N_WORDS - 1, np.random.default_rng(0))
    p["ff_logit_W"][:] = 0
    p["ff_logit_b"][:] = np.log(np.arange(1, N_WORDS) / np.arange(1, N_WORDS).sum())
    np.savez(tmp_path / "decoder" / "romance.npz", **p)
    files.save_pickle(tmp_path / "decoder" / "romance.npz.pkl", {"n_words": N_WORDS - 1})
    closed = [[w if w < N_WORDS - 1 else 1 for w in text] for text in found["romance_heldout_part"]]
    cost = -np.mean([p["ff_logit_b"][w] for text in closed for w in (*text, 0)])
    rows = list(perplexity.measure(str(tmp_path), "decoder"))
    assert [value for _, value, _ in rows[:2]] == pytest.approx([np.exp(cost)] * 2, rel=1e-5)
    train = [[w if w < N_WORDS - 1 else 1 for w in text] for text in found["romance"]]
    assert rows[3][1] == pytest.approx(kneser_ney.fit(train, 3, N_WORDS - 1).perplexity(closed))
    assert {count for *_, count in rows} == {sum(len(t) + 1 for t in closed)}
