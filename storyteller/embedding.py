"""The joint image-sentence space (Kiros, Salakhutdinov & Zemel 2014, arXiv:1411.2539).

Images and sentences become unit vectors of one space; their dot product says how well they
fit.
"""
from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import IO, Any, Callable

import numpy as np

from . import cache, files
from .errors import StorytellerError, check_count, check_floats, shown
from .layers import GRUEncoder, Model, dense, dense_shapes, distinct_words, gru_shapes, load_params, unit_rows
from .progress import progress_bar
from .text import END, END_ID, UNK, UNK_ID, as_sentences, check_dictionary, normalize, warn_unknown, word_indices
from .threads import in_threads

_log = logging.getLogger(__name__)

# Captions embedded at a time: an interrupted run loses at most one chunk, and the more there are the more begin alike.
_CHUNK = 32768
_ROWS = 4096            # vectors that are compared at a time
_BATCH = 512


class JointEmbedding(Model):
    """A loaded joint embedding; made by :func:`load_model`.

    Attributes
    ----------
    options : dict
        As saved with the model.
    dim : int
        Of the joint space.
    dim_image : int
        Of the image features.
    worddict : dict
        Word -> index.
    paths : tuple of str
        The model's files.

    Notes
    -----
    The original's model was a dict: ``model['options']``, ``['worddict']`` and ``['word_idict']`` (index -> word) are
    answered, too.
    """

    _compiled = ("_images", "_projected", "_kept", "_keeping")

    def __init__(self, options: dict, params: dict[str, np.ndarray], worddict: dict[str, int],
                 paths: Sequence[str], device: str | None = None, key: str | None = None):
        from . import backend
        self.options, self.worddict, self.paths, self._key = options, worddict, tuple(paths), key
        self._device = backend.device_of(device)
        self._W, self._b, self._Wemb = params["ff_image_W"], params["ff_image_b"], params["Wemb"]
        self.dim_image, self.dim = self._W.shape
        self.n_words = len(self._Wemb)
        self._gru = GRUEncoder(params, "encoder", device) if "encoder_W" in params else None
        self._compile()

    def _summary(self) -> str:
        return (f"sentences of {self.n_words:,} words and images of {self.dim_image} features in {self.dim} "
                "dimensions")

    def _compile(self) -> None:
        from . import backend as be
        W, b = be.parameters({"W": self._W, "b": self._b}, self._device != "cpu").values()
        self._images = be.computation(lambda x: [dense(x, W, b)], [2], self._device)
        self._projected: np.ndarray | None = None
        self._kept: tuple[Any, Any, dict[int, Any]] | None = None   # vectors, those on the device, functions
        self._keeping = threading.Lock()

    def _items(self) -> dict[str, Callable[[], Any]]:
        return {"options": lambda: self.options, "worddict": lambda: self.worddict,
                "word_idict": lambda: {END_ID: END, UNK_ID: UNK,
                                       **{i: word for word, i in self.worddict.items() if i > UNK_ID}}}

    def fingerprint(self) -> str:
        """Names what vectors depend on: the dictionary, and the files that were read, or else the arrays."""
        arrays = [self._W, self._b, self._Wemb, *(self._gru.params.values() if self._gru else ())]
        indices = np.fromiter(self.worddict.values(), np.int64, len(self.worddict))
        return cache.fingerprint(*(arrays if self._key is None else [[self._key]]), self.worddict, indices)

    def nearest(self, vectors: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """:func:`nearest` on this model's device, where the vectors last asked about stay."""
        from . import backend as be
        k, query = _checked_query(vectors, query, k)
        if not be.on_jax(self._device) or not len(vectors):
            return nearest(vectors, query, k)
        with self._keeping:
            if self._kept is None or self._kept[0] is not vectors:
                self._kept = None       # lets go of the old ones first
                self._kept = vectors, be.shared(vectors), {}
            _, kept, functions = self._kept
            size = min(be.bucket(k), len(vectors))
            if size not in functions:
                x = be.matrix("x")
                scores = be.dot(kept, x).flatten()
                functions[size] = be.train_function([x], [*be.largest(scores, size, last_first=True),
                                                          be.all_finite(scores)], device=self._device)
        values, where, finite = functions[size](query[:, None])
        if not finite:
            raise StorytellerError(_NOT_FINITE)
        return where[:k], values[:k]

    def indices(self, sentence: str) -> np.ndarray:
        """Word indices of a tokenised sentence, the final 0 (``<eos>``) included.

        The sentence is read as :func:`storyteller.text.normalize` makes it where the model was trained on such
        (``options["normalize"]``); the published ones were not.
        """
        if self.options.get("normalize"):
            sentence = normalize(sentence)
        words = word_indices(sentence.split(), self.worddict, self.n_words)
        return np.array(words + [END_ID], dtype=np.int64)

    def sentence_vectors(self, sequences: Sequence[np.ndarray], batch_size: int,
                         progress: Callable[[int], object] | None = None) -> np.ndarray:
        """Unit vectors of index sequences: -> (n, dim) float32."""
        if self._gru is None:
            sums = np.zeros((len(sequences), self.dim), dtype=np.float32)
            for i, sequence in enumerate(sequences):
                # In one order for all sentences of the same words, so that they tie exactly.
                sums[i] = self._Wemb[np.sort(sequence)].sum(axis=0)
                if progress is not None:
                    progress(1)
            return unit_rows(sums)
        from . import backend
        words = sum(map(len, sequences))
        if words > self.n_words:
            # The input's share of a step depends on the word alone: for many sentences it pays to compute it
            # once for the whole vocabulary.  (For few ones it is not looked up there even where it is known: with
            # other rows beside it a product may end in another last bit.)
            if self._projected is None:
                self._projected = self._gru.project(self._Wemb)
            return unit_rows(self._gru.final_states(self._projected, sequences, batch_size, progress))
        used, renumbered = distinct_words(sequences)
        projected = self._gru.project(backend.rows(self._Wemb, used, self._device))
        return unit_rows(self._gru.final_states(projected, renumbered, batch_size, progress))


def _checked(model: Any) -> JointEmbedding:
    if not isinstance(model, JointEmbedding):
        raise StorytellerError(f"model is {shown(model)}: expected a model of embedding.load_model, such as z['vse']")
    return model


def load_model(path_to_model: str | os.PathLike | None = None, device: str | None = None) -> JointEmbedding:
    """Load a joint embedding.

    Parameters
    ----------
    path_to_model : path, optional
        The archive ``coco_embedding.npz``; options and dictionary stand beside it as
        ``.npz.pkl`` and ``.npz.dictionary.pkl``.  By default the settings' model, see
        :func:`storyteller.config.load`.
    device : str, optional
        See :func:`storyteller.backend.device_of`.

    Returns
    -------
    JointEmbedding

    Raises
    ------
    StorytellerError
        If a file is missing, damaged, or does not fit its options.
    """
    if path_to_model is None:
        from . import config
        path_to_model = config.load().path("vsemodel")
    path = os.fsdecode(path_to_model)
    paths = path, f"{path}.pkl", f"{path}.dictionary.pkl"
    key = _key_of(paths)
    options = files.load_options(f"{path}.pkl")
    worddict = files.load_dictionary(f"{path}.dictionary.pkl")
    shapes = parameter_shapes(options, f"{path}.pkl")
    check_dictionary(worddict, shapes["Wemb"][0], f"{path}.dictionary.pkl")
    params = load_params("embedding", path, shapes, *(["encoder"] if "encoder_W" in shapes else []))
    if _key_of(paths) != key:
        raise StorytellerError(f"{path}: was replaced or changed while it was read: start again")
    return JointEmbedding(options, params, worddict, paths, device, key)


def _key_of(paths: Sequence[str]) -> str | None:
    """Of the contents of a model's files; None where one cannot be read, which reading it explains."""
    try:
        return cache.fingerprint(*paths) if all(map(os.path.isfile, paths)) else None
    except OSError:
        return None


def parameter_shapes(options: dict, path: str | os.PathLike) -> dict[str, tuple]:
    """Names and shapes of the parameters that a joint embedding's options call for.

    Raises
    ------
    StorytellerError
        If the options (of the file ``path``) are not a joint embedding's.
    """
    dim, dim_word, dim_image, n_words = (files.int_option(options, name, path)
                                         for name in ("dim", "dim_word", "dim_image", "n_words"))
    encoder = options.get("encoder", "gru")
    shapes = dense_shapes("ff_image", dim_image, dim)
    if encoder == "gru":
        return {**shapes, "Wemb": (n_words, dim_word), **gru_shapes("encoder", dim_word, dim)}
    if encoder == "bow":
        return {**shapes, "Wemb": (n_words, dim)}
    raise StorytellerError(f"{os.fspath(path)}: option 'encoder' is {encoder!r}: expected 'gru' or 'bow'")


def encode_sentences(model: JointEmbedding, X: Sequence[str], verbose: bool = False,
                     batch_size: int = 128) -> np.ndarray:
    """Embed tokenised sentences.

    Parameters
    ----------
    model : JointEmbedding
    X : sequence of str
        Split at white space; UTF-8 bytes are decoded.  Unknown words become UNK.
    verbose : bool
        Show a progress bar (on a terminal only).
    batch_size : int
        Sentences that are encoded side by side.  Does not change results.

    Returns
    -------
    array (len(X), dim) float32
        Rows of unit norm.

    Raises
    ------
    StorytellerError
        If X is a single string or holds something that is no text.
    """
    batch_size = check_count("batch_size", batch_size)
    sequences = [_checked(model).indices(sentence) for sentence in as_sentences(X)]
    if not sequences:
        return np.zeros((0, model.dim), dtype=np.float32)
    _warn_unknown(sequences)
    with progress_bar(len(sequences), "embedding sentences", "sentence", verbose) as bar:
        return model.sentence_vectors(sequences, batch_size, bar.update)


def _warn_unknown(sequences: Sequence[np.ndarray]) -> None:
    words = sum(map(len, sequences)) - len(sequences)       # without their ends
    warn_unknown(sum(int(np.count_nonzero(sequence == UNK_ID)) for sequence in sequences), words, "joint embedding")


def encode_images(model: JointEmbedding, IM: np.ndarray) -> np.ndarray:
    """Embed image features.

    Parameters
    ----------
    model : JointEmbedding
    IM : array (n, dim_image) float32
        Features scaled to unit L2 norm.

    Returns
    -------
    array (n, dim) float32
        Rows of unit norm.

    Raises
    ------
    StorytellerError
        If the features have another length or are not finite.
    """
    IM = check_floats("image features", IM, (None, _checked(model).dim_image),
                      "use the network that this joint embedding was trained on")
    return unit_rows(model._images(IM)[0]) if len(IM) else np.zeros((0, model.dim), np.float32)


def embed_captions(model: JointEmbedding, captions: Sequence[str], path: str | os.PathLike | None = None,
                   verbose: bool = True) -> np.ndarray:
    """Embed the captions to retrieve from, once for every model and list of captions.

    Parameters
    ----------
    model : JointEmbedding
    captions : sequence of str
    path : path, optional
        Their file.  With it the vectors are kept in the cache and memory-mapped from then on, for these very captions
        and this very model; an interrupted run goes on where it stopped.
    verbose : bool
        Show a progress bar (on a terminal only).

    Returns
    -------
    array (len(captions), dim) float32
        Rows of unit norm.

    Raises
    ------
    StorytellerError
        If captions is a single string or holds something that is no text.
    """
    model, captions = _checked(model), as_sentences(captions, "captions")
    if path is None or not captions:
        return encode_sentences(model, captions, verbose, _BATCH)
    if not isinstance(path, (str, os.PathLike)):
        raise StorytellerError(f"path is {shown(path)}: expected the file of the captions")

    def write(file: IO[bytes], start: int) -> None:
        with progress_bar(len(captions), "embedding captions (once)", "caption", verbose, start) as bar:
            _warn_unknown([model.indices(caption) for caption in captions[:_CHUNK]])
            for first in range(start, len(captions), _CHUNK):
                chunk = [model.indices(caption) for caption in captions[first:first + _CHUNK]]
                file.write(model.sentence_vectors(chunk, _BATCH, bar.update).data)

    key = cache.fingerprint([model.fingerprint()], captions)
    return cache.cached_rows("captions", path, key, (len(captions), model.dim), write, resumable=True)


_NOT_FINITE = "vectors hold NaN or infinite values: make them anew with embed_captions"


def _checked_query(vectors: np.ndarray, query: np.ndarray, k: int) -> tuple[int, np.ndarray]:
    k = check_count("k", k)
    query = check_floats("query", query).reshape(-1)
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f" or vectors.shape[1:] != query.shape:
        raise StorytellerError(f"vectors are {shown(vectors)}: expected an array of floats (n, {len(query)}), as "
                               "embed_captions gives it, for this query")
    return k, query


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest dot product, best first.

    Parameters
    ----------
    vectors : array (n, dim) float32
        Other floats, such as float16 to halve their memory, are read some thousand rows at a time.
    query : array (dim,) float32
    k : int
        At most n are given.

    Returns
    -------
    indices : array (min(k, n),) int64
    scores : array (min(k, n),) float32
        Of equal scores the later row comes first, as in the original.

    Raises
    ------
    StorytellerError
        If k is no count, query and vectors do not fit each other, or vectors are not finite.
    """
    k, query = _checked_query(vectors, query, k)

    def work(start: int, stop: int) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            return vectors[start:stop] @ query

    # Vectors of another dtype, such as float16, are converted for the product: not all at a time.
    scores = np.concatenate([np.zeros(0, np.float32), *in_threads(work, len(vectors), _ROWS)])
    if not np.isfinite(scores).all():
        raise StorytellerError(_NOT_FINITE)
    n = len(scores)
    if k < n:
        bound = np.partition(scores, n - k)[n - k]
        candidates = np.flatnonzero(scores >= bound)
    else:
        candidates = np.arange(n)
    order = np.argsort(scores[candidates], kind="stable")[::-1][:k]
    best = candidates[order]
    return best, np.asarray(scores)[best]
