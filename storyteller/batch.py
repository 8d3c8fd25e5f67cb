"""Stories of many photos, one row a photo: which photos, the rows in a file, and going on where a run stopped.

The rows are JSON Lines, written one by one as the stories are told.  A run that was killed leaves whole rows and at
most a part of one, so that another can go on: each row says of which state of the photo and with which options it was
told.  A Parquet file is made of them at the end.
"""
from __future__ import annotations

import contextlib
import csv
import glob
import json
import logging
import os
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable

from . import cache, files
from .errors import StorytellerError
from .progress import progress_bar
from .stories import Story

_log = logging.getLogger(__name__)

# Endings of the pictures that are looked for in folders; a photo that is named is opened whatever its ending.
PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif",
            ".avif")
LINES, PARQUET = (".jsonl", ".ndjson"), ".parquet"
_LISTS = (".csv", ".tsv")
_COLUMN = "path"
_SYNC = 5.              # seconds after which what was written is sent to the disk
_PARQUET_ROWS = 1000    # of a row group
_KEYS = ("path", "text", "passage", "style", "cost", "warnings", "captions", "error", "size", "mtime_ns", "content",
         "options")


# Which photos.

def find_photos(names: Iterable[str], verbose: bool = True) -> list[str]:
    """The photos of files, folders and patterns.

    Parameters
    ----------
    names : iterable of str
        Files, which need not exist; folders, of which every picture counts whose ending is that of one, in
        subfolders too, but none that is hidden; patterns such as ``photos/**/*.jpg``, where no file has that name.

    Returns
    -------
    list of str
        Each once; those of a folder or a pattern sorted.

    Raises
    ------
    StorytellerError
        If a folder holds no picture or cannot be read, or a pattern fits nothing.
    """
    found: dict[str, None] = {}
    with progress_bar(None, "looking for photos", "photo", verbose) as bar:
        for name in names:
            matches = [name]
            if glob.has_magic(name) and not os.path.lexists(name):
                matches = sorted(glob.glob(name, recursive=True))
                if not matches:
                    raise StorytellerError(f"{name}: no file fits this pattern; check it, or give a folder")
            for match in matches:
                before = len(found)
                found.update(dict.fromkeys(_in_folder(match) if os.path.isdir(match) else [match]))
                bar.update(len(found) - before)
    return list(found)


