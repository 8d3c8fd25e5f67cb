"""Plain text as files and streams hold it: encodings, line ends, packed files.  Anything else is refused by name."""
from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import logging
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Union, cast

from ..errors import StorytellerError
from .io import AGAIN, check_readable, identify, open_file

_log = logging.getLogger(__name__)

TEXT = "a text file in UTF-8 (plain, or packed as .gz, .xz, .bz2 or .zst)"
TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".txt.bz2", ".txt.zst")
MAX_LINE = 1 << 23      # characters: a novel on one line passes, a file without lines does not fill the memory

_HEAD = 1024            # bytes that are looked at
_BUFFER = 1 << 16
_BLOCK = 1 << 16       # characters read at a time
_MEMORY = 1 << 28       # bytes that unpacking may take
_GROWTH = 100           # no text is packed more than so many times smaller, but for the first
_FREE = 1 << 24         # characters
# Longest first: the mark of UTF-32 begins like that of UTF-16.
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))
_PACKED = ("gzip", "xz", "bzip2", "zstd")
# A text can look like an old pickle, and one in another encoding like nothing known.
_TEXTS = ("text", "pickle", "unknown")
_HINTS = {"epub": "convert it to plain text, for instance with Calibre: ebook-convert BOOK.epub BOOK.txt",
          "pdf": "convert it to plain text, for instance with pdftotext",
          "rtf": "save it as plain text (.txt)", "office": "save it as plain text (.txt)",
          "html": "fetch the file itself again, or save the page as plain text",
          "zip": "unpack it first", "archive": "unpack it first"}

Source = Union[str, "os.PathLike[str]", BinaryIO]


def open_text(source: Source, what: str = TEXT, invalid: str = "refuse", newline: str | None = None,
              max_line: int = MAX_LINE, hint: str = "save it as UTF-8 (for instance iconv -f WINDOWS-1252 -t UTF-8)",
              ) -> Iterator[str]:
    """The lines of a text, read as they are asked for.

    Parameters
    ----------
    source : path or binary stream
        UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one; plain or packed with gzip, xz, bzip2 or
        zstandard (Python 3.14, or ``storyteller[zstd]``), which the first bytes tell, not the name.
    what : str
        What is expected, for messages.
    invalid : 'refuse', 'replace' or 'latin-1'
        What is done about bytes that are not UTF-8: an error; U+FFFD, with one warning in the log; or the line is
        read as Latin-1.
    newline : None or LF
        None: lines end at LF, CRLF and CR, as in Python's ``open``.  They never do at U+2028 and others.
    max_line : int
        Characters of a line, at most.
    hint : str
        What to do about a file that is not UTF-8.

    Yields
    ------
    str
        A line without its end, blank ones included.

    Raises
    ------
    StorytellerError
        At once, if the file is missing, a folder, empty or something else than text, such as a picture, a PDF, RTF,
        EPUB or office file, a web page or an archive; at a line that is not UTF-8, too long or holds zero bytes;
        at the end, if the file is cut off.
    """
    if hasattr(source, "read"):
        stream = cast(BinaryIO, source)
        standard = stream is getattr(sys.stdin, "buffer", None)
        name = "standard input" if standard else str(getattr(stream, "name", "the stream"))
        return _lines(stream, name, what, invalid, newline, max_line, hint)
    path = os.fsdecode(source)
    check_readable(path, what)
    with open_file(path, what) as file:
        _reader(file, path, what)       # what is wrong at the start is told at once
    return _of_file(path, what, invalid, newline, max_line, hint)


_STRANGE = re.compile("[\udc80-\udcff]")        # what is not UTF-8


def _of_file(path: str, what: str, *options: Any) -> Iterator[str]:
    with open_file(path, what) as file:
        yield from _lines(file, path, what, *options)


