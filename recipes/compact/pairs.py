"""Pairs of a picture's vector, x - c + b, with passages that a picture like it may have led to.

Passages with their own vectors teach the decoder to write, but not what to write of when x comes from a
picture: x - c of captions does not lie near the vectors of prose about the same things (docs/compact.md).  So it
also reads what pictures of a class come to, paired with passages that begin where the class or its kind is
mentioned: in the first sentence, for what a decoder begins with is what its conditioning vector tells it best.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storyteller import embedding
from storyteller.files import write_atomically
from storyteller.training.corpus import EncodedCorpus

from . import passages

LENGTHS = (30, 75)      # words of a passage, drawn between the two
LONGEST = 90            # and no more than that
FIRST = (4, 40)         # words of its first sentence
UNKNOWN = 2             # words that the decoder does not know, at most
SPOKEN = 2              # quotation marks, at most; none in the first sentence: a story does not begin amid talk
KNOWN = 0.06            # share of unknown words, at most, of passages that stand with their own vectors
WHITENED = 60000        # vectors that the whitening is measured on
USES = 5                # of one sentence that mentions something: what is read again and again is learnt by heart
BEFORE = 0.25           # of the passages begin a sentence before that
FLAT = 0.7              # a word is drawn as often as it occurs, to this power
OWN = 0.4               # of a class's passages, those that have a word of its own name
BEFORE_NOUNS = frozenset("""
a an the this that these those his her my its their our your some two three four old little big great white black brown
grey red green yellow golden young wild small large new tall long silk fine pretty dead of and or with""".split())
ENOUGH = 100            # mentions after such words
# Words for a kind that mostly speak of other things in novels: by the horns, the scales fell from her eyes.
LOOSE = frozenset("""
trunk scales horns tail fur paws creature wings feathers nest howl wearing wire wires cock match cap played playing
riding driving drives eats eating cook wash pool deck web beast""".split())
# Words of names that say nothing of their own.
COMMON = frozenset("""
a of the and with in on old new common white black red green great small grey brown golden water sea tree king house
wild american european indian english irish french japanese german standard miniature wood garden night rock box hot
head table running long bell three""".split())


@dataclass(frozen=True)
class Source:
    """A corpus, its style, about twice as many passages as are paired with each class, and plain ones."""

    name: str
    b: np.ndarray
    each: int
    plain: int


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
    """Which sentences of a corpus have a word: :meth:`of`.

    Only lower-case ones count: "Robin Hill" is no bird.  Where enough sentences have the word right after one of
    :data:`BEFORE_NOUNS` only those count: what one must bear is no animal either.
    """

    def __init__(self, folder: str, name: str, words: Sequence[str], wanted: set[str]):
        self.sentences = EncodedCorpus(os.path.join(folder, f"{name}.sentences"))
        counts = np.load(os.path.join(folder, f"{name}.counts.npy"))
        self.passage = np.repeat(np.arange(len(counts)), counts)
        self.lengths = np.asarray(self.sentences.lengths)
        self.unknown = _count(self.sentences, lambda tokens: (tokens == 1) | (tokens >= len(words)))
        marks = [i for i, word in enumerate(words) if word in ("``", "''")]
        self.spoken = _count(self.sentences, lambda tokens: np.isin(tokens, marks))
        of_interest = np.array([word in wanted for word in words])
        tokens = np.asarray(self.sentences.tokens)
        at = np.flatnonzero(of_interest[np.minimum(tokens, len(words) - 1)] & (tokens < len(words)))
        ends = np.cumsum(self.lengths)
        rows = np.searchsorted(ends, at, side="right")
        before = np.array([word in BEFORE_NOUNS for word in words])
        previous = tokens[np.maximum(at - 1, 0)]
        is_noun = ((at > ends[rows] - self.lengths[rows]) & (previous < len(words))
                   & before[np.minimum(previous, len(words) - 1)])
        self._rows: dict[str, np.ndarray] = {}
        order = np.argsort(tokens[at], kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(tokens[at][order])) + 1):
            if len(group):
                nouns = group[is_noun[group]]
                self._rows[words[tokens[at[group[0]]]]] = np.unique(rows[nouns if len(nouns) >= ENOUGH else group])

    def of(self, word: str) -> np.ndarray:
        """Sentences that have the word."""
        return self._rows.get(word, np.zeros(0, dtype=np.int64))

    def window(self, row: int, wanted: int) -> tuple[int, int] | None:
        """First and last + 1 of the sentences that a passage from this one on has; None where none will do."""
        if not FIRST[0] <= self.lengths[row] <= FIRST[1] or self.unknown[row] or self.spoken[row]:
            return None
        last, words, unknown, spoken = row, 0, 0, 0
        while last < len(self.lengths) and self.passage[last] <= self.passage[row] + 1 and words < wanted:
            if words + self.lengths[last] > LONGEST:
                break
            words, unknown = words + self.lengths[last], unknown + self.unknown[last]
            spoken, last = spoken + self.spoken[last], last + 1
        return (row, last) if words >= LENGTHS[0] and unknown <= UNKNOWN and spoken <= SPOKEN else None


def _count(corpus: EncodedCorpus, is_counted: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """How many tokens of each text are counted."""
    ends = np.concatenate([[0], np.cumsum(is_counted(np.asarray(corpus.tokens)), dtype=np.int64)])
    offsets = np.concatenate([[0], np.cumsum(corpus.lengths, dtype=np.int64)])
    return ends[offsets[1:]] - ends[offsets[:-1]]


def of_classes(mentions: Mentions, classes: Mapping[int, tuple[str, str]], kinds: Mapping[str, str], each: int,
               rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Passages for every class: (class, first sentence, last + 1), at most ``each`` of a class.

    A word is drawn first, common ones oftener, but less than they are commoner, and then a sentence with it.
    """
    drawn = {}
    for label, (name, family) in sorted(classes.items()):
        # "scotch terrier" is a terrier; of a "cup of coffee" both words will do.
        names = name.split() if " of " in name else name.split()[-1:]
        own = [word for word in dict.fromkeys(names) if word not in COMMON and len(mentions.of(word))]
        all_kinds = [word for word in dict.fromkeys(kinds[family].split()) if len(mentions.of(word))]
        kind = [word for word in all_kinds if word not in LOOSE] or all_kinds
        groups = [(group, share) for group, share in ((own, OWN if kind else 1.0), (kind, 1 - OWN if own else 1.0))
                  if group]
        if groups:
            weights = [np.array([len(mentions.of(word)) for word in group]) ** FLAT for group, _ in groups]
            p = np.concatenate([share * w / w.sum() for w, (_, share) in zip(weights, groups)])
            drawn[label] = [word for group, _ in groups for word in group], np.cumsum(p)
    found = []
    used = np.zeros(len(mentions.lengths), dtype=np.int64)
    # In turns, so that no class takes all there is before the next.
    for label in rng.permutation(np.repeat(list(drawn), each)):
        words, ends = drawn[label]
        rows = mentions.of(words[min(int(np.searchsorted(ends, rng.random())), len(words) - 1)])
        row = int(rows[rng.integers(len(rows))])
        first = row - int(rng.random() < BEFORE and row > 0 and mentions.passage[row - 1] == mentions.passage[row])
        window = mentions.window(first, int(rng.integers(*LENGTHS)))
        if used[row] < USES and window and window[1] > row:
            used[row] += 1
            found.append((int(label), *window))
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


