"""Beam search and sampling over any step function, in plain NumPy.

A *step function* takes the last words (n,) int64 and the states (n, d) of n hypotheses and
returns ``(logits, states)``: (n, vocabulary) unnormalised log-probabilities of the next word, and
the states after the step.  The word before the first is -1.  Log-probabilities are logits,
too, so a step function may return either.

Words are indices: 0 ends a passage, 1 is the unknown word.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

import numpy as np

from . import threads
from .errors import StorytellerError, check_count, check_flag, check_floats, check_number
from .text import END_ID, UNK_ID

FIRST = -1
# Large, yet finite: where a beam is wider than the vocabulary even unknown words must be
# taken, as the last choice.
UNK_COST = np.float32(1e20)
_BLOCK = 256
_ROWS = 8           # that a thread takes at a time

StepFunction = Callable[[np.ndarray, np.ndarray], "tuple[np.ndarray, np.ndarray]"]
# Last words, costs, which hypotheses of the step before they go on from, and how many continuations are wanted ->
# costs, hypotheses and next words of the cheapest, the cheapest first.
Expander = Callable[[np.ndarray, np.ndarray, np.ndarray, int], "tuple[np.ndarray, np.ndarray, np.ndarray]"]


@dataclass(frozen=True)
class Hypothesis:
    """A passage that the search found.

    Attributes
    ----------
    words : list of int
        Indices, the final 0 included where ``finished``.
    cost : float
        Negative log-likelihood in nats.
    finished : bool
        False where the search ended before the passage did.
    """

    words: list[int]
    cost: float
    finished: bool


def log_normaliser(logits: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """log sum exp of each row: logits (n, v), row maxima (n,) -> (n,)."""
    total = np.empty_like(maxima)
    buffer = np.empty_like(logits[0])  # one row at a time stays in the cache
    with np.errstate(invalid="ignore"):     # the caller sees NaN
        for i, row in enumerate(logits):
            np.subtract(row, maxima[i], out=buffer)
            np.exp(buffer, out=buffer)
            total[i] = buffer.sum()
        return maxima + np.log(total)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the softmax of each row: (n, v) -> (n, v) float32."""
    log_p = np.empty_like(logits)

    def work(start: int, stop: int) -> None:
        rows = logits[start:stop]
        np.subtract(rows, log_normaliser(rows, rows.max(axis=1))[:, None], out=log_p[start:stop])

    threads.in_threads(work, len(logits), _ROWS)
    return log_p


def check_logits(maxima: np.ndarray) -> None:
    """StorytellerError where the largest logits (n,), or their log normalisers, are not finite."""
    if not np.isfinite(maxima).all():
        raise StorytellerError(
            "the decoder gives probabilities that are not numbers (NaN or infinite): its "
            "parameters or the context vector are damaged; check the decoder and style files")


def _block_maxima(x: np.ndarray) -> np.ndarray:
    """Maxima of runs of _BLOCK columns, the last run being what is left: (n, v) -> (n, blocks)."""
    n, width = x.shape
    whole = width // _BLOCK * _BLOCK
    parts = [x[:, :whole].reshape(n, -1, _BLOCK).max(axis=2)] if whole else []
    if whole < width:
        parts.append(x[:, whole:].max(axis=1, keepdims=True))
    return np.concatenate(parts, axis=1)


