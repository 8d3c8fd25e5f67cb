"""Text: sentences, words, captions, dictionaries and batches of equal length.

The original (Kiros et al., "Skip-Thought Vectors", 2015, arXiv:1506.06726) splits text into
sentences with Punkt (Kiss & Strunk, Computational Linguistics 32:4, 2006) and into words by
the rules of the Penn Treebank (Marcus et al., Computational Linguistics 19:2, 1993), both as
NLTK 3.1 had them.  Here the word rules are plain regular expressions, because NLTK's have
changed since, and NLTK, which takes most of a second to import, is imported only for a
text in which a sentence can end before the text does.
"""
from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyteller import cache, files
from storyteller.errors import StorytellerError, check_count, shown

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

__all__ = [
    "END",
    "END_ID",
    "UNK",
    "UNK_ID",
    "as_sentences",
    "build_dictionary",
    "check_dictionary",
    "detokenize",
    "each_text",
    "load_vocabulary",
    "normalize",
    "open_vocabulary",
    "preprocess",
    "read_captions",
    "read_lines",
    "sorted_batches",
    "split_sentences",
    "tokenize_words",
    "word_indices",
    "words_by_index",
]

logger = logging.getLogger(__name__)

# The end of a text and the unknown word: words of a dictionary, and their indices in models that number from 0.
END, UNK = "<eos>", "UNK"
END_ID, UNK_ID = 0, 1

DICTIONARY_MD5 = "26d8a3e6458500013723b380a4b4b55e"  # of the published dictionary.txt


# Words.  Each rule sees the text as the one before it left it, so their order matters, and
# so does which characters a rule consumes: "a,,b" has always been "a", ",", ",b".  ASCII
# classes, as for Python 2 patterns without re.UNICODE.

def _rules(*pairs: tuple[str, str], flags: int = 0) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern, re.ASCII | flags), into) for pattern, into in pairs]


