"""Large arrays that are computed once and then memory-mapped from the user's cache folder.

The folder is ``STORYTELLER_CACHE`` where that is set, else the platform's own place for caches.
A cache is a convenience: where it cannot be written everything still works, only slower.

An entry is a .npy file, named after its kind and the fingerprint of what it was made from, that ends in a line of JSON
(what it is) and a checksum of all that stands before.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Union

import numpy as np

from . import files
from .errors import StorytellerError, shown
from .progress import inform

_log = logging.getLogger(__name__)

VARIABLE = "STORYTELLER_CACHE"
KEPT = 6                    # entries of a kind; when one is made, the oldest beyond go
_STALE = 7 * 24 * 3600.     # seconds after which what an interrupted run left is removed
_PATIENCE = 100.            # seconds to wait for another process that makes no progress
_LARGE = 1 << 20            # bytes: the checksums of larger files are remembered, and arrays read from them kept
_ALIGNED = 64               # bytes: where arrays begin
_DIGITS = 24                # of a checksum
_HEADER = 128               # bytes before the rows, see files.save_npy_header
_CHECKSUMS = "checksums.json"
_OURS = re.compile(r"[a-z]+-[0-9a-z-]+\.npy(\.(part|part\.sum|lock))?$")

Writer = Callable[[Any, int], None]
Source = Union[str, "os.PathLike[str]", np.ndarray, Iterable[str]]


def cache_dir() -> Path:
    """The folder of cached arrays (it need not exist): absolute, with ``~`` expanded."""
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        import platformdirs
        return Path(platformdirs.user_cache_dir("storyteller", appauthor=False))
    folder = os.path.expanduser(chosen)
    if folder.startswith("~"):
        raise StorytellerError(f"{VARIABLE} is {chosen[:100]!r}: there is no such home folder; give a full path")
    return Path(os.path.abspath(folder))


# Fingerprints.

def fingerprint(*sources: Source) -> str:
    """A key for contents: 24 hexadecimal digits.

    Parameters
    ----------
    *sources : paths, arrays or iterables of str
        Of a file its contents count, not its name; of an array its dtype, shape and values; of strings each of them.

    Raises
    ------
    OSError
        If a file cannot be read.

    Notes
    -----
    Every byte is read.  For files of more than 1 MB the cache folder remembers the result for as long as size, times
    and inode of the file stay the same.
    """
    digest = _new_digest()
    for source in sources:
        if isinstance(source, np.ndarray):
            array = np.ascontiguousarray(source)
            digest.update(f"array {array.dtype.str} {source.shape};".encode())
            digest.update(array.reshape(-1).view(np.uint8))
        elif isinstance(source, (str, os.PathLike)):
            digest.update(f"file {_remembered_checksum(source)};".encode())
        else:
            lines = list(source)
            digest.update(f"strings {len(lines)};".encode())
            digest.update(np.fromiter(map(len, lines), np.int64, len(lines)))
            digest.update("".join(lines).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=_DIGITS // 2)


def _hash(file: IO[bytes], digest: Any, size: int) -> bool:
    """Add the next bytes of a file to a digest; False where there are fewer."""
    while size:
        block = file.read(min(size, 1 << 20))
        if not block:
            return False
        digest.update(block)
        size -= len(block)
    return True


def _checksum(path: str | os.PathLike, behind: int = 0) -> str:
    """Of a file without so many bytes at its end."""
    digest = _new_digest()
    with open(path, "rb") as file:
        _hash(file, digest, max(0, os.fstat(file.fileno()).st_size - behind))
    return digest.hexdigest()


def _state(path: str | os.PathLike) -> list[int]:
    """Changes whenever the file does, also where its size and modification time were set back."""
    try:
        found = os.stat(path)
    except ValueError as error:     # a name with a null character
        raise StorytellerError(f"{shown(path)}: {error}; expected the path of a file") from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _remembered_checksum(path: str | os.PathLike, behind: int = 0) -> str:
    """:func:`_checksum`, computed once for every state of a large file."""
    state = _state(path)
    if state[0] <= _LARGE and not behind:
        return _checksum(path)
    key, known = os.path.abspath(path), _read_checksums(cache_dir() / _CHECKSUMS)
    if key in known and known[key][0] == state:
        return known[key][1]
    checksum = _checksum(path, behind)
    if _state(path) == state:
        _remember(key, state, checksum)
    return checksum


def _remember(path: str, state: list[int], checksum: str) -> None:
    memory = cache_dir() / _CHECKSUMS
    with contextlib.suppress(OSError, StorytellerError):
        _make_folder(memory.parent)
        known = {name: value for name, value in _read_checksums(memory).items() if os.path.exists(name)}
        with files.write_atomically(memory) as file:
            file.write(json.dumps({**known, path: [state, checksum]}).encode())


def _read_checksums(path: Path) -> dict[str, tuple[list[int], str]]:
    try:
        with open(path, "rb") as file:
            known = json.loads(file.read(1 << 20))
        return {name: (state, checksum) for name, (state, checksum) in known.items()
                if isinstance(state, list) and isinstance(checksum, str)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


# Entries.

def cached_rows(kind: str, source: str | os.PathLike, key: str, shape: tuple[int, int], write: Writer,
                resumable: bool = False) -> np.ndarray:
    """An array of rows from the cache, made there first if need be.

    Parameters
    ----------
    kind : str
        What it is, in a word; part of the file's name.
    source : path
        The file that it is made from, for the list of what the cache holds.
    key : str
        Names everything that the array depends on, see :func:`fingerprint`.
    shape : tuple of int
        (rows, columns); float32.
    write : callable
        ``write(file, start)`` writes rows ``start`` and following, in order, with ``file.write(bytes)``.
    resumable : bool
        An interrupted ``write`` goes on where it stopped; else it starts again at row 0.

    Returns
    -------
    array ``shape`` float32
        Memory-mapped read-only; an ordinary array where the cache cannot be written.

    Notes
    -----
    Two processes may ask at once: one makes the array while the other waits, as long as there is progress.  The file
    is made under a temporary name and renamed, so a half-written one is never taken for whole.  One that is damaged
    later fails its checksum, which is compared once for every state of the file, and is made again.
    """
    found = _cached(kind, source, key, shape, write, resumable, {})
    if found is None:
        found = np.empty(shape, dtype=np.float32)
        write(_ArrayFile(found), 0)
    return found


def cached_arrays(kind: str, source: str | os.PathLike, form: Sequence[str], make: Callable[[], dict[str, np.ndarray]],
                  ) -> dict[str, np.ndarray]:
    """Arrays that are read from a file and prepared, from the cache, made there first if need be.

    Parameters
    ----------
    kind, source
        See :func:`cached_rows`.
    form : sequence of str
        What the arrays depend on beside the file's contents: how they are prepared.
    make : callable
        Reads and prepares them: gives name -> float32 array.

    Returns
    -------
    dict
        As `make` gives it: read-only and memory-mapped, so that processes share them; or what `make` has just given,
        where the file is small or the cache cannot be written.

    Raises
    ------
    StorytellerError
        If the file is replaced or changed while it is read; what `make` raises.
    """
    try:
        state = _state(source)
        key = fingerprint(source, form) if state[0] > _LARGE else ""
    except OSError:
        key = ""        # make says what is wrong with it
    if not key:
        return make()
    target = cache_dir() / f"{kind}-{key}.npy"
    with contextlib.suppress(OSError):      # somebody may clear the cache meanwhile
        found = _open(target)
        if found is not None:
            return _parts(found, _about(target)["arrays"])
    arrays = make()
    if _state(source) != state:
        raise StorytellerError(f"{os.fspath(source)}: was replaced or changed while it was read: start again")
    shapes = {name: array.shape for name, array in arrays.items()}

    def write(file: Any, start: int) -> None:
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8).data)
            file.write(bytes(-array.nbytes % _ALIGNED))

    size = sum(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays.values()) // 4
    mapped = _cached(kind, source, key, (1, size), write, False, {"arrays": shapes})
    return arrays if mapped is None else _parts(mapped, shapes)


def _parts(mapped: np.ndarray, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The arrays that stand one after the other in a row of the cache."""
    row, parts, start = np.asarray(mapped).reshape(-1), {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        parts[name] = row[start:start + size].reshape(tuple(shape))
        start += -(-size * 4 // _ALIGNED) * _ALIGNED // 4
    return parts


def _cached(kind: str, source: str | os.PathLike, key: str, shape: tuple[int, int], write: Writer, resumable: bool,
            about: dict[str, Any]) -> np.ndarray | None:
    """See :func:`cached_rows`; None where the cache cannot be written."""
    folder: Any = os.environ.get(VARIABLE)
    try:
        folder = cache_dir()
        target = folder / f"{kind}-{key}.npy"
        found = _open(target, shape)
        if found is not None:
            return found
        _make_folder(folder)
        with _locked(target):
            found = _open(target, shape)  # another process may have made it meanwhile
            if found is None:
                if target.exists():
                    _log.warning("%s is damaged: it is made again", target)
                what = f"{kind} of {os.fspath(source)}"
                _make(target, shape, write, resumable,
                      {"what": what[-200:], "rows": shape[0], "columns": shape[1], **about})
                found = _open(target, shape)
        _tidy(target)
        if found is not None:
            return found
        reason: object = "it was damaged or vanished at once"
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
    _log.warning("cannot keep %s in the cache %s (%s): computing it in memory, and again next time. "
                 "Set %s to a folder with %.0f MB free.", kind, folder, reason, VARIABLE,
                 shape[0] * shape[1] * 4e-6 + 1)
    return None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder") from error


def _open(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray | None:
    """The entry, by default of any shape; None where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            file.seek(-_DIGITS, os.SEEK_END)
            checksum = file.read().decode("ascii")
        if _remembered_checksum(path, _DIGITS) == checksum:
            array = np.lib.format.open_memmap(path, mode="r")
            if shape in (None, array.shape) and array.dtype == np.float32:
                return array
    except Exception as error:  # whatever is wrong with it, it is made again
        _log.debug("%s: %s", path, error)
    return None


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout
    path, part = Path(f"{target}.lock"), Path(f"{target}.part")
    _remove_link(path)
    lock, seen = FileLock(path), None
    while True:
        try:
            lock.acquire(timeout=0 if seen is None else _PATIENCE)
            break
        except Timeout:
            try:
                now = _state(part)
            except OSError:
                now = []
            if now == seen:
                raise TimeoutError(f"another process holds {path} and makes no progress; end it, or remove the file "
                                   "if there is none") from None
            if seen is None:
                inform(_log, "waiting for another process that makes %s", target)
            seen = now
    try:
        yield
    finally:
        # Where nothing is left half made: those that wait for this very file find the entry, or no room for it
        # either, so it does no harm if others lock a new one.
        with contextlib.suppress(OSError):
            if not part.exists():
                path.unlink()
        lock.release()


def _make(target: Path, shape: tuple[int, int], write: Writer, resumable: bool, about: dict[str, Any]) -> None:
    path = Path(f"{target}.part")
    with _open_part(path) as file:
        try:
            part = _Part(file, shape, Path(f"{path}.sum") if resumable else None, target.parent)
            try:
                write(part, part.rows)
            except StorytellerError as error:
                raise part.error or error from error
            if part.rows != shape[0]:
                raise OSError(f"{part.rows} rows were made, expected {shape[0]}")
            part.write(f"\n{json.dumps(about)}\n".encode())
            checksum = part.digest.hexdigest()
            file.write(checksum.encode())
            file.flush()
            os.fsync(file.fileno())
        except BaseException as error:
            # What goes on later stays; not where the disk is full.
            if not resumable or isinstance(error, OSError):
                _remove(path)
            raise
    os.replace(path, target)
    _remember(str(target), _state(target), checksum)
    _remove(path)


def _open_part(path: Path) -> IO[bytes]:
    """Open a file of ours for writing."""
    _remove_link(path)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")    # but for the umask: others may read a cache


def _remove_link(path: Path) -> None:
    """Remove a link or a special file: what it leads to must not be emptied or waited for."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()


def _remove(part: Path) -> None:
    for path in (part, Path(f"{part}.sum")):
        with contextlib.suppress(OSError):
            path.unlink()


class _Part:
    """A file of rows in the making, with the checksum of what it holds so far.

    Remembers that writing failed: readers of damaged files take every error for the file's.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int], sums: Path | None, folder: Path):
        self._file, self._sums, self._row = file, sums, shape[1] * 4
        self.error: OSError | None = None
        if not self._resume():
            self._size, self.digest = 0, _new_digest()
            header = io.BytesIO()
            files.save_npy_header(header, shape)
            file.seek(0)
            self.write(header.getvalue())
        file.truncate(self._size)
        if shutil.disk_usage(folder).free < shape[0] * self._row - self._size + (64 << 20):
            raise OSError(errno.ENOSPC, f"less than {shape[0] * self._row / 1e6 + 1:.0f} MB free")

    @property
    def rows(self) -> int:
        """Done so far."""
        return (self._size - _HEADER) // self._row if self._row else 0

    def _resume(self) -> bool:
        """Go on behind the last rows whose checksum was written and is right."""
        try:
            size, checksum = self._sums.read_text("ascii").split() if self._sums else ("", "")
            self._size, self.digest = int(size), _new_digest()
            self._file.seek(0)
            return _hash(self._file, self.digest, self._size) and self.digest.hexdigest() == checksum
        except (OSError, ValueError):
            return False

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
            self.digest.update(data)
            self._size += memoryview(data).nbytes
            if self._sums is not None:
                self._file.flush()
                with _open_part(self._sums) as file:
                    file.write(f"{self._size:20d} {self.digest.hexdigest()}\n".encode())
        except OSError as error:
            self.error = error
            raise
        return memoryview(data).nbytes


class _ArrayFile:
    """Stands in for the file where the array is made in memory."""

    def __init__(self, array: np.ndarray):
        self._bytes = array.reshape(-1).view(np.uint8)
        self._position = 0

    def write(self, data: Any) -> int:
        data = np.frombuffer(data, dtype=np.uint8)
        self._bytes[self._position:self._position + len(data)] = data
        self._position += len(data)
        return len(data)


# What the cache holds.

@dataclass(frozen=True)
class Entry:
    """A file of the cache.

    Attributes
    ----------
    path : Path
    what : str
        What it holds, and what that was made from.
    size : int
        Bytes.
    made : float
        When, in seconds since 1970.
    """

    path: Path
    what: str
    size: int
    made: float


def entries() -> list[Entry]:
    """The files of the cache, the newest first; those of other programs in the folder are left out."""
    folder, found = cache_dir(), []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) or path.name == _CHECKSUMS:
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    found.append(Entry(path, _what(path), status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (-entry.made, entry.path))


def _what(path: Path) -> str:
    if path.name == _CHECKSUMS:
        return "checksums of large files"
    if path.suffix != ".npy":
        return "lock" if path.suffix == ".lock" else "unfinished"
    try:
        about = _about(path)
        if "arrays" in about:
            return f"{about['what']} ({len(about['arrays'])} arrays)"
        return f"{about['what']} ({about['rows']:,} x {about['columns']:,})"
    except (OSError, ValueError, LookupError, TypeError):
        return "damaged, or of an earlier version"


def _about(path: Path) -> dict[str, Any]:
    """The line of JSON at the end of an entry."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
        return json.loads(file.read()[:-_DIGITS - 1].rsplit(b"\n", 1)[1])


def clear() -> int:
    """Remove what the cache holds, but for what other processes are making just now.

    Returns
    -------
    int
        Bytes that were freed.
    """
    return sum(entry.size for entry in entries() if _remove_idle(entry.path))


def _remove_idle(path: Path) -> bool:
    """Remove a file of the cache unless a process is making its entry."""
    from filelock import FileLock, Timeout
    lock = path.with_name(path.name.partition(".npy")[0] + ".npy.lock")
    try:
        if not lock.exists():
            path.unlink()
            return True
        with FileLock(lock, timeout=0):
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        return True
    except (OSError, NotImplementedError, Timeout):
        return False


def _tidy(target: Path) -> None:
    """Remove the oldest entries of the new one's kind, and what runs left that were interrupted long ago."""
    kind = target.name.partition("-")[0]
    found = [entry for entry in entries() if entry.path != target]
    whole = [entry for entry in found if entry.path.match(f"{kind}-*.npy")]
    left = [entry for entry in found if entry.path.suffix in (".part", ".sum", ".lock")
            and entry.made < time.time() - _STALE]
    for entry in whole[KEPT - 1:] + left:
        _remove_idle(entry.path)
