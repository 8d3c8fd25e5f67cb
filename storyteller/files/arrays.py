"""Arrays of numbers: .npz archives and .npy files.

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

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, Optional

import numpy as np

from ..errors import StorytellerError, shown
from .io import AGAIN, check_readable, open_file, sniff, write_atomically, wrong_kind

Shape = Sequence[Optional[int]]
Wanted = Sequence[tuple[str, tuple[int, ...]]]      # name and shape of each parameter of a convnet

_MAX_HEADER = 10_000        # bytes, as in NumPy; NumPy itself writes 128


# ------------------------------------------------------------------------------ headers

class Header(NamedTuple):
    """What the header of a .npy array says, and its own size in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(file: BinaryIO, where: str) -> Header:
    """Read the header of a .npy file through NumPy, once its length is found to be sane."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
        raise StorytellerError(f"{where}: does not begin like a .npy array; {AGAIN}")
    field = file.read(2 * start[6])
    length = int.from_bytes(field, "little")
    text = file.read(min(length, _MAX_HEADER))
    if len(field) < 2 * start[6] or length > _MAX_HEADER or len(text) < length:
        raise StorytellerError(f"{where}: has a damaged or truncated .npy header; {AGAIN}")
    text = re.sub(rb"(\d)L\b", rb"\1", text)        # Python 2's long integers
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(struct.pack("<H", len(text)) + text))
        if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise ValueError("an impossible shape")
    except Exception as error:      # what is no header can make the parser trip over anything
        raise StorytellerError(f"{where}: has a .npy header that is damaged or describes no plain array "
                               f"({ascii(text[:60].decode('latin-1'))}); {AGAIN}") from error
    return Header(shape, fortran, dtype, 8 + len(field) + length)


def save_npy_header(out_file: BinaryIO, shape: Sequence[int], dtype: Any = np.float32) -> None:
    """Write the .npy header (version 1.0) of an array in C order.

    The data follow as the caller writes them, so that a table larger than memory can be made and
    read with ``np.load(path, mmap_mode='r')``.  The header of any vector or matrix has 128 bytes: one
    of a preliminary shape can be overwritten later.
    """
    np.lib.format.write_array_header_1_0(out_file, {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<")), "fortran_order": False,
        "shape": tuple(map(int, shape))})


def _check_float(header: Header, where: str) -> None:
    if header.dtype.kind == "O":
        raise StorytellerError(f"{where}: holds Python objects; expected floating-point numbers, "
                               "so save it again as a plain float32 array")
    if header.dtype.kind != "f" or header.dtype.itemsize > 8:
        raise StorytellerError(f"{where}: holds {str(header.dtype)[:40]}; expected float32, so check whether "
                               "files were swapped")


def _fits(shape: Sequence[int], expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        want is None or found == want for found, want in zip(shape, expected))


def _show(shape: Shape) -> str:
    parts = ["any" if n is None else str(n) for n in shape]
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"


def _read_array(file: BinaryIO, header: Header, dtype: Any, where: str) -> np.ndarray:
    """Read the data behind a header; the caller has checked the size against the file."""
    array = np.empty(math.prod(header.shape), header.dtype)
    target = array.view(np.uint8).data
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])    # type: ignore[attr-defined]
        if not count:
            raise StorytellerError(f"{where}: is truncated (has {done} of {len(target)} bytes of data); {AGAIN}")
        done += count
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype).reshape(header.shape)


# ------------------------------------------------------------------------------ .npz archives

@contextmanager
def zip_errors(where: str) -> Iterator[None]:
    """Turn whatever a damaged zip archive provokes into a StorytellerError that names `where`."""
    try:
        yield
    except StorytellerError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, LookupError,
            OverflowError, struct.error) as error:
        raise StorytellerError(f"{where}: is damaged or truncated ({str(error)[:200]}); {AGAIN}") from error


class _Archive:
    """An .npz archive open for reading; every failure names the file and the parameter."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike):
        self.path = os.fsdecode(path)
        self.size = os.fstat(file.fileno()).st_size
        with zip_errors(self.path):
            self.zip = zipfile.ZipFile(file)
        self.members = {info.filename[:-4]: info for info in self.zip.infolist()
                        if info.filename.endswith(".npy")}

    @contextmanager
    def reading(self, name: str) -> Iterator[tuple[BinaryIO, Header, str]]:
        """Open a member behind its header; its declared sizes agree with one another."""
        where = f"{self.path}: parameter {name[:100]}"
        info = self.members[name]
        packed, size = info.compress_size, info.file_size
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StorytellerError(f"{where} is compressed in an unusual way; save it again with numpy.savez")
        if packed > self.size or (info.compress_type == zipfile.ZIP_STORED and size != packed):
            raise StorytellerError(f"{where} declares more bytes than the file has; {AGAIN}")
        # No trained weights pack this well: a small file that asks for all the memory.
        if size > 1 << 26 and size > 100 * packed:
            raise StorytellerError(f"{where} would unpack from {packed} to {size} bytes, as no weights do; "
                                   f"{AGAIN}, from a source you trust")
        with zip_errors(where), self.zip.open(info) as file:
            header = _read_header(file, where)      # type: ignore[arg-type]
            if header.dtype.kind != "O" and size != header.size + header.nbytes:
                raise StorytellerError(f"{where} has {size - header.size} bytes of data where its header announces "
                                       f"{header.nbytes}; {AGAIN}")
            yield file, header, where       # type: ignore[misc]


