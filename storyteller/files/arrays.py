"""Reading and writing every file format of the models, safely.

Model files come from strangers and over bad connections.  Nothing here executes anything a file
says, trusts a size that a file declares, or lets a failure through as anything but one
`StorytellerError` that names the file, what was expected, and what to do next.  Savers write under
a temporary name and move the finished file into place.

The machine that reads pickles is in `storyteller.files.unpickle`, the weights of the convnet are in
`storyteller.files.vgg19`; this room is the face of both.

Examples
--------
>>> import os, tempfile
>>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
>>> save_arrays(path, ff_logit_b=np.zeros(5, dtype=np.float32))
>>> array_names(path)
{'ff_logit_b': (5,)}
>>> load_arrays(path, ["ff_logit_b"], shapes={"ff_logit_b": (None,)})["ff_logit_b"].dtype
dtype('float32')
"""
from __future__ import annotations

import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Callable, NamedTuple, Optional

import numpy as np

from ..errors import StorytellerError
from .io import AGAIN, check_readable, open_file, sniff, write_atomically, wrong_kind
from .unpickle import Machine, TableMachine
from .vgg19 import VGG19_SHAPES, load_torch_state, load_vgg19, save_vgg19_pickle

__all__ = [
    "VGG19_SHAPES", "array_names", "convert_object_table", "describe", "int_option",
    "is_object_table",
    "load_arrays", "load_dictionary", "load_matrix", "load_options", "load_pickle",
    "load_torch_state", "load_vector", "load_vgg19", "save_arrays", "save_npy_header", "save_pickle",
    "save_vgg19_pickle", "table_shape", "write_atomically",
]

Shape = Sequence[Optional[int]]

_BLOCK = 1 << 24            # bytes read at a time from an archive
_MAX_HEADER = 1 << 16       # bytes; NumPy itself writes some hundred


def describe(path: str | os.PathLike) -> str:
    """Say in a few words what a file looks like, from its first bytes.

    Returns
    -------
    A phrase such as "an .npz archive", "a pickle", "a web page (a failed download)" or "no such
    file"; it reads well after "this is".  Never raises for what is in the file.
    """
    return sniff(path)[1]


# ------------------------------------------------------------------------------ pickles

def load_pickle(path: str | os.PathLike, *, what: str = "a pickle", strict: bool = True) -> Any:
    """Read the first pickle of a file, of Python 2 or 3, without executing anything.

    Parameters
    ----------
    path : the file; what stands behind its first pickle (word counts, in dictionaries written
        by the training code) is not read.
    what : what the file is meant to be, for error messages.
    strict : whether a string of Python 2 that is not UTF-8 is an error; if not, it is read as
        Latin-1.

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
        kind = sniff(path)[0]
        if kind not in ("pickle", "unknown"):
            raise wrong_kind(path, what)
        return Machine(file, os.fstat(file.fileno()).st_size, path, strict=strict).load()


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
                raise StorytellerError(f"{path}: cannot be written, as it should hold something "
                                       f"that is no plain data ({error}); give dicts, lists, str "
                                       "and numbers") from error


def _python_numbers(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, type(None), str, int, float, bool):
        return ({_python_numbers(k): _python_numbers(v) for k, v in value.items()}
                if type(value) is dict else value)
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
        raise StorytellerError(f"{path}: holds a pickled {_kind_of(options)}; expected {what}, so "
                               "check whether files were swapped")
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
    what = "a dictionary (a pickled dict of word -> index)"
    words = load_pickle(path, what=what)
    if not isinstance(words, dict) or not words:
        raise StorytellerError(f"{path}: holds {'an empty' if words == {} else 'a pickled'} "
                               f"{_kind_of(words)}; expected {what}, so check whether files were "
                               "swapped")
    for word, index in words.items():
        if type(word) is not str or type(index) is not int or index < 0:
            raise StorytellerError(
                f"{path}: has an entry {str(word)[:40]!r} -> {_kind_of(index)} "
                f"{str(index)[:20] if type(index) is int else ''}; expected {what} with indices "
                "from 0, so check whether files were swapped")
    return dict(words)


def _kind_of(value: Any) -> str:
    return type(value).__name__


# ------------------------------------------------------------------------------ .npy headers

class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    size: int               # bytes of the header itself

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


_DESCR = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[A-Za-z]\d{0,6})['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\dL, ]{0,600})\)""")