def _summary(logits: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows, :func:`_block_maxima` and :func:`log_normaliser`."""
    blocks = _block_maxima(logits[start:stop])
    return blocks, log_normaliser(logits[start:stop], blocks.max(axis=1))


def _cheapest(logits: np.ndarray, offsets: np.ndarray, blocks: np.ndarray, count: int, use_unk: bool = True,
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``count`` smallest finite ones of offsets[i] - logits[i, j], smallest first; without `use_unk` 1e20 for
    j = UNK_ID.

    A candidate among the ``count`` cheapest lies in one of the ``count`` cheapest blocks, so
    those blocks alone are looked at: the whole matrix is never sorted nor even copied.

    Returns
    -------
    costs (up to count,) float32, rows and columns likewise
    """
    width = logits.shape[1]
    block_costs = (offsets[:, None] - blocks).ravel()
    if count < block_costs.size:
        bound = np.partition(block_costs, count - 1)[count - 1]
        chosen = np.flatnonzero(block_costs <= bound)
    else:
        bound, chosen = np.inf, np.arange(block_costs.size)
    rows, first = np.divmod(chosen, blocks.shape[1])
    columns = first[:, None] * _BLOCK + np.arange(_BLOCK)
    inside = columns < width
    costs = offsets[rows][:, None] - logits[rows[:, None], np.minimum(columns, width - 1)]
    if not use_unk:
        costs[columns == UNK_ID] = UNK_COST
    keep = np.flatnonzero((inside & (costs <= bound)).ravel())
    costs = costs.ravel()[keep]
    # Equal costs: the earlier hypothesis, then the smaller word, so that results are stable.
    order = np.argsort(costs, kind="stable")[:count]
    order = order[np.isfinite(costs[order])]        # a word may be forbidden by a logit of minus infinity
    keep = keep[order]
    return costs[order], rows[keep // _BLOCK], columns.ravel()[keep]


def expander(step: StepFunction, state: np.ndarray, use_unk: bool) -> Expander:
    """What :func:`beam_search` asks of a step function: it keeps the states of one search that begins with `state`."""
    states = state

    def expand(words: np.ndarray, costs: np.ndarray, parents: np.ndarray, count: int,
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal states
        logits, states = step(words, states[parents])
        found = threads.in_threads(partial(_summary, logits), len(logits), _ROWS)
        blocks, normalisers = (np.concatenate(parts) for parts in zip(*found))
        offsets = costs + normalisers
        check_logits(offsets)
        if not use_unk and logits.shape[1] > UNK_ID:
            blocks[:, 0] = np.delete(logits[:, :_BLOCK], UNK_ID, axis=1).max(axis=1)
        return _cheapest(logits, offsets, blocks, count, use_unk)
    return expand


class _Tree:
    """Hypotheses as back-pointers: nobody copies a list of words.

    Step t has a row for every candidate taken; its parent is a row of step t - 1.
    """

    def __init__(self):
        self._parents: list[np.ndarray] = []
        self._words: list[np.ndarray] = []

    def grow(self, parents: np.ndarray, words: np.ndarray) -> None:
        self._parents.append(parents)
        self._words.append(words)

    def read(self, rows: np.ndarray) -> list[list[int]]:
        """Words of the hypotheses that stand in these rows of the newest step."""
        words = np.empty((len(rows), len(self._words)), dtype=np.int64)
        for t in reversed(range(len(self._words))):
            words[:, t] = self._words[t][rows]
            rows = self._parents[t][rows]
        return words.tolist()


def beam_search(step: StepFunction, state: np.ndarray, width: int, maxlen: int = 1000,
                use_unk: bool = False, should_stop: Callable[[list[Hypothesis], float], bool] | None = None,
                expand: Expander | None = None) -> list[Hypothesis]:
    """Beam search without length normalisation.

    At every step the cheapest (width - finished) continuations of all live hypotheses are
    taken; one that ends leaves a narrower beam behind.

    Parameters
    ----------
    step : callable
        See the module's text.
    state : array (1, d) float32
        The state before the first word.
    width : int
        Hypotheses kept.
    maxlen : int
        Steps at most.
    use_unk : bool
        False: the unknown word costs 1e20.
    should_stop : callable, optional
        Given the finished hypotheses and the cost of the cheapest live one after every step;
        true ends the search.  Costs only grow, so a caller can tell when no live hypothesis
        can win any more.
    expand : callable, optional
        In place of :func:`expander`'s.

    Returns
    -------
    list of Hypothesis
        Finished ones in the order in which they finished, then what was still alive.

    Raises
    ------
    StorytellerError
        If an argument is out of range, or the logits are not finite.
    """
    width, maxlen = check_count("beam width", width), check_count("maxlen", maxlen)
    use_unk = check_flag("use_unk", use_unk)
    finished: list[Hypothesis] = []
    words = np.full(1, FIRST, dtype=np.int64)
    costs = np.zeros(1, dtype=np.float32)
    expand = expand or expander(step, check_floats("state", state, (1, None), "the search begins with one state"),
                                use_unk)
    tree, live, before = _Tree(), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for _ in range(maxlen):
        new_costs, parents, words = expand(words, costs, before, width - len(finished))
        # p can round to one, and no cost may ever fall.
        costs = np.maximum(new_costs, costs[parents])
        tree.grow(live[parents], words)
        ended = np.flatnonzero(words == END_ID)
        if len(ended):
            finished += [Hypothesis(read, cost, True) for read, cost in zip(tree.read(ended), costs[ended].tolist())]
        live = np.flatnonzero(words != END_ID)
        before, words, costs = parents[live], words[live], costs[live]
        if not len(live) or len(finished) >= width:
            break
        if should_stop is not None and should_stop(finished, float(costs[0])):
            return finished
    return finished + [Hypothesis(read, cost, False) for read, cost in zip(tree.read(live), costs.tolist())]


def sample(step: StepFunction, state: np.ndarray, maxlen: int = 1000, use_unk: bool = True,
           argmax: bool = False, temperature: float = 1.0, top_k: int | None = None,
           top_p: float | None = None, rng: np.random.Generator | int | None = None) -> Hypothesis:
    """Draw one passage word by word: :func:`samples` for one."""
    return samples(step, state, 1, maxlen, use_unk, argmax, temperature, top_k, top_p, rng)[0]


def samples(step: StepFunction, state: np.ndarray, n: int, maxlen: int = 1000, use_unk: bool = True,
            argmax: bool = False, temperature: float = 1.0, top_k: int | None = None,
            top_p: float | None = None, rng: np.random.Generator | int | None = None) -> list[Hypothesis]:
    """Draw passages word by word, side by side.

    Parameters
    ----------
    step, maxlen
        As for :func:`beam_search`.
    state : array (1, d)
        All passages start from it.
    n : int
        How many passages.
    use_unk : bool
        False: the unknown word is never drawn.
    argmax : bool
        Take the likeliest word every time instead of drawing.
    temperature : float
        Logits are divided by it: below 1 more conservative, above 1 more random.
    top_k : int, optional
        Draw among the k likeliest words only.
    top_p : float, optional
        Draw among the fewest words whose probabilities sum to at least p (nucleus sampling,
        Holtzman et al. 2020, arXiv:1904.09751).
    rng : numpy Generator, int or None
        Source of randomness, or its seed.

    Returns
    -------
    list of Hypothesis
        In the order drawn.  Costs are under the undistorted distribution.

    Raises
    ------
    StorytellerError
        If an argument is out of range, or the logits are not finite.
    """
    n, maxlen = check_count("n", n), check_count("maxlen", maxlen)
    use_unk, argmax = check_flag("use_unk", use_unk), check_flag("argmax", argmax)
    temperature, top_k, top_p, rng = check_sampling(temperature, top_k, top_p, rng)
    state = check_floats("state", state, (1, None), "all passages start from one state")
    words: list[list[int]] = [[] for _ in range(n)]
    costs, live = np.zeros(n), np.arange(n)
    last = np.full(n, FIRST, dtype=np.int64)
    states = np.repeat(state, n, axis=0)
    for _ in range(maxlen):
        if not len(live):
            break
        logits, states = step(last, states)
        choice = log_p = log_softmax(logits)
        check_logits(log_p.max(axis=1))
        if not use_unk and log_p.shape[1] > UNK_ID:
            choice = log_p.copy()
            choice[:, UNK_ID] = -np.inf
        if argmax:
            last = choice.argmax(axis=1)
        else:
            # Each passage has its own numbers, so that it does not depend on where the others end.
            last = np.concatenate([draw(row, temperature, top_k, top_p, u)
                                   for row, u in zip(choice, rng.random((n, 1))[live])])
        costs[live] -= log_p[np.arange(len(live)), last]
        for i, word in zip(live, last):
            words[i].append(int(word))
        going = np.flatnonzero(last != END_ID)
        live, last, states = live[going], last[going], states[going]
    return [Hypothesis(w, float(cost), bool(w) and w[-1] == END_ID) for w, cost in zip(words, costs)]


def check_sampling(temperature: Any = 1.0, top_k: Any = None, top_p: Any = None,
                   seed: np.random.Generator | int | None = None,
                   ) -> tuple[float, int | None, float | None, np.random.Generator]:
    """The options of :func:`samples`, checked, with the source of randomness that `seed` stands for.

    Raises
    ------
    StorytellerError
        If one is out of range.
    """
    if not isinstance(seed, np.random.Generator):
        seed = np.random.default_rng(None if seed is None else check_count("seed", seed, 0, 2 ** 64 - 1))
    return (check_number("temperature", temperature, 0), None if top_k is None else check_count("top_k", top_k),
            None if top_p is None else check_number("top_p", top_p, 0, 1), seed)


# Of the likeliest word's probability: a nucleus is nearly always among the words above the first, and those below the
# last seldom matter.
_LIKELY = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 0.0)


def draw(log_p: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, u: np.ndarray) -> np.ndarray:
    """The words at each of ``u`` (n,), 0 <= u < 1, of the distribution function: (n,) int64."""
    with np.errstate(over="ignore"):        # of the division, whose temperature must be a float32 above 0
        p = np.exp((log_p - log_p.max()) / min(max(temperature, 1e-30), 1e30), dtype=np.float64)
    if top_k is None and top_p is None:
        return _at(np.cumsum(p), u)
    among = None if top_k is None else np.sort(_largest(p, min(top_k, len(p))))
    values = p if among is None else p[among]
    wanted = values.sum() * (1.0 if top_p is None else top_p)
    # Sorting all words would take most of the time.
    for least in _LIKELY:
        likely = np.flatnonzero(values >= least)
        sizes = values[likely]
        if least and sizes.sum() < wanted:
            continue
        order = np.argsort(-sizes, kind="stable")
        mass = np.cumsum(sizes[order])
        if mass[-1] >= wanted:
            break
    found = likely[order[_at(mass[:int(np.searchsorted(mass, wanted)) + 1], u)]]
    return found if among is None else among[found]


def _largest(p: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` largest are, in no order."""
    return np.argpartition(p, len(p) - count)[len(p) - count:] if count < len(p) else np.arange(len(p))


def _at(mass: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(mass, u * mass[-1], side="right"), len(mass) - 1)


def gen_sample(f_init: Callable[[np.ndarray], np.ndarray], step: StepFunction, ctx: np.ndarray,
               k: int = 1, maxlen: int = 30, stochastic: bool = False, argmax: bool = False,
               use_unk: bool = False, seed: int | None = None) -> tuple[list[list[int]], list[float]]:
    """All hypotheses of a search that runs to its own end, in the original's order.

    Parameters
    ----------
    f_init : callable
        (1, dimctx) -> the first state (1, d).
    step : callable
        See the module's text.
    ctx : array (1, dimctx) or (dimctx,) float32
    k : int
        Beam width.
    maxlen : int
        Steps at most.
    stochastic : bool
        Draw one passage instead (k must be 1); unknown words are then allowed.
    argmax : bool
        With stochastic: take the likeliest word every time.
    use_unk : bool
        Allow unknown words in the beam.
    seed : int, optional
        For stochastic.

    Returns
    -------
    samples : list of lists of int
        Finished ones in the order in which they finished, each ending in 0; then the live.
    costs : list of float
        Negative log-likelihoods.

    Raises
    ------
    StorytellerError
        If stochastic is asked for with k above 1.
    """
    state = f_init(np.asarray(ctx, dtype=np.float32).reshape(1, -1))
    if check_flag("stochastic", stochastic):
        if k != 1:
            raise StorytellerError(f"k is {k} with stochastic=True: beam search does not sample, use k=1")
        found = [sample(step, state, maxlen, argmax=argmax, rng=seed)]
    else:
        found = beam_search(step, state, k, maxlen, use_unk)
    return [h.words for h in found], [h.cost for h in found]


def costs(step: StepFunction, state: np.ndarray, passages: Sequence[Sequence[int]]) -> list[float]:
    """Negative log-likelihoods of given words, side by side.

    Parameters
    ----------
    step
        See the module's text.
    state : array (1, d)
        All passages start from it.
    passages : sequences of int
        Words, with the final 0 where that is to count.

    Returns
    -------
    list of float
        In nats.
    """
    total = np.zeros(len(passages))
    states, last = np.repeat(state, len(passages), axis=0), np.full(len(passages), FIRST, dtype=np.int64)
    lengths = np.array([len(words) for words in passages], dtype=np.int64)
    live = np.arange(len(passages))
    for t in range(max(lengths, default=0)):
        going_on = lengths[live] > t
        live, states, last = live[going_on], states[going_on], last[going_on]
        logits, states = step(last, states)
        last = np.array([passages[int(i)][t] for i in live], dtype=np.int64)
        total[live] += log_normaliser(logits, logits.max(axis=1)) - logits[np.arange(len(live)), last]
    return total.tolist()


def passages_in_order(hypotheses: list[Hypothesis]) -> Iterator[Hypothesis]:
    """What a reader may see of a search's result, cheapest first.

    If the first hypothesis to finish has no words at all it is left out, as in the original;
    later empty ones stay.  When nothing else is there the empty one is given after all.
    """
    rest = hypotheses[1:] if len(hypotheses) > 1 and len(hypotheses[0].words) <= 1 else hypotheses
    return iter(sorted(rest, key=lambda h: h.cost))  # sorted() is stable: the first of equals wins
