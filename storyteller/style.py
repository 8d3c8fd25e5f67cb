"""Style shifting: F(x) = x - c + b.

x is the mean thought vector of an image's captions, c the mean of caption style, b the mean of
book style.  Any set of texts gives a style: the mean of their thought vectors.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import files, text
from .errors import StorytellerError, check_count, check_flag, check_floats, check_number, shown
from .progress import counted

_CHUNK = 4096       # texts that are encoded at a time


def shift(x: np.ndarray, c: np.ndarray, b: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Trade caption style for book style.

    Parameters
    ----------
    x : array (dim,) or (n, dim) float32
        A thought vector, or the thought vectors of several captions, whose mean is taken.
    c, b : array (dim,) float32
        The style to take away and the style to give.
    strength : float
        Of the shift b - c: 0 leaves x alone, 1 is the original.

    Returns
    -------
    array (dim,) float32

    Raises
    ------
    StorytellerError
        If the shapes do not fit.
    """
    strength = check_number("strength", strength)
    if np.ndim(x) == 2:
        x = check_floats("x", x, (None, None), "")
        x = x.mean(axis=0) if len(x) else x
    x = check_floats("x", x, (None,), "give a thought vector, or the vectors of one or more captions")
    c, b = (check_floats(name, v, x.shape, "thought vector, caption style and book style have one length: make the "
                         "style vectors with the skip-thoughts model in use")
            for name, v in (("caption style c", c), ("book style b", b)))
    if strength == 1:
        return x - c + b  # the original's order of operations
    return x + np.float32(strength) * (b - c)


def sentence_means(model, passages: Sequence[Sequence[str]], **options) -> np.ndarray:
    """The means of passages' sentences: one vector a passage, as x is one of several captions.

    A thought vector is a sentence's.  The mean over a passage lies where the means over captions
    lie; the vector of a whole passage read as one long sentence does not.

    Parameters
    ----------
    model : SkipThoughts
        Or anything with its ``encode(texts, ...)``.
    passages : sequence of sequences of str
        The sentences of each passage; a passage without any gives zeros.
    **options
        Of :func:`storyteller.skipthoughts.encode`.  A sentence's vector is scaled as there; the mean
        is not scaled again.

    Returns
    -------
    array (len(passages), dim) float32

    Examples
    --------
    >>> class Lengths:
    ...     def encode(self, texts):
    ...         return np.array([[len(text)] for text in texts], np.float32)
    >>> sentence_means(Lengths(), [["Go.", "Gone."], [], ["No."]]).ravel().tolist()
    [4.0, 0.0, 3.0]
    """
    check_encoder(model)
    if isinstance(passages, (str, bytes, Mapping)) or not hasattr(passages, "__len__") \
            or getattr(passages, "ndim", 1) == 0:
        raise StorytellerError(f"passages is {shown(passages)}: expected a list of each passage's list of sentences")
    passages = [text.as_sentences(sentences, f"passages[{i}]") for i, sentences in enumerate(passages)]
    counts = np.array([len(sentences) for sentences in passages], dtype=np.int64)
    means: np.ndarray | None = None
    first = 0
    while means is None or first < len(passages):
        # Many short sentences must not fill the memory: as many passages as make up a chunk, or one.
        last, size = first, 0
        while last < len(passages) and (last == first or size + counts[last] <= _CHUNK):
            size, last = size + counts[last], last + 1
        vectors = model.encode([sentence for sentences in passages[first:last] for sentence in sentences], **options)
        if means is None:
            means = np.zeros((len(passages), vectors.shape[1]), dtype=np.float32)
        some = first + np.flatnonzero(counts[first:last])
        if len(some):
            starts = np.cumsum(counts[some]) - counts[some]
            means[some] = np.add.reduceat(vectors, starts, axis=0) / counts[some, None].astype(np.float32)
        first = last
    return means


def check_encoder(model: Any) -> None:
    """StorytellerError where a model has no ``encode``."""
    if not callable(getattr(model, "encode", None)) or isinstance(model, (str, type)):
        raise StorytellerError(f"model is {shown(model)}: expected a skip-thoughts model, such as z['stv']")


def make(model, texts: Iterable[str], min_words: int = 100, verbose: bool = True,
         sentences: bool = False) -> np.ndarray:
    """Make a style vector: the mean thought vector of texts.

    Parameters
    ----------
    model : SkipThoughts
        Or anything with its ``encode(texts, verbose=...)``.
    texts : iterable of str
        Passages, songs, captions ...; read once, in chunks.
    min_words : int
        Texts of fewer words (split at white space) are left out.  The original's book styles
        are means over passages longer than 100 words; use 1 for captions.
    verbose : bool
        Show progress (on a terminal only).
    sentences : bool
        Take the mean over texts of :func:`sentence_means` instead of the texts' own vectors: the
        style for a decoder that was trained so (``context='sentences'``).  For texts of one sentence,
        such as captions, both are the same.

    Returns
    -------
    array (dim,) float32

    Raises
    ------
    StorytellerError
        If no text is long enough, or `texts` is no list of texts.
    """
    check_encoder(model)
    min_words, sentences = check_count("min_words", min_words, 0), check_flag("sentences", sentences)
    total, count, seen, longest = None, 0, 0, 0
    chunk: list[str] = []

    def add() -> None:
        nonlocal total, count
        if chunk:
            vectors = (sentence_means(model, list(map(text.split_sentences, chunk)), verbose=False) if sentences
                       else model.encode(chunk, verbose=verbose))
            part = vectors.sum(axis=0, dtype=np.float64)
            total = part if total is None else total + part
            count += len(chunk)
            chunk.clear()

    for passage in text.each_text(texts, "texts"):
        words = len(passage.split())
        seen, longest = seen + 1, max(longest, words)
        if words >= min_words and words:
            chunk.append(passage)
            if len(chunk) >= _CHUNK:
                add()
    add()
    if total is None:
        raise StorytellerError(f"no text has {min_words} words or more ({counted(seen, 'text')}, the longest of "
                               f"{longest} words): give longer passages or a smaller least number "
                               "of words (min_words, --min-words)")
    return (total / count).astype(np.float32)


def load(path: str | os.PathLike, dim: int | None = None) -> np.ndarray:
    """Read a style vector, (dim,) float32, from an .npy file.

    Raises
    ------
    StorytellerError
        If the file is missing, damaged, or has another length than ``dim``.
    """
    return files.load_vector(path, None if dim is None else check_count("dim", dim))


def save(path: str | os.PathLike, vector: np.ndarray) -> None:
    """Write a style vector, (dim,) float32, as an .npy file (under a temporary name first).

    Raises
    ------
    StorytellerError
        If it is no vector of finite numbers, or cannot be written.
    """
    vector = check_floats("the style vector", vector, (None,), "give the mean of thought vectors, as style.make does")
    if not len(vector):
        raise StorytellerError("the style vector is empty: give the mean of thought vectors, as style.make does")
    with files.write_atomically(path) as file:
        np.save(file, vector, allow_pickle=False)
