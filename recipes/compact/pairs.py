"""Pairs of a picture's vector, x - c + b, with passages that a picture like it may have led to.

Passages with their own vectors teach the decoder to write, but not what to write of when x comes from a
picture: x - c of captions does not lie near the vectors of prose about the same things (docs/compact.md).  So it
also reads what pictures of a class come to, paired with passages that begin where the class or its kind is
mentioned: in the first sentence, for what a decoder begins with is what its conditioning vector tells it best.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from storyteller import embedding
from storyteller.formats import write_atomically
from storyteller.training.corpus import EncodedCorpus

LENGTHS = (30, 75)      # words of a passage, drawn between the two
LONGEST = 90            # and no more than that
FIRST = (4, 40)         # words of its first sentence
UNKNOWN = 2             # words that the decoder does not know, at most
OWN = 0.4               # of a class's passages, those that have a word of its own name
# Words of names that say nothing of their own.
COMMON = frozenset("""
a of the and with in on old new common white black red green great small grey brown golden water sea tree king house
wild american european indian english irish french japanese german standard miniature wood garden night rock box hot
head table running long bell three""".split())


def views(vse: embedding.JointEmbedding, joint: np.ndarray, thoughts: np.ndarray, features: np.ndarray,
          k: int = 100) -> np.ndarray:
    """What pictures come to: mean thought vectors x of the k captions nearest to each.

    Parameters
    ----------
    vse : JointEmbedding
    joint : array (captions, d) float32
        The captions in the joint space.
    thoughts : array (captions, dim) float32
        Their thought vectors.
    features : array (n, d) float32
        Of pictures, of unit norm.
    k : int

    Returns
    -------
    array (n, dim) float32
    """
    found = np.empty((len(features), thoughts.shape[1]), dtype=np.float32)
    for first in range(0, len(features), 256):
        scores = embedding.encode_images(vse, features[first:first + 256]) @ joint.T
        nearest = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k:]
        for row, best in zip(found[first:first + 256], nearest):
            row[:] = thoughts[best].mean(axis=0)
    return found


class Mentions:
    """Which sentences of a corpus have a word: :meth:`of`."""

    def __init__(self, folder: str, name: str, words: Sequence[str], wanted: set[str]):
        self.sentences = EncodedCorpus(os.path.join(folder, f"{name}.sentences"))
        counts = np.load(os.path.join(folder, f"{name}.counts.npy"))
        self.passage = np.repeat(np.arange(len(counts)), counts)
        self.lengths = np.asarray(self.sentences.lengths)
        self.unknown = _count(self.sentences, lambda tokens: (tokens == 1) | (tokens >= len(words)))
        self._known = np.array([word.lower() for word in words])
        of_interest = np.array([word in wanted for word in self._known])
        tokens = np.asarray(self.sentences.tokens)
        at = np.flatnonzero(of_interest[np.minimum(tokens, len(words) - 1)] & (tokens < len(words)))
        rows = np.searchsorted(np.cumsum(self.lengths), at, side="right")
        self._rows: dict[str, np.ndarray] = {}
        spelt = self._known[tokens[at]]
        order = np.argsort(spelt, kind="stable")
        ends = np.flatnonzero(spelt[order][1:] != spelt[order][:-1]) + 1
        for group in np.split(order, ends):
            if len(group):
                self._rows[str(spelt[group[0]])] = np.unique(rows[group])

    def of(self, word: str) -> np.ndarray:
        """Sentences that have the word, case ignored."""
        return self._rows.get(word, np.zeros(0, dtype=np.int64))

    def window(self, row: int, wanted: int) -> tuple[int, int] | None:
        """First and last + 1 of the sentences that a passage from this one on has; None where none will do."""
        if not FIRST[0] <= self.lengths[row] <= FIRST[1] or self.unknown[row]:
            return None
        last, words, unknown = row, 0, 0
        while last < len(self.lengths) and self.passage[last] <= self.passage[row] + 1 and words < wanted:
            if words + self.lengths[last] > LONGEST:
                break
            words, unknown, last = words + self.lengths[last], unknown + self.unknown[last], last + 1
        return (row, last) if words >= LENGTHS[0] and unknown <= UNKNOWN else None


def _count(corpus: EncodedCorpus, is_counted) -> np.ndarray:
    ends = np.concatenate([[0], np.cumsum(is_counted(np.asarray(corpus.tokens)), dtype=np.int64)])
    offsets = np.concatenate([[0], np.cumsum(corpus.lengths, dtype=np.int64)])
    return ends[offsets[1:]] - ends[offsets[:-1]]


def of_classes(mentions: Mentions, classes: Mapping[int, tuple[str, str]], kinds: Mapping[str, str], each: int,
               rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Passages for every class: (class, first sentence, last + 1), about ``each`` of a class.

    A word is drawn first, common ones oftener, but less than they are commoner, and then a sentence with it.
    """
    found = []
    for label, (name, family) in sorted(classes.items()):
        # "scotch terrier" is a terrier; of a "cup of coffee" both words will do.
        names = name.split() if " of " in name else name.split()[-1:]
        own = [word for word in dict.fromkeys(names) if word not in COMMON and len(mentions.of(word))]
        kind = [word for word in dict.fromkeys(kinds[family].split()) if len(mentions.of(word))]
        for group, share in ((own, OWN if kind else 1.0), (kind, 1 - OWN if own else 1.0)):
            if not group:
                continue
            weights = np.sqrt([len(mentions.of(word)) for word in group])
            # Of few sentences none is to be learnt by heart.
            count = min(round(each * share), 2 * sum(len(mentions.of(word)) for word in group))
            for i in rng.choice(len(group), size=count, p=weights / weights.sum()):
                row = int(rng.choice(mentions.of(group[i])))
                window = mentions.window(row, int(rng.integers(*LENGTHS)))
                if window:
                    found.append((label, *window))
    return found


