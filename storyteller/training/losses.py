"""What the three models are trained to do: their costs as graphs, and their initial parameters.

Every cost reads a dict of parameters by the names of the model archives, as shared variables
(:func:`parameters`), and the symbolic inputs of a minibatch, whose arrays are what the original's
prepare_data gives: indices (T, n) int64 and masks (T, n), one step longer than the longest
sentence, that step being <eos> (index 0, mask 1).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StorytellerError
from ..layers import dense, gru, init_dense, init_gru, init_matrix, init_xavier

EPSILON = 1e-8      # the original's, inside its logarithm of a probability

Variable = Any


def parameters(arrays: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    """Copies of a model's arrays as shared variables that training changes."""
    from .. import backend as be
    return {name: be.trainable(array, name) for name, array in arrays.items()}


# -- the cost of words -------------------------------------------------------------------------

@dataclass(frozen=True)
class WordCost:
    """How the words of a passage are charged for.

    Attributes
    ----------
    epsilon : float
        Added to a word's probability before the logarithm.  1e-8 is the original's; it flattens the
        gradient of very improbable words, so new trainings do without.
    smoothing : float
        Label smoothing, see :func:`storyteller.backend.softmax_cross_entropy`.
    samples : variable (S,) int64, optional
        Words drawn by a :class:`Proposal`, one input more of the graph.  The softmax's sum over all words
        is estimated from them by importance sampling, the target's own term being exact and left out of
        the samples (Bengio & Senecal 2008; Jean et al. 2015, arXiv:1412.2007, section 3), so the cost comes
        near the full one.  With a large vocabulary this saves nearly all the work of the output layer.
    log_expected : variable (n_words,), optional
        The proposal's :meth:`Proposal.log_expected` as a shared variable, with ``samples``.
    gradient : bool
        False: for evaluation, at a third of the work.
    """

    epsilon: float = EPSILON
    smoothing: float = 0.0
    samples: Variable = None
    log_expected: Variable = None
    gradient: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise StorytellerError(f"label smoothing is {self.smoothing}: expected at least 0 and below 1")
        if self.smoothing and self.epsilon:
            raise StorytellerError("label smoothing works on the exact log-softmax: use it with epsilon=0")
        if self.smoothing and self.samples is not None:
            raise StorytellerError("label smoothing needs every word's logit: use it without a sampled softmax")
        if (self.samples is None) != (self.log_expected is None):
            raise StorytellerError("a sampled softmax needs both samples and log_expected")

    def __call__(self, p: Mapping[str, Variable], states: Variable, targets: Variable,
                 weights: Variable) -> Variable:
        """Sum over rows of weight * -log p(target) under the output layer ``ff_logit``; its weights are the word
        vectors where p has none of its own (Press & Wolf 2017, arXiv:1608.05859).

        Parameters
        ----------
        p : mapping of str to variables
        states : variable (N, d)
        targets : variable (N,) int64
        weights : variable (N,)
        """
        from .. import backend as be
        b = p["ff_logit_b"]
        tied = "ff_logit_W" not in p
        W = p["Wemb"] if tied else p["ff_logit_W"]
        if self.samples is None:
            return be.softmax_output_cost(states, W.T if tied else W, b, targets, weights, self.epsilon,
                                          self.smoothing, self.gradient)
        both = [targets, self.samples]      # looked up together, for the gradient is made together
        columns = be.split(be.embedding(W, be.concatenate(both), axis=0 if tied else 1), both)
        offsets = be.split(be.embedding(b.dimshuffle(0, "x"), be.concatenate(both)), both)
        of_target = be.total(states * columns[0], axis=1) + be.total(offsets[0], axis=1)
        # A sample stands for as many words as it was expected to be drawn less often than once.
        of_samples = (be.dot(states, columns[1].T)
                      + (be.total(offsets[1], axis=1) - self.log_expected[self.samples]))
        hits = be.eq(targets.dimshuffle(0, "x"), self.samples.dimshuffle("x", 0))
        of_samples = be.switch(hits, np.float32(-1e9), of_samples)
        logits = be.join([of_target.dimshuffle(0, "x"), of_samples], axis=1)
        return be.softmax_cross_entropy(logits, be.zeros_like(targets), weights, self.epsilon, self.smoothing)


