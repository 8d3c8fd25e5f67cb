"""Texts for training: streams of paragraphs, sentences, passages and triplets, and encoded corpora.

Everything is read line by line, so a corpus need not fit in memory; what is trained on again and again
is written to disk once as word indices (:class:`EncodedCorpus`).

A *break* is a place that nothing may be read across: from one book to the next, and from one chapter to
the next where a line looks like a heading.  In streams of sentences it is an empty string.
"""
from __future__ import annotations

import itertools
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import StorytellerError
from ..files import TEXT, TEXT_SUFFIXES, check_readable, save_npy_header, write_atomically, wrong_kind
from ..files import open_text as _open_text
from ..progress import counted, progress_bar
from ..text import each_text, normalize, split_sentences, tokenize_words, word_indices

__all__ = ["EncodedCorpus", "books", "is_heading", "normalize", "open_text", "paragraphs", "passages",
           "sentence_stream"]

LAYOUTS = ("auto", "lines", "blank")
_MAX_WORD = 1000        # characters: no language has longer words, files that are no text do
_LONG_WORD = re.compile(rf"\S{{{_MAX_WORD + 1}}}")
_SAMPLE = 2000          # lines that are looked at to tell the layout
_WRAP = 100             # characters of a line that was wrapped by hand


# Files.