def _read_header(file: BinaryIO, where: str) -> _Header:
    """Read the header of a .npy file; patterns instead of an evaluation, however safe that is."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise StorytellerError(f"{where}: does not begin like a .npy array; {AGAIN}")
    width = 2 if start[6] == 1 else 4
    field = file.read(width)
    length = int.from_bytes(field, "little")
    if len(field) < width or length > _MAX_HEADER:
        raise StorytellerError(f"{where}: has a damaged .npy header; {AGAIN}")
    raw = file.read(length)
    if len(raw) < length:
        raise StorytellerError(f"{where}: is truncated in its .npy header; {AGAIN}")
    text = raw.decode("latin-1").strip()
    descr, order, shape = _DESCR.search(text), _ORDER.search(text), _SHAPE.search(text)
    if not (text.startswith("{") and text.endswith("}") and descr and order and shape):
        raise StorytellerError(f"{where}: has a .npy header that is damaged or describes no plain "
                               f"array ({text[:60]!r}); {AGAIN}")
    try:
        dims = tuple(int(n.strip().rstrip("L")) for n in shape[1].split(",") if n.strip())
        dtype = np.dtype(descr[1])
    except (ValueError, TypeError):
        raise StorytellerError(f"{where}: has a damaged .npy header ({text[:60]!r}); {AGAIN}"
                               ) from None
    if len(dims) > 32 or any(n >= 1 << 48 for n in dims):
        raise StorytellerError(f"{where}: declares an impossible shape; {AGAIN}")
    return _Header(dims, dtype, order[1] == "True", 8 + width + length)


def _check_float(header: _Header, where: str) -> None:
    if header.dtype.kind == "O":
        raise StorytellerError(f"{where}: holds Python objects; expected floating-point numbers, "
                               "so save it again as a plain float32 array")
    if header.dtype.kind != "f" or header.dtype.itemsize > 8:
        raise StorytellerError(f"{where}: holds {header.dtype}; expected float32, so check whether "
                               "files were swapped")


def _fits(shape: Sequence[int], expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        want is None or found == want for found, want in zip(shape, expected))


def _show(shape: Shape) -> str:
    parts = ["any" if n is None else str(n) for n in shape]
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"


def _read_array(file: BinaryIO, header: _Header, dtype: Any, where: str) -> np.ndarray:
    """Read the data behind a header; the caller has checked the size against the file."""
    array = np.empty(math.prod(header.shape), header.dtype)
    target = array.view(np.uint8).data
    done = 0
    while done < len(target):
        count = file.readinto(target[done:done + _BLOCK])   # type: ignore[attr-defined]
        if not count:
            raise StorytellerError(f"{where}: is truncated (has {done} of {len(target)} bytes of "
                                   f"data); {AGAIN}")
        done += count
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype).reshape(header.shape)


# ------------------------------------------------------------------------------ .npz archives

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError,
               KeyError, IndexError, OverflowError, struct.error, NotImplementedError,
               UnicodeError)


class _Archive:
    """An .npz archive open for reading; every failure names the file and the parameter."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike):
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        try:
            self.zip = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise StorytellerError(f"{path}: is a damaged or truncated archive ({error}); {AGAIN}"
                                   ) from error
        self.members = {info.filename[:-4]: info for info in self.zip.infolist()
                        if info.filename.endswith(".npy")}

    @contextmanager
    def reading(self, name: str) -> Iterator[tuple[BinaryIO, _Header, str]]:
        """Open a member behind its header; its declared sizes agree with one another."""
        where = f"{self.path}: parameter {name}"
        info = self.members[name]
        try:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise StorytellerError(f"{where} is compressed in an unusual way; save it again "
                                       "with numpy.savez")
            packed, size = info.compress_size, info.file_size
            if packed > self.size or (info.compress_type == zipfile.ZIP_STORED and size != packed):
                raise StorytellerError(f"{where} declares more bytes than the file has; {AGAIN}")
            # No trained weights pack this well: a small file that asks for all the memory.
            if size > 1 << 26 and size > 100 * packed:
                raise StorytellerError(f"{where} would unpack from {packed} to {size} bytes, as "
                                       f"no weights do; {AGAIN}, from a source you trust")
            with self.zip.open(info) as file:
                header = _read_header(file, where)
                if header.dtype.kind != "O" and size != header.size + header.nbytes:
                    raise StorytellerError(
                        f"{where} has {size - header.size} bytes of data where its header "
                        f"announces {header.nbytes}; {AGAIN}")
                yield file, header, where
        except _ZIP_ERRORS as error:
            raise StorytellerError(f"{where} is damaged or truncated ({error}); {AGAIN}"
                                   ) from error