class Proposal:
    """The words that a sampled softmax draws.

    Parameters
    ----------
    probabilities : array (n_words,)
        Positive; scaled to sum to 1.
    n_samples : int
        Words drawn for a batch, with replacement.
    """

    def __init__(self, probabilities: np.ndarray, n_samples: int):
        q = np.asarray(probabilities, dtype=np.float64)
        if q.ndim != 1 or not len(q) or not np.isfinite(q).all() or not (q > 0).all():
            raise StorytellerError("a proposal needs one positive probability a word: give words that "
                                   "were never counted a small one")
        if n_samples < 1:
            raise StorytellerError(f"n_samples is {n_samples}: expected at least 1")
        self.probabilities, self.n_samples = q / q.sum(), n_samples
        self._cumulative = np.cumsum(self.probabilities)

    @classmethod
    def log_uniform(cls, n_words: int, n_samples: int) -> Proposal:
        """Zipf's law over a vocabulary sorted by falling frequency: p(i) ~ log((i + 2) / (i + 1))."""
        rank = np.arange(n_words, dtype=np.float64)
        return cls(np.log((rank + 2) / (rank + 1)), n_samples)

    @classmethod
    def unigram(cls, counts: np.ndarray, n_samples: int, power: float = 1.0) -> Proposal:
        """By counts to a power; 0.75 as in Mikolov et al. 2013 (arXiv:1310.4546, section 2.2).  A word
        that was never counted counts once."""
        return cls(np.maximum(np.asarray(counts, dtype=np.float64), 1) ** power, n_samples)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Words of a batch: (n_samples,) int64."""
        found = np.searchsorted(self._cumulative, rng.random(self.n_samples), side="right")
        return np.minimum(found, len(self._cumulative) - 1).astype(np.int64)

    def log_expected(self) -> np.ndarray:
        """Logarithm of every word's expected count in a draw: (n_words,) float32."""
        return np.log(self.n_samples * self.probabilities).astype(np.float32)


def _passage_states(p: Mapping[str, Variable], table: Variable, prefix: str, words: Variable, mask: Variable,
                    h0: Variable) -> Variable:
    """States (T n, dim) of a decoder that reads the words shifted by one, zeros first."""
    from .. import backend as be
    return be.as_rows(gru(table, be.words_before(words), mask, p, prefix, h0))


@dataclass(frozen=True)
class PutBack:
    """The first state put back where a sentence ends, so that a passage's vector is remembered to its end.

    After a word that ends a sentence is read, and before anything is predicted from it,
    h <- (1 - share) h + share (h0 + s_k), k sentences having ended before; the learnt s tells the decoder how
    far it is, lest every sentence is written as a first one.

    Attributes
    ----------
    share : float
    ends : sequence of int
        Words that end a sentence, see :func:`storyteller.text.sentence_ends`.
    """

    share: float
    ends: tuple[int, ...]

    def __call__(self, p: Mapping[str, Variable], words: Variable) -> dict[str, Variable]:
        """Arguments of :func:`storyteller.layers.gru`, for words (T, n) to be written."""
        from .. import backend as be
        added = p["sentences"]
        return {"ended": be.sentences_ended(words, self.ends, added.get_value(borrow=True).shape[0]),
                "added": added, "share": self.share}


def _last_states(p: Mapping[str, Variable], table: Variable, words: Variable, mask: Variable) -> Variable:
    """Last states (n, dim) of ``encoder`` from a zero state."""
    from .. import backend as be
    return be.last_step(gru(table, words.flatten(), mask, p, "encoder"))


# -- skip-thoughts -----------------------------------------------------------------------------

def skipthoughts_inputs() -> list[Variable]:
    """Symbolic x, x_mask, y, y_mask, z, z_mask: this sentence, the next, the previous."""
    from .. import backend as be
    return [make(f"{name}{end}") for name in "xyz" for make, end in ((be.int_matrix, ""), (be.matrix, "_mask"))]


def skipthoughts_cost(p: Mapping[str, Variable], x: Variable, x_mask: Variable, y: Variable,
                      y_mask: Variable, z: Variable, z_mask: Variable, *,
                      words: WordCost = WordCost()) -> Variable:    # noqa: B008  (frozen)
    """Skip-thoughts (Kiros et al. 2015, arXiv:1506.06726, section 2.1): the sentence's vector predicts both
    of its neighbours.

    Parameters
    ----------
    p : mapping of str to variables
        ``Wemb``, GRUs ``encoder``, ``decoder_f`` (next) and ``decoder_b`` (previous), one output layer
        ``ff_logit``.
    x, x_mask, y, y_mask, z, z_mask : variables (T, n)
        The lengths T of the three may differ.
    words : WordCost

    Returns
    -------
    variable ()
        Summed over words, examples and both neighbours, in nats.
    """
    from .. import backend as be
    tables = be.copies(p["Wemb"], 3)
    vector = _last_states(p, tables[0], x, x_mask)
    # Both decoders' states go through the output layer as one matrix: one product in place of two.
    states = be.join([_passage_states(p, tables[1], "decoder_f", y, y_mask, vector),
                             _passage_states(p, tables[2], "decoder_b", z, z_mask, vector)])
    return words(p, states, be.concatenate([y.flatten(), z.flatten()]),
                 be.concatenate([y_mask.flatten(), z_mask.flatten()]))


