"""Vocabularies: numbering words, files with counts, and growing a model's table of words.

The original keeps a dictionary and the counts of its words as two pickles in one file, and
grows the vocabulary of a trained encoder by a linear map from vectors of word2vec to its own
(Kiros et al. 2015, section 2.2; Mikolov et al. 2013, arXiv:1309.4168).
"""
from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import files
from ..errors import StorytellerError, check_count
from ..files import load_counts, open_file
from ..layers import init_matrix
from ..progress import progress_bar
from ..text import END, END_ID, UNK, UNK_ID, build_dictionary, each_text

__all__ = ["build", "coverage", "expand", "fit_expansion", "initial_vectors", "load_counts",
           "load_word_vectors", "save_dictionary"]

_log = logging.getLogger(__name__)

_CHUNK = 65536      # words that are expanded at a time


def build(texts: Iterable[str], max_words: int | None = None, min_count: int = 1,
          verbose: bool = True) -> tuple[OrderedDict[str, int], OrderedDict[str, int]]:
    """Number the words of texts by descending frequency.

    Parameters
    ----------
    texts : iterable of str
        Tokenised texts, split at white space; read once.
    max_words : int, optional
        Number at most so many words, the most frequent; fewer when there are fewer.  A model
        has two more, ``<eos>`` and ``UNK``.
    min_count : int
        Number only words that occur at least so often.
    verbose : bool
        Show progress (on a terminal only).

    Returns
    -------
    words : OrderedDict of str to int
        Index of each word, from 2.
    counts : OrderedDict of str to int
        How often each word occurs, those without an index included, in order of first
        appearance.

    Raises
    ------
    StorytellerError
        If the texts hold no words, or none that is frequent enough.

    Examples
    --------
    >>> words, counts = build(["a dog and a cat and a fish"], max_words=2)
    >>> dict(words), counts["cat"]
    ({'a': 2, 'and': 3}, 1)
    """
    texts = each_text(texts, "texts")
    max_words = None if max_words is None else check_count("max_words", max_words)
    min_count = check_count("min_count", min_count)

    def watched() -> Iterator[str]:
        with progress_bar(None, "counting words", "text", verbose) as bar:
            for text in texts:
                yield text
                bar.update(1)

    words, counts = build_dictionary(watched())
    if not words:
        raise StorytellerError("the texts hold no words: give texts with at least one word")
    kept = len(words) if max_words is None else min(max_words, len(words))
    kept = min(kept, sum(count >= min_count for count in counts.values()))
    if not kept:
        raise StorytellerError(f"no word occurs {min_count} times (the most frequent occurs "
                               f"{max(counts.values())} times): give more text or a smaller least "
                               "count (min_count, --min-count)")
    if max_words is not None and max_words > len(words):
        _log.info("the texts hold %d different words, fewer than the %d asked for.", len(words), max_words)
    return OrderedDict((word, i) for word, i in words.items() if i < kept + 2), counts


def coverage(words: Mapping[str, int], counts: Mapping[str, int], n_words: int | None = None) -> float:
    """Share of the running words that are not ``UNK``: those with an index (below `n_words`)."""
    total = sum(counts.values())
    known = sum(counts.get(word, 0) for word, i in words.items() if n_words is None or i < n_words)
    return known / total if total else 0.0


# Files.

def save_dictionary(path: Any, words: Any, counts: Any) -> None:
    """Write a dictionary and its counts: two pickles in one file, as the original does.

    ``files.load_dictionary`` reads the first, :func:`load_counts` the second.

    Parameters
    ----------
    path : path
    words, counts : mappings of str to int
        The original's order, (words, counts, path), works as well.

    Raises
    ------
    StorytellerError
        If the arguments are something else, or the file cannot be written.
    """
    if isinstance(path, Mapping):
        path, words, counts = counts, path, words
    if not (isinstance(path, (str, os.PathLike)) and isinstance(words, Mapping) and isinstance(counts, Mapping)):
        raise StorytellerError(f"a dictionary cannot be written of path {type(path).__name__}, words "
                               f"{type(words).__name__} and counts {type(counts).__name__}: expected a path and two "
                               "dicts, save_dictionary(path, words, counts)")
    files.save_pickle(path, OrderedDict(words), OrderedDict(counts))


# Expansion.

