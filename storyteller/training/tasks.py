"""The three models as tasks for the trainer: their data, options, held-out measures and files.

Options have the field's (and the original's) names; the defaults are the original's where quality was
not measured to need others, see docs/training.md.
"""
from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import backend, cache, evaluation, files, text
from ..errors import StorytellerError
from . import losses
from .batches import BucketedBatches, HomogeneousBatches, prepare_data, prepare_triplets
from .corpus import EncodedCorpus

_log = logging.getLogger(__name__)

BATCHES = {"bucketed": BucketedBatches, "homogeneous": HomogeneousBatches}
CHOICES = {"batches": tuple(BATCHES), "context": ("passage", "sentences"), "precision": ("float32", "bfloat16")}
HELDOUT_BATCHES = 64  # minibatches at most that a held-out cost is measured on
_STEPS = 16           # a GPU's minibatches are padded to multiples of so many, for few different shapes

# dim ... grad_clip as in the original; optimizer 'adam' is Kingma & Ba's, 'adam_2015' the original's.
COMMON = {"optimizer": "adam", "lrate": 0.001, "warmup": 200, "decay_updates": 0, "decay_c": 0.0, "grad_clip": 5.0,
          "batches": "bucketed", "seed": 1234, "max_epochs": 5, "dispFreq": 50, "validFreq": 500, "saveFreq": 500,
          "sampleFreq": 500, "precision": "float32"}
WORDS = {"n_samples": 0, "sample_power": 0.5, "label_smoothing": 0.0, "epsilon": 0.0}
SKIPTHOUGHTS = {**COMMON, **WORDS, "dim_word": 620, "dim": 2400, "n_words": 20000, "maxlen_w": 30,
                "batch_size": 64, "encoder": "gru", "decoder": "gru", "bidirectional": False}
DECODER = {**COMMON, **WORDS, "dim_word": 620, "dim": 1600, "n_words": 40000, "maxlen_w": 100, "batch_size": 16,
           "doutput": True, "encoder": "gru", "decoder": "gru", "context": "passage", "noise": 0.0, "put_back": 0.0,
           "n_sentences": 8, "tied": False, "average": 0.0, "dropout": 0.0, "word_dropout": 0.0, "style_share": 0.0}
SHARES = ("put_back", "average", "dropout", "word_dropout", "style_share")
EMBEDDING = {**COMMON, "dim_word": 300, "dim": 1024, "n_words": 20000, "maxlen_w": 100, "batch_size": 128,
             "margin": 0.2, "encoder": "gru", "grad_clip": 2.0, "lrate": 0.0002, "max_epochs": 15, "warmup": 0}


