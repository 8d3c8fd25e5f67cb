"""Opening, recognising and replacing files: what every reader and writer of this package stands on."""
from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ..errors import StorytellerError

AGAIN = "fetch or copy the file again"

_MAGIC = (
    (b"\xff\xd8\xff", "image", "a JPEG image"), (b"\x89PNG\r\n", "image", "a PNG image"),
    (b"GIF8", "image", "a GIF image"), (b"II*\0", "image", "a TIFF image"), (b"MM\0*", "image", "a TIFF image"),
    (b"%!PS", "image", "a PostScript file"), (b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file"),
    (b"\x1f\x8b", "gzip", "a gzip file (unpack it first)"), (b"\xfd7zXZ\0", "xz", "an xz file (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "zstd", "a zstandard file (unpack it first)"),
    *((b"BZh%d" % level, "bzip2", "a bzip2 file (unpack it first)") for level in range(1, 10)),
    (b"7z\xbc\xaf\x27\x1c", "archive", "a 7-Zip archive"), (b"Rar!\x1a\x07", "archive", "a RAR archive"),
    (b"version https://git-lfs", "lfs", "a git-LFS pointer, not the file itself (run: git lfs pull)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office", "a document of an office program"),
    (b"AT&TFORM", "pdf", "a DjVu file"), (b"SQLite format 3\0", "unknown", "a database"))
_PICKLE_START = re.compile(rb"\(?[)\]}(]|\(?[dlt]p?\d|c[\w.]+\n\w+\n|\(?[FIL]-?[\d.]+L?\n|"
                           rb"\(?[SV]['\"\w]|[KMJGUX]")

_PART = re.compile(r"\.(\d+)\.[0-9a-f]{8}\.part$")


def sniff(path: str | os.PathLike) -> tuple[str, str]:
    """Say what a file is, from its first bytes.

    Returns
    -------
    (kind, phrase) : kind is one of missing, folder, special, unreadable, empty, npz, torch, zip,
        npy, object npy, pickle, hdf5, html, lfs, image, gzip, xz, bzip2, zstd, archive, pdf, rtf, epub, office,
        text, unknown; phrase names it in words that follow "this is".
    """
    path = os.fsdecode(path)        # a TypeError for a number, which `open` would take for an open file
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return "folder", "a folder"
        if not stat.S_ISREG(status.st_mode):
            return "special", "not a regular file"
        if status.st_size == 0:
            return "empty", "an empty file"
        with open(path, "rb") as file:
            head = file.read(1024)
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "no such file"
    except (OSError, ValueError) as error:
        return "unreadable", f"unreadable ({getattr(error, 'strerror', None) or error})"
    return identify(head, last)


def identify(head: bytes, last: bytes = b"") -> tuple[str, str]:
    """Say what a file is of which the first 1024 bytes are known, and for some kinds the last one.

    Returns
    -------
    (kind, phrase) : as :func:`sniff`
    """
    for magic, kind, phrase in _MAGIC:
        if head.startswith(magic):
            return kind, phrase
    if head.startswith(b"\x93NUMPY"):
        if re.search(rb"'descr':\s*'\|?O", head):
            return "object npy", "a .npy file of Python objects"
        return "npy", "a .npy array"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        length = int.from_bytes(head[26:28], "little")
        first = head[30:30 + length]
        if first.endswith(b".npy") or head.startswith(b"PK\x05\x06"):
            return "npz", "an .npz archive"
        if first.endswith(b"data.pkl"):
            return "torch", "a PyTorch file"
        if first == b"mimetype" and b"application/epub" in head:
            return "epub", "an EPUB book"
        if first.startswith((b"[Content_Types]", b"_rels/", b"docProps/", b"word/", b"xl/", b"ppt/", b"mimetype")):
            return "office", "a document of an office program"
        return "zip", "a zip archive"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image", "a WebP image"
    if head[4:8] == b"ftyp":
        return "image", "a HEIC or AVIF image, or a video"
    if head[257:262] == b"ustar":
        return "archive", "a tar archive"
    if head[60:68] == b"BOOKMOBI":
        return "epub", "a Kindle book"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|meta|title|\?xml)\b|"
                rb"(?:\xef\xbb\xbf)?\s*<(?:!--|svg\b)", head, re.I):
        return "html", "a web page (a failed download)"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*(?:%PDF-)", head):
        return "pdf", "a PDF file"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*\{\\rtf", head):
        return "rtf", "an RTF file"
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return "pickle", "a pickle"
    if last == b"." and _PICKLE_START.match(head):
        return "pickle", "a pickle"
    try:
        head[:1000].decode("utf-8")
        whole = True
    except UnicodeDecodeError as error:
        whole = error.start > 990
    if whole and not re.search(rb"[\x00-\x08\x0e-\x1b]", head):
        return "text", "a text file"
    return "unknown", "a file of an unknown kind"


def describe(path: str | os.PathLike) -> str:
    """Say in a few words what a file looks like, from its first bytes.

    Returns
    -------
    A phrase such as "an .npz archive", "a pickle", "a web page (a failed download)" or "no such
    file"; it reads well after "this is".  Never raises for what is in the file.
    """
    return sniff(path)[1]


def check_readable(path: str | os.PathLike, what: str) -> str:
    """Return `sniff`'s kind of `path`, or raise StorytellerError when there is nothing to read."""
    kind, phrase = sniff(path)
    path = os.fsdecode(path)
    if kind == "missing":
        raise StorytellerError(f"{path}: no such file; expected {what}, so check the path or "
                               "fetch the file")
    if kind in ("folder", "special", "unreadable", "empty"):
        raise StorytellerError(f"{path}: this is {phrase}; expected {what}, so check the path or "
                               + AGAIN)
    return kind


def wrong_kind(path: str | os.PathLike, what: str) -> StorytellerError:
    """The error for a file that is something else than `what`."""
    return StorytellerError(f"{os.fsdecode(path)}: this is {sniff(path)[1]}; expected {what}, so check whether "
                            f"files were swapped, or {AGAIN}")


@contextmanager
def open_file(path: str | os.PathLike, what: str) -> Iterator[BinaryIO]:
    """Open a file for reading in binary; a failure of the system to do so is a StorytellerError."""
    check_readable(path, what)
    try:
        file = open(path, "rb")
    except OSError as error:
        raise StorytellerError(f"{os.fsdecode(path)}: cannot be read ({error.strerror}); expected {what}, so "
                               "check its permissions") from error
    with file:
        yield file


@contextmanager
def write_atomically(path: str | os.PathLike, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only once it is complete.

    Parameters
    ----------
    path : the file to write.  A file that is there already is replaced at the end and keeps its mode, a
        symbolic link stays and what it names is replaced; a device or a pipe is written into.
    sync : whether to wait until the data are on the disk.

    Yields
    ------
    A binary file, seekable, under a temporary name in the same folder.  On any error it is
    removed and the file at `path` stays as it was.

    Raises
    ------
    StorytellerError : the folder is missing or read-only, the disk is full, or a pipe has no reader.
    """
    path = os.fsdecode(path)
    part = ""
    try:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            status = None
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise StorytellerError(f"{path}: cannot be written, as it is a folder; give the name of a file")
        if status is not None and not stat.S_ISREG(status.st_mode):
            # Replacing it would turn /dev/null into a file; opening a pipe nobody reads would wait for ever.
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            os.set_blocking(descriptor, True)
            with open(descriptor, "wb") as device, tempfile.TemporaryFile() as content:
                yield content
                content.seek(0)
                shutil.copyfileobj(content, device)
            return
        target = os.path.realpath(path)
        _remove_stale_parts(target)
        part = f"{target}.{os.getpid()}.{secrets.token_hex(4)}.part"
        try:
            with open(part, "xb") as file:
                if status is not None:
                    with suppress(OSError):     # some file systems have no modes
                        os.chmod(part, stat.S_IMODE(status.st_mode))
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                os.remove(part)
            raise
    except (OSError, ValueError) as error:
        if (isinstance(error, ValueError) and part) or getattr(error, "filename", None) not in (None, path, part):
            raise       # another file's, of the caller's
        reason = getattr(error, "strerror", None) or error
        if re.search("requested and .* written", str(error)):   # NumPy's own, which forgets the system's
            reason = "only a part of it, as on a full disk"
        raise StorytellerError(f"{path}: cannot be written ({reason}); check that its folder exists, may be "
                               "written to, and has room") from error


def _remove_stale_parts(target: str) -> None:
    """Remove what writers of `target` that were killed have left behind."""
    for part in glob.glob(f"{glob.escape(target)}.*.part"):
        # Whoever is still writing has done so within the hour.
        with suppress(OSError):
            if _PART.search(part) and os.stat(part).st_mtime < time.time() - 3600:
                os.remove(part)


def remove_parts(folder: str | os.PathLike) -> None:
    """Remove what :func:`write_atomically` left in a folder where its process was killed, however lately.

    For a program that begins again what it was killed at, on the same machine.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _PART.search(name)
            if found and os.name == "posix":
                with suppress(PermissionError):     # another user's process
                    try:
                        os.kill(int(found[1]), 0)
                    except (ProcessLookupError, OverflowError):
                        os.remove(os.path.join(folder, name))
