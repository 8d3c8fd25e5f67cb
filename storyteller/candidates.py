"""Choosing among several passages the one that fits a picture best.

The likeliest passage for a thought vector is often one that could be told of any picture.  So several
passages are written, each is encoded again, and the one is told whose own thought, style taken away,
points where the picture's does: cos(y - b, x - c), y being the mean vector of the passage's sentences.
The idea is that of reranking by a reverse model (Li et al. 2016, arXiv:1510.03055, section 4.2), with the
sentence encoder in the reverse model's place.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .decoder import Passage
from .text import detokenize, split_sentences

REPEATED = 5           # no passage is told that has so many words in a row twice
WEIGHT = 4.0           # of the fit beside the mean cost of a word, see in_order
WORDS = (25, 110)      # lengths that count as a short story


def thoughts(model: Any, passages: Sequence[Passage]) -> np.ndarray:
    """The mean thought vector of each passage's sentences.

    Parameters
    ----------
    model : SkipThoughts
    passages : sequence of Passage

    Returns
    -------
    array (len(passages), model.dim) float32
        Zeros for a passage without words.
    """
    texts = [[s for s in split_sentences(detokenize(passage.text)) if s.split()] for passage in passages]
    flat = [sentence for sentences in texts for sentence in sentences]
    vectors = model.encode(flat, verbose=False)
    found, first = np.zeros((len(texts), model.dim), dtype=np.float32), 0
    for row, sentences in zip(found, texts):
        if sentences:
            row[:] = vectors[first:first + len(sentences)].mean(axis=0)
        first += len(sentences)
    return found


def fits(vectors: np.ndarray, x: np.ndarray, c: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each passage's thought without its style, and of the picture's without its own.

    Parameters
    ----------
    vectors : array (n, dim)
        From :func:`thoughts`.
    x, c, b : array (dim,)
        Mean thought of the captions, caption style, book style.

    Returns
    -------
    array (n,) float64
    """
    wanted, given = np.asarray(x - c, dtype=np.float64), np.asarray(vectors - b, dtype=np.float64)
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted)
    return given @ wanted / np.where(norms > 0, norms, 1)


def repeats(words: Sequence[str], n: int = REPEATED) -> bool:
    """Whether any n words in a row occur twice, case ignored."""
    low = [word.lower() for word in words]
    runs = [tuple(low[i:i + n]) for i in range(len(low) - n + 1)]
    return len(set(runs)) < len(runs)


def in_order(passages: Sequence[Passage], fit: np.ndarray, weight: float) -> list[Passage]:
    """Passages with the best first: by ``weight`` times the fit less the cost a word, in nats.

    Those that are unfinished, of an unfit length or repeat themselves come last.
    """
    def unfit(passage: Passage) -> int:
        words = passage.text.split()
        return (not passage.finished) + repeats(words) + (not WORDS[0] <= len(words) <= WORDS[1])

    scores = [weight * f - p.cost / (len(p.text.split()) + 1) for p, f in zip(passages, fit)]
    order = sorted(range(len(passages)), key=lambda i: (unfit(passages[i]), -scores[i]))
    return [passages[i] for i in order]