def fit_expansion(word_vectors: Any, Wemb: np.ndarray, worddict: Mapping[str, int], n_words: int,
                  ) -> tuple[np.ndarray, np.ndarray, int]:
    """Fit the linear map from foreign word vectors to a model's own.

    Least squares with intercept, in float64, over the words that both have (Kiros et al. 2015,
    section 2.2).

    Parameters
    ----------
    word_vectors, Wemb, worddict, n_words : see :func:`expand`

    Returns
    -------
    coef : array (dim_word, dim_foreign) float64
    intercept : array (dim_word,) float64
    shared : int
        Words that both have.

    Raises
    ------
    StorytellerError
        If sizes do not fit, or there is no shared word.
    """
    import scipy.linalg

    names, matrix = _named_rows(word_vectors)
    Wemb, indices = _checked(Wemb, worddict, n_words)
    rows = {word: row for row, word in enumerate(names)}
    shared = [word for word in indices if word in rows]
    if not shared:
        raise StorytellerError(f"none of the {len(indices)} words of the model is among the {len(names)} word "
                               "vectors: give vectors of the same language, with the same upper and lower case")
    source = np.asarray(matrix[[rows[word] for word in shared]], dtype=np.float64)
    target = Wemb[[indices[word] for word in shared]].astype(np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise StorytellerError("the word vectors hold NaN or infinity: fetch or train them again")
    if len(shared) <= source.shape[1]:
        _log.warning("only %d words are shared, fewer than the %d numbers of a word vector: the map is not "
                     "determined, the smallest one is taken; give vectors that know more of the words.",
                     len(shared), source.shape[1] + 1)
    # The intercept by centring, so that the smallest map does not shrink it.
    at, to = source.mean(axis=0), target.mean(axis=0)
    coef = scipy.linalg.lstsq(source - at, target - to)[0].T
    return coef, to - coef @ at, len(shared)


def expand(word_vectors: Any, Wemb: np.ndarray, worddict: Mapping[str, int], n_words: int,
           verbose: bool = True) -> tuple[OrderedDict[str, int], np.ndarray]:
    """Give a trained encoder the words of word2vec, GloVe or fastText.

    Every foreign word without an underscore (those are phrases) is mapped to where the model
    would have it; the model's own words keep their vectors.

    Parameters
    ----------
    word_vectors : gensim KeyedVectors, mapping of str to array, or (words, array)
        See :func:`load_word_vectors`.
    Wemb : array (n_words, dim_word) float32
        The model's word vectors; row 0 is ``<eos>``, row 1 ``UNK``.
    worddict : dict of str to int
        The model's dictionary, from 2.  Words of index `n_words` or more have no row of their
        own and keep the mapped vector.
    n_words : int
        Words of the model, those two included.
    verbose : bool
        Show progress (on a terminal only).

    Returns
    -------
    words : OrderedDict of str to int
        Row of each word: foreign words in their order, then the model's that are not among
        them.
    table : array (len(words), dim_word) float32

    Raises
    ------
    StorytellerError
        If sizes do not fit, or there is no shared word.

    Notes
    -----
    Write the words one a line and the table with ``numpy.save`` for ``dictionary.txt`` and
    ``utable.npy`` of a skip-thoughts model.
    """
    names, matrix = _named_rows(word_vectors)
    coef, intercept, shared = fit_expansion((names, matrix), Wemb, worddict, n_words)
    Wemb, indices = _checked(Wemb, worddict, n_words)
    _log.info("%d of %d words of the model have foreign vectors; the map is fitted to these.",
              shared, len(indices))
    kept = [row for row, word in enumerate(names) if "_" not in word]
    words = OrderedDict((names[row], i) for i, row in enumerate(kept))
    own = {END: END_ID, UNK: UNK_ID, **indices}
    for word in own:
        words.setdefault(word, len(words))
    table = np.empty((len(words), Wemb.shape[1]), dtype=np.float32)
    with progress_bar(len(kept), "expanding the vocabulary", "word", verbose) as bar:
        for first in range(0, len(kept), _CHUNK):
            rows = kept[first:first + _CHUNK]
            table[first:first + len(rows)] = np.asarray(matrix[rows], np.float64) @ coef.T + intercept
            bar.update(len(rows))
    table[[words[word] for word in own]] = Wemb[list(own.values())]
    return words, table


def initial_vectors(word_vectors: Any, words: Sequence[str], dim: int, seed: int = 1234,
                    source: str = "word_vectors") -> np.ndarray:
    """Word vectors for a new model to start from.

    Parameters
    ----------
    word_vectors : gensim KeyedVectors, mapping of str to array, or (words, array)
        See :func:`load_word_vectors`.
    words : sequence of str
        Of the model, by index.
    dim : int
        Numbers of a vector, the model's ``dim_word``.
    seed : int
        For words that have no vector: these get random ones, as in a new model.
    source : str
        Named in errors.

    Returns
    -------
    array (len(words), dim) float32
        Given vectors are scaled, all by the same number, to the spread of a new model's.

    Raises
    ------
    StorytellerError
        If the vectors are of another length, or no word has one.
    """
    names, matrix = _named_rows(word_vectors)
    if matrix.shape[1] != dim:
        raise StorytellerError(f"{source}: the word vectors are {matrix.shape[1]}-dimensional, but the model's "
                               f"dim_word is {dim}: set dim_word to {matrix.shape[1]} or give other vectors")
    rows = {word: row for row, word in enumerate(names)}
    known = [i for i, word in enumerate(words) if word in rows]
    if not known:
        raise StorytellerError(f"{source}: has a vector for none of the model's {len(words)} words: give vectors of "
                               "the same language, with the same upper and lower case")
    found = init_matrix(len(words), dim, np.random.default_rng(seed))
    given = np.asarray(matrix[[rows[words[i]] for i in known]], dtype=np.float32)
    if not np.isfinite(given).all():
        raise StorytellerError(f"{source}: the word vectors hold NaN or infinity: fetch or train them again")
    found[known] = given * (found.std() / max(float(given.std()), 1e-12))
    _log.info("%d of %d words start from the vectors of %s", len(known), len(words), source)
    return found


def _checked(Wemb: np.ndarray, worddict: Mapping[str, int], n_words: int) -> tuple[np.ndarray, dict[str, int]]:
    """The model's table and the indices of its words, in the order of its dictionary."""
    Wemb = np.asarray(Wemb)
    if Wemb.ndim != 2 or Wemb.dtype.kind != "f" or len(Wemb) < n_words:
        raise StorytellerError(f"Wemb has shape {Wemb.shape} and dtype {Wemb.dtype}: expected float32, at least "
                               f"{n_words} rows, one for each of the model's n_words; check that options and "
                               "parameters belong together")
    return Wemb, {word: i for word, i in worddict.items() if 2 <= i < n_words}


def _named_rows(word_vectors: Any) -> tuple[list[str], np.ndarray]:
    """Words and matrix of whatever holds word vectors; words are unique."""
    if hasattr(word_vectors, "index_to_key") and hasattr(word_vectors, "vectors"):  # gensim
        names, matrix = list(word_vectors.index_to_key), word_vectors.vectors
    elif isinstance(word_vectors, Mapping):
        names, rows = list(word_vectors), list(map(np.ravel, word_vectors.values()))
        if len(set(map(len, rows))) > 1:
            raise StorytellerError(f"word_vectors are ragged ({min(map(len, rows))} to {max(map(len, rows))} "
                                   "numbers): expected one length for all words")
        matrix = np.array(rows)
    else:
        names, matrix = word_vectors
        names, matrix = list(names), np.asarray(matrix)
    if matrix.ndim != 2 or not len(names) or len(names) != len(matrix):
        raise StorytellerError(f"word_vectors has {len(names)} words and an array of shape {matrix.shape}: "
                               "expected one row for each word")
    if len(set(names)) != len(names):
        raise StorytellerError("word_vectors has a word twice: expected each word once")
    return names, matrix


def load_word_vectors(path: str | os.PathLike, limit: int | None = None) -> Any:
    """Read word vectors of word2vec, GloVe or fastText, as text or binary, through gensim.

    Parameters
    ----------
    path : path
        word2vec's binary or text form, GloVe's text (without a first line of sizes), fastText's
        ``.vec`` or ``.bin``; but for the last also packed as .gz, .bz2 or .xz.
    limit : int, optional
        Read only the first so many words, which are the most frequent in published files
        (not for ``.bin`` of fastText).

    Returns
    -------
    gensim.models.KeyedVectors
        For :func:`expand`.

    Raises
    ------
    StorytellerError
        If gensim is not installed, or the file is missing, damaged or something else.
    """
    what = "word vectors of word2vec, GloVe or fastText"
    with open_file(path, what) as file:
        head = file.read(4)
    try:
        from gensim.models import KeyedVectors
        from gensim.models.fasttext import load_facebook_vectors
    except ImportError as error:
        raise StorytellerError(f"{os.fspath(path)}: reading word vectors takes gensim, which is not installed: "
                               "pip install gensim") from error
    name = os.fspath(path)
    try:
        if head == b"\xba\x16\x4f\x2f":  # fastText's magic number
            return load_facebook_vectors(name)
        kind = _vector_kind(name, head)
        if kind is None:
            raise StorytellerError(f"{name}: this is {files.describe(name)}; expected {what}, so check whether "
                                   "files were swapped")
        vectors = KeyedVectors.load_word2vec_format(
            name, binary=kind == "binary", no_header=kind == "bare", limit=limit, unicode_errors="replace")
    except StorytellerError:
        raise
    except Exception as error:  # gensim raises whatever a damaged file makes it trip over
        raise StorytellerError(f"{name}: cannot be read as {what} ({type(error).__name__}: {error}); fetch or "
                               "copy the file again") from error
    return vectors


def _vector_kind(path: str, head: bytes) -> str | None:
    """'binary', 'text' (with a line of sizes), 'bare' (without), or None for something else."""
    import bz2
    import gzip
    import lzma

    packed: Any = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(head[:2], open)
    with packed(path, "rb") as file:
        first = file.readline(1 << 20).split()
        start = file.read(1 << 12)
    try:
        if len(first) == 2:
            rows, dim = int(first[0]), int(first[1])
            if rows < 1 or dim < 1:
                return None
            # In the binary form the first word is followed by raw numbers.
            line = start.split(b"\n")[0].split()
            try:
                list(map(float, line[1:dim + 1]))
                return "text" if len(line) > 1 else "binary"
            except ValueError:
                return "binary"
        list(map(float, first[-2:]))
        return "bare" if len(first) > 2 else None
    except ValueError:
        return None
