"""Minibatches: padded indices and masks, and the order in which sentences are visited.

The original (Kiros et al., "Skip-Thought Vectors", 2015, and "Unifying Visual-Semantic
Embeddings", 2014) trains on sentences of equal length; :class:`HomogeneousBatches` gives its
batches in its order (option ``batches='homogeneous'`` of a training).  :class:`BucketedBatches`
is the better default: batches of about equal length on all sides of a triplet.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import cache
from ..errors import StorytellerError, check_count
from ..text import UNK_ID

__all__ = ["BucketedBatches", "HomogeneousBatches", "prepare_data", "prepare_triplets"]


# Padding.

def prepare_data(sequences: Sequence[Any], maxlen: int | None = None, n_words: int | None = None,
                 multiple: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Put sentences side by side, each followed by one end (index 0).

    Parameters
    ----------
    sequences : sequence of n sequences of int
        Word indices without the end, see :func:`storyteller.text.word_indices`.
    maxlen : int, optional
        Sentences of so many words or more are dropped.
    n_words : int, optional
        Words the model knows: an index of `n_words` or more becomes 1 (``UNK``).
    multiple : int
        Pad up to a multiple of so many steps: JAX compiles anew for every shape.

    Returns
    -------
    x : array (steps, kept) int64
        A sentence a column, at least one step longer than the longest, padded with 0.
    mask : array (steps, kept) float32
        1 for each word and for the end behind it, else 0.
    kept : array (kept,) int64
        Which of the n sentences stand in the columns.
    None, if no sentence is left.

    Raises
    ------
    StorytellerError
        If `sequences` holds texts instead of word indices.

    Examples
    --------
    >>> x, mask, kept = prepare_data([[5, 3], [9, 2, 7, 4], [2]], maxlen=4, n_words=5)
    >>> x.tolist(), mask.tolist(), kept.tolist()
    ([[1, 2], [3, 0], [0, 0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [0, 2])
    """
    return _prepare({"sequences": sequences}, maxlen, n_words, multiple)


def prepare_triplets(current: Sequence[Any], following: Sequence[Any], previous: Sequence[Any],
                     maxlen: int | None = None, n_words: int | None = None, multiple: int = 1,
                     ) -> tuple[np.ndarray, ...] | None:
    """Put triplets of sentences side by side, for skip-thoughts (Kiros et al. 2015, section 2).

    Parameters
    ----------
    current, following, previous : sequences of n sentences each
        As for :func:`prepare_data`, like `maxlen`, `n_words` and `multiple`; a triplet is
        dropped when one of its sentences is too long.

    Returns
    -------
    x, x_mask, y, y_mask, z, z_mask : arrays (steps of that side, kept)
        Indices int64 and masks float32 of current, following and previous sentences.
    kept : array (kept,) int64
    None, if no triplet is left.

    Raises
    ------
    StorytellerError
        As :func:`prepare_data`, and if the three are not equally many.
    """
    if not len(current) == len(following) == len(previous):
        raise StorytellerError(f"{len(current)} current, {len(following)} following and {len(previous)} "
                               "previous sentences: expected equally many; give one of each a triplet")
    return _prepare({"current": current, "following": following, "previous": previous}, maxlen, n_words, multiple)


def _prepare(sides: dict[str, Sequence[Any]], maxlen: int | None, n_words: int | None, multiple: int) -> Any:
    """Indices and mask of each side, and which rows are kept: those that are short enough on every side."""
    for name, side in sides.items():
        if isinstance(side, (str, bytes)) or any(isinstance(sequence, (str, bytes)) for sequence in side):
            raise StorytellerError(f"{name} holds texts: expected lists of word indices, such as "
                                   "text.word_indices(words, dictionary, n_words)")
    kept = [i for i, rows in enumerate(zip(*sides.values())) if maxlen is None or max(map(len, rows)) < maxlen]
    if not kept:
        return None
    padded = (_pad([side[i] for i in kept], n_words, multiple) for side in sides.values())
    return (*(array for pair in padded for array in pair), np.array(kept, dtype=np.int64))