_BEFORE_PADDING = _rules(
    (r'^"', "``"),                              # a double quote opens at the start,
    (r"``", " `` "),
    (r'([ (\[{<])"', r"\1 `` "),                # after a blank or an opening bracket
    (r"([:,])([^\d])", r" \1 \2"),              # but 3,141 and 10:45 stay whole
    (r"([:,])$", r" \1 "),
    (r"\.\.\.", " ... "),
    (r"([;@#$%&])", r" \1 "),
    (r"([^.])\.([\])}>\"']*)\s*$", r"\1 .\2 "),  # only the last point is a word
    (r"([?!])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"([\[\](){}<>]|--)", r" \1 "),
)
_AFTER_PADDING = _rules(
    (r'"', " '' "),                             # any other double quote closes
    (r"(\S)('')", r"\1 \2 "),
    (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
) + _rules(
    (r"\b(can)(not)\b", r" \1 \2 "),
    (r"\b(d)('ye)\b", r" \1 \2 "),
    (r"\b(gim|lem)(me)\b", r" \1 \2 "),
    (r"\b(gon)(na)\b", r" \1 \2 "),
    (r"\b(got)(ta)\b", r" \1 \2 "),
    (r"\b(mor)('n)\b", r" \1 \2 "),
    (r"\b(wan)(na) ", r" \1 \2 "),
    (r" ('t)(is|was)\b", r" \1 \2 "),
    flags=re.IGNORECASE,
)


def tokenize_words(sentence: str) -> list[str]:
    """Split a sentence into words by the Penn Treebank's rules.

    Gives what ``TreebankWordTokenizer`` of NLTK 3.1 gave (2015, the original's): ``don't``
    becomes ``do n't``, double quotes become `````` and ``''``, punctuation stands alone,
    curly quotes stay part of their word.  NLTK's later versions differ in ``more'n``, in
    words that begin with ``''`` and in ``''`` after an opening bracket.

    Parameters
    ----------
    sentence : str
        One sentence: only a point at its end becomes a word of its own.

    Returns
    -------
    list of str
        Words without blanks, case kept; empty when the sentence holds no words.

    Examples
    --------
    >>> tokenize_words('"I don\\'t know," she said.')
    ['``', 'I', 'do', "n't", 'know', ',', "''", 'she', 'said', '.']
    """
    for pattern, into in _BEFORE_PADDING:
        sentence = pattern.sub(into, sentence)
    sentence = f" {sentence} "
    for pattern, into in _AFTER_PADDING:
        sentence = pattern.sub(into, sentence)
    return sentence.split()


# Sentences.

_PUNKT = Path(__file__).parent / "data" / "punkt"

# A mark that can end a sentence, and after it anything but closing quotes and brackets.
_MAY_SPLIT = re.compile(r"[.?!](?![\"')\]}]*\Z)")


def split_sentences(text: str) -> list[str]:
    """Split text into sentences with Punkt (Kiss & Strunk, 2006).

    The parameters are the package's own, trained on novels and captions, whatever NLTK has on
    this machine: results are the same everywhere.  They are read once a process.

    Parameters
    ----------
    text : str
        Running text of any length.

    Returns
    -------
    list of str
        Sentences in order, without the white space around them; empty for blank text.

    Examples
    --------
    >>> split_sentences("Mr. Brown sat down. He was tired.")
    ['Mr. Brown sat down.', 'He was tired.']
    """
    text = text.strip()
    if not text:
        return []
    if not _MAY_SPLIT.search(text):
        return [text]
    return list(_sentence_tokenizer().tokenize(text))


def preprocess(text: str | bytes) -> str:
    """Text as the skip-thought encoder sees it: words joined by single blanks.

    Sentences are split with :func:`split_sentences`, words with :func:`tokenize_words`, as
    in the original's ``preprocess`` (Kiros et al., 2015), whose leading blank is left out.

    Parameters
    ----------
    text : str or bytes
        Bytes are read as UTF-8; what is not valid becomes U+FFFD.

    Returns
    -------
    str
        The words of all sentences; '' when there are none.

    Raises
    ------
    StorytellerError
        If `text` is neither str nor bytes.

    Examples
    --------
    >>> preprocess("It isn't what you think, is it?")
    "It is n't what you think , is it ?"
    """
    if isinstance(text, (bytes, bytearray)):
        text = bytes(text).decode("utf-8", errors="replace")
    if not isinstance(text, str):
        raise StorytellerError(
            f"the text is {shown(text)}: expected a string; give each sentence as one")
    return " ".join(word for sentence in split_sentences(text)
                    for word in tokenize_words(sentence))


@functools.lru_cache(maxsize=1)
def _sentence_tokenizer() -> PunktSentenceTokenizer:
    """Punkt with the package's parameters, which stand in the four files of NLTK's punkt_tab layout."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    try:
        abbreviations, collocations, starters, context = (
            (_PUNKT / name).read_text(encoding="utf-8").rstrip("\n").split("\n")
            for name in ("abbrev_types.txt", "collocations.tab", "sent_starters.txt", "ortho_context.tab"))
        params = PunktParameters()
        params.abbrev_types, params.sent_starters = set(abbreviations), set(starters)
        params.collocations = {tuple(line.split("\t")) for line in collocations}
        # A Counter does not grow by the words that are looked up, unlike NLTK's own defaultdict.
        params.ortho_context = Counter({word: int(flags) for word, _, flags in
                                        (line.rpartition("\t") for line in context)})
    except (OSError, ValueError) as error:
        raise StorytellerError(f"{_PUNKT} does not hold the package's sentence splitter ({error}): "
                               "install storyteller again.") from error
    return PunktSentenceTokenizer(params)


# Files.

def read_lines(source: files.Source, strip: bool = True) -> list[str]:
    """Read a text of one item a line.

    Parameters
    ----------
    source : path or binary stream
        See :func:`storyteller.files.open_text`; bytes that are not UTF-8 become U+FFFD, with one warning in the log.
    strip : bool, default True
        Take white space off both ends of each line.

    Returns
    -------
    list of str
        One item a line, blank ones included; a line end at the end adds none.

    Raises
    ------
    StorytellerError
        If there is no such file, or it is empty or no text.
    """
    lines = files.open_text(source, invalid="replace")
    return [line.strip() if strip else line for line in lines]


_JSON = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]])")
_IMAGE_NAME = re.compile(r"\S+\.(?:jpe?g|png|gif|bmp|webp|tiff?)\b", re.IGNORECASE)
_LONG = 1 << 28         # characters: the captions of COCO are one line of 90 million


def read_captions(source: files.Source, aligned: bool = False) -> list[str]:
    """Read captions.

    Parameters
    ----------
    source : path or binary stream
        One caption a line; the ``image.jpg#0<TAB>caption`` of Flickr (``results_20130124.token``); or the JSON of COCO
        (``captions_train2014.json``), whose captions are split into words by :func:`tokenize_words`, as captions of
        the other kinds are already.  For encodings and packed files see :func:`storyteller.files.open_text`; bytes
        that are not UTF-8 become U+FFFD, with one warning in the log.
    aligned : bool
        Each caption belongs to a row of image features, so that a blank line between two is an error.

    Returns
    -------
    list of str
        Stripped captions in order; blank ones are left out, with a warning in the log.

    Raises
    ------
    StorytellerError
        If the file cannot be read, is something else than captions or has none.
    """
    what = "captions, one a line (or Flickr's token file, or COCO's JSON)"
    name = str(getattr(source, "name", "the stream")) if hasattr(source, "read") else os.fsdecode(source)
    lines = [line.strip() for line in files.open_text(source, what, "replace", max_line=_LONG)]
    while lines and not lines[-1]:
        lines.pop()
    first = next(filter(None, lines), "")
    if _JSON.match(first):
        lines = _json_captions("\n".join(lines), name, what)
    elif any(_IMAGE_NAME.match(line) for line in lines[:3]):
        rows = [line.partition("\t") for line in lines if line]
        if not all(_IMAGE_NAME.match(image) and caption.strip() for image, _, caption in rows):
            raise StorytellerError(f"{name}: holds names of image files; expected {what}, so take the column of the "
                                   "captions out of it")
        lines = [caption.strip() for _, _, caption in rows]
    captions = [line for line in lines if line]
    if not captions:
        raise StorytellerError(f"{name}: holds no captions; expected {what}")
    if len(captions) < len(lines):
        if aligned:
            raise StorytellerError(f"{name}: line {lines.index('') + 1} is blank; expected a caption, as each row of "
                                   "image features belongs to a line")
        logger.warning("%s: %d of %d lines are blank and left out.", name, len(lines) - len(captions), len(lines))
    if 2 * sum(" " in caption for caption in captions) < len(captions):
        logger.warning("%s: most of its lines are single words; expected %s, so check whether files were swapped.",
                       name, what)
    return captions


def _json_captions(content: str, name: str, what: str) -> list[str]:
    """The captions of COCO's annotations, of results in its form, of a list, or of Karpathy's splits."""
    try:
        data = json.loads(content, parse_int=lambda digits: 0, parse_float=lambda digits: 0)    # none is looked at
        if isinstance(data, dict):
            rows = data["annotations"] if "annotations" in data else [
                sentence for image in data["images"] for sentence in image["sentences"]]
        else:
            rows = data
        found = [row if isinstance(row, str) else row["caption"] if "caption" in row else row["raw"] for row in rows]
        # Not valid Unicode: half of a pair, which JSON can hold.
        return [" ".join(tokenize_words(caption.encode("utf-8", "replace").decode())) for caption in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorytellerError(f"{name}: is JSON, but not of captions ({type(error).__name__}); expected {what}, such "
                               "as captions_train2014.json") from error


# Typography.

_TYPOGRAPHY = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"',
    "\u2014": " -- ", "\u2015": " -- ", "\u2026": "...", "\u00ad": None, "\u200b": None, "\u2060": None,
    "\ufeff": None})
_EMPHASIS = re.compile(r"(?<!\w)_([^_]+)_(?!\w)")


def normalize(text: str) -> str:
    """Typography as the Treebank's word rules know it, accents composed (NFC), with single blanks.

    Quotes become straight, dashes `` -- ``, the ellipsis three points; soft hyphens and the
    underscores of Gutenberg's emphasis go.  Texts that are trained on are read so; a model whose
    options hold ``normalize`` is given every text so, too.

    Examples
    --------
    >>> normalize("\u201cI _won\u2019t_\u2014never!\u201d")
    '"I won\\'t -- never!"'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).replace(" \u2013 ", " -- ").translate(_TYPOGRAPHY)
    if "_" in text:
        text = _EMPHASIS.sub(r"\1", text)
    return " ".join(text.split())


def warn_unknown(unknown: int, words: int, what: str) -> None:
    """One warning where more than half of the words are unknown to a model."""
    if 2 * unknown > words:
        logger.warning("%.0f %% of the words are unknown to the %s: is this another language, or all in capitals?",
                       100 * unknown / words, what)


def load_vocabulary(path: str | os.PathLike[str]) -> tuple[dict[str, int], int]:
    """Read ``dictionary.txt``: the word in line i names row i of the word-vector tables.

    Lines end at LF only; each is decoded as UTF-8 and then stripped of Unicode white space.
    Where a word occurs twice the later row wins.

    Parameters
    ----------
    path : str or path-like
        The file; the published one has 930,911 lines.

    Returns
    -------
    words : dict of str to int
        Row of each distinct word, from 0.
    n_rows : int
        Lines in the file, which is how many rows the tables must have.

    Raises
    ------
    StorytellerError
        If the file cannot be read, is not UTF-8 or lacks the word ``UNK``: then it is
        damaged or a partial download.
    """
    again = f"fetch dictionary.txt again (the published file's md5 is {DICTIONARY_MD5})"
    lines = list(files.open_text(path, "dictionary.txt of the skip-thoughts model", newline="\n", hint=again))
    words = {line.strip(): row for row, line in enumerate(lines)}
    if UNK not in words:
        raise StorytellerError(f"{os.fsdecode(path)}: has no line 'UNK', which stands for unknown words; it is "
                               f"damaged or a partial download, so {again}")
    return words, len(lines)


def open_vocabulary(path: str | os.PathLike[str]) -> tuple[Mapping[str, int], int]:
    """:func:`load_vocabulary`, of which a large file is read once and from then on looked up in the cache.

    Returns
    -------
    words : mapping of str to int
    n_rows : int

    Raises
    ------
    StorytellerError
        As :func:`load_vocabulary`.
    """
    small: list[tuple[dict[str, int], int]] = []

    def make() -> dict[str, np.ndarray]:
        words, n_rows = load_vocabulary(path)
        small.append((words, n_rows))
        hashes = np.fromiter(map(_word_hash, words), np.uint64, len(words))
        order = np.argsort(hashes)
        rows = np.fromiter(words.values(), np.int32, len(words))
        arrays = {"hashes": hashes[order], "rows": rows[order], "n_rows": np.array([n_rows], np.int32)}
        # Arrays of the cache are float32: these are by their bits only.
        return {name: np.ascontiguousarray(array).view(np.float32) for name, array in arrays.items()}

    arrays = cache.cached_arrays("words", path, ["hashes"], make)
    if small:
        return small[0]
    words = _StoredWords(path, arrays["hashes"].view(np.uint64), arrays["rows"].view(np.int32))
    return words, int(arrays["n_rows"].view(np.int32)[0])


def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class _StoredWords(Mapping):
    """Word -> row, by sorted hashes of 64 bits.

    Of a million words: one in 10^13 that are none of them would be taken for one.
    """

    def __init__(self, path: str | os.PathLike[str], hashes: np.ndarray, rows: np.ndarray):
        self._path, self._hashes, self._rows = path, hashes, rows

    def __getitem__(self, word: str) -> int:
        if not isinstance(word, str):
            raise KeyError(word)
        key = np.uint64(_word_hash(word))
        found = int(np.searchsorted(self._hashes, key))
        if found == len(self._hashes) or self._hashes[found] != key:
            raise KeyError(word)
        return int(self._rows[found])

    def __iter__(self) -> Iterator[str]:
        return iter(load_vocabulary(self._path)[0])

    def __len__(self) -> int:
        return len(self._rows)


# Indices and batches.

def words_by_index(dictionary: Mapping[str, int], n_words: int) -> list[str]:
    """The words of a model in the order of their indices: :data:`END`, :data:`UNK`, then the dictionary's.

    Returns
    -------
    list of str, `n_words`
        '' where the dictionary names none.
    """
    words = [END, UNK] + [""] * (n_words - 2)
    for word, index in dictionary.items():
        if 2 <= index < n_words:
            words[index] = word
    return words[:n_words]


def check_dictionary(dictionary: Mapping[str, int], n_words: int, path: str | os.PathLike[str]) -> None:
    """Whether a dictionary can be that of a model of `n_words` words.

    It may have more words.  Of one that names nearly all of the model's, a warning says how many it lacks.

    Raises
    ------
    StorytellerError
        If it (the file `path`) names less than half of them.
    """
    named, wanted = sum(map(bool, words_by_index(dictionary, n_words)[2:])), n_words - 2
    if not named or 2 * named < wanted:
        raise StorytellerError(f"{os.fspath(path)}: names {named:,} of the model's {wanted:,} words: expected the "
                               "dictionary that was saved with the model")
    if named < wanted:
        logger.warning("%s names %d of the model's %d words; the others are UNK", os.fspath(path), named, wanted)


def word_indices(words: Sequence[str], dictionary: dict[str, int], n_words: int | None,
                 unk: int = UNK_ID) -> list[int]:
    """Index of each word, or `unk` where it is unknown or beyond the model's vocabulary.

    Parameters
    ----------
    words : list of str
    dictionary : dict of str to int
    n_words : int or None
        Words the model knows: an index of `n_words` or more becomes `unk`.  None: no limit.
    unk : int, default 1
        Index of ``UNK``, 1 in all dictionaries of this family.

    Returns
    -------
    list of int, as many as `words`

    Examples
    --------
    >>> word_indices(["a", "dog", "zyzzyva"], {"a": 2, "dog": 9}, n_words=9)
    [2, 1, 1]
    """
    indices = [dictionary.get(word, unk) for word in words]
    if n_words is not None:
        indices = [index if index < n_words else unk for index in indices]
    return indices


def sorted_batches(lengths: Sequence[int] | np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of about equal length, longest first, so that little is padded.

    Parameters
    ----------
    lengths : sequence of int, shape (n,)
    batch_size : int
        Items of every batch but the last, which may have fewer.

    Returns
    -------
    list of int64 arrays
        Positions in `lengths`, each once: longest first, in their order within a length.
        Results have to be put back to these positions by the caller.

    Raises
    ------
    StorytellerError
        If `batch_size` is below 1.

    Examples
    --------
    >>> [batch.tolist() for batch in sorted_batches([3, 1, 3, 5], batch_size=2)]
    [[3, 0], [2, 1]]
    """
    check_count("batch_size", batch_size)
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start:start + batch_size] for start in range(0, len(order), batch_size)]


SENTENCE_ENDS = (".", "!", "?")


def sentence_ends(words: Sequence[str]) -> list[int]:
    """Indices of the words that end a sentence, :data:`SENTENCE_ENDS`.  A closing quotation mark that follows
    belongs to the sentence before, and still counts as written after its end."""
    return [i for i, word in enumerate(words) if word in SENTENCE_ENDS]


def build_dictionary(texts: Iterable[str]) -> tuple[OrderedDict[str, int], OrderedDict[str, int]]:
    """Number the words of texts by descending frequency, as the original's ``vocab`` does.

    Parameters
    ----------
    texts : iterable of str
        Tokenised texts, split at white space.

    Returns
    -------
    words : OrderedDict of str to int
        Index of each word: 2 for the most frequent and so on (0 is ``<eos>``, 1 ``UNK``).
        Of equally frequent words the one seen first comes first (in the original that
        depended on NumPy's sort).
    counts : OrderedDict of str to int
        How often each word occurs, in order of first appearance.

    Examples
    --------
    >>> words, counts = build_dictionary(["a dog and a cat"])
    >>> list(words.items())
    [('a', 2), ('dog', 3), ('and', 4), ('cat', 5)]
    """
    counts: Counter[str] = Counter()
    for text in each_text(texts, "texts"):
        counts.update(text.split())
    by_frequency = sorted(counts, key=counts.__getitem__, reverse=True)  # stable
    words = OrderedDict((word, index) for index, word in enumerate(by_frequency, start=2))
    return words, OrderedDict(counts.items())


# Reading again.

_JOINS = _rules(
    (r"(?:^|(?<=\s))``\s*", '"'),
    (r"\s*''(?=\s|$)", '"'),
    (r"(?<=[\w.])\s+(n't|'(?:s|m|d|ll|re|ve))(?![\w'])", r"\1"),
    (r"\b(can) (not)\b", r"\1\2"),
    (r"\b(gim|lem) (me)\b", r"\1\2"),
    (r"\b(gon|wan) (na)\b", r"\1\2"),
    (r"\b(got) (ta)\b", r"\1\2"),
    (r"\b(d) ('ye)\b", r"\1\2"),
    (r"('t) (is|was)\b", r"\1\2"),
    (r"\s+'(?=[\s\"]|$)", "'"),      # one that opens is never a word
    (r"([(\[{$#])\s+", r"\1"),
    (r"\s+([)\]}%])", r"\1"),
    (r"\s+(\.\.\.|[.,;:?!]+)(?=[\s.,;:?!)\]}\"']|$)", r"\1"),
    (r"(?<![\w.'-])i(?![.-]?\w|-)", "I"),
    flags=re.IGNORECASE,
)
# Not after "?" and a closing quote, where "he asked" may follow, an ellipsis, or "i.e.".
_SENTENCE_START = re.compile(r"(^|(?<!\.)(?<!\.\w)\.[\"')\]]*\s+|[?!]\s+)([\"'(\[]*)([^\W\d_])")


def detokenize(text: str) -> str:
    """Join Treebank words for reading; the inverse of :func:`preprocess` as far as it goes.

    Contractions and punctuation go back to their word, `````` and ``''`` become double
    quotes, sentences begin with a capital and ``i`` becomes ``I``.  Names stay in lower
    case where they are.

    Parameters
    ----------
    text : str
        Words joined by blanks, as the decoder writes them.

    Returns
    -------
    str

    Examples
    --------
    >>> detokenize("`` i do n't know , '' he said .")
    '"I don\\'t know," he said.'
    """
    text = " ".join(text.split())
    for pattern, into in _JOINS:
        text = pattern.sub(into, text)
    text = re.sub(r"\b(?:mr|mrs|ms|dr)\. ", lambda m: m[0].capitalize(), text)
    return _SENTENCE_START.sub(lambda m: m[1] + m[2] + m[3].upper(), text)


# Lists of texts.

def as_sentences(X: Iterable[str | bytes], name: str = "X") -> list[str]:
    """The texts of an argument as a list: :func:`each_text`, all at once."""
    return list(each_text(X, name))


def each_text(X: Iterable[str | bytes], name: str = "X") -> Iterator[str]:
    """The texts of an argument one after the other, each of them checked.

    Parameters
    ----------
    X : iterable of str
        A list, an array of one dimension, a column of a data frame, a generator ...; bytes are read as UTF-8 (what
        is not valid becomes U+FFFD).
    name : str
        Of the argument, for messages.

    Yields
    ------
    str

    Raises
    ------
    StorytellerError
        At once, if X is one text or no list of texts; later at an entry that is no text.
    """
    columns = getattr(X, "columns", getattr(X, "column_names", None))
    wrong = hint = None
    if isinstance(X, (str, bytes, bytearray)):
        wrong, hint = "is one text", f"write [{name}]"
    elif isinstance(X, Mapping):
        wrong, hint = "is a dict", f"give its texts, such as list({name}.values())"
    elif isinstance(X, (set, frozenset)):
        wrong, hint = "is a set, which has no order", f"write sorted({name})"
    elif columns is not None and not callable(columns) and len(columns):
        column = "text" if "text" in list(columns) else list(columns)[0]
        wrong, hint = "is a table", f"give one of its columns, such as {name}[{shown(column)}]"
    elif getattr(X, "ndim", 1) == 0:
        wrong, hint = "is an array of no dimension", f"write [{name}.item()]"
    elif getattr(X, "ndim", 1) != 1:
        wrong, hint = f"has {X.ndim} dimensions", f"give one of its columns, such as {name}[:, 0]"  # type: ignore
    elif not isinstance(X, Iterable):
        wrong, hint = f"is {shown(X)}", "give the texts in a list"
    if wrong:
        raise StorytellerError(f"{name} {wrong}: expected a list of texts; {hint}")
    return (_checked_text(text, i, name) for i, text in enumerate(X))


def _checked_text(text: Any, i: int, name: str) -> str:
    if isinstance(text, str):
        return text
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    hint = ("leave missing entries out, or write ''" if text is None or text != text else
            "give the text in it" if isinstance(text, Mapping) else "each entry is one text")
    raise StorytellerError(f"{name}[{i}] is {shown(text)}: expected a string; {hint}")