def init_skipthoughts(dim_word: int, dim: int, n_words: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Initial parameters of :func:`skipthoughts_cost`."""
    values = {"Wemb": init_matrix(n_words, dim_word, rng)}
    for prefix in ("encoder", "decoder_f", "decoder_b"):
        values.update(init_gru(prefix, dim_word, dim, rng))
    return {**values, **init_dense("ff_logit", dim, n_words, rng)}


# -- decoder -----------------------------------------------------------------------------------

def decoder_inputs() -> list[Variable]:
    """Symbolic x, mask, ctx: the passage and the vector that it is written from."""
    from .. import backend as be
    return [be.int_matrix("x"), be.matrix("mask"), be.matrix("ctx")]


def decoder_cost(p: Mapping[str, Variable], x: Variable, mask: Variable, ctx: Variable,
                 words: WordCost = WordCost(), put_back: PutBack | None = None,     # noqa: B008  (frozen)
                 read: Variable = None, drop: Variable = None) -> Variable:
    """A passage given its vector: the network of :class:`storyteller.decoder.Decoder`.

    Parameters
    ----------
    p : mapping of str to variables
        As :func:`storyteller.decoder.parameter_shapes`; with ``ff_hid_W`` the output is deep.
    x, mask : variables (T, n)
    ctx : variable (n, dimctx)
        See :func:`noisy` too.
    words : WordCost
    put_back : PutBack, optional
        With ``sentences`` (k, dim) in p.
    read : variable (T n,) float32, optional
        0 where the word before is read as zeros, else 1 (:func:`words_read`).
    drop : variable (n, dim), optional
        What the states are multiplied by before the output layers (:func:`dropped`).

    Returns
    -------
    variable ()
        Summed over words and examples, in nats.
    """
    from .. import backend as be
    h0 = dense(ctx, p["ff_state_W"], p["ff_state_b"], be.tanh)
    tables = [p["Wemb"]] if "ff_logit_W" in p else be.copies(p["Wemb"], 2)
    before = be.words_before(x)
    if read is not None:
        before = be.switch(read > np.float32(0), before, be.constant(np.int64(-1)))
    states = gru(tables[0], before, mask, p, "decoder", h0, **(put_back(p, x) if put_back else {}))
    if drop is not None:
        states = states * drop.dimshuffle("x", 0, 1)
    top = be.as_rows(states)
    if "ff_hid_W" in p:
        top = dense(top, p["ff_hid_W"], p["ff_hid_b"], be.tanh)
    return words({**p, "Wemb": tables[-1]}, top, x.flatten(), mask.flatten())


def init_decoder(dimctx: int, dim_word: int, dim: int, n_words: int, rng: np.random.Generator,
                 doutput: bool = True, embeddings: np.ndarray | None = None,
                 n_sentences: int = 0) -> dict[str, np.ndarray]:
    """Initial parameters of :func:`decoder_cost`.

    Parameters
    ----------
    dimctx, dim_word, dim, n_words : int
    rng : numpy.random.Generator
    doutput : bool
        Deep output: a hidden layer of dim_word between state and words.
    embeddings : array (n_words, dim_word), optional
        Word vectors to start from.
    n_sentences : int
        Of :class:`PutBack`; its vectors begin as zeros.
    """
    if embeddings is not None and np.shape(embeddings) != (n_words, dim_word):
        raise StorytellerError(f"the initial word vectors have shape {np.shape(embeddings)}: expected "
                               f"{(n_words, dim_word)}, n_words by dim_word")
    values = {"Wemb": init_matrix(n_words, dim_word, rng) if embeddings is None
              else np.array(embeddings, dtype=np.float32),
              **init_dense("ff_state", dimctx, dim, rng), **init_gru("decoder", dim_word, dim, rng)}
    if doutput:
        values.update(init_dense("ff_hid", dim, dim_word, rng))
    if n_sentences:
        values["sentences"] = np.zeros((n_sentences, dim), np.float32)
    return {**values, **init_dense("ff_logit", dim_word if doutput else dim, n_words, rng)}


def noisy(ctx: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise on conditioning vectors, so that a decoder learns to write from vectors that no text
    has, as x - c + b is.

    Parameters
    ----------
    ctx : array (n, dimctx) float32
    share : float
        Expected norm of the noise, as a share of each vector's.
    rng : numpy.random.Generator

    Returns
    -------
    array (n, dimctx) float32
    """
    scale = np.float32(share) * np.sqrt(np.mean(np.square(ctx), axis=1, keepdims=True))
    return ctx + scale * rng.standard_normal(ctx.shape, dtype=np.float32)


def dropped(n: int, dim: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A dropout mask that stays the same over a passage (Gal & Ghahramani 2016, arXiv:1512.05287, section 4):
    0 for this share of the units, 1 / (1 - share) for the others.  (n, dim) float32."""
    kept = rng.random((n, dim), dtype=np.float32) >= share
    return kept.astype(np.float32) / np.float32(1 - share)


def words_read(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which words are read where some are left out, so that a decoder leans on its state (Bowman et al. 2016,
    arXiv:1511.06349, section 3.1): x (T, n) -> (T n,) float32, 0 for this share of the words before, else 1."""
    return (rng.random(x.size, dtype=np.float32) >= share).astype(np.float32)


# -- joint embedding ---------------------------------------------------------------------------

def embedding_inputs() -> list[Variable]:
    """Symbolic x, mask, im: sentences and their images' features."""
    from .. import backend as be
    return [be.int_matrix("x"), be.matrix("mask"), be.matrix("im")]


def pairwise_ranking_loss(images: Variable, sentences: Variable, margin: float,
                          present: Variable = None) -> Variable:
    """Every image should be nearer to its own sentence than to any other, by a margin, and every sentence to
    its own image (Kiros, Salakhutdinov & Zemel 2014, arXiv:1411.2539, section 2.4).

    Parameters
    ----------
    images, sentences : variables (n, dim)
        Pairs, row by row.
    margin : float
    present : variable (n,), optional
        0 for rows that are padding, which nothing is compared with.

    Returns
    -------
    variable ()
        Sum over i != j of max(0, margin - S_ii + S_ij) + max(0, margin - S_jj + S_ij), with
        S = images . sentences^T.
    """
    from .. import backend as be
    return be.pairwise_ranking_loss(images, sentences, margin, present)


def embedding_cost(p: Mapping[str, Variable], x: Variable, mask: Variable, im: Variable, *,
                   margin: float = 0.2) -> Variable:
    """The ranking loss of a batch of sentences and images.

    Parameters
    ----------
    p : mapping of str to variables
        ``Wemb``, ``ff_image`` and, unless sentences are bags of words, a GRU ``encoder``.
    x, mask : variables (T, n)
    im : variable (n, dim_image)
    margin : float

    Returns
    -------
    variable ()
        Sentence vectors have unit norm; image vectors are, unlike in use, not scaled.
    """
    from .. import backend as be
    if "encoder_U" in p:
        sentences = _last_states(p, p["Wemb"], x, mask)
    else:
        vectors = be.embedding(p["Wemb"], x.flatten()) * mask.flatten().dimshuffle(0, "x")
        sentences = be.total(be.as_steps(vectors, mask), axis=0)
    return pairwise_ranking_loss(dense(im, p["ff_image_W"], p["ff_image_b"]), be.unit_rows(sentences), margin, mask[0])


def init_embedding(dim_image: int, dim_word: int, dim: int, n_words: int, rng: np.random.Generator,
                   encoder: str = "gru") -> dict[str, np.ndarray]:
    """Initial parameters of :func:`embedding_cost`; ``encoder`` is ``'gru'`` or ``'bow'``, whose word vectors
    are as long as the joint ones, whatever dim_word says."""
    if encoder not in ("gru", "bow"):
        raise StorytellerError(f"encoder is {encoder!r}: expected 'gru' or 'bow'")
    values = {"Wemb": init_matrix(n_words, dim_word if encoder == "gru" else dim, rng)}
    if encoder == "gru":
        values.update(init_gru("encoder", dim_word, dim, rng))
    return {**values, **init_dense("ff_image", dim_image, dim, rng, init_xavier)}


# -- all ---------------------------------------------------------------------------------------

def weight_decay(p: Mapping[str, Variable], decay_c: float) -> Variable:
    """decay_c times the sum of the squares of all parameters, to be added to a cost."""
    from .. import backend as be
    total = np.float32(0)
    for value in p.values():
        total = total + be.total(be.square(value))
    return np.float32(decay_c) * total