@contextmanager
def _open_archive(path: str | os.PathLike, what: str) -> Iterator[_Archive]:
    if check_readable(path, what) not in ("npz", "zip"):
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
    if isinstance(names, (str, bytes)):
        raise TypeError("names is one string: expected a list of the parameters to read")
    if shapes is not None and not isinstance(shapes, Mapping):
        raise StorytellerError(f"shapes is {shown(shapes)}: expected a dict of name -> shape, or None")
    try:
        floats = np.dtype(dtype)
    except (TypeError, ValueError):     # not encodable as text, among others
        raise StorytellerError(f"dtype is {shown(dtype)}: expected one of floating-point numbers, such as "
                               "numpy.float32") from None
    names, arrays = list(names), {}
    with _open_archive(path, "a model (an .npz archive)") as archive:
        missing = [str(name)[:100] for name in names if name not in archive.members]
        if missing:
            found = [name[:100] for name in archive.members][:8]
            raise StorytellerError(
                f"{archive.path}: lacks the parameter {', '.join(missing[:5])}; expected an archive that holds it "
                f"(found {', '.join(found) or 'no arrays'}), so check whether files were swapped")
        for name in names:
            with archive.reading(name) as (file, header, where):
                expected = None if shapes is None else shapes.get(name)
                if expected is not None and not _fits(header.shape, expected):
                    raise StorytellerError(
                        f"{where} has shape {_show(header.shape)}; expected {_show(expected)}, so "
                        "check whether the model and its options belong together")
                _check_float(header, where)
                arrays[name] = _read_array(file, header, floats, where)
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
                raise StorytellerError(f"{os.fsdecode(path)}: parameter {name} cannot be saved, as it holds "
                                       "Python objects; give an array of numbers")
            info = zipfile.ZipInfo(name + ".npy")
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


# ------------------------------------------------------------------------------ .npy files

@contextmanager
def open_npy(path: str | os.PathLike, what: str) -> Iterator[tuple[BinaryIO, Header]]:
    """Open a .npy file behind its header, which agrees with the size of the file."""
    if check_readable(path, what) not in ("npy", "object npy"):
        raise wrong_kind(path, what)
    with open_file(path, what) as file:
        where = os.fsdecode(path)
        try:
            header = _read_header(file, where)
            found = os.fstat(file.fileno()).st_size - header.size
            if header.dtype.kind != "O" and found != header.nbytes:
                raise StorytellerError(f"{where}: is {'truncated' if found < header.nbytes else 'damaged'}: it has "
                                       f"{found} bytes of data where its header announces {header.nbytes}; {AGAIN}")
            yield file, header
        except OSError as error:
            raise StorytellerError(f"{where}: cannot be read ({error.strerror or error}); {AGAIN}") from error


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
    what = "a vector (a .npy file)" if dim is None else f"a {dim}-dimensional vector (a .npy file)"
    where = os.fsdecode(path)
    with open_npy(path, what) as (file, header):
        _check_float(header, where)
        shape = header.shape
        size = math.prod(shape)
        if size == 0 or len(shape) not in (1, 2) or max(shape) != size:
            raise StorytellerError(f"{where}: has shape {_show(shape)}; expected {what}, so check "
                                   "whether files were swapped")
        if dim is not None and size != dim:
            raise StorytellerError(f"{where}: is {size}-dimensional; expected {what}, so check whether "
                                   "it was made with another sentence encoder")
        vector = _read_array(file, header, np.float32, where).reshape(-1)
    if not np.isfinite(vector).all():
        raise StorytellerError(f"{where}: holds NaN or infinity; expected {what} that is finite, so "
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
    where = os.fsdecode(path)
    with open_npy(path, what) as (file, header):
        if header.dtype.kind == "O":
            raise StorytellerError(f"{where}: is a table of Python objects, in the form in which "
                                   "the word tables of 2015 were published; expected a plain "
                                   "matrix, so convert it first (convert_object_table)")
        _check_float(header, where)
        if len(header.shape) != 2:
            raise StorytellerError(f"{where}: has shape {_show(header.shape)}; expected {what}, so "
                                   "check whether files were swapped")
        if mmap and 0 not in header.shape:
            return np.lib.format.open_memmap(where, mode="r")
        return _read_array(file, header, np.float32, where)


# ------------------------------------------------------------------------------ weights of a convnet

def check_array(path: str, name: str, array: Any, shape: Sequence[int]) -> None:
    """Raise StorytellerError where something is no array of floating-point numbers of that shape."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or dtype.kind != "f" or dtype.itemsize > 8:
        raise StorytellerError(f"{path}: has {name} that is no array of floating-point numbers; expected the weights "
                               "of VGG-19, so fetch or copy the file again")
    if tuple(array.shape) != tuple(shape):
        raise StorytellerError(f"{path}: has {name} of shape {tuple(array.shape)}; expected {tuple(shape)} as in "
                               "VGG-19, so check whether this is the file of another network")


def lacks(path: str, name: str, hint: str = "check whether this is the file of another network") -> StorytellerError:
    """The error for a file without a parameter."""
    return StorytellerError(f"{path}: lacks {name}; expected the weights of VGG-19, so {hint}")