def _pad(rows: Sequence[Any], n_words: int | None, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    steps = -(-(1 + max(map(len, rows))) // multiple) * multiple
    # By rows first: contiguous writes, turned once at the end.
    x = np.zeros((len(rows), steps), dtype=np.int64)
    mask = np.zeros((len(rows), steps), dtype=np.float32)
    for i, row in enumerate(rows):
        x[i, :len(row)] = row
        mask[i, :len(row) + 1] = 1
    if n_words is not None:
        x[x >= n_words] = UNK_ID
    return np.ascontiguousarray(x.T), np.ascontiguousarray(mask.T)


# Orders.

class _Batches(ABC):
    """What both orders share: epochs, the position in one, and its state.

    Iterating gives the rest of the current epoch, then the next `for` the following one.
    """

    kind = ""
    n_sentences = 0
    epoch = 0

    def __init__(self, lengths: Any, batch_size: int, maxlen: int | None, rows: np.ndarray | None):
        table = np.asarray(lengths)
        self._table = table = table[:, None] if table.ndim == 1 else table
        if table.ndim != 2 or (table.size and table.dtype.kind not in "iu"):
            raise StorytellerError(f"lengths has shape {table.shape} and dtype {table.dtype}: expected whole "
                                   "numbers, (n,) or (n, sides)")
        self._rows = None if rows is None else np.asarray(rows)
        if self._rows is not None and self._rows.shape != (len(table),):
            raise StorytellerError(f"rows has shape {self._rows.shape}: expected one for each of the {len(table)} "
                                   "lengths")
        self.batch_size, self.maxlen = check_count("batch_size", batch_size), maxlen
        # The same for every integer dtype and platform.
        self._lengths_key = cache.fingerprint(np.asarray(table, dtype="<i4"))

    def _check_any(self) -> None:
        if not self.n_sentences:
            raise StorytellerError(f"no sentence to batch ({len(self._table)} given, maxlen {self.maxlen}): give more "
                                   "text or a larger maxlen (--maxlen-w)")

    def _given(self, batch: np.ndarray) -> np.ndarray:
        return batch if self._rows is None else self._rows[batch]

    def _settings(self) -> dict[str, Any]:
        """What a state must have in common with the batches that resume from it."""
        return {"batch_size": self.batch_size, "maxlen": self.maxlen, "sentences": len(self._table),
                "lengths": self._lengths_key}

    @abstractmethod
    def _place(self) -> dict[str, Any]:
        """Where the walk is."""

    @abstractmethod
    def _go_to(self, state: dict[str, Any]) -> None:
        """Take up the walk at this :meth:`_place`."""

    def get_state(self) -> dict[str, Any]:
        """Where the walk is, as plain data for a checkpoint (JSON or pickle)."""
        return {"kind": self.kind, **self._settings(), **self._place()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where :meth:`get_state` was called.

        Raises
        ------
        StorytellerError
            If the state is another class's, or was made with another corpus or settings.
        """
        if not isinstance(state, dict) or state.get("kind") != self.kind:
            raise StorytellerError(f"the batch state to resume from is not one of {type(self).__name__}: "
                                   "resume with the batches that the training was started with")
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise StorytellerError(
                    f"the batch state to resume from was made with {name} {state.get(name)!r}, and this "
                    f"training has {value!r}: resume with the corpus and settings it was started with, or "
                    "start anew")
        self._go_to(state)


class HomogeneousBatches(_Batches):
    """Batches of equal length, in the order of the original (``HomogeneousData``).

    At the start of an epoch the lengths are put in a random order, then, in that order, the
    sentences of each length.  The epoch walks round the lengths and takes the next
    `batch_size` sentences (or what is left) of each that has any.

    Parameters
    ----------
    lengths : array (n,) or (n, sides) int
        Words of each sentence; of triplets one column a side, of which the first, the current
        sentence's, counts.
    batch_size : int
    maxlen : int, optional
        Sentences of MORE than so many words are left out.  (The original's: those of exactly
        `maxlen` words stay here, and :func:`prepare_data` drops them.)
    seed : int or numpy.random.RandomState
        Of NumPy's legacy generator, whose stream never changes.
    rows : array (n,) int, optional
        See :class:`BucketedBatches`.

    Attributes
    ----------
    epoch : int
        Number of epochs that are finished.
    position : int
        Batches given in the current one.
    n_sentences : int
        Sentences in an epoch.

    Raises
    ------
    StorytellerError
        If there is no sentence, or a setting makes no sense.

    Examples
    --------
    >>> batches = HomogeneousBatches([2, 1, 2, 1, 2], batch_size=2, seed=818)
    >>> sorted(sorted(batch.tolist()) for batch in batches)[1]
    [1, 3]
    """

    kind = "homogeneous"

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int = 128, maxlen: int | None = None,
                 seed: int | np.random.RandomState = 1234, rows: np.ndarray | None = None):
        super().__init__(lengths, batch_size, maxlen, rows)
        lengths = self._table[:, 0]
        # One sort instead of a search per length.
        order = np.argsort(lengths, kind="stable")
        unique, starts = np.unique(lengths[order], return_index=True)
        groups = dict(zip(unique.tolist(), np.split(order, starts[1:])))
        self._groups = {length: group for length, group in groups.items() if maxlen is None or length <= maxlen}
        self._lengths = np.array(list(self._groups))
        self.n_sentences = sum(map(len, self._groups.values()))
        self._check_any()
        self._first = (dict(self._groups), self._lengths)
        if not isinstance(seed, np.random.RandomState):
            seed = np.random.RandomState(check_count("seed", seed, 0, (1 << 32) - 1))
        self._random = seed
        self._start = _random_state(self._random)
        self.epoch = self.position = 0
        self._plan: list[np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(-(-len(rows) // self.batch_size) for rows in self._groups.values())

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._plan is None:
            self._shuffle()
        plan, epoch = self._plan, self.epoch
        assert plan is not None
        while self.position < len(plan) and epoch == self.epoch:
            self.position += 1
            yield self._given(plan[self.position - 1])
        if epoch == self.epoch:
            self.epoch, self.position, self._plan = epoch + 1, 0, None

    def _shuffle(self) -> None:
        """Draw an epoch: the order of the original's draws matters, and that it shuffles what
        the epoch before had shuffled already."""
        self._lengths = self._random.permutation(self._lengths)
        for length in self._lengths.tolist():
            self._groups[length] = self._random.permutation(self._groups[length])
        size = self.batch_size
        longest = max(map(len, self._groups.values()))
        self._plan = [self._groups[length][first:first + size] for first in range(0, longest, size)
                      for length in self._lengths.tolist() if first < len(self._groups[length])]

    def _place(self) -> dict[str, Any]:
        # The generator's state at the start and how far it has come, not the permutations.
        return {"epoch": self.epoch, "position": self.position, "random": self._start}

    def _go_to(self, state: dict[str, Any]) -> None:
        name, keys, at, has_gauss, gauss = state["random"]
        self._start = state["random"]
        self._random = np.random.RandomState()
        self._random.set_state((name, np.array(keys, dtype=np.uint32), at, has_gauss, gauss))
        self._groups, self._lengths = dict(self._first[0]), self._first[1]
        for _ in range(state["epoch"] + (state["position"] > 0)):  # at position 0 it is drawn later
            self._shuffle()
        if not state["position"]:
            self._plan = None
        self.epoch, self.position = state["epoch"], state["position"]


def _random_state(random: np.random.RandomState) -> list[Any]:
    name, keys, at, has_gauss, gauss = random.get_state(legacy=True)
    return [str(name), [int(key) for key in keys], int(at), int(has_gauss), float(gauss)]


class BucketedBatches(_Batches):
    """Batches of about equal length on every side, visited in a random order.

    The corpus is shuffled and cut into pools.  A pool is sorted and tiled by its lengths: for
    triplets first into slabs of about equal current length, these into strips of about equal
    next length, and these by previous length (sort-tile-recursive packing, Leutenegger et
    al., ICDE 1997), which leaves a third to a half of the padding of sorting by the three in
    turn, or, where a pool is so large that this is better, sorted.  Its batches are then given
    in a random order.

    Parameters
    ----------
    lengths : array (n,) or (n, sides) int
        Words of each sentence; of triplets one column a side, the current sentence first.
    batch_size : int
        Sentences (triplets) in a batch, at most: those of a pool are dealt out evenly, so that
        no batch is much smaller than the others.
    maxlen : int, optional
        Rows with so many words or more on a side are left out, as :func:`prepare_data` does.
    seed : int
        Equal seeds give equal batches; every epoch differs.
    pool : int
        Rows in a pool.  A larger one leaves less padding, a smaller one takes less memory.
    rows : array (n,) int, optional
        What to give instead of the position in `lengths`, such as the rows of
        ``EncodedCorpus.triplets``.

    Attributes
    ----------
    epoch : int
        Number of epochs that are finished.
    seen : int
        Rows given in the current one.
    n_sentences : int
        Rows in an epoch.

    Raises
    ------
    StorytellerError
        If there is no sentence, or a setting makes no sense.

    Notes
    -----
    Only lengths and row numbers are held in memory, never a sentence: the corpus itself can stay on the
    disk (:class:`storyteller.training.corpus.EncodedCorpus`).

    Examples
    --------
    >>> batches = BucketedBatches([3, 9, 3, 9], batch_size=2, seed=1)
    >>> sorted(sorted(batch.tolist()) for batch in batches)
    [[0, 2], [1, 3]]
    """

    kind = "bucketed"

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int = 64, maxlen: int | None = None,
                 seed: int = 1234, pool: int = 1 << 20, rows: np.ndarray | None = None):
        super().__init__(lengths, batch_size, maxlen, rows)
        self.pool, self.seed = check_count("pool", pool), check_count("seed", seed, 0, 1 << 128)
        fits = np.ones(len(self._table), bool) if maxlen is None else (self._table < maxlen).all(axis=1)
        self._all = np.flatnonzero(fits).astype(np.int32 if len(fits) < 1 << 31 else np.int64)
        self.n_sentences = len(self._all)
        self._check_any()
        self._pools = -(-self.n_sentences // self.pool)
        self.epoch = self.seen = 0
        self._pool = self._position = 0     # the next batch: its pool, its place in the pool
        self._order: tuple[int, np.ndarray] | None = None
        self._plan: tuple[int, int, list[np.ndarray]] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        epoch = self.epoch
        while self.epoch == epoch:
            if self._pool >= self._pools:
                self.epoch, self.seen, self._pool, self._position = epoch + 1, 0, 0, 0
                return
            plan = self._batches()
            if self._position >= len(plan):
                self._pool, self._position = self._pool + 1, 0
                continue
            batch = plan[self._position]
            self._position += 1
            self.seen += len(batch)
            yield self._given(batch).astype(np.int64)

    def _batches(self) -> list[np.ndarray]:
        """The batches of the current pool, in their order."""
        epoch, pool = self.epoch, self._pool
        if self._plan is not None and self._plan[:2] == (epoch, pool):
            return self._plan[2]
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self._all))
        ends = [self.n_sentences * i // self._pools for i in (pool, pool + 1)]
        rows = self._order[1][ends[0]:ends[1]]
        lengths = self._table[rows]
        count = -(-len(rows) // self.batch_size)
        batches = np.split(rows[_packed(lengths, count)], [len(rows) * i // count for i in range(1, count)])
        shuffled = np.random.default_rng([self.seed, epoch, pool]).permutation(len(batches))
        self._plan = (epoch, pool, [batches[i] for i in shuffled])
        return self._plan[2]

    def _settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "pool size": self.pool, **super()._settings()}

    def _place(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "seen": self.seen, "pool": self._pool, "position": self._position}

    def _go_to(self, state: dict[str, Any]) -> None:
        self.epoch, self.seen = state["epoch"], state["seen"]
        self._pool, self._position = state["pool"], state["position"]


def _packed(lengths: np.ndarray, count: int) -> np.ndarray:
    """The better of two orders: tiles, or sorted by the sides in turn (best for huge pools)."""
    def steps(order: np.ndarray) -> int:
        starts = len(order) * np.arange(count) // count
        longest = np.maximum.reduceat(lengths[order].astype(np.int64) + 1, starts, axis=0)
        return int(longest.sum(axis=1) @ np.diff(starts, append=len(order)))

    return min((_tiled(lengths, count), np.lexsort(lengths.T[::-1])), key=steps)


def _tiled(lengths: np.ndarray, count: int) -> np.ndarray:
    """An order of rows of which `count` consecutive tiles are of about equal length on every side.

    Every second slab runs backwards, so that neighbours are alike across the edges, too.
    """
    sides = lengths.shape[1]
    order = np.argsort(lengths[:, 0], kind="stable")
    # Tiles along each side that is still to be cut; a slab holds whole tiles.
    slabs = max(1, round(count ** (1 / sides)))
    if sides == 1 or slabs == 1:
        return order if sides == 1 else order[_tiled(lengths[order][:, 1:], count)]
    per_slab = -(-count // slabs)
    parts = []
    for i, first in enumerate(range(0, count, per_slab)):
        last = min(count, first + per_slab)
        part = order[len(order) * first // count:len(order) * last // count]
        part = part[_tiled(lengths[part][:, 1:], last - first)]
        parts.append(part[::-1] if i % 2 else part)
    return np.concatenate(parts)