def options_of(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with what is given in place, checked as far as it can be without data.

    Raises
    ------
    StorytellerError
        If an option is unknown or of the wrong kind, some do not go together, or the model would not fit into memory.
    """
    options = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            raise StorytellerError(f"option {name!r} is unknown: expected one of {', '.join(sorted(defaults))}")
        kind = type(defaults[name])
        if kind is float and isinstance(value, (int, np.number)) and not isinstance(value, bool):
            value = float(value)
        if kind is int and isinstance(value, np.integer):
            value = int(value)
        if type(value) is not kind:
            raise StorytellerError(f"option {name!r} is {value!r}: expected {kind.__name__}, as {defaults[name]!r}")
        positive = kind is int and name not in ("warmup", "decay_updates", "n_samples", "seed")
        if (positive and value < 1) or (kind in (int, float) and not value >= 0):
            raise StorytellerError(f"option {name!r} is {value}: expected "
                                   + ("at least 1" if positive else "a number of at least 0"))
        if name in SHARES and not value < 1:
            raise StorytellerError(f"option {name!r} is {value}: expected a share below 1")
        if name in CHOICES and value not in CHOICES[name]:
            raise StorytellerError(f"option {name!r} is {value!r}: expected one of {', '.join(CHOICES[name])}")
        options[name] = value
    _check_together(options)
    return options


def _check_together(o: Mapping[str, Any]) -> None:
    if 0 < o["decay_updates"] <= o["warmup"]:
        raise StorytellerError(f"option 'decay_updates' is {o['decay_updates']}: expected more than the {o['warmup']} "
                               "updates of warmup, or 0")
    if "epsilon" in o:
        losses.WordCost(epsilon=o["epsilon"], smoothing=o["label_smoothing"])
        if o["label_smoothing"] and o["n_samples"]:
            raise StorytellerError("label_smoothing needs every word's logit: train with n_samples 0, or without")
        _check_samples(o["n_samples"], o["n_words"])
    if o.get("tied") and not o["doutput"]:
        raise StorytellerError("word vectors cannot be the output layer's weights without a layer of dim_word "
                               "units before it: train with doutput, or without tied")
    try:    # a hidden layer's weights, their gradients and the optimiser's two averages
        np.empty((4, 3, o["dim"], o["dim"] + o["dim_word"]), dtype=np.float32)
    except (MemoryError, ValueError):
        raise StorytellerError(f"a model of dim {o['dim']} and dim_word {o['dim_word']} does not fit into this "
                               "machine's memory: give smaller ones") from None


def _check_samples(n_samples: int, n_words: int) -> None:
    if n_samples >= n_words:
        raise StorytellerError(f"option 'n_samples' is {n_samples}: expected fewer than the {n_words} words; 0 is the "
                               "full softmax")


class _WordTask(ABC):
    """What the two tasks that predict words share: the output layer's cost, and perplexity."""

    better, unit = "lower", "words"
    init_key = ""
    device: str
    options: dict[str, Any]
    params: dict[str, np.ndarray]
    _heldout: list[tuple[list[np.ndarray], float]]
    _measure: Any = None

    def _prepare_output(self, counts: np.ndarray | None) -> None:
        """The proposal of a sampled softmax; counts of the vocabulary (n_words,)."""
        self._proposal = None
        o = self.options
        if o["n_samples"]:
            _check_samples(o["n_samples"], o["n_words"])
            self._proposal = (losses.Proposal.log_uniform(o["n_words"], o["n_samples"]) if counts is None
                              else losses.Proposal.unigram(counts, o["n_samples"], o["sample_power"]))

    def _word_inputs(self, inputs: list[Any]) -> list[Any]:
        from .. import backend as be
        return inputs + ([be.int_vector("samples")] if self._proposal else [])

    def _word_cost(self, inputs: list[Any]) -> losses.WordCost:
        from .. import backend as be
        sampled = {} if self._proposal is None else {"samples": inputs[-1],
                                                     "log_expected": be.shared(self._proposal.log_expected())}
        return losses.WordCost(self.options["epsilon"], self.options["label_smoothing"], **sampled)

    def _with_samples(self, arrays: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        return [*arrays, *([self._proposal.draw(rng)] if self._proposal else [])]

    @abstractmethod
    def _exact_cost(self, p: dict[str, Any], inputs: list[Any], words: losses.WordCost) -> Any:
        """The model's cost as a graph over :meth:`_plain_inputs`."""

    def heldout(self, p: dict[str, Any]) -> float | None:
        """Held-out perplexity: exp of the mean negative log-likelihood of a word, ends included."""
        from .. import backend as be
        if not self._heldout:
            return None
        if self._measure is None or self._measure[0] is not p:
            inputs = self._plain_inputs()
            cost = self._exact_cost(p, inputs, losses.WordCost(epsilon=0.0, gradient=False))
            self._measure = (p, be.train_function(inputs, [cost], device=self.device))
        total = sum(float(self._measure[1](*arrays)[0]) for arrays, _ in self._heldout)
        with np.errstate(over="ignore"):
            return float(np.exp(total / sum(words for _, words in self._heldout)))

    @abstractmethod
    def _plain_inputs(self) -> list[Any]:
        """Symbolic inputs of a minibatch, without the words drawn for a sampled softmax."""


class DecoderTask(_WordTask):
    """A decoder: write a passage from its vector.

    Parameters
    ----------
    passages : EncodedCorpus
        Training passages.
    vectors : array (len(passages), dimctx) float32
        Their thought vectors, memory-mapped where large.
    saveto : path
        The archive, ``romance.npz``.
    heldout : pair of EncodedCorpus and array, optional
        Passages and vectors to measure perplexity on.
    vocabulary : sequence of str, optional
        Words by index, for samples.
    counts : array (n_words,), optional
        How often each word occurs, for the proposal of a sampled softmax.
    embeddings : array (n_words, dim_word), optional
        Word vectors to start from.
    init : path, optional
        Archive of a decoder of the same sizes to start from (fine-tuning).  If `vocabulary` is given, too,
        it is compared with NAME_dictionary.pkl beside that archive.
    styles : pair of array (k, dimctx) float32 and array (len(passages),) int, optional
        Style vectors and which one each passage has, for ``style_share``.  By default there is one style, the
        mean of `vectors`.
    device : str, optional
        See :func:`storyteller.backend.device_of`; where to train, and to measure.
    **options
        See :data:`DECODER`.  ``context`` tells how `vectors` were made, for whoever uses the model: a
        passage's own, or the mean of its sentences' (:func:`storyteller.style.sentence_means`).

    Raises
    ------
    StorytellerError
        If vectors and passages are not equally many, or an option makes no sense.
    """

    def __init__(self, passages: EncodedCorpus, vectors: np.ndarray, saveto: str | os.PathLike, *,
                 heldout: tuple[EncodedCorpus, np.ndarray] | None = None, vocabulary: Sequence[str] = (),
                 counts: np.ndarray | None = None, embeddings: np.ndarray | None = None,
                 init: str | os.PathLike | None = None, styles: tuple[np.ndarray, np.ndarray] | None = None,
                 device: str | None = None, **options: Any):
        self.options, self.device = options_of(DECODER, options), backend.device_of(device)
        _check_precision(self.options, self.device)
        if init is not None and embeddings is not None:
            raise StorytellerError("both word vectors and a whole model to start from are given: give either "
                                   "embeddings or init")
        for corpus, rows in [(passages, vectors), *([heldout] if heldout else [])]:
            if len(corpus) != len(rows) or rows.ndim != 2:
                raise StorytellerError(f"{corpus.source}: {len(corpus)} passages, but the vectors have shape "
                                       f"{rows.shape}: expected one row a passage; encode the passages again")
        self.options["dimctx"] = int(vectors.shape[1])
        o = self.options
        check_decoder(o, vocabulary, init, saveto)
        if o["put_back"]:
            o["ends"] = text.sentence_ends(vocabulary[:o["n_words"]])
        else:
            del o["n_sentences"]
        self._styles = styles
        if o["style_share"] and styles is None:
            self._styles = (_mean(vectors)[None], np.zeros(len(vectors), dtype=np.int64))
        self._passages, self._vectors, self._saveto = passages, vectors, os.fspath(saveto)
        self._vocabulary = list(vocabulary)
        self.batches = _ordered(passages.source, passages.lengths, o)
        self.params = losses.init_decoder(o["dimctx"], o["dim_word"], o["dim"], o["n_words"],
                                          np.random.default_rng(o["seed"]), o["doutput"], embeddings,
                                          o.get("n_sentences", 0))
        if init is not None:
            self.params = _initial(self.params, init, self._saveto)
            self.init_key = cache.fingerprint(*self.params.values())
        if o["tied"]:
            if init is not None and not np.array_equal(self.params["ff_logit_W"], self.params["Wemb"].T):
                raise StorytellerError(f"{os.fspath(init)}: its output layer's weights are not its word vectors: "
                                       "start from a model that was trained with tied, or train without")
            del self.params["ff_logit_W"]
        self._prepare_output(counts)
        self.data_key = cache.fingerprint(passages.tokens, vectors[:1024], *(self._styles or ()))
        self._heldout, self._shown = [], []
        if heldout:
            texts, rows = heldout
            for batch in _some_batches(texts.lengths, o):
                (x, mask, ctx), weight, _ = self._arrays(texts, rows, batch)
                (x, mask), (ctx,) = _fitted(self, [x, mask], [ctx])
                self._heldout.append(([x, mask, ctx], weight))
            self._shown = [rows[i] for i in range(min(2, len(rows)))]

    def _arrays(self, corpus: EncodedCorpus, vectors: np.ndarray, rows: np.ndarray) -> Any:
        found = prepare_data([corpus[i] for i in rows], self.options["maxlen_w"], self.options["n_words"])
        if found is None:
            return None
        x, mask, kept = found
        ctx = np.ascontiguousarray(vectors[np.asarray(rows)[kept]], dtype=np.float32)
        return [x, mask, ctx], float(mask.sum()), np.asarray(rows)[kept]

    def _plain_inputs(self) -> list[Any]:
        return losses.decoder_inputs()

    def inputs(self) -> list[Any]:
        """Symbolic inputs of a minibatch."""
        from .. import backend as be
        inputs = self._plain_inputs()
        if self.options["word_dropout"]:
            inputs.append(be.vector("read"))
        if self.options["dropout"]:
            inputs.append(be.matrix("drop"))
        return self._word_inputs(inputs)

    def cost(self, p: dict[str, Any], inputs: list[Any]) -> Any:
        """The cost of a minibatch as a graph."""
        named = {variable.name: variable for variable in inputs}
        x, mask, ctx = inputs[:3]
        return losses.decoder_cost(p, x, mask, ctx, self._word_cost(inputs), self._put_back, named.get("read"),
                                   named.get("drop"))

    def _exact_cost(self, p: dict[str, Any], inputs: list[Any], words: losses.WordCost) -> Any:
        x, mask, ctx = inputs
        return losses.decoder_cost(p, x, mask, ctx, words, self._put_back)

    @property
    def _put_back(self) -> losses.PutBack | None:
        o = self.options
        return losses.PutBack(o["put_back"], tuple(o["ends"])) if o["put_back"] else None

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], float] | None:
        """Arrays of a minibatch, and what its cost is a sum over."""
        found = self._arrays(self._passages, self._vectors, rows)
        if found is None:
            return None
        (x, mask, ctx), words, kept = found
        o = self.options
        if o["noise"]:
            ctx = losses.noisy(ctx, o["noise"], rng)
        if o["style_share"] and self._styles is not None:
            styles, which = self._styles
            alone = np.flatnonzero(rng.random(len(ctx)) < o["style_share"])
            ctx[alone] = styles[which[kept[alone]]]
        # Drawn before anything is padded, so that the random numbers are those of any device.
        read = [losses.words_read(x, o["word_dropout"], rng).reshape(x.shape)] if o["word_dropout"] else []
        drop = [losses.dropped(len(ctx), o["dim"], o["dropout"], rng)] if o["dropout"] else []
        (x, mask, *read), (ctx, *drop) = _fitted(self, [x, mask, *read], [ctx, *drop])
        return self._with_samples([x, mask, ctx, *(each.reshape(-1) for each in read), *drop], rng), words

    def _untied(self, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As archives have them, and decoders read them."""
        return {**params, "ff_logit_W": np.ascontiguousarray(params["Wemb"].T)} if self.options["tied"] else params

    def save(self, params: dict[str, np.ndarray]) -> None:
        """The archive, its options and its dictionary, as the loaders read them."""
        _save_model(self._saveto, self._untied(params), self.options)

    def sample(self, params: dict[str, np.ndarray]) -> list[str]:
        """Lines that show what the model does so far."""
        from ..decoder import Decoder, run_sampler
        if not self._shown or not self._vocabulary:
            return []
        dec = Decoder(self.options, self._untied(params), self._vocabulary, self.device)
        return [run_sampler(dec, vector, beam_width=5, maxlen=self.options["maxlen_w"]) for vector in self._shown]


class SkipThoughtsTask(_WordTask):
    """Skip-thoughts: a sentence's vector predicts the next and the previous sentence.

    Parameters
    ----------
    corpus : EncodedCorpus
        Sentences in reading order with breaks, see :func:`storyteller.training.corpus.sentence_stream`.
    folder : path
        Where ``uni_skip.npz`` or ``bi_skip.npz``, the word table and ``dictionary.txt`` are written.
    words : sequence of str
        Word of every index from 0: ``<eos>``, ``UNK``, then the dictionary's.
    heldout : EncodedCorpus, optional
    counts : array (n_words,), optional
        For the proposal of a sampled softmax.
    init : path, optional
        Folder of a model of the same sizes and the same words to start from (fine-tuning): its
        ``uni_skip.npz`` or ``bi_skip.npz``, whichever is trained here.
    device : str, optional
        See :class:`DecoderTask`.
    **options
        See :data:`SKIPTHOUGHTS`; with ``bidirectional`` two encoders of ``dim`` units each, one of which
        reads the sentence backwards and predicts its neighbours backwards, share their word vectors and
        output layer.
    """

    def __init__(self, corpus: EncodedCorpus, folder: str | os.PathLike, words: Sequence[str], *,
                 heldout: EncodedCorpus | None = None, counts: np.ndarray | None = None,
                 init: str | os.PathLike | None = None, device: str | None = None, **options: Any):
        self.options, self.device = options_of(SKIPTHOUGHTS, options), backend.device_of(device)
        _check_precision(self.options, self.device)
        o = self.options
        self._corpus, self._folder, self._words = corpus, os.fspath(folder), list(words)
        if len(self._words) < 3:
            raise StorytellerError("the vocabulary has no words: build it from the training texts first")
        o["n_words"] = min(o["n_words"], len(self._words))
        # Before the parameters, which take their time: texts that are too short are told at once.
        rows = corpus.triplets()
        self.batches = _ordered(corpus.source, corpus.triplet_lengths(rows), o, rows)
        rng = np.random.default_rng(o["seed"])
        self.params = losses.init_skipthoughts(o["dim_word"], o["dim"], o["n_words"], rng)
        if o["bidirectional"]:
            other = losses.init_skipthoughts(o["dim_word"], o["dim"], o["n_words"], rng)
            self.params.update({_reverse_name(name): array for name, array in other.items()
                                if _reverse_name(name) != name})
        if init is not None:
            archive = os.path.join(init, os.path.basename(self.archive))
            _check_words(skipthoughts_dictionary(init), self._words[:o["n_words"]], archive)
            self.params = _initial(self.params, archive, self.archive)
            self.init_key = cache.fingerprint(*self.params.values())
        self._prepare_output(None if counts is None else counts[:o["n_words"]])
        self.data_key = cache.fingerprint(corpus.tokens)
        self._heldout = []
        if heldout is not None:
            rows = heldout.triplets()
            found = (self._arrays(heldout, rows[batch]) for batch in _some_batches(heldout.triplet_lengths(rows), o))
            self._heldout = [arrays for arrays in found if arrays is not None]

    @property
    def archive(self) -> str:
        """The model's archive."""
        return os.path.join(self._folder, "bi_skip.npz" if self.options["bidirectional"] else "uni_skip.npz")

    def _arrays(self, corpus: EncodedCorpus, rows: np.ndarray) -> tuple[list[np.ndarray], float] | None:
        sides = [[corpus[i] for i in rows + step] for step in (0, 1, -1)]
        arrays: list[np.ndarray] = []
        for turn in ((1, -1) if self.options["bidirectional"] else (1,)):
            current, following, previous = ([row[::turn] for row in side] for side in sides)
            found = prepare_triplets(current, following, previous, self.options["maxlen_w"], self.options["n_words"])
            if found is None:
                return None
            arrays += found[:6]
        arrays, _ = _fitted(self, arrays)
        # Words that are predicted: both neighbours', in both directions.
        return arrays, float(sum(mask.sum() for mask in arrays[3::6] + arrays[5::6]))

    def _plain_inputs(self) -> list[Any]:
        return [variable for _ in range(1 + self.options["bidirectional"]) for variable in losses.skipthoughts_inputs()]

    def inputs(self) -> list[Any]:
        """Symbolic inputs of a minibatch."""
        return self._word_inputs(self._plain_inputs())

    def _exact_cost(self, p: dict[str, Any], inputs: list[Any], words: losses.WordCost) -> Any:
        cost = losses.skipthoughts_cost(p, *inputs[:6], words=words)
        if self.options["bidirectional"]:
            backwards = {name: p[_reverse_name(name)] for name in p if not name.split("_")[1:2] == ["r"]}
            cost = cost + losses.skipthoughts_cost(backwards, *inputs[6:12], words=words)
        return cost

    def cost(self, p: dict[str, Any], inputs: list[Any]) -> Any:
        """The cost of a minibatch as a graph."""
        return self._exact_cost(p, inputs, self._word_cost(inputs))

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], float] | None:
        """Arrays of a minibatch, and what its cost is a sum over."""
        found = self._arrays(self._corpus, rows)
        return None if found is None else (self._with_samples(found[0], rng), found[1])

    def save(self, params: dict[str, np.ndarray]) -> None:
        """The archive, its options, and the word table with its dictionary, as the loaders read them."""
        o = self.options
        _save_model(self.archive, params, {**o, "saveto": os.path.basename(self.archive)})
        table = params["Wemb"][:len(self._words)]
        name = "btable.npy" if o["bidirectional"] else "utable.npy"
        with files.write_atomically(os.path.join(self._folder, name)) as file:
            np.save(file, table, allow_pickle=False)
        with files.write_atomically(os.path.join(self._folder, "dictionary.txt")) as file:
            file.write("".join(f"{word}\n" for word in self._words[:len(table)]).encode("utf-8"))

    def sample(self, params: dict[str, np.ndarray]) -> list[str]:
        """Lines that show what the model does so far."""
        return []


