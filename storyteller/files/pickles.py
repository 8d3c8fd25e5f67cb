"""Pickled options and dictionaries: MODEL.npz.pkl, DICTIONARY.pkl, as the originals write them."""
from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np

from ..errors import StorytellerError
from .io import AGAIN, open_file, sniff, write_atomically, wrong_kind
from .unpickle import SafeUnpickler


def load_pickle(path: str | os.PathLike, *, what: str = "a pickle", strict: bool = True, position: int = 0) -> Any:
    """Read one pickle of a file, of Python 2 or 3, without executing anything.

    Parameters
    ----------
    path : the file.
    what : what the file is meant to be, for error messages.
    strict : whether a string of Python 2 that is not UTF-8 is an error; if not, it stays bytes.
    position : which pickle of the file, from 0: dictionaries have their counts in a second one.

    Returns
    -------
    Plain containers, numbers, str and NumPy arrays; arrays may be read-only.  Python 2's strings
    become str, NumPy scalars become Python numbers.  An OrderedDict keeps its order.

    Raises
    ------
    StorytellerError : the file is missing, is not a pickle, is damaged, or asks for anything else
        than the above.
    """
    with open_file(path, what) as file:
        if sniff(path)[0] not in ("pickle", "unknown"):
            raise wrong_kind(path, what)
        reader = SafeUnpickler(file, path, strict=strict)
        for skipped in range(position):
            reader.load()
            if file.tell() >= reader.size:
                raise StorytellerError(f"{os.fsdecode(path)}: ends after {skipped + 1} pickle; expected {what}, so "
                                       f"check whether files were swapped, or {AGAIN}")
        return reader.load()


def save_pickle(path: str | os.PathLike, *objects: Any) -> None:
    """Write objects as pickles of protocol 2, one after the other, as the original code reads them.

    Parameters
    ----------
    path : the file, replaced when there is one.
    objects : dicts, OrderedDicts, lists and tuples of str and numbers.  NumPy scalars are written
        as Python numbers, because NumPy 2's own pickles of them are unknown to older NumPy.

    Raises
    ------
    StorytellerError : the file cannot be written, or an object cannot be pickled.
    """
    with write_atomically(path) as file:
        for item in objects:
            try:
                pickle.dump(_python_numbers(item), file, protocol=2)
            except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
                raise StorytellerError(f"{os.fsdecode(path)}: cannot be written, as it should hold something that "
                                       f"is no plain data ({error}); give dicts, lists, str and numbers") from error


def _python_numbers(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return type(value)((_python_numbers(k), _python_numbers(v)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(_python_numbers(item) for item in value)
    return value


def load_options(path: str | os.PathLike) -> dict[str, Any]:
    """Read the options of a model, the pickled dict that stands beside it at MODEL.npz.pkl.

    Raises
    ------
    StorytellerError : as `load_pickle`, and when the pickle is not a dict with str keys.
    """
    what = "the options of a model (a pickled dict)"
    options = load_pickle(path, what=what)
    if not isinstance(options, dict) or not all(type(key) is str for key in options):
        raise StorytellerError(f"{os.fsdecode(path)}: holds a pickled {type(options).__name__}; expected {what}, "
                               "so check whether files were swapped")
    return dict(options)


def load_dictionary(path: str | os.PathLike) -> dict[str, int]:
    """Read a pickled dictionary, word -> index from 0.

    Returns
    -------
    dict in the order of the file.

    Raises
    ------
    StorytellerError : as `load_pickle`, and when the pickle is not a dict from str to
        non-negative int.
    """
    with open_file(path, _DICTIONARY) as file:
        words = _plain_words(file.read(_LARGEST))
    if words is None:
        words = load_pickle(path, what=_DICTIONARY)
    return _numbered_words(path, words, _DICTIONARY)


_LARGEST = 1 << 26                              # bytes of a dictionary that is read at once
_PUT = {ord("q"): 2, ord("r"): 5}               # opcode -> its size
_NUMBER = {ord("K"): 2, ord("M"): 3, ord("J"): 5}
_TEXT = ord("X")


def _plain_words(data: bytes) -> dict[str, int] | None:
    """A dictionary in the form in which :func:`save_pickle` writes it, read several times faster than step by step;
    None where anything in it is otherwise."""
    words, at, from_bytes = {}, 6, int.from_bytes
    try:
        while data.startswith(b"\x80\x02}q\x00("):     # protocol 2, a dict, put into the memo, a mark
            while data[at] == _TEXT:                    # text, put into the memo, and a number of 1, 2 or 4 bytes
                start = at + 5
                end = start + from_bytes(data[at + 1:start], "little")
                number = end + _PUT[data[end]]
                at = number + _NUMBER[data[number]]
                words[data[start:end].decode()] = from_bytes(data[number + 1:at], "little", signed=at == number + 5)
            if data[at:at + 2] == b"u.":
                return words
            if data[at:at + 2] != b"u(":
                break
            at += 2
    except (LookupError, UnicodeDecodeError):
        pass
    return None


def load_counts(path: str | os.PathLike) -> dict[str, int]:
    """Read how often each word occurs: the second pickle of a dictionary's file.

    Returns
    -------
    dict in the order of the file.

    Raises
    ------
    StorytellerError : as `load_dictionary`, and when the file has a dictionary without counts.
    """
    what = "a dictionary with counts (two pickled dicts of word -> number)"
    return _numbered_words(path, load_pickle(path, what=what, position=1), what)


_DICTIONARY = "a dictionary (a pickled dict of word -> index)"


def _numbered_words(path: str | os.PathLike, words: Any, what: str) -> dict[str, int]:
    path = os.fsdecode(path)
    if not isinstance(words, dict) or not words:
        raise StorytellerError(f"{path}: holds {'an empty' if words == {} else 'a pickled'} {type(words).__name__}; "
                               f"expected {what}, so check whether files were swapped")
    for word, number in words.items():
        if type(word) is not str or type(number) is not int or number < 0:
            shown = str(number)[:20] if type(number) is int else type(number).__name__
            raise StorytellerError(f"{path}: has an entry {str(word)[:40]!r} -> {shown}; expected {what} with numbers "
                                   "from 0, so check whether files were swapped")
    return dict(words)


def int_option(options: dict[str, Any], name: str, path: str | os.PathLike) -> int:
    """A positive whole number among a model's options.

    Raises
    ------
    StorytellerError
        If it is missing or no such number.
    """
    value = options.get(name)
    if (isinstance(value, bool) or not isinstance(value, (int, float, np.number))
            or not 1 <= value < 1 << 31 or value != int(value)):
        shown = repr(value)[:40] if isinstance(value, (int, float, str)) else type(value).__name__
        raise StorytellerError(
            f"{os.fsdecode(path)}: option {name!r} is {'missing' if value is None else shown}; expected a positive "
            "whole number, so take the options file that was saved with the model")
    return int(value)
