"""Thought vector -> passage: a GRU language model conditioned on a context vector.

The decoder of the skip-thoughts project (Kiros et al. 2015, arXiv:1506.06726, section 2.1, without
the conditioning inside the gates): the context gives the first hidden state, and every
step reads the last word and predicts the next.
"""
from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from . import files, search
from .errors import StorytellerError, check_count, check_flag, check_floats, shown
from .layers import Model, dense, dense_shapes, gru_shapes, gru_step, join_gru, load_params
from .text import END_ID, UNK, UNK_ID, check_dictionary, sentence_ends, words_by_index

_STEPS = 8      # of a beam search that a device takes by itself: more are lost behind a passage's end


@dataclass(frozen=True)
class Passage:
    """A generated passage.

    Attributes
    ----------
    text : str
        Words joined by single spaces.
    cost : float
        Negative log-likelihood in nats, of the end-of-passage word too; not divided by length.
    finished : bool
        False where ``maxlen`` cut the passage off, within a sentence where whole ones were asked for.
    similarity : float or None
        Of its sentences to the picture, see :func:`storyteller.telling.tell`.
    """

    text: str
    cost: float
    finished: bool = True
    similarity: float | None = None


class Decoder(Model):
    """A loaded decoder; made by :func:`load_model`.

    Attributes
    ----------
    options : dict
        As saved with the model.
    dimctx : int
        Length of the context vector.
    vocabulary : list of str
        Word of every index: ``<eos>``, ``UNK``, then the dictionary's.

    Notes
    -----
    The originals' decoder was a dict: ``dec["options"]``, ``dec["word_idict"]`` (index -> word),
    ``dec["worddict"]`` (word -> index), ``dec["f_init"]`` and ``dec["f_next"]`` are answered, too.
    """

    _compiled = ("_init", "_next", "_following", "_beams")

    def __init__(self, options: dict, params: dict[str, np.ndarray], vocabulary: list[str],
                 device: str | None = None):
        from . import backend
        self.options, self.vocabulary, self._device = options, vocabulary, backend.device_of(device)
        self.dimctx, self.dim = params["ff_state_W"].shape
        self._params = {name: value for name, value in params.items() if not name.startswith("decoder_")}
        self._gru = join_gru(params, "decoder")
        self.put_back = float(options.get("put_back", 0))
        self._ends = [int(end) for end in options.get("ends", ())]
        self._compile()

    def _summary(self) -> str:
        return f"{self.dim} units, {len(self.vocabulary):,} words, contexts of {self.dimctx} numbers"

    def _compile(self) -> None:
        from . import backend as be
        p = be.parameters({**self._params, **{f"decoder_{name}": value for name, value in self._gru.items()}},
                          self._device != "cpu")

        def following(y, h, h0=None, k=None, ended=None, out=None):
            # In a beam many hypotheses go on from one, and many end in the same word.
            projected = be.dot_distinct(be.rows_or_zeros(p["Wemb"], y), p["decoder_W"]) + p["decoder_b"]
            state = gru_step(projected, h, p["decoder_U"], self.dim, be.dot_distinct)
            if self.put_back:
                # What is added to h: share (h0 + sentences[k] - h) where a sentence has just ended, else nothing.
                back = h0 + be.rows_or_zeros(p["sentences"], k) - state
                state = state + (np.float32(self.put_back) * ended)[:, None] * back
            top = dense(state, p["ff_hid_W"], p["ff_hid_b"], be.tanh) if "ff_hid_W" in p else state
            return [dense(top, p["ff_logit_W"], p["ff_logit_b"], out=out), state]

        self._init = be.computation(lambda ctx: [dense(ctx, p["ff_state_W"], p["ff_state_b"], be.tanh)], [2],
                                    self._device)
        self._next = be.computation(following, [0, 2, 2, 0, 1] if self.put_back else [0, 2], self._device)
        self._following = following
        self._beams: dict[tuple[int, bool], Any] = {}

    def f_init(self, ctx: np.ndarray) -> np.ndarray:
        """First states: tanh(ctx . ff_state_W + ff_state_b), (n, dimctx) -> (n, dim).

        Where the first state is put back at the ends of sentences (option ``put_back``), a hypothesis takes it
        along: (n, 2 dim + 1), the state, the first one, and how many sentences have ended.
        """
        ctx = check_floats("the context", ctx, (None, self.dimctx), "use the skip-thoughts model and style vectors "
                           "that this decoder was trained with")
        h = self._init(ctx)[0]
        return np.concatenate([h, h, np.zeros((len(h), 1), np.float32)], axis=1) if self.put_back else h

    def step(self, y: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step for the search: last words (n,) int64 (-1: none yet) and states as of :meth:`f_init`
        -> logits (n, n_words) and the states after the step."""
        return self._step(y, state)

    def _step(self, y: np.ndarray, state: np.ndarray, **out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`step`; on the CPU the logits stand in the array `out` where it is given."""
        y, state = np.asarray(y), np.asarray(state)
        width = 2 * self.dim + 1 if self.put_back else self.dim
        if not (y.dtype.kind in "iu" and state.dtype.kind == "f" and y.ndim == 1 and state.shape == (len(y), width)):
            raise StorytellerError(f"y and state are {shown(y)} and {shown(state)}: expected whole numbers (n,) and "
                                   f"states (n, {width})")
        if len(y) and not -1 <= y.min() <= y.max() < len(self.vocabulary):
            raise StorytellerError(f"y holds a word from {y.min()} to {y.max()}: expected indices below "
                                   f"{len(self.vocabulary)}, or -1 before the first word")
        y, state = y.astype(np.int64, copy=False), state.astype(np.float32, copy=False)
        if not self.put_back:
            logits, state = self._next(y, state, **out)
            return logits, state
        dim = self.dim
        k, ended, count = self._sentences_ended(y, state[:, -1])
        h0 = np.ascontiguousarray(state[:, dim:2 * dim])
        logits, h = self._next(y, np.ascontiguousarray(state[:, :dim]), h0, k, ended, **out)
        return logits, np.concatenate([h, h0, count[:, None].astype(np.float32)], axis=1)

    def _sentences_ended(self, y: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For last words (n,) and how many sentences have ended before them: the vector that is added, or -1, whether
        a sentence has ended (0 or 1, float32), and how many have by now."""
        ended = np.isin(y, self._ends)
        count = before + ended
        k = np.where(ended, np.minimum(count, len(self._params["sentences"])) - 1, -1).astype(np.int64)
        return k, ended.astype(np.float32), count

    def f_next(self, y: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Like :meth:`step`, with probabilities (n, n_words) in place of logits.

        The originals' gave a word drawn from each row as well, between the two.
        """
        logits, state = self.step(y, state)
        logits = logits - logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        return p / p.sum(axis=1, keepdims=True), state

    def expander(self, state: np.ndarray, width: int, use_unk: bool, maxlen: int = 1000) -> search.Expander:
        """:func:`storyteller.search.expander` of this decoder, for one search with a beam no wider than `width`.

        Through JAX the device takes many steps by itself, as :func:`storyteller.search.beam_search` would; what it
        chose in each is handed out while it takes the next ones.  Only that function can call the result, whose
        arguments are not looked at: the device knows them.  Steps that nobody asks for are lost.
        """
        from . import backend as be
        if not be.on_jax(self._device):
            return search.expander(self.stepper(), state, use_unk)
        size, dim = be.bucket(width), self.dim
        if (size, use_unk) not in self._beams:      # two threads may both compile it: either's will do
            self._beams[size, use_unk] = self._beam(size, use_unk)
        steps, first = self._beams[size, use_unk], be.kept(np.repeat(state[:, :dim], size, axis=0), self._device)
        alone = np.where(np.arange(size) == 0, np.float32(0), np.float32(np.inf))
        beam: list[Any] = [np.full(size, search.FIRST, np.int64), alone, np.zeros(size, np.int64),
                           np.zeros(1, np.int64), first]
        fixed: list[Any] = []
        if self.put_back:
            beam.append(np.zeros(size, np.float32))
            fixed.append(first)
        running: list[list[Any]] = []
        chosen: list[tuple[np.ndarray, ...]] = []       # of the steps that nobody asked for yet, the last one first
        going, left = np.zeros(1, np.int64), maxlen

        def run() -> None:
            nonlocal beam, left
            results = steps(*beam, *fixed)
            beam, left = results[:len(beam)], left - _STEPS
            running.append(results[len(beam):])

        def expand(words: np.ndarray, costs: np.ndarray, parents: np.ndarray, count: int,
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            nonlocal going
            if left == maxlen:      # the first step
                beam[3] = np.array([count], np.int64)
            if not chosen:
                while not running or len(running) < 2 and left > 0:
                    run()
                chosen.extend(reversed(list(zip(*be.fetch(*running.pop(0))))))
            normalisers, best, where = chosen.pop()
            search.check_logits(normalisers)
            found = np.flatnonzero(np.isfinite(best[:count]))
            rows, columns = np.divmod(where[found], len(self.vocabulary))
            # On the device the hypotheses that have ended still stand among the others.
            rows, going = np.searchsorted(going, rows), np.flatnonzero(columns != END_ID)
            return best[found], rows, columns
        return expand

    def stepper(self) -> search.StepFunction:
        """:meth:`step` for one search: on the CPU every step's logits stand where those before them stood.

        New memory for each, which the system must clear first, would cost a tenth of a step.
        """
        if self._device != "cpu":
            return self.step
        kept = np.empty((0, len(self.vocabulary)), np.float32)

        def step(y: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal kept
            if len(kept) < len(y):
                kept = np.empty((len(y), len(self.vocabulary)), np.float32)
            return self._step(y, state, out=kept[:len(y)])
        return step

    def _beam(self, size: int, use_unk: bool) -> Any:
        """Steps of a beam search that the device takes by itself, in one compiled function.

        It takes and gives the beam, in this order: last words, costs, rows of the step before that they go on from
        (size,), how many hypotheses are still wanted (1,), the states after that step (size, dim) and, with put_back,
        how many sentences had ended (size,).  Rows that hold no hypothesis cost infinitely much.  With put_back it
        takes the first states (size, dim) as well.  Behind the beam it gives, of every step, log normalisers, and
        costs and places (row x words + word) of the cheapest continuations, (steps, size) each.
        """
        from . import backend as be
        n_words, infinite = len(self.vocabulary), np.float32(np.inf)
        beam = [be.int_vector("y"), be.vector("costs"), be.int_vector("parents"), be.int_vector("wanted"),
                be.matrix("states")]
        fixed = [be.matrix("h0")] if self.put_back else []
        if self.put_back:
            beam.append(be.vector("ended"))

        def step(y, costs, parents, wanted, states, *put_back):
            more = []
            if self.put_back:
                before, h0 = put_back[0][parents], put_back[1]
                ended = be.cast(be.is_one_of(y, self._ends), "float32")
                more = [before + ended]
                last = be.minimum(more[0], np.float32(len(self._params["sentences"]))) - np.float32(1)
                put_back = h0, be.cast(be.switch(ended, last, np.float32(-1)), "int64"), ended
            logits, state = self._following(y, states[parents], *put_back)
            alive, normalisers = be.less(costs, infinite), be.log_sum_exp(logits)
            total = (costs + normalisers).dimshuffle(0, "x") - logits
            if not use_unk:
                total = be.switch(np.arange(n_words) == UNK_ID, search.UNK_COST, total)
            total = be.switch(alive.dimshuffle(0, "x"), total, infinite)    # its words may be damaged ones
            values, where = be.largest(-total.flatten(), size)
            best, parents, y = -values, where // n_words, where % n_words
            taken = be.less(np.arange(size), wanted[0])
            # As in search.beam_search no cost falls, and a hypothesis that ends leaves a narrower beam behind.
            costs = be.switch(taken * be.less(END_ID, y), be.maximum(best, costs[parents]), infinite)
            ends = taken * be.less(best, infinite) * be.eq(y, END_ID)
            return [y, costs, parents, wanted - be.cast(be.total(ends), "int64"), state, *more,
                    be.switch(alive, normalisers, np.float32(0)), best, where]

        results = be.repeated(step, beam, fixed, _STEPS)
        return be.train_function([*beam, *fixed], results, device=self._device, fetched=False)

    def _items(self) -> dict[str, Callable[[], Any]]:
        return {"options": lambda: self.options, "f_init": lambda: self.f_init, "f_next": lambda: self.f_next,
                "word_idict": lambda: dict(enumerate(self.vocabulary)),
                "worddict": lambda: {word: i for i, word in enumerate(self.vocabulary) if i > UNK_ID and word != UNK}}

    def text(self, words: list[int]) -> str:
        """Indices -> words joined by spaces."""
        return " ".join(self.vocabulary[word] for word in words)


def load_model(path_to_model: str | os.PathLike | None = None, path_to_dictionary: str | os.PathLike | None = None,
               device: str | None = None) -> Decoder:
    """Load a decoder; without arguments the settings' one, see :func:`storyteller.config.load`.

    Parameters
    ----------
    path_to_model : path, optional
        The archive of parameters, ``romance.npz``; its options stand beside it with ``.pkl``
        appended.
    path_to_dictionary : path, optional
        ``romance_dictionary.pkl``: a pickled dict word -> index, 0 and 1 being ``<eos>`` and ``UNK``.
    device : str, optional
        See :func:`storyteller.backend.device_of`.

    Returns
    -------
    Decoder

    Raises
    ------
    StorytellerError
        If a file is missing, damaged, or does not fit its options.
    """
    if path_to_model is None and path_to_dictionary is None:
        from . import config
        settings = config.load()
        path_to_model, path_to_dictionary = settings.path("decmodel"), settings.path("dictionary")
    elif path_to_model is None or path_to_dictionary is None:
        raise StorytellerError("a decoder has two files: give path_to_model and path_to_dictionary, or neither")
    path_to_options = f"{os.fspath(path_to_model)}.pkl"
    options = files.load_options(path_to_options)
    shapes = parameter_shapes(options, path_to_options)
    params = load_params("decoder", path_to_model, shapes, "decoder")
    words, n_words = files.load_dictionary(path_to_dictionary), len(params["Wemb"])
    check_dictionary(words, n_words, path_to_dictionary)
    return Decoder(options, params, [word or UNK for word in words_by_index(words, n_words)], device)


def parameter_shapes(options: dict, path: str | os.PathLike) -> dict[str, tuple]:
    """Names and shapes of the parameters that a decoder's options call for.

    Raises
    ------
    StorytellerError
        If the options (of the file ``path``) are not a decoder's.
    """
    dimctx, dim_word, dim, n_words = (files.int_option(options, name, path)
                                      for name in ("dimctx", "dim_word", "dim", "n_words"))
    if options.get("decoder", "gru") != "gru":
        raise StorytellerError(f"{os.fspath(path)}: option 'decoder' is {options['decoder']!r}: "
                               "only 'gru' decoders are known")
    shapes = {"Wemb": (n_words, dim_word), **dense_shapes("ff_state", dimctx, dim),
              **gru_shapes("decoder", dim_word, dim)}
    n_top = dim
    if options.get("doutput", True):
        n_top = dim_word
        shapes.update(dense_shapes("ff_hid", dim, n_top))
    put_back = options.get("put_back", 0)
    if not isinstance(put_back, (int, float)) or not 0 <= put_back <= 1:
        raise StorytellerError(f"{os.fspath(path)}: option 'put_back' is {put_back!r}: expected a share, 0 to 1")
    if put_back:
        ends = options.get("ends")
        if not (isinstance(ends, (list, tuple)) and ends and all(isinstance(end, int) for end in ends)):
            raise StorytellerError(f"{os.fspath(path)}: option 'ends' is {ends!r}: expected the indices of the words "
                                   "that end a sentence, as put_back asks for")
        shapes["sentences"] = (files.int_option(options, "n_sentences", path), dim)
    plain = options.get("plain")
    if plain is not None and not (isinstance(plain, (list, tuple)) and len(plain) == dimctx
                                  and all(isinstance(number, (int, float)) and abs(number) < 3e38 for number in plain)):
        raise StorytellerError(f"{os.fspath(path)}: option 'plain' is {shown(plain)}: expected {dimctx} numbers, "
                               "the mean vector of all styles")
    rhymes = options.get("rhymes")
    if rhymes is not None and not (isinstance(rhymes, (list, tuple)) and len(rhymes) == n_words
                                   and all(type(rhyme) is int and 0 <= rhyme <= n_words for rhyme in rhymes)):
        raise StorytellerError(f"{os.fspath(path)}: option 'rhymes' is {shown(rhymes)}: expected {n_words} integers, "
                               "the same for words that rhyme, 0 for those that rhyme with none")
    shapes.update(dense_shapes("ff_logit", n_top, n_words))
    return shapes


def check_not_sampling(**options: Any) -> None:
    """StorytellerError where an option of sampling is given although nothing is sampled.

    Parameters
    ----------
    **options
        argmax, temperature, top_k, top_p or seed.
    """
    defaults = {"argmax": False, "temperature": 1}
    for name, value in options.items():
        if value is not None and not (np.ndim(value) == 0 and value == defaults.get(name)):
            raise StorytellerError(f"{name} is {shown(value)}, but nothing is sampled: ask for sampling "
                                   f"(stochastic=True, story's sample=True, --sample) or leave {name} out")


def passages(dec: Decoder, c: np.ndarray, beam_width: int = 1, n_best: int = 1,
             stochastic: bool = False, use_unk: bool = False, maxlen: int = 1000,
             argmax: bool = False, temperature: float = 1.0, top_k: int | None = None,
             top_p: float | None = None, seed: int | None = None, whole_sentences: bool = False) -> list[Passage]:
    """Write passages for one context vector, the cheapest first.

    Parameters
    ----------
    dec : Decoder
    c : array (dimctx,) or (1, dimctx) float32
        The context, for a story F(x) = x - c + b.
    beam_width : int
        Hypotheses that the beam search keeps.
    n_best : int
        How many passages to give.  The beam search may find fewer, each text once; sampling draws as many.
    stochastic : bool
        Sample instead of searching.
    use_unk : bool
        Allow the unknown word.
    maxlen : int
        Words at most.
    argmax, temperature, top_k, top_p
        For sampling, see :func:`storyteller.search.sample`.
    seed : int, optional
        For sampling: the same seed gives the same passages.
    whole_sentences : bool
        A passage that `maxlen` cuts off ends with its last whole sentence; those without one come last, as they are.

    Returns
    -------
    list of Passage
        As in the original the last word of a passage is dropped, whether it is the end mark
        or, for an unfinished one, a word.

    Raises
    ------
    StorytellerError
        If an argument is out of range, or one for sampling is given without `stochastic`.
    """
    if not isinstance(dec, Decoder):
        raise StorytellerError(f"dec is {shown(dec)}: expected a decoder of decoder.load_model, such as z['dec']")
    n_best = check_count("n_best", n_best)
    state = dec.f_init(check_floats("the context c", c).reshape(1, -1))
    if check_flag("stochastic", stochastic):
        found = search.samples(dec.step, state, n_best, maxlen, use_unk, argmax, temperature, top_k, top_p, seed)
        found.sort(key=lambda h: h.cost)
    else:
        check_not_sampling(argmax=argmax, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)

        def should_stop(finished: list[search.Hypothesis], cheapest_live: float) -> bool:
            if len(finished) < n_best:
                return False
            best = [h.cost for h in search.passages_in_order(finished) if len(finished) > 1
                    or len(h.words) > 1]
            return len(best) >= n_best and best[n_best - 1] <= cheapest_live

        beam_width, use_unk = check_count("beam width", beam_width), check_flag("use_unk", use_unk)
        hypotheses = search.beam_search(dec.step, state, beam_width, maxlen, use_unk, should_stop,
                                        dec.expander(state, beam_width, use_unk, maxlen))
        found = list(search.passages_in_order(hypotheses))
    if check_flag("whole_sentences", whole_sentences):
        return list(itertools.islice(_to_sentences(dec, state, found), n_best))
    written = (Passage(dec.text(h.words[:-1]), h.cost, h.finished) for h in found)
    # Without their last words some of a beam are the same.
    return list(itertools.islice(written if stochastic else _each_once(written), n_best))


def _each_once(passages: Iterable[Passage]) -> Iterator[Passage]:
    """The first of each text."""
    texts: set[str] = set()
    for passage in passages:
        if passage.text not in texts:
            texts.add(passage.text)
            yield passage


def _to_sentences(dec: Decoder, state: np.ndarray, found: list[search.Hypothesis]) -> Iterator[Passage]:
    """Passages of which those cut off end with their last whole sentence, at the cost of what is left; each once,
    and last those that have no whole sentence."""
    ends = set(sentence_ends(dec.vocabulary))
    closing = {i for i, word in enumerate(dec.vocabulary) if word in ("''", ")")}
    shortened = [[] if h.finished else _whole_sentences(h.words, ends, closing) for h in found]
    costs = iter(search.costs(dec.step, state, [words for words in shortened if words]))
    written = [Passage(dec.text(words or h.words[:-1]), next(costs) if words else h.cost, h.finished or bool(words))
               for h, words in zip(found, shortened)]
    return _each_once(sorted(written, key=lambda passage: not passage.finished))


def _whole_sentences(words: list[int], ends: set[int], closing: set[int]) -> list[int]:
    """The words up to the last end of a sentence, and what closes behind it."""
    n = max((i + 1 for i, word in enumerate(words) if word in ends), default=0)
    while n and n < len(words) and words[n] in closing:
        n += 1
    return words[:n]


def run_sampler(dec: Decoder, c: np.ndarray, beam_width: int = 1, stochastic: bool = False,
                use_unk: bool = False, **options) -> str:
    """Write the best passage for a context vector, as ``run_sampler`` of neural-storyteller does.

    That of skip-thoughts (``decoding/tools.py``) took the same arguments and gave the texts of all hypotheses, as
    a list in the order in which they finished; :func:`passages` gives the `n_best` of them, the cheapest first.

    Parameters
    ----------
    dec, c, beam_width, stochastic, use_unk, **options
        See :func:`passages`.

    Returns
    -------
    str
        The text of the cheapest passage; empty where the only hypothesis is empty.

    Raises
    ------
    StorytellerError
        As :func:`passages`.
    """
    return passages(dec, c, beam_width, stochastic=stochastic, use_unk=use_unk, **options)[0].text