def make(folder: str, sources: Sequence[Source], words: Sequence[str], classes: Mapping[int, tuple[str, str]],
         kinds: Mapping[str, str], seen: tuple[np.ndarray, np.ndarray], c: np.ndarray, target: str,
         vector_folder: str, seed: int = 0) -> None:
    """Write the passages that the decoder learns to tell from, in a random order, with whitened vectors.

    Parameters
    ----------
    folder : path
        Of encoded passages; ``target`` is written into it.
    sources : sequence of Source
    words : sequence of str
        Of the decoder, by index.
    classes : mapping of int to (name, family)
    kinds : mapping of str to str
        Words for what the members of a family are.
    seen : pair of arrays
        :func:`views` of pictures (n, dim), and their classes (n,).
    c : array (dim,)
        Caption style.
    target : str
        TARGET.tokens.npy and TARGET.offsets.npy, and in ``vector_folder`` TARGET.vectors.npy and whitening.npz.
    vector_folder : path
    seed : int
    """
    rng = np.random.default_rng(seed)
    x, labels = seen
    rows_of = {label: np.flatnonzero(labels == label) for label in classes}
    wanted = {word for name, family in classes.values() for word in (*name.split(), *kinds[family].split())}
    pieces: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    for source in sources:
        mentions = Mentions(folder, source.name, words, wanted)
        ends = np.concatenate([[0], np.cumsum(mentions.lengths, dtype=np.int64)])
        for label, first, last in of_classes(mentions, classes, kinds, source.each, rng):
            tokens = np.asarray(mentions.sentences.tokens[ends[first]:ends[last]])
            pieces.append(np.where(tokens < len(words), tokens, 1))
            vectors.append(x[rng.choice(rows_of[label])] - c + source.b)
        plain = EncodedCorpus(os.path.join(folder, f"{source.name}_part"))
        own = np.load(os.path.join(vector_folder, f"{source.name}_part.vectors.npy"), mmap_mode="r")
        known = _count(plain, lambda tokens: tokens == 1) <= KNOWN * plain.lengths
        for i in np.sort(rng.permutation(np.flatnonzero(known))[:source.plain]):
            pieces.append(np.asarray(plain[i]))
            vectors.append(own[i])
    order = rng.permutation(len(pieces))
    lengths = np.array([len(piece) for piece in pieces])[order]
    passages.write(os.path.join(folder, target), np.concatenate([pieces[i] for i in order]), lengths)
    m, P = whitening(np.array([vectors[i] for i in order[:WHITENED]]))
    with write_atomically(os.path.join(vector_folder, "whitening.npz")) as file:
        np.savez(file, m=m, P=P)
    save_whitened(np.array([vectors[i] for i in order]), m, P, os.path.join(vector_folder, f"{target}.vectors.npy"))


def save_whitened(vectors: np.ndarray, m: np.ndarray, P: np.ndarray, path: str) -> None:
    """Write ``(vectors - m) P``, float32."""
    with write_atomically(path) as file:
        np.save(file, ((vectors - m) @ P).astype(np.float32))