def _reverse_name(name: str) -> str:
    """Name of a parameter's counterpart in the backwards direction: encoder_W -> encoder_r_W; word vectors
    and output layer are shared."""
    if name == "Wemb" or name.startswith("ff_"):
        return name
    first, rest = name.split("_", 1)
    return f"{first}_r_{rest}"


class EmbeddingTask:
    """The joint embedding: sentences near their images.

    Parameters
    ----------
    captions : sequence of str
        Tokenised; one row of features each.
    features : array (len(captions), dim_image) float32
        Rows of unit norm.
    worddict : dict of str to int
    saveto : path
    heldout : pair of captions and features, optional
        For recall: captions of an image in a row, equally many for each image, and a row of features for
        each caption (the original's layout) or each image.  The sum of R@1, R@5 and R@10 in both
        directions is measured.
    init : path, optional
        Archive of a joint embedding of the same sizes and the same words to start from (fine-tuning).
    device : str, optional
        See :class:`DecoderTask`.
    **options
        See :data:`EMBEDDING`.
    """

    better, unit = "higher", "pairs"
    init_key = ""

    def __init__(self, captions: Sequence[str], features: np.ndarray, worddict: Mapping[str, int],
                 saveto: str | os.PathLike, *, heldout: tuple[Sequence[str], np.ndarray] | None = None,
                 init: str | os.PathLike | None = None, device: str | None = None, **options: Any):
        self.options, self.device = options_of(EMBEDDING, options), backend.device_of(device)
        _check_precision(self.options, self.device)
        o = self.options
        if features.ndim != 2 or len(captions) != len(features):
            raise StorytellerError(f"{len(captions)} training captions, but their image features have shape "
                                   f"{features.shape}: expected one row a caption, in the captions' order")
        if heldout:
            self._per_image = evaluation.captions_per_image(heldout[1], len(heldout[0]))
        o["dim_image"] = int(features.shape[1])
        o["n_words"] = min(o["n_words"], max(worddict.values(), default=1) + 1)
        if o["encoder"] == "bow":
            o["dim_word"] = o["dim"]
        self._worddict, self._saveto, self._features = dict(worddict), os.fspath(saveto), features
        self._captions = [np.array([worddict.get(word, 1) for word in caption.split()], dtype=np.int64)
                          for caption in captions]
        self._heldout = heldout
        self.data_key = cache.fingerprint(*self._captions, features[:1024])
        self.params = losses.init_embedding(o["dim_image"], o["dim_word"], o["dim"], o["n_words"],
                                            np.random.default_rng(o["seed"]), o["encoder"])
        if init is not None:
            _check_words(embedding_dictionary(init), text.words_by_index(self._worddict, o["n_words"]), init)
            self.params = _initial(self.params, init, self._saveto)
            self.init_key = cache.fingerprint(*self.params.values())
        self.batches = _ordered("the training captions", np.array([len(c) for c in self._captions], dtype=np.int64), o)
        if o["batch_size"] < 2 or self.batches.n_sentences < 2:
            raise StorytellerError(f"{self._saveto}: {self.batches.n_sentences} captions of fewer than "
                                   f"{o['maxlen_w']} words in minibatches of {o['batch_size']}: expected at least two "
                                   "in a minibatch, since a caption is ranked against the others")

    def inputs(self) -> list[Any]:
        """Symbolic inputs of a minibatch."""
        return losses.embedding_inputs()

    def cost(self, p: dict[str, Any], inputs: list[Any]) -> Any:
        """The cost of a minibatch as a graph."""
        return losses.embedding_cost(p, *inputs, margin=self.options["margin"])

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], float] | None:
        """Arrays of a minibatch, and what its cost is a sum over."""
        found = prepare_data([self._captions[i] for i in rows], self.options["maxlen_w"], self.options["n_words"])
        if found is None or len(found[2]) < 2:  # a single pair has nothing to be ranked against
            return None
        x, mask, kept = found
        im = np.ascontiguousarray(self._features[np.asarray(rows)[kept]], dtype=np.float32)
        (x, mask), (im,) = _fitted(self, [x, mask], [im])
        return [x, mask, im], float(len(kept))

    def heldout(self, p: dict[str, Any]) -> float | None:
        """Sum of R@1, R@5 and R@10 in both directions, in percent (at most 600)."""
        from ..embedding import JointEmbedding, encode_images, encode_sentences
        if self._heldout is None:
            return None
        arrays = {name: np.asarray(value.get_value(borrow=True)) for name, value in p.items()}
        model = JointEmbedding(self.options, arrays, self._worddict, (), self.device)
        captions, features = self._heldout
        sentences, images = encode_sentences(model, captions), encode_images(model, features)
        return float(sum(sum(rank(images, sentences, per_image=self._per_image)[:3])
                         for rank in (evaluation.i2t, evaluation.t2i)))

    def save(self, params: dict[str, np.ndarray]) -> None:
        """The archive, its options and its dictionary, as the loaders read them."""
        from .vocabulary import save_dictionary
        save_dictionary(f"{self._saveto}.dictionary.pkl", self._worddict, {})
        _save_model(self._saveto, params, self.options)

    def sample(self, params: dict[str, np.ndarray]) -> list[str]:
        """Lines that show what the model does so far."""
        return []