def books(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """The text files that paths name.

    Parameters
    ----------
    paths : path or iterable of paths
        Files, and folders that hold files ending in .txt, .txt.gz, .txt.xz, .txt.bz2 or .txt.zst,
        at any depth.

    Returns
    -------
    list of str
        In the order of `paths`, a folder's files sorted by name; each once.

    Raises
    ------
    StorytellerError
        If there is no such file or folder, or a folder holds no texts.
    """
    found: dict[str, None] = {}
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name = os.fspath(path)
        if os.path.isdir(name):
            texts = [os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files
                     if file.lower().endswith(TEXT_SUFFIXES) and not file.startswith(".")]
            if not texts:
                raise StorytellerError(f"{name}: this folder holds no texts; expected files ending in "
                                       f"{', '.join(TEXT_SUFFIXES)}, one a book")
            found.update(dict.fromkeys(sorted(texts)))
        else:
            check_readable(name, TEXT)
            found[name] = None
    if not found:
        raise StorytellerError(f"paths is empty: expected {TEXT}, or a folder of such files")
    return list(found)


def open_text(path: str | os.PathLike) -> Iterator[str]:
    """The lines of a text that is trained on, read as they are asked for.

    Parameters
    ----------
    path : path
        See :func:`storyteller.files.open_text`.

    Yields
    ------
    str
        A line without its end, blank ones included.

    Raises
    ------
    StorytellerError
        As :func:`storyteller.files.open_text`; at a line with a word longer than a page; at the end, if the file
        holds nothing but blank lines.
    """
    return _checked(_open_text(path), os.fsdecode(path))


def _checked(lines: Iterator[str], path: str) -> Iterator[str]:
    blank = True
    for number, line in enumerate(lines, start=1):
        if len(line) > _MAX_WORD and _LONG_WORD.search(line):
            raise StorytellerError(f"{path}: line {number} holds a word of more than {_MAX_WORD} characters; expected "
                                   "running text with blanks between words, so take that line out or check "
                                   "whether files were swapped")
        blank = blank and not line.strip()
        yield line
    if blank:
        raise StorytellerError(f"{path}: is empty or blank; expected {TEXT}")


# Paragraphs.

_NUMBER = (r"(?:[ivxlc]+|\d+|(?:the\s+)?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
           r"\w+teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:[ -]\w+)?|first|second|third|\w+th|last))")
_NUMBERED = re.compile(rf"(?:chapter|part|book|volume|vol\.|canto|act|scene|section|letter|stave)\s+{_NUMBER}"
                       r"(?:[.:,;\s-].*)?", re.I)
_NAMED = re.compile(r"(?:the\s+)?(?:prologue|epilogue|preface|foreword|introduction|introductory|conclusion|"
                    r"contents|appendix|afterword|interlude|postscript|finis|end)[.:]?", re.I)
_ROMAN = re.compile(r"(?=[IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})[.:]?")
_FEW = 60  # characters: a longer line is no heading


def is_heading(paragraph: str) -> bool:
    """Whether a paragraph is a heading or a mark between scenes, which belongs to no text.

    That is a short line such as 'CHAPTER IV', 'Chapter 4. The Storm', 'IV', '12.', 'Part the
    Second', 'Epilogue', 'THE STORM' or '* * *'.

    Examples
    --------
    >>> [is_heading(line) for line in ("CHAPTER IV", "XII.", "* * *", "Part of it was true.", "Stop!")]
    [True, True, True, False, False]
    """
    line = paragraph.strip().strip("*_=~#[] ")
    if not any(map(str.isalnum, line)):
        return True
    if len(line) > _FEW:
        return False
    if _ROMAN.fullmatch(line) or _NAMED.fullmatch(line) or line.rstrip(".:").isdigit():
        return True
    if _NUMBERED.fullmatch(line):
        # "Part one of the plan had failed." is a sentence; "CHAPTER I. Loomings." is not.
        return line.isupper() or line.split()[0][0].isupper() and (
            len(line.split()) <= 3 or line[-1] not in ".?!\"';," or re.match(r"\S+\s+\S+[.:]\s", line) is not None)
    return line.isupper() and line[-1] not in ".?!,;\"'" and line[0] not in "\"'" and len(
        [c for c in line if c.isalpha()]) > 3


_GUTENBERG = re.compile(r"\s*\*\*\*\s*(START|END) OF (?:THE|THIS) PROJECT GUTENBERG", re.I)


def paragraphs(path: str | os.PathLike, layout: str = "auto", normalized: bool = True) -> Iterator[str]:
    """The paragraphs of a text file, headings included.

    Project Gutenberg's licence before and behind a book is left out.

    Parameters
    ----------
    path : path
        See :func:`open_text`.
    layout : 'auto', 'lines' or 'blank'
        One paragraph a line; or paragraphs apart by blank lines, their lines joined; or
        whichever the first lines look like: a file with blank lines whose other lines are
        short is of the second kind.
    normalized : bool
        As what is trained on; False for models that were trained on other texts, such as the published ones.

    Yields
    ------
    str
        A paragraph (never blank), as :func:`storyteller.text.normalize` makes it, or only its blanks single.

    Raises
    ------
    StorytellerError
        As :func:`open_text`, or if `layout` is none of the three.
    """
    if layout not in LAYOUTS:
        raise StorytellerError(f"layout is {layout!r}: expected one of {', '.join(LAYOUTS)}")
    return _paragraphs(open_text(path), layout, normalize if normalized else _single_blanks)


def _single_blanks(text: str) -> str:
    return " ".join(text.split())


def _paragraphs(lines: Iterator[str], layout: str, finish: Callable[[str], str]) -> Iterator[str]:
    sample = list(itertools.islice(lines, _SAMPLE))
    for i, line in enumerate(sample):
        mark = _GUTENBERG.match(line)
        if mark and mark[1].upper() == "START":
            sample[:i + 1] = []
            break
    if layout == "auto":
        layout = _layout_of(sample)
    block: list[str] = []
    ended = False
    for line in itertools.chain(sample, lines):
        if ended or (line.startswith("*") and _GUTENBERG.match(line)):
            ended = True  # read on, as damage behind the mark is damage
        elif line.strip():
            block.append(line)
        if block and (layout == "lines" or ended or not line.strip()):
            text = finish(" ".join(block))
            block = []
            if text:
                yield text
    if block:
        text = finish(" ".join(block))
        if text:
            yield text


def _layout_of(lines: Sequence[str]) -> str:
    """'blank' where runs of lines between blank ones look wrapped: nine in ten are short."""
    if not any(not line.strip() for line in lines[:-1]):
        return "lines"
    inner = [len(line) for line, after in zip(lines, lines[1:]) if line.strip() and after.strip()]
    return "blank" if inner and sum(n <= _WRAP for n in inner) >= 0.9 * len(inner) else "lines"


# Sentences.

def _tokenized(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph as words joined by single blanks; none is empty."""
    for sentence in split_sentences(paragraph):
        words = tokenize_words(sentence)
        if words:
            yield " ".join(words)


def sentence_stream(paths: str | os.PathLike | Iterable[str | os.PathLike], layout: str = "auto",
                    ) -> Iterator[str]:
    """The tokenised sentences of books, with an empty string at every break.

    Parameters
    ----------
    paths : see :func:`books`
    layout : see :func:`paragraphs`

    Yields
    ------
    str
        A sentence, or '' between two chapters or books; never two of these in a row, nor one
        at the start.  What :class:`EncodedCorpus` keeps for triplets.

    Raises
    ------
    StorytellerError
        As :func:`books` and :func:`paragraphs`; at the end, if there was no sentence.
    """
    files = books(paths)

    def stream() -> Iterator[str]:
        open_break, any_yet = False, False
        for path in files:
            open_break = any_yet
            for paragraph in paragraphs(path, layout):
                if is_heading(paragraph):
                    open_break = any_yet
                    continue
                for sentence in _tokenized(paragraph):
                    if open_break:
                        yield ""
                        open_break = False
                    any_yet = True
                    yield sentence
        if not any_yet:
            raise StorytellerError(f"{named(files)}: holds no words but headings; expected running text")

    return stream()


def named(paths: Sequence[str]) -> str:
    """Files as a message names them."""
    others = len(paths) - 1
    return f"{paths[0]} and {counted(others, 'other file')}" if others else paths[0]


def passages(paths: str | os.PathLike | Iterable[str | os.PathLike], min_words: int = 100,
             max_words: int = 200, layout: str = "auto", tokenized: bool = False,
             between: str = " ") -> Iterator[str]:
    """Passages of a chosen length: paragraphs in a row joined, never across a break.

    A paragraph joins the passage before it as long as `max_words` allow.  One that is longer
    than that alone is taken sentence by sentence; a sentence that is longer is left out.

    Parameters
    ----------
    paths : see :func:`books`
    min_words, max_words : int
        Words of a passage, both included; what is left at a break and shorter is dropped.
    layout : see :func:`paragraphs`
    tokenized : bool
        Give (and count) words as :func:`storyteller.text.tokenize_words` makes them, joined by
        blanks, as the decoder is trained on; else plain text, words split at white space, as
        for :func:`storyteller.style.make`.
    between : str
        What stands between two sentences of a passage: white space, such as a tab to tell them
        apart again.

    Yields
    ------
    str

    Raises
    ------
    StorytellerError
        As :func:`books` and :func:`paragraphs`; if the bounds make no sense; at the end, if
        there was no passage.
    """
    if not between.isspace():
        raise StorytellerError(f"between is {between!r}: expected white space, as words are told apart by it")
    if not 1 <= min_words <= max_words:
        raise StorytellerError(f"min_words is {min_words} and max_words {max_words}: expected at least 1 word, "
                               "and no more for the smaller than for the larger")
    files = books(paths)

    def rows() -> Iterator[str]:
        found = longest = 0
        for path in files:
            units = _units(path, layout, tokenized, max_words, between)
            for passage, words in _packed(units, max_words, between):
                longest = max(longest, words)
                if words >= min_words:
                    found += 1
                    yield passage
        if not found:
            raise StorytellerError(f"{named(files)}: no passage has {min_words} to {max_words} words (the longest has "
                                   f"{longest}): give longer texts, or another min_words or max_words (--min-words, "
                                   "--max-words)")

    return rows()


def _units(path: str, layout: str, tokenized: bool, max_words: int, between: str) -> Iterator[tuple[str, int]]:
    """What passages are made of: (text, words); words 0 for a break."""
    for paragraph in paragraphs(path, layout):
        if is_heading(paragraph):
            yield "", 0
            continue
        parts = (list(_tokenized(paragraph)) if tokenized else
                 split_sentences(paragraph) if between != " " else None)
        unit = paragraph if parts is None else between.join(parts)
        words = len(unit.split())
        if words <= max_words:
            if words:
                yield unit, words
            continue
        for sentence in split_sentences(paragraph) if parts is None else parts:
            words = len(sentence.split())
            yield (sentence, words) if words <= max_words else ("", 0)


def _packed(units: Iterable[tuple[str, int]], max_words: int, between: str) -> Iterator[tuple[str, int]]:
    texts: list[str] = []
    total = 0
    for text, words in itertools.chain(units, [("", 0)]):
        if texts and (not words or total + words > max_words):
            yield between.join(texts), total
            texts, total = [], 0
        if words:
            texts.append(text)
            total += words


# Encoded corpora.

class EncodedCorpus(Sequence[np.ndarray]):
    """Sentences as word indices on the disk, memory-mapped: ``corpus[i]`` is a sentence.

    Parameters
    ----------
    path : path
        As given to :meth:`build`: the files are PATH.tokens.npy (int32) and PATH.offsets.npy
        (int64, one more than there are sentences).
    source : str, optional
        What it was made from, for messages; by default `path`.

    Attributes
    ----------
    source : str
        What messages call it; the path unless given.
    tokens : array (words,) int32
        Of all sentences, one after the other.
    lengths : array (n,) int32
        Words of each sentence; 0 for a break.

    Raises
    ------
    StorytellerError
        If a file is missing or damaged, or they do not belong together.
    """

    def __init__(self, path: str | os.PathLike, source: str | None = None):
        names = _corpus_files(path)
        self.path = os.fspath(path)
        self.source = source or self.path
        self.tokens = _mapped(names[0], np.int32)
        self._offsets = _mapped(names[1], np.int64)
        lengths = np.diff(self._offsets)
        if (len(self._offsets) < 2 or self._offsets[0] != 0 or self._offsets[-1] != len(self.tokens)
                or lengths.min() < 0):
            raise StorytellerError(f"{names[1]}: does not belong to {names[0]}; expected where each of its "
                                   "sentences begins, so encode the corpus again")
        self.lengths = lengths.astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Sentence `index`: array (lengths[index],) int32, a read-only view of the file."""
        if not isinstance(index, (int, np.integer)):
            raise TypeError(f"a corpus is indexed by one whole number, not {type(index).__name__}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"sentence {index} of {len(self)}")
        index = int(index) % len(self)
        return self.tokens[self._offsets[index]:self._offsets[index + 1]]

    def triplets(self) -> np.ndarray:
        """Rows of the sentences that have a neighbour on both sides, breaks aside.

        Returns
        -------
        array (n,) int64
            Of the current sentences: previous and following stand at row - 1 and row + 1.

        Raises
        ------
        StorytellerError
            If there is none.
        """
        words = self.lengths > 0
        rows = np.flatnonzero(words[:-2] & words[1:-1] & words[2:]) + 1  # of fewer than three: none
        if not len(rows):
            raise StorytellerError(f"{self.source}: has nowhere three sentences in a row ("
                                   f"{counted(int(words.sum()), 'sentence')}): skip-thoughts learn from "
                                   "neighbours, so give running text")
        return np.asarray(rows, dtype=np.int64)

    def triplet_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Words of the current, following and previous sentences: array (len(rows), 3) int32."""
        return np.stack([self.lengths[rows], self.lengths[rows + 1], self.lengths[rows - 1]], axis=1)

    @classmethod
    def build(cls, path: str | os.PathLike, texts: Iterable[str], worddict: Mapping[str, int],
              n_words: int | None = None, verbose: bool = True, source: str | None = None) -> EncodedCorpus:
        """Encode texts to disk, in bounded memory, and open the result.

        Parameters
        ----------
        path : path
            Where to; the two files appear only once they are complete.
        texts : iterable of str
            Tokenised, split at white space, such as :func:`sentence_stream`; an empty one is
            a break.
        worddict : dict of str to int
        n_words : int, optional
            An index of `n_words` or more becomes 1 (``UNK``), like an unknown word.
        verbose : bool
            Show progress (on a terminal only).
        source : str, optional
            As of :class:`EncodedCorpus`.

        Returns
        -------
        EncodedCorpus

        Raises
        ------
        StorytellerError
            If the texts hold no words, or the files cannot be written.
        """
        texts = each_text(texts, "texts")
        token_file, offset_file = _corpus_files(path)
        with write_atomically(offset_file, sync=True) as offsets:
            with write_atomically(token_file, sync=True) as tokens, \
                    progress_bar(None, "encoding", "text", verbose) as bar:
                n_texts, total = _encode(texts, dict(worddict), n_words, tokens, offsets, bar)
                if not total:
                    raise StorytellerError(f"{os.fspath(path)}: the texts to encode hold no words: give texts "
                                           "with at least one word")
                _finish(tokens, "<i4", total)
                _finish(offsets, "<i8", n_texts + 1)
                # Stale offsets must never stand beside new tokens, whatever happens between two renames.
                if os.path.exists(offset_file):
                    os.remove(offset_file)
        return cls(path, source)


def _corpus_files(path: str | os.PathLike) -> tuple[str, str]:
    return f"{os.fspath(path)}.tokens.npy", f"{os.fspath(path)}.offsets.npy"


def _encode(texts: Iterable[str], worddict: dict[str, int], n_words: int | None, tokens: BinaryIO,
            offsets: BinaryIO, bar: Any) -> tuple[int, int]:
    """Write behind room for the headers; return (texts, words)."""
    _finish(tokens, "<i4", 0)
    _finish(offsets, "<i8", 0)
    ids, ends = array("i"), array("q", [0])
    n_texts = total = 0

    def flush() -> None:
        tokens.write(np.array(ids, dtype="<i4").tobytes())
        offsets.write(np.array(ends, dtype="<i8").tobytes())
        del ids[:], ends[:]

    for text in texts:
        ids.extend(word_indices(text.split(), worddict, n_words))
        n_texts += 1
        if len(ids) + len(ends) > 1 << 18:
            bar.update(n_texts - bar.n)
            total += len(ids)
            ends.append(total)
            flush()
        else:
            ends.append(total + len(ids))
    total += len(ids)
    flush()
    return n_texts, total


def _finish(file: BinaryIO, descr: str, count: int) -> None:
    """Write the .npy header of a vector at the start of the file: the same length for any count."""
    file.seek(0)
    save_npy_header(file, (count,), descr)


def _mapped(path: str, dtype: Any) -> np.ndarray:
    what = "a part of an encoded corpus (a .npy file)"
    if check_readable(path, what) != "npy":
        raise wrong_kind(path, what)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads headers as Python: a damaged one can fail in many ways
        raise StorytellerError(f"{path}: is damaged or cut off ({type(error).__name__}: {str(error)[:100]}); expected "
                               f"{what}, so encode the corpus again") from error
    if mapped.dtype != dtype or mapped.ndim != 1:
        raise StorytellerError(f"{path}: holds {mapped.dtype} of shape {mapped.shape}; expected {what}, so check "
                               "whether files were swapped")
    return mapped.view(np.ndarray)
