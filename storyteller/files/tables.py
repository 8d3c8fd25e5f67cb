"""The published word tables: utable.npy and btable.npy, arrays of one pickled array a word."""
from __future__ import annotations

import os
from typing import Any, BinaryIO, Callable

import numpy as np

from ..errors import StorytellerError
from .arrays import open_npy
from .io import AGAIN
from .unpickle import Name, Refused, SafeUnpickler

_WHAT = "a table of word vectors (a .npy file of one array a word)"

_ROW = object()         # stands on the stack for a row that has been written
_TABLE = object()       # stands for the whole table
_KEPT = 65536           # memo entries to keep; what real files refer back to comes first
_BLOCK = 1024           # rows written at a time


def is_object_table(path: str | os.PathLike) -> bool:
    """Whether a .npy file holds Python objects, as the published word tables do.

    Raises
    ------
    StorytellerError : the file is missing, or is not a .npy file.
    """
    with open_npy(path, _WHAT) as (_, header):
        return header.dtype.kind == "O"


def table_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """The shape that the header of a .npy file declares: (rows, columns), or (rows,) for a table
    of Python objects.

    Raises
    ------
    StorytellerError : the file is missing, or is not a .npy file.
    """
    with open_npy(path, _WHAT) as (_, header):
        return header.shape


def convert_object_table(path: str | os.PathLike, out_file: BinaryIO,
                         progress: Callable[[int], Any] | None = None) -> tuple[int, int]:
    """Stream a table of pickled row arrays to plain float32 rows, in bounded memory.

    The published utable.npy and btable.npy are one-dimensional .npy arrays of dtype object: a
    Python 2 pickle of some 930,000 arrays of shape (dim,) or (1, dim).  Pickles of any protocol
    from 0 to 5 are read.

    Parameters
    ----------
    path : the table.
    out_file : binary file open for writing; gets the rows, float32, C order, little-endian,
        without a header (see `save_npy_header`).
    progress : called now and then with the number of rows done, and once at the end.

    Returns
    -------
    (rows, dim)

    Raises
    ------
    StorytellerError : the file is missing, something else, damaged, or its rows are not vectors
        of floating-point numbers of one length.
    """
    with open_npy(path, _WHAT) as (file, header):
        if header.dtype.kind != "O" or len(header.shape) != 1:
            raise StorytellerError(f"{os.fsdecode(path)}: holds {header.dtype} in {len(header.shape)} dimensions; "
                                   f"expected {_WHAT}, so read a plain matrix with load_matrix, or save the table "
                                   "again")
        if not header.shape[0]:
            raise StorytellerError(f"{os.fsdecode(path)}: has no rows; expected {_WHAT}, so {AGAIN}")
        return _TableUnpickler(file, path, header.shape[0], out_file, progress).convert()


class _TableUnpickler(SafeUnpickler):
    """Writes the rows of a pickled object array of small arrays as it comes across them.

    Each row leaves the stack as soon as it is complete, and the memo keeps only what rows have in
    common (globals, dtypes, short strings), so memory stays bounded whatever the size of the file.

    Parameters
    ----------
    file, path : as for `SafeUnpickler`; the file stands behind the .npy header.
    rows : number of rows that the header declares.
    out : binary file for the rows, float32, C order.
    progress : called with the number of rows done.
    """

    allowed = (1 << 24, 0, 1 << 24)     # for each row anew

    def __init__(self, file: BinaryIO, path: Any, rows: int, out: BinaryIO, progress: Callable[[int], Any] | None):
        super().__init__(file, path)
        self.expected, self.out, self.progress = rows, out, progress
        self.found, self.dim, self.lists, self.memoized = 0, 0, 0, 0
        self.block: list[np.ndarray] = []
        self.left_before: int | None = None     # at the row before

    def convert(self) -> tuple[int, int]:
        """Write all rows; return (rows, dim)."""
        def work() -> None:
            if self.run() is not _TABLE:
                raise Refused("does not hold a table of word vectors")
            self.write()
        self.guarded(work)
        return self.found, self.dim

    # ---- memory stays bounded

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if isinstance(value, (Name, np.dtype)) or (type(value) in (str, bytes) and len(value) <= 32):
            if len(self.memo) < _KEPT or index in self.memo:
                super().put(index)
        else:
            self.memo.pop(index, None)

    def load_memoize(self) -> None:
        self.put(self.memoized)
        self.memoized += 1

    def load_empty_list(self) -> None:
        self.lists += 1
        if self.lists > 100:
            raise Refused("does not hold a table of word vectors in any known form")
        super().load_empty_list()

    def load_list(self) -> None:
        items = self.pop_mark()
        self.load_empty_list()
        self.load_appends(items)

    def load_empty_set(self) -> None:
        raise Refused("holds sets or dicts, not a table of word vectors")

    load_empty_dictionary = load_dict = load_frozenset = load_empty_set

    def load_appends(self, items: list | None = None) -> None:
        items = self.pop_mark() if items is None else items
        for item in items:
            if item is not _ROW:
                raise Refused(f"has an item of type {type(item).__name__} where an array of numbers is expected")
        super().load_appends(items)

    # ---- rows

    def load_build(self) -> None:
        state = self.stack[-1]
        if (isinstance(self.stack[-2], np.ndarray) and type(state) is tuple and len(state) == 5
                and type(state[4]) is list):
            if state[1] != (self.expected,) or not len(state[4]) == self.found == self.expected:
                raise Refused(f"holds {len(state[4])} rows, but its header says {self.expected}")
            self.stack[-2:] = [_TABLE]
            return
        super().load_build()
        self.take_row()

    def _instantiate(self, name: Any, args: Any) -> None:
        super()._instantiate(name, args)
        self.take_row()

    def take_row(self) -> None:
        """Write what is on top of the stack, if it is a row, and leave only a mark of it."""
        row = self.stack[-1]
        if not isinstance(row, np.ndarray) or row.dtype == np.int8:
            return      # nothing, or an array that is still to be filled
        if row.dtype.kind != "f" or not row.size or row.size != max(row.shape or (0,)):
            raise Refused(f"row {self.found} holds {row.dtype} of shape {row.shape}, not one vector of "
                          "floating-point numbers")
        if self.found == 0:
            self.dim = row.size
        elif row.size != self.dim:
            raise Refused(f"row {self.found} has {row.size} numbers where row 0 has {self.dim}")
        if self.found >= self.expected:
            raise Refused(f"holds more rows than the {self.expected} of its header")
        # Between two rows nothing may stay behind, so what the last took is free again.
        if len(self.stack) > 1 and self.stack[-2] is not _ROW and type(self.stack[-2]) is not list:
            raise Refused("does not hold a table of word vectors in any known form")
        self.left = self.left_before = self.left if self.left_before is None else self.left_before
        self.stack[-1] = _ROW
        self.block.append(row.ravel())
        self.found += 1
        if len(self.block) == _BLOCK:
            self.write()

    def write(self) -> None:
        if self.block:
            try:
                self.out.write(np.array(self.block, dtype="<f4").data)
            except OSError as error:
                raise StorytellerError(f"{self.path}: its converted table cannot be written "
                                       f"({error.strerror or error}); make room or choose another folder") from error
        self.block.clear()
        if self.progress is not None:
            self.progress(self.found)

