"""Large arrays that are computed once and then memory-mapped from the user's cache folder.

The folder is ``STORYTELLER_CACHE`` where that is set, else the platform's own place for caches.
A cache is a convenience: where it cannot be written everything still works, only slower.
"""
from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import IO, Callable

import numpy as np

from . import files
from .errors import StorytellerError

_log = logging.getLogger(__name__)

_WHOLE = 256 << 20   # files up to this size are hashed whole,
_SAMPLES, _SAMPLE = 64, 1 << 16  # larger ones by so many samples beside size and time

Writer = Callable[[IO[bytes], int], None]


def cache_dir() -> Path:
    """The folder of cached arrays (it need not exist)."""
    chosen = os.environ.get("STORYTELLER_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs
    return Path(platformdirs.user_cache_dir("storyteller", appauthor=False))


def fingerprint(*paths: str | os.PathLike) -> str:
    """A key for the contents of files: 24 hexadecimal digits.

    Files of up to 256 MB are read whole; of larger ones size, modification time and 64
    samples are taken.
    """
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        size = os.path.getsize(path)
        digest.update(f"{size};".encode())
        with open(path, "rb") as file:
            if size <= _WHOLE:
                while block := file.read(1 << 20):
                    digest.update(block)
            else:
                digest.update(f"{os.stat(path).st_mtime_ns};".encode())
                for i in range(_SAMPLES):
                    file.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def cached_rows(kind: str, source: str | os.PathLike, key: str, shape: tuple[int, int], write: Writer,
                resumable: bool = False) -> np.ndarray:
    """An array of rows from the cache, made there first if need be.

    Parameters
    ----------
    kind : str
        What it is, in a word; part of the file's name.
    source : path
        The file that it is made from.  Arrays made from an earlier state of that file are
        deleted once the new one is complete.
    key : str
        Names the state of everything that the array depends on, see :func:`fingerprint`.
    shape : tuple of int
        (rows, columns); float32.
    write : callable
        ``write(file, start)`` writes rows ``start`` and following to the file, in order.
    resumable : bool
        An interrupted ``write`` goes on where it stopped; else it starts again at row 0.

    Returns
    -------
    array ``shape`` float32
        Memory-mapped read-only; an ordinary array where the cache cannot be written.

    Notes
    -----
    Two processes may ask at once: one makes the array while the other waits.  The file is
    made under a temporary name and renamed, so a half-written one is never taken for whole.
    """
    from filelock import FileLock
    origin = hashlib.blake2b(os.path.abspath(os.fspath(source)).encode("utf-8", "surrogateescape"),
                             digest_size=6).hexdigest()
    target = cache_dir() / f"{kind}-{origin}-{key}.npy"
    found = _open(target, shape)
    if found is not None:
        return found
    needed = shape[0] * shape[1] * 4
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            found = _open(target, shape)  # another process may have made it meanwhile
            if found is not None:
                return found
            _make(target, shape, write, resumable, needed)
        Path(f"{target}.lock").unlink(missing_ok=True)
        for old in target.parent.glob(f"{kind}-{origin}-*"):
            if not old.name.startswith(target.name):
                old.unlink(missing_ok=True)
        found = _open(target, shape)
        if found is not None:
            return found
        reason: object = "the file vanished"
    except (OSError, NotImplementedError) as error:
        reason = error
    _log.warning("cannot keep %s in the cache %s (%s): computing it in memory, and again next time. "
                 "Set STORYTELLER_CACHE to a folder with %.1f GB free.",
                 kind, target.parent, reason, needed / 1e9)
    array = np.empty(shape, dtype=np.float32)
    write(_ArrayFile(array), 0)
    return array


def _open(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def _make(target: Path, shape: tuple[int, int], write: Writer, resumable: bool, needed: int) -> None:
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    if shutil.disk_usage(target.parent).free < needed - have + (64 << 20):
        raise OSError(errno.ENOSPC, f"less than {needed / 1e9:.1f} GB free")
    try:
        with open(part, "r+b" if resumable and have else "w+b") as file:
            files.save_npy_header(file, shape)
            header = file.tell()
            start = max(0, have - header) // (shape[1] * 4) if resumable and shape[1] else 0
            file.seek(header + start * shape[1] * 4)
            file.truncate()
            watched = _WatchedFile(file)
            try:
                write(watched, start)
            except StorytellerError as error:
                raise watched.error or error from error
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    except BaseException:  # interrupted, or what it is made from is damaged
        if not resumable:
            part.unlink(missing_ok=True)
        raise
    os.replace(part, target)


class _WatchedFile:
    """Remembers that writing failed: readers of damaged files take every error for the file's."""

    def __init__(self, file: IO[bytes]):
        self._file, self.error = file, None

    def write(self, data) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


class _ArrayFile:
    """Stands in for the file where the array is made in memory."""

    def __init__(self, array: np.ndarray):
        self._bytes = array.reshape(-1).view(np.uint8)
        self._position = 0

    def write(self, data) -> int:
        data = np.frombuffer(data, dtype=np.uint8)
        self._bytes[self._position:self._position + len(data)] = data
        self._position += len(data)
        return len(data)
