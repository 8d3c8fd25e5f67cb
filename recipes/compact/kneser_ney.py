"""Interpolated modified Kneser-Ney n-gram models (Chen & Goodman 1999, section 3.3.3), over word indices.

NLTK has such a model, too, but counts in dictionaries of dictionaries: 21 million words do not fit.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

END = 0


@dataclass(frozen=True)
class _Order:
    """The grams of one length k: sorted keys (number of the gram without its last word) * (n_words + 1) + last word."""

    keys: np.ndarray        # (types,) int64
    discounted: np.ndarray  # (types,) share of a gram's count that is left to it, over its context's total
    weight: np.ndarray      # (types of length k - 1,) of the next lower order; 1 for contexts never seen


class KneserNey:
    """A model; made by :func:`fit`.

    Attributes
    ----------
    order, n_words : int
    """

    def __init__(self, orders: list[_Order], n_words: int):
        self._orders, self.order, self.n_words = orders, len(orders), n_words

    def log_probs(self, texts: Iterable[Sequence[int]]) -> np.ndarray:
        """Natural logarithms of the probability of every word and of every end, in order: (words + texts,)."""
        stream, events = _padded(texts, self.order, self.n_words)
        ids = _numbers(stream, [order.keys for order in self._orders], self.n_words)
        p = np.full(len(events), 1.0 / self.n_words)
        for k, order in enumerate(self._orders, 1):
            context = ids[k - 1][events - 1]
            known = context >= 0
            gram = ids[k][events]
            p = p * np.where(known, order.weight[context], 1.0)
            p = p + np.where(gram >= 0, order.discounted[gram], 0.0)
        return np.log(p)

    def perplexity(self, texts: Iterable[Sequence[int]]) -> float:
        """exp of the mean negative log-probability of a word, ends included."""
        return float(np.exp(-self.log_probs(texts).mean()))


def fit(texts: Iterable[Sequence[int]], order: int, n_words: int) -> KneserNey:
    """Count and discount.

    Parameters
    ----------
    texts : iterable of int sequences
        Word indices from 1 (UNK) to n_words - 1; the end, 0, is added.
    order : int
        Longest grams.
    n_words : int
        End and UNK included.

    Returns
    -------
    KneserNey
    """
    stream, events = _padded(texts, order, n_words)
    is_event = np.zeros(len(stream), dtype=bool)
    is_event[events] = True
    base = n_words + 1                      # the mark before a text is a word of its own
    ids, keys = [np.zeros(len(stream), dtype=np.int64)], []
    for _ in range(order):
        key = _shifted(ids[-1]) * base + stream
        unique, number = np.unique(key, return_inverse=True)
        keys.append(unique)
        ids.append(number.reshape(-1))
    orders = []
    for k in range(1, order + 1):
        gram = ids[k][is_event]
        counts = np.bincount(gram, minlength=len(keys[k - 1]))
        if k < order:
            # How many different words stand before it; before the mark of a beginning stands nothing.
            longer, first = np.unique(ids[k + 1][is_event], return_index=True)
            continuations = np.bincount(ids[k][is_event][first], minlength=len(keys[k - 1]))
            begins = np.zeros(len(counts), dtype=bool)
            begins[ids[k][is_event]] = stream[np.flatnonzero(is_event) - k + 1] == n_words
            counts = np.where(begins, counts, continuations)
        orders.append(_discount(counts, keys[k - 1] // base, len(keys[k - 2]) if k > 1 else 1, keys[k - 1]))
    return KneserNey(orders, n_words)


def _discount(counts: np.ndarray, contexts: np.ndarray, n_contexts: int, keys: np.ndarray) -> _Order:
    n = [max(1, int((counts == c).sum())) for c in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1])
    # Chen & Goodman, equation 26; where a tiny text gives odd ones they stay above 0, so that no word is impossible.
    discounts = np.array([0.0, *(min(max(c - (c + 1) * y * n[c] / n[c - 1], 0.1), c) for c in (1, 2, 3))])
    taken = discounts[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, minlength=n_contexts)
    safe = np.where(totals > 0, totals, 1)
    weight = np.where(totals > 0, np.bincount(contexts, taken, minlength=n_contexts) / safe, 1.0)
    return _Order(keys, (counts - taken) / safe[contexts], weight)


def _padded(texts: Iterable[Sequence[int]], order: int, n_words: int) -> tuple[np.ndarray, np.ndarray]:
    """All texts in one array, marks (n_words) before and an end behind each; where the words and ends stand."""
    before, parts = np.full(max(1, order - 1), n_words, dtype=np.int64), []
    for text in texts:
        parts += [before, np.asarray(text, dtype=np.int64), np.zeros(1, dtype=np.int64)]
    stream = np.concatenate(parts) if parts else before
    return stream, np.flatnonzero(stream != n_words)


def _shifted(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ids[:-1]])


def _numbers(stream: np.ndarray, keys: list[np.ndarray], n_words: int) -> list[np.ndarray]:
    """Number of the gram of each length that ends at each place; -1 for those never seen."""
    ids = [np.zeros(len(stream), dtype=np.int64)]
    for known in keys:
        context = _shifted(ids[-1])
        key = context * (n_words + 1) + stream
        place = np.minimum(np.searchsorted(known, key), len(known) - 1)
        ids.append(np.where((known[place] == key) & (context >= 0), place, -1))
    return ids