def _in_folder(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise StorytellerError(f"{error.filename}: this folder cannot be read ({error.strerror}); check its "
                               "permissions") from error
    empty = True
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(PICTURES) and not name.startswith("."):
                empty = False
                yield os.path.join(place, name)
    if empty:
        raise StorytellerError(f"{folder}: this folder holds no picture ({', '.join(PICTURES)}); name another")


def read_list(path: str, column: str | None = None) -> list[str]:
    """The photos of a list, in its order, those named twice included.

    Parameters
    ----------
    path : str
        A text file with a path a line; a .csv or .tsv file with a header; a .parquet file (needs
        ``storyteller[parquet]``).
    column : str, optional
        Of a table: where the paths are; by default 'path', or the only column.

    Returns
    -------
    list of str

    Raises
    ------
    StorytellerError
        If the list cannot be read, has no such column or no rows.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending == PARQUET:
        found = _parquet_column(path, column)
    elif ending in _LISTS:
        found = _csv_column(path, column, "\t" if ending == ".tsv" else ",")
    elif column is not None:
        raise StorytellerError(f"{path}: only .csv, .tsv and .parquet files have columns; leave --column out")
    else:
        lines = files.open_text(path, "a text file with the path of a photo in each line")
        found = [line for line in lines if line.strip()]
    if not found:
        raise StorytellerError(f"{path}: names no photo; expected a path in each line")
    return found


def _column_of(path: str, names: list[str], column: str | None) -> int:
    wanted = column if column is not None else _COLUMN if len(names) != 1 else names[0]
    if wanted not in names:
        raise StorytellerError(f"{path}: has no column {wanted[:60]!r}; expected --column with one of "
                               f"{', '.join(name[:30] for name in names[:20])}")
    return names.index(wanted)


def _csv_column(path: str, column: str | None, delimiter: str) -> list[str]:
    lines = files.open_text(path, "a CSV file with a header", newline="\n")
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        number = _column_of(path, next(rows, []), column)
        # A blank line is no row.
        return [row[number] if number < len(row) else _short(path, rows.line_num) for row in rows if row]
    except csv.Error as error:
        raise StorytellerError(f"{path}: line {rows.line_num} is no CSV ({error}); save the table again") from error


def _short(path: str, line: int) -> str:
    raise StorytellerError(f"{path}: line {line} has fewer columns than the header; save the table again")


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise StorytellerError("Parquet files need PyArrow: pip install pyarrow") from error
    return pyarrow.parquet


@contextlib.contextmanager
def _parquet_file(path: str) -> Iterator[Any]:
    parquet = _parquet()
    with files.open_file(path, "a Parquet file") as stream:
        import pyarrow
        try:
            yield parquet.ParquetFile(stream)
        except (pyarrow.ArrowException, OSError) as error:
            raise StorytellerError(f"{path}: cannot be read as a Parquet file ({str(error)[:200]}); write it again"
                                   ) from error


def _parquet_column(path: str, column: str | None) -> list[str]:
    with _parquet_file(path) as table:
        names = table.schema_arrow.names
        name = names[_column_of(path, names, column)]
        found = [value for batch in table.iter_batches(columns=[name]) for value in batch.column(0).to_pylist()]
    if not all(isinstance(value, str) for value in found):
        raise StorytellerError(f"{path}: column {name[:60]!r} holds something else than texts; expected paths")
    return found


# What a row says.

@dataclass(frozen=True)
class State:
    """What tells whether a photo has changed: None where it cannot be seen."""

    size: int | None
    mtime_ns: int | None
    content: str | None = None

    @classmethod
    def of(cls, path: str, with_content: bool = False) -> State:
        """The state of a file as it is now."""
        try:
            found = os.stat(path)
            return cls(found.st_size, found.st_mtime_ns, cache.fingerprint(path) if with_content else None)
        except (OSError, ValueError):
            return cls(None, None)

    def is_of(self, row: dict[str, Any]) -> bool:
        """Whether a row was made of the photo in this state."""
        if self.content is not None:
            return row.get("content") == self.content
        return (row.get("size"), row.get("mtime_ns")) == (self.size, self.mtime_ns)


def row_of(path: str, outcome: Story | StorytellerError, state: State, options: str, captions: int) -> dict[str, Any]:
    """The row of a photo, with the best so many captions."""
    row: dict[str, Any] = dict.fromkeys(_KEYS)
    row.update(path=path, size=state.size, mtime_ns=state.mtime_ns, content=state.content, options=options,
               warnings=[], captions=[])
    if isinstance(outcome, Story):
        told = outcome.to_dict()
        row.update({key: told[key] for key in ("text", "passage", "style", "cost", "warnings")})
        row["captions"] = told["captions"][:captions]
    else:
        name = os.path.basename(path)
        row["error"] = f"{outcome}" if name in str(outcome) else f"{path}: {outcome}"
    return row


# The file of rows.

class Rows:
    """Rows in a file of JSON Lines, one for each photo that is done.

    Parameters
    ----------
    path : str
    photos : list of str
        All that are asked for.
    """

    def __init__(self, path: str, photos: list[str]):
        self.path = path
        self._photos = photos
        self._place = {photo: i for i, photo in reversed(list(enumerate(photos)))}
        self._starts = array("q", [-1]) * len(photos)
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()
        self.failed = 0

    def __contains__(self, photo: str) -> bool:
        return self._starts[self._place[photo]] >= 0

    def __len__(self) -> int:
        return sum(start >= 0 for start in self._starts)

    def take_over(self, keep: Callable[[dict[str, Any]], bool], verbose: bool = True) -> None:
        """Keep the rows in the file that are whole, are of photos that are asked for, and that ``keep`` accepts.

        A power cut may leave zeros, and a killed run a part of a row: these go.

        Raises
        ------
        StorytellerError
            If the file holds something else, or rows of photos that still exist but are not asked for.
        """
        tidy, start = True, 0
        with open(self.path, "rb") as file, progress_bar(
                os.path.getsize(self.path), "reading rows", "byte", verbose) as bar:
            for number, line in enumerate(file, 1):
                row = _parsed(line)
                if row is None and line.strip() and line.endswith(b"\n") and b"\0" not in line:
                    raise StorytellerError(f"{self.path}: line {number} is no row of `storyteller batch`; check the "
                                           "name, or give another file")
                photo = row.get("path") if row else None
                place = self._place.get(photo, -1) if isinstance(photo, str) else -1
                if row and photo and place < 0 and os.path.lexists(photo):
                    raise StorytellerError(f"{self.path}: holds rows of photos that are not asked for now, such as "
                                           f"{photo[-200:]}; name these as well, or give another file")
                if row and place >= 0 and self._starts[place] < 0 and keep(row):
                    self._starts[place] = start
                    self.failed += row.get("error") is not None
                else:
                    tidy = False
                start += len(line)
                bar.update(len(line))
        if not tidy:
            self._arrange(range(len(self._photos)))

    def append(self, row: dict[str, Any]) -> None:
        """Write a row behind the others."""
        try:
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)
            start, data, written = self._file.seek(0, os.SEEK_END), _line(row), 0
            try:
                while written < len(data):
                    written += self._file.write(data[written:])
            except BaseException:
                self._file.truncate(start)      # no part of a row, whatever comes in between
                raise
            if time.monotonic() > self._synced + _SYNC:
                self.sync()
        except OSError as error:
            raise StorytellerError(f"{self.path}: cannot be written ({error.strerror}); make room or check its "
                                   "permissions, then go on with --resume") from error
        self._starts[self._place[row["path"]]] = start
        self.failed += row["error"] is not None

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """End the file with what was added."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self.sync()
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Put the rows in the order of the photos, a row again where a photo is asked for again."""
        self.close()
        places = [self._place[photo] for photo in self._photos]
        starts = [self._starts[place] for place in places]
        if any(a >= b for a, b in zip(starts, starts[1:])):
            self._arrange(places)

    def each(self) -> Iterator[dict[str, Any]]:
        """The rows in the file."""
        with open(self.path, "rb") as file:
            for line in file:
                row = _parsed(line)
                if row:
                    yield row

    def _arrange(self, places: Iterable[int]) -> None:
        """Write the file anew with the rows of these places."""
        starts = array("q", [-1]) * len(self._photos)
        with open(self.path, "rb") as old, files.write_atomically(self.path, sync=True) as new:
            for place in places:
                if self._starts[place] >= 0:
                    old.seek(self._starts[place])
                    starts[place] = new.tell()
                    new.write(old.readline())
        self._starts = starts


def write_rows(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    with files.write_atomically(path) as file:
        file.writelines(map(_line, rows))


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:      # a name that is not UTF-8
        return json.dumps(row).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and set(_KEYS) <= set(row) else None


def check_parquet() -> None:
    """StorytellerError where Parquet files cannot be written."""
    _parquet()


def write_parquet(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a Parquet file (needs ``storyteller[parquet]``), which appears once it is whole."""
    parquet = _parquet()
    import pyarrow as pa
    text, number = pa.string(), pa.int64()
    types = {"cost": pa.float64(), "warnings": pa.list_(text), "size": number, "mtime_ns": number,
             "captions": pa.list_(pa.struct([("text", text), ("score", pa.float64())]))}
    schema = pa.schema([(key, types.get(key, text)) for key in _KEYS])
    with files.write_atomically(path, sync=True) as file, parquet.ParquetWriter(file, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            # Parquet holds UTF-8 alone.
            group.append({**row, **{key: row[key].encode("utf-8", "replace").decode() for key in ("path", "error")
                                    if row[key] is not None}})
            if len(group) == _PARQUET_ROWS:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group.clear()
        writer.write_table(pa.Table.from_pylist(group, schema))


def read_parquet(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a file that :func:`write_parquet` wrote."""
    with _parquet_file(path) as table:
        for batch in table.iter_batches(_PARQUET_ROWS):
            yield from batch.to_pylist()