def _lines(stream: BinaryIO, name: str, what: str, invalid: str, newline: str | None, max_line: int, hint: str,
           ) -> Iterator[str]:
    reader, encoding, packed = _reader(stream, name, what)
    # Bytes that are not UTF-8 become lone surrogates, and are found in the line where they stand.
    lines = io.TextIOWrapper(reader, encoding, "surrogateescape" if "8" in encoding else "strict", newline)
    warned, size, number, rest = False, 0, 0, ""
    while True:
        try:
            block = lines.read(_BLOCK)
        except UnicodeDecodeError as error:
            raise StorytellerError(f"{name}: after line {number} something is no {encoding.upper()} ({error.reason}); "
                                   f"expected {what}, so {AGAIN}") from None
        except _damage() as error:
            raise _damaged(name, what, error) from error
        size += len(block)
        if packed is not None and size > _FREE + _GROWTH * packed.count:
            raise StorytellerError(f"{name}: unpacks to more than {_GROWTH} times its size, as no text does; expected "
                                   f"{what}, so check whether files were swapped")
        text = rest + block
        *found, rest = text.split("\n")
        if not block and rest:
            found.append(rest)
        if block and len(text) <= max_line and "\0" not in text and (text.isascii() or not _STRANGE.search(text)):
            number += len(found)
            yield from found
            continue
        for line in found if len(rest) <= max_line else [*found, rest]:
            number += 1
            if len(line) > max_line:
                raise StorytellerError(f"{name}: line {number} has more than {max_line:,} characters; expected {what}, "
                                       "so check whether files were swapped, or break its lines")
            if "\0" in line:
                raise StorytellerError(f"{name}: line {number} holds zero bytes; expected {what}, so check whether "
                                       "files were swapped; if it is UTF-16 without its mark, save it as UTF-8")
            if not line.isascii() and (strange := _STRANGE.search(line)):
                if invalid == "refuse":
                    raise StorytellerError(f"{name}: line {number} is not UTF-8 (byte {ord(strange[0]) - 0xdc00:#04x});"
                                           f" expected {what}, so {hint}")
                raw = line.encode("utf-8", "surrogateescape")
                if invalid == "replace" and not warned:
                    _log.warning("%s is not valid UTF-8, first in line %d: such bytes are read as U+FFFD; save it "
                                 "as UTF-8.", name, number)
                    warned = True
                line = raw.decode("latin-1") if invalid == "latin-1" else raw.decode("utf-8", "replace")
            yield line
        if not block:
            return


def _reader(stream: BinaryIO, name: str, what: str) -> tuple[BinaryIO, str, _Counted | None]:
    """The unpacked stream, its encoding, and what is counted of a packed one."""
    packed = None
    head = _read_head(stream, name, what)
    if not head:
        raise StorytellerError(f"{name}: is empty; expected {what}")
    kind, phrase = identify(head)
    reader = cast(BinaryIO, io.BufferedReader(_Counted(head, stream), _BUFFER))
    if kind in _PACKED:
        packed = _Counted(head, stream)
        reader = _unpacked(kind, head, cast(BinaryIO, io.BufferedReader(packed)), name)
        head = _read_head(reader, name, what)
        kind, phrase = identify(head) if head else ("text", "")
        reader = cast(BinaryIO, io.BufferedReader(_Counted(head, reader), _BUFFER))
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")
    if encoding != "utf-8":
        kind, phrase = identify(head[:len(head) // 4 * 4].decode(encoding, "ignore").encode())
    if kind not in _TEXTS:
        raise StorytellerError(f"{name}: this is {phrase}; expected {what}, so "
                               f"{_HINTS.get(kind, 'check whether files were swapped')}")
    return reader, encoding, packed


def _read_head(stream: BinaryIO, name: str, what: str) -> bytes:
    try:
        return stream.read(_HEAD)
    except _damage() as error:
        raise _damaged(name, what, error) from error


class _Counted(io.RawIOBase):
    """The first bytes of a stream, which were read, and then the others."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest, self.count = head, rest, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[:len(buffer)] or self._rest.read(len(buffer)) or b""
        self._head = self._head[len(data):]
        buffer[:len(data)] = data
        self.count += len(data)
        return len(data)


def _unpacked(kind: str, head: bytes, packed: BinaryIO, name: str) -> BinaryIO:
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=packed))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(packed))
    if kind == "xz":
        try:    # how much memory it takes stands at its start
            lzma.LZMADecompressor(memlimit=_MEMORY).decompress(head, 0)
        except lzma.LZMAError as error:
            raise _damaged(name, TEXT, error) from error
        return cast(BinaryIO, lzma.LZMAFile(packed))
    zstd = _zstd()
    if zstd is None:
        raise StorytellerError(f"{name}: is packed with zstandard, which this Python does not read: pip install "
                               "backports.zstd, or unpack the file first (zstd -d)")
    return cast(BinaryIO, zstd.ZstdFile(packed))


def _zstd() -> Any:
    """Python 3.14's module for zstandard, its backport to older ones, or None."""
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        return None


def _damage() -> tuple[type[Exception], ...]:
    """What reading a file that is damaged raises."""
    known = (OSError, EOFError, lzma.LZMAError, zlib.error)
    module = sys.modules.get("compression.zstd") or sys.modules.get("backports.zstd")
    return known if module is None else (*known, module.ZstdError)


def _damaged(name: str, what: str, error: Exception) -> StorytellerError:
    return StorytellerError(f"{name}: is damaged or cut off ({getattr(error, 'strerror', None) or error}); expected "
                            f"{what}, so {AGAIN}")
