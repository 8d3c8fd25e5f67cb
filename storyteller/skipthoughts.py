"""Sentences -> thought vectors (Kiros et al. 2015, "Skip-Thought Vectors", arXiv:1506.06726).

A vector is the last hidden state of a one-directional encoder ("uni") beside those of a
forward and a backward encoder ("bi"): 2400 + 2 x 1200 numbers in the published models.

>>> from storyteller import skipthoughts
>>> model = skipthoughts.load_model('models/', 'models/')            # doctest: +SKIP
>>> vectors = skipthoughts.encode(model, ['He sat by the window .'])  # doctest: +SKIP
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO

import numpy as np

from . import cache, files
from .errors import StorytellerError
from .layers import GRUEncoder, Model, gru_shapes, unit_rows
from .progress import progress_bar
from .text import END, UNK, as_sentences, load_vocabulary, preprocess


class SkipThoughts(Model):
    """A loaded skip-thoughts model; made by :func:`load_model`.

    Attributes
    ----------
    words : dict
        Word -> row of both tables.
    utable, btable : array (n_words, dim_word) float32
        Word vectors of the two models, memory-mapped.
    dim : int
        Length of a thought vector.
    """

    def __init__(self, words: dict[str, int], utable: np.ndarray, btable: np.ndarray,
                 uni: dict[str, np.ndarray], bi: dict[str, np.ndarray], device: str = "cpu"):
        self.words, self.utable, self.btable = words, utable, btable
        self._uni = GRUEncoder(uni, "encoder", device)
        self._forwards, self._backwards = GRUEncoder(bi, "encoder", device), GRUEncoder(bi, "encoder_r", device)
        self.dim = sum(encoder.dim for group in self.groups for _, encoder, _ in group)

    @property
    def groups(self) -> list[list[tuple[np.ndarray, GRUEncoder, bool]]]:
        """Table, encoder and whether it reads backwards, of the uni part and of the bi part."""
        return [[(self.utable, self._uni, False)],
                [(self.btable, self._forwards, False), (self.btable, self._backwards, True)]]

    def rows(self, sentence: str, use_eos: bool) -> np.ndarray:
        """Table rows of a preprocessed sentence; words outside the dictionary are UNK."""
        unknown = self.words[UNK]
        rows = [self.words.get(word, unknown) for word in sentence.split()]
        if use_eos:
            rows.append(self.words.get(END, unknown))
        return np.array(rows, dtype=np.int64)

    def encode(self, X: Sequence[str], **options) -> np.ndarray:
        """:func:`encode` as a method."""
        return encode(self, X, **options)


def load_model(path_to_models: str | os.PathLike, path_to_tables: str | os.PathLike | None = None,
               device: str = "cpu", verbose: bool = True) -> SkipThoughts:
    """Load the uni-skip and bi-skip encoders and their word tables.

    Parameters
    ----------
    path_to_models : path
        The folder of ``uni_skip.npz``, ``bi_skip.npz`` and their ``.pkl``.
    path_to_tables : path, optional
        The folder of ``dictionary.txt``, ``utable.npy`` and ``btable.npy``; that of the models by
        default.
    device : str
        See :mod:`storyteller.backend`.
    verbose : bool
        Show progress while tables are converted.

    Returns
    -------
    SkipThoughts

    Raises
    ------
    StorytellerError
        If a file is missing, damaged, or does not fit the others.

    Notes
    -----
    The published tables are Python 2 pickles of 930,911 small arrays each.  They are converted
    once, in bounded memory, to plain float32 matrices in the cache (see
    :mod:`storyteller.cache`), and memory-mapped from then on.
    """
    models = os.fspath(path_to_models)
    tables = models if path_to_tables is None else os.fspath(path_to_tables)
    uni, bi = (_load_encoder(models, name) for name in ENCODERS)
    dictionary = os.path.join(tables, "dictionary.txt")
    words, n_rows = load_vocabulary(dictionary)
    utable, btable = (_load_table(os.path.join(tables, name), n_rows, len(params["encoder_W"]), dictionary,
                                  verbose) for name, params in (("utable.npy", uni), ("btable.npy", bi)))
    return SkipThoughts(words, utable, btable, uni, bi, device)


ENCODERS = {"uni_skip.npz": ("encoder",), "bi_skip.npz": ("encoder", "encoder_r")}


def parameter_shapes(options: dict, path: str | os.PathLike,
                     prefixes: Sequence[str]) -> dict[str, tuple]:
    """Names and shapes of the parameters that an encoder's options call for.

    Raises
    ------
    StorytellerError
        If the options (of the file ``path``) are not an encoder's.
    """
    dim_word, dim = (files.int_option(options, name, path) for name in ("dim_word", "dim"))
    shapes: dict[str, tuple] = {}
    for prefix in prefixes:
        shapes.update(gru_shapes(prefix, dim_word, dim))
    return shapes


def _load_encoder(folder: str, name: str) -> dict[str, np.ndarray]:
    path = os.path.join(folder, name)
    shapes = parameter_shapes(files.load_options(f"{path}.pkl"), f"{path}.pkl", ENCODERS[name])
    return files.load_arrays(path, list(shapes), shapes)


def _load_table(path: str, n_rows: int, dim: int, dictionary: str, verbose: bool) -> np.ndarray:
    if files.is_object_table(path):
        rows = files.table_shape(path)[0]
        _check_table(path, (rows, dim), (n_rows, dim), dictionary)

        def write(file: IO[bytes], start: int) -> None:
            with progress_bar(n_rows, f"converting {os.path.basename(path)} (once)", "word",
                              verbose) as bar:
                _, found = files.convert_object_table(path, file, lambda n: bar.update(n - bar.n))
            _check_table(path, (rows, found), (n_rows, dim), dictionary)

        return cache.cached_rows("table", path, cache.fingerprint(path), (n_rows, dim), write)
    table = files.load_matrix(path, mmap=True)
    _check_table(path, table.shape, (n_rows, dim), dictionary)
    return table


def _check_table(path: str, found: tuple, expected: tuple, dictionary: str) -> None:
    if tuple(found) != expected:
        raise StorytellerError(
            f"{path}: holds {found[0]} word vectors of {found[1]} numbers: expected {expected[0]} (the "
            f"lines of {dictionary}) of {expected[1]} (the model's dim_word); use the files of one download")


def encode(model: SkipThoughts, X: Sequence[str], use_norm: bool = True, verbose: bool = True,
           batch_size: int = 128, use_eos: bool = False) -> np.ndarray:
    """Encode texts as thought vectors.

    Parameters
    ----------
    model : SkipThoughts
    X : sequence of str
        Raw text, tokenised here (Punkt sentences, Treebank words); UTF-8 bytes are decoded.  Case
        matters.
    use_norm : bool
        Scale the uni part and the bi part to unit L2 norm each.
    verbose : bool
        Show a progress bar (on a terminal only).
    batch_size : int
        Texts that are encoded side by side.  Does not change results.
    use_eos : bool
        Read an ``<eos>`` after the last word.

    Returns
    -------
    array (len(X), dim) float32
        The uni part, then the bi part.  A text without words gives zeros (unless use_eos).

    Raises
    ------
    StorytellerError
        If X is a single string or holds something that is no text.
    """
    texts = as_sentences(X)
    vectors = np.zeros((len(texts), model.dim), dtype=np.float32)
    if not texts:
        return vectors
    if batch_size < 1:
        raise StorytellerError(f"batch_size is {batch_size}: expected at least 1")
    sequences = [model.rows(preprocess(text), use_eos) for text in texts]
    flat = np.concatenate(sequences)
    # Each different word is looked up and projected once.
    used, inverse = np.unique(flat, return_inverse=True)
    forwards = np.split(inverse.reshape(-1), np.cumsum([len(s) for s in sequences])[:-1])
    backwards = [sequence[::-1] for sequence in forwards]
    left = 0
    with progress_bar(3 * len(texts), "encoding sentences", "pass", verbose and len(texts) > 1000) as bar:
        for group in model.groups:
            parts = [encoder.last_states(encoder.project(table[used]), backwards if reverse else forwards,
                                         batch_size, bar.update)
                     for table, encoder, reverse in group]
            part = np.concatenate(parts, axis=1)
            right = left + part.shape[1]
            vectors[:, left:right] = unit_rows(part) if use_norm else part
            left = right
    return vectors