def _check_precision(options: Mapping[str, Any], device: str) -> None:
    if options["precision"] != "float32" and not backend.on_jax(device):
        raise StorytellerError(f"precision {options['precision']} is for training on a GPU through JAX: ask for one "
                               "(--device gpu), or leave precision at float32")


def _fitted(task: Any, words: Sequence[np.ndarray], rows: Sequence[np.ndarray] = (),
            ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A minibatch in one of few shapes, where JAX compiles for each: as many columns as any, and a multiple of
    steps, the same for all sentences.  Masks are 0 in what is new.

    Parameters
    ----------
    task
        Of the device and the batch size.
    words : arrays (steps, n)
    rows : arrays (n, d)
    """
    if not backend.on_jax(task.device):
        return list(words), list(rows)
    n, steps = task.options["batch_size"], -(-max(map(len, words)) // _STEPS) * _STEPS
    return ([backend.padded(backend.padded(each, steps), n, axis=1) for each in words],
            [backend.padded(each, n) for each in rows])


# Starting from a model.

def decoder_dictionary(archive: str | os.PathLike) -> str:
    """Where the dictionary of a decoder stands: NAME_dictionary.pkl."""
    return f"{re.sub('[.]npz$', '', os.fspath(archive))}_dictionary.pkl"


def embedding_dictionary(archive: str | os.PathLike) -> str:
    """Where the dictionary of a joint embedding stands."""
    return f"{os.fspath(archive)}.dictionary.pkl"


def skipthoughts_dictionary(folder: str | os.PathLike) -> str:
    """Where the words of a skip-thoughts model stand.

    ``dictionary.txt`` may have grown since the training (:func:`storyteller.training.vocabulary.expand`);
    ``dictionary.pkl``, which the command line writes, has the words of the archive's arrays.
    """
    trained = os.path.join(folder, "dictionary.pkl")
    return trained if os.path.exists(trained) else os.path.join(folder, "dictionary.txt")


def _check_words(dictionary: str, names: Sequence[str], archive: str | os.PathLike) -> None:
    """The same words must stand for the same rows."""
    if dictionary.endswith(".txt"):
        found = text.read_lines(dictionary)
    else:
        # A dictionary may number more words than its model has.
        found = text.words_by_index(files.load_dictionary(dictionary), len(names))
    if len(found) != len(names) or found[2:] != list(names[2:]):
        at = next((i for i, (a, b) in enumerate(zip(found, names)) if i > 1 and a != b), min(len(found), len(names)))
        there, here = (repr(rows[at]) if at < len(rows) and rows[at] else "no word" for rows in (found, names))
        raise StorytellerError(f"{dictionary}: has {there} at index {at}, and this training {here}: a training can "
                               f"only start from {os.fspath(archive)} with the same dictionary and n_words")


def check_decoder(options: Mapping[str, Any], names: Sequence[str], init: str | os.PathLike | None,
                  saveto: str | os.PathLike) -> None:
    """Whether a decoder of these words can be trained: before anything is made that takes long.

    Parameters
    ----------
    options : mapping
        With dimctx, as saved.
    names : sequence of str
        Words by index; none: the dictionaries are not compared.
    init : path, optional
        The decoder that it starts from.
    saveto : path

    Raises
    ------
    StorytellerError
        If options make no sense for so many words, or names, arrays or shapes differ from those of `init`.
    """
    from ..decoder import parameter_shapes
    _check_samples(options["n_samples"], options["n_words"])
    if options["put_back"] and not text.sentence_ends(names[:options["n_words"]]):
        raise StorytellerError(f"none of {' '.join(text.SENTENCE_ENDS)} is among the words, so no sentence ends: give "
                               "the vocabulary, or put_back=0")
    if init is None:
        return
    if len(names):
        _check_words(decoder_dictionary(init), names[:options["n_words"]], init)
    _check_arrays(parameter_shapes({"ends": [0], **options}, init), init, saveto)


def _check_arrays(shapes: Mapping[str, tuple], archive: str | os.PathLike, saveto: str | os.PathLike) -> None:
    path = os.fspath(archive)
    if os.path.realpath(path) == os.path.realpath(saveto):
        raise StorytellerError(f"{path}: is the model to start from, and would be overwritten; choose another place "
                               "for the new one")
    found = files.array_names(path)
    again = "start from a model of the same kind, with the same options"
    for name in shapes:
        if name not in found:
            raise StorytellerError(f"{path}: lacks the parameter {name!r} of the model to be trained; {again}")
    for name in found:
        if name not in shapes:
            raise StorytellerError(f"{path}: has a parameter {name!r}, and the model to be trained has not; {again}")
    for name, shape in shapes.items():
        if tuple(found[name]) != shape:
            raise StorytellerError(f"{path}: {name!r} has shape {tuple(found[name])}, and {shape} in the model to be "
                                   "trained: give the options that it was trained with (dim, dim_word, n_words and "
                                   "so on)")


def _initial(params: Mapping[str, np.ndarray], archive: str | os.PathLike, saveto: str) -> dict[str, np.ndarray]:
    """A model's arrays in place of `params`; all names and shapes must be equal."""
    _check_arrays({name: array.shape for name, array in params.items()}, archive, saveto)
    return files.load_arrays(archive, list(params))


def _ordered(name: str, lengths: np.ndarray, options: Mapping[str, Any], rows: np.ndarray | None = None) -> Any:
    """The training's minibatches, in the order that the option ``batches`` names."""
    try:
        return BATCHES[options["batches"]](lengths, options["batch_size"], maxlen=options["maxlen_w"],
                                           seed=options["seed"], rows=rows)
    except StorytellerError as error:
        raise StorytellerError(f"{name}: {error}") from error


def _mean(vectors: np.ndarray) -> np.ndarray:
    """The mean of many vectors, some at a time, float32."""
    total = np.zeros(vectors.shape[1])
    for first in range(0, len(vectors), 4096):
        total += np.asarray(vectors[first:first + 4096]).sum(axis=0, dtype=np.float64)
    return (total / len(vectors)).astype(np.float32)


def _some_batches(lengths: np.ndarray, options: Mapping[str, Any]) -> list[np.ndarray]:
    """Up to HELDOUT_BATCHES minibatches, the same ones every time."""
    batches = BucketedBatches(lengths, options["batch_size"], maxlen=options["maxlen_w"], seed=0)
    return [rows for _, rows in zip(range(HELDOUT_BATCHES), batches)]


def _save_model(path: str, params: dict[str, np.ndarray], options: Mapping[str, Any]) -> None:
    # What is trained on was read by `corpus`, or is captions that were read as there.
    files.save_pickle(f"{path}.pkl", {**options, "normalize": True})
    files.save_arrays(path, **params)