def whitening(vectors: np.ndarray, ridge: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Mean m and map P, so that (v - m) P has about the same variance along every direction.

    Vectors of captions differ by a few hundredths of what all thought vectors share; a network that reads
    them as they are learns slowly to tell them apart.  The map goes into the decoder's weights afterwards
    (:func:`folded`): the decoder reads thought vectors as ever.
    """
    m = vectors.mean(axis=0, dtype=np.float64)
    centred = (vectors - m).astype(np.float64)
    eigenvalues, directions = np.linalg.eigh(centred.T @ centred / len(vectors))
    eigenvalues = np.maximum(eigenvalues, 0)
    return m, directions / np.sqrt(eigenvalues + ridge * eigenvalues.mean())


def folded(arrays: Mapping[str, np.ndarray], m: np.ndarray, P: np.ndarray) -> dict[str, np.ndarray]:
    """The decoder that reads v and does what this one does at (v - m) P."""
    W = P @ arrays["ff_state_W"].astype(np.float64)
    return {**arrays, "ff_state_W": W.astype(np.float32),
            "ff_state_b": (arrays["ff_state_b"] - m @ W).astype(np.float32)}


def unfolded(arrays: Mapping[str, np.ndarray], m: np.ndarray, P: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of :func:`folded`."""
    W = arrays["ff_state_W"].astype(np.float64)
    return {**arrays, "ff_state_W": np.linalg.solve(P, W).astype(np.float32),
            "ff_state_b": (arrays["ff_state_b"] + m @ W).astype(np.float32)}


def write(path: str, pieces: Sequence[np.ndarray]) -> None:
    """An encoded corpus of these passages."""
    lengths = np.array([len(piece) for piece in pieces])
    for end, array in (("tokens", np.concatenate(pieces).astype("<i4")),
                       ("offsets", np.concatenate([[0], np.cumsum(lengths)]).astype("<i8"))):
        with write_atomically(f"{path}.{end}.npy") as file:
            np.save(file, array)