@contextmanager
def _open_archive(path: str | os.PathLike, what: str) -> Iterator[_Archive]:
    kind = check_readable(path, what)
    if kind not in ("npz", "zip"):
        raise wrong_kind(path, what)
    with open_file(path, what) as file:
        yield _Archive(file, path)


def array_names(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """List the arrays of an .npz archive, name -> shape, reading headers only.

    Raises
    ------
    StorytellerError : the file is missing, not an .npz archive, or damaged.
    """
    shapes = {}
    with _open_archive(path, "an .npz archive of arrays") as archive:
        for name in archive.members:
            with archive.reading(name) as (_, header, _where):
                shapes[name] = header.shape
    return shapes


def load_arrays(path: str | os.PathLike, names: Iterable[str],
                shapes: Mapping[str, Shape] | None = None,
                dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Read arrays from an .npz archive, and only those.

    Parameters
    ----------
    path : the archive; it may hold more than is asked for.
    names : the parameters to read.
    shapes : name -> expected shape, None for a dimension that is free; names without an entry may
        have any shape.
    dtype : the dtype to return; the file may hold any floating-point dtype up to 64 bits.

    Returns
    -------
    dict name -> array, C-contiguous, writable.

    Raises
    ------
    StorytellerError : the file is missing, something else, or damaged; a parameter is missing, has
        another shape or dtype, or fails its checksum.
    """
    names = list(names)
    arrays = {}
    with _open_archive(path, "a model (an .npz archive)") as archive:
        missing = [name for name in names if name not in archive.members]
        if missing:
            raise StorytellerError(
                f"{path}: lacks the parameter {', '.join(missing[:5])}; expected an archive that "
                f"holds it (found {', '.join(list(archive.members)[:8]) or 'no arrays'}), so check "
                "whether files were swapped")
        for name in names:
            with archive.reading(name) as (file, header, where):
                expected = None if shapes is None else shapes.get(name)
                if expected is not None and not _fits(header.shape, expected):
                    raise StorytellerError(
                        f"{where} has shape {_show(header.shape)}; expected {_show(expected)}, so "
                        "check whether the model and its options belong together")
                _check_float(header, where)
                arrays[name] = _read_array(file, header, dtype, where)
                file.read(1)    # reaching the end is what makes zipfile compare the checksum
    return arrays


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a file is an .npz archive, by its content; False where there is no file."""
    return sniff(path)[0] == "npz"


def save_arrays(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """Write arrays to an uncompressed .npz archive, which the original code reads too.

    Equal arrays give equal files, byte for byte: the archive holds no dates.

    Raises
    ------
    StorytellerError : the file cannot be written, or an array holds Python objects.
    """
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            array = np.asanyarray(array)
            if array.dtype.hasobject:
                raise StorytellerError(f"{path}: parameter {name} cannot be saved, as it holds "
                                       "Python objects; give an array of numbers")
            info = zipfile.ZipInfo(name + ".npy")
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


# ------------------------------------------------------------------------------ .npy files

@contextmanager
def _open_npy(path: str | os.PathLike, what: str) -> Iterator[tuple[BinaryIO, _Header]]:
    kind = check_readable(path, what)
    if kind not in ("npy", "object npy"):
        raise wrong_kind(path, what)
    with open_file(path, what) as file:
        try:
            header = _read_header(file, str(path))
            if header.dtype.kind != "O":
                found = os.fstat(file.fileno()).st_size - header.size
                if found != header.nbytes:
                    state = "is truncated: it" if found < header.nbytes else "is damaged: it"
                    raise StorytellerError(f"{path}: {state} has {found} bytes of data where its "
                                           f"header announces {header.nbytes}; {AGAIN}")
            yield file, header
        except OSError as error:
            raise StorytellerError(f"{path}: cannot be read ({error.strerror or error}); {AGAIN}"
                                   ) from error


def load_vector(path: str | os.PathLike, dim: int | None = None) -> np.ndarray:
    """Read a vector, such as the mean vector of a style, from a .npy file.

    Parameters
    ----------
    path : a .npy file of shape (dim,), (1, dim) or (dim, 1), of any floating-point dtype.
    dim : the expected number of components, None for any.

    Returns
    -------
    (dim,) float32, finite.

    Raises
    ------
    StorytellerError : the file is missing, something else or damaged; it has another dtype or
        shape, or holds NaN or infinity.
    """
    what = "a vector (a .npy file)" if dim is None else f"a vector of {dim} numbers (a .npy file)"
    with _open_npy(path, what) as (file, header):
        _check_float(header, str(path))
        shape = header.shape
        size = math.prod(shape)
        if size == 0 or len(shape) not in (1, 2) or max(shape) != size:
            raise StorytellerError(f"{path}: has shape {_show(shape)}; expected {what}, so check "
                                   "whether files were swapped")
        if dim is not None and size != dim:
            raise StorytellerError(f"{path}: has {size} numbers; expected {what}, so check whether "
                                   "it was made with another sentence encoder")
        vector = _read_array(file, header, np.float32, str(path)).reshape(-1)
    if not np.isfinite(vector).all():
        raise StorytellerError(f"{path}: holds NaN or infinity; expected {what} that is finite, so "
                               "make or fetch it again")
    return vector


def load_matrix(path: str | os.PathLike, mmap: bool = False) -> np.ndarray:
    """Read a matrix of floating-point numbers from a .npy file.

    Parameters
    ----------
    path : a .npy file of two dimensions.
    mmap : whether to map the file into memory instead of reading it; the array is then read-only
        and has the dtype and order of the file.

    Returns
    -------
    (rows, columns) float32, or with mmap a numpy.memmap of the file's dtype.

    Raises
    ------
    StorytellerError : the file is missing, something else or damaged, holds Python objects (see
        `convert_object_table`), or has another number of dimensions.
    """
    what = "a matrix of numbers (a .npy file)"
    with _open_npy(path, what) as (file, header):
        if header.dtype.kind == "O":
            raise StorytellerError(f"{path}: is a table of Python objects, in the form in which "
                                   "the word tables of 2015 were published; expected a plain "
                                   "matrix, so convert it first (convert_object_table)")
        _check_float(header, str(path))
        if len(header.shape) != 2:
            raise StorytellerError(f"{path}: has shape {_show(header.shape)}; expected {what}, so "
                                   "check whether files were swapped")
        if mmap and math.prod(header.shape):
            return np.memmap(path, header.dtype, "r", header.size, header.shape,
                             "F" if header.fortran else "C")
        return _read_array(file, header, np.float32, str(path))


def save_npy_header(out_file: BinaryIO, shape: Sequence[int]) -> None:
    """Write the .npy header (version 1.0) of a float32 array in C order.

    The data follow as the caller writes them, so that a table larger than memory can be made and
    read with ``np.load(path, mmap_mode='r')``.  The header of any table has the same length: one
    of a preliminary shape can be overwritten later.
    """
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {_show(shape)}, }}"
    out_file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n")


# ------------------------------------------------------------------------------ object tables

def is_object_table(path: str | os.PathLike) -> bool:
    """Whether a .npy file holds Python objects, as the published word tables do.

    Raises
    ------
    StorytellerError : the file is missing, or is not a .npy file.
    """
    with _open_npy(path, "a table of word vectors (a .npy file)") as (_, header):
        return header.dtype.kind == "O"


def table_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """The shape that the header of a .npy file declares: (rows, columns), or (rows,) for a table
    of Python objects.

    Raises
    ------
    StorytellerError : the file is missing, or is not a .npy file.
    """
    with _open_npy(path, "a table of word vectors (a .npy file)") as (_, header):
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
    what = "a table of word vectors (a .npy file of one array a word)"
    with _open_npy(path, what) as (file, header):
        if header.dtype.kind != "O" or len(header.shape) != 1:
            raise StorytellerError(f"{path}: holds {header.dtype} of shape {_show(header.shape)}; "
                                   f"expected {what}, so read a plain matrix with load_matrix, or "
                                   "save the table again")
        if not header.shape[0]:
            raise StorytellerError(f"{path}: has no rows; expected {what}, so {AGAIN}")
        size = os.fstat(file.fileno()).st_size
        return TableMachine(file, size, path, header.shape[0], out_file, progress).convert()


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
        shown = repr(value)[:40] if isinstance(value, (int, float, str)) else _kind_of(value)
        raise StorytellerError(
            f"{os.fspath(path)}: option {name!r} is {'missing' if value is None else shown}; "
            "expected a positive whole number, so take the options file that was saved with the "
            "model")
    return int(value)
