"""State dicts that torch.save wrote, in either of its formats, without PyTorch.

Formats: PyTorch's documentation, "Serialization semantics"; since PyTorch 1.6 a zip archive of one
pickle and one member a storage, before that several pickles followed by the storages.
"""
from __future__ import annotations

import functools
import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Callable, NamedTuple

import numpy as np

from ..errors import StorytellerError
from .arrays import Wanted, check_array, lacks, zip_errors
from .io import AGAIN, check_readable, open_file, wrong_kind
from .unpickle import Name, Refused, SafeUnpickler

_WHAT = "a state dict of PyTorch"
_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8",
           "IntStorage": "<i4", "ShortStorage": "<i2", "ByteStorage": "|u1", "CharStorage": "|i1",
           "BoolStorage": "|b1"}


class _Storage(NamedTuple):
    """A run of numbers outside the pickle, named by key."""

    key: str
    dtype: np.dtype
    size: int
    offset: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype


_Read = Callable[[_Storage], np.ndarray]


def is_torch(kind: str, head: bytes) -> bool:
    """Whether a file is one of PyTorch, by `sniff`'s kind and its first bytes."""
    return kind in ("torch", "zip") or head.startswith(_MAGIC)


def load_torch_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the floating-point tensors of a state dict that torch.save wrote, without PyTorch.

    Parameters
    ----------
    path : either format of torch.save.

    Returns
    -------
    Name -> float32 array, in the order of the file.

    Raises
    ------
    StorytellerError : the file is missing, something else or damaged.
    """
    kind = check_readable(path, _WHAT)
    with open_file(path, _WHAT) as file:
        if not is_torch(kind, file.read(64)):
            raise wrong_kind(path, _WHAT)
        with _opened(file, path) as (state, read):
            tensors = {str(name): tensor for name, tensor in state.items()
                       if type(tensor) is _Tensor and tensor.dtype.kind == "f"}
            # Tensors may share storages (tied weights), but not so that a small file fills the memory.
            total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())
            if total > 8 * os.fstat(file.fileno()).st_size:
                raise StorytellerError(f"{os.fsdecode(path)}: would unfold to {total} bytes; expected {_WHAT}, so "
                                       f"{AGAIN}, from a source you trust")
            # By storage, so that each is read once.
            arrays = {name: np.array(_view(tensors[name], name, read), dtype=np.float32)
                      for name in sorted(tensors, key=lambda name: tensors[name].storage.key)}
            return {name: arrays[name] for name in tensors}


def read_weights(file: BinaryIO, path: Any, wanted: Wanted) -> Iterator[np.ndarray]:
    """Yield the parameters of `wanted` one by one.

    Parameters
    ----------
    file, path : the file, and its name for messages.
    wanted : name and shape of each parameter.
    """
    with _opened(file, path) as (state, read):
        for name, shape in wanted:
            tensor = state.get(name)
            if type(tensor) is not _Tensor:
                raise lacks(os.fsdecode(path), name)
            check_array(os.fsdecode(path), name, tensor, shape)
            yield _view(tensor, name, read)


def _view(tensor: _Tensor, name: str, read: _Read) -> np.ndarray:
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride))
    size = math.prod(tensor.shape)
    # Steps of 0 would make any number of numbers of one.
    if size > tensor.storage.size or (size and tensor.offset + last >= tensor.storage.size):
        raise Refused(f"has a tensor {name[:100]} that is larger than its storage")
    flat = read(tensor.storage)[tensor.offset:]
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


@contextmanager
def _opened(file: BinaryIO, path: Any) -> Iterator[tuple[dict, _Read]]:
    """The state dict of a file, tensors as `_Tensor`, and what reads a storage."""
    where = os.fsdecode(path)
    file.seek(0)
    try:
        if file.read(2) == b"PK":
            with zip_errors(where), zipfile.ZipFile(file) as archive:
                state, read = _open_zip(archive, os.fstat(file.fileno()).st_size, where)
                yield _state_dict(state, where), read
        else:
            file.seek(0)
            state, read = _open_legacy(file, where)
            yield _state_dict(state, where), read
    except Refused as error:
        raise StorytellerError(f"{where}: {error}; {AGAIN}, from a source you trust") from None


def _state_dict(state: Any, where: str) -> dict:
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise StorytellerError(f"{where}: holds a pickled {type(state).__name__}; expected {_WHAT}, so save "
                               "model.state_dict()")
    return state


# ------------------------------------------------------------------------------ the pickle

def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not (type(storage) is _Storage and _is_count(offset) and type(shape) is tuple and type(stride) is tuple
            and len(shape) == len(stride) <= 8 and all(map(_is_count, shape + stride))):
        raise Refused("holds a tensor in an unknown form")
    return _Tensor(storage, offset + storage.offset, shape, stride)


def _make_parameter(tensor: Any, *_: Any) -> _Tensor:
    if type(tensor) is not _Tensor:
        raise Refused("holds a parameter in an unknown form")
    return tensor


def _not_called(*_: Any) -> Any:
    raise Refused("holds a storage in an unknown form")


_NAMES: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _make_tensor, "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
    **{f"{module}.{kind}": _not_called for kind in _DTYPES for module in ("torch", "torch.storage")}}


def _make_storage(pid: Any) -> _Storage:
    """From (marker, type, key, device, size) and, in the older format, (view, offset, size) or None."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[1]) is not Name:
        raise Refused("holds a storage in an unknown form")
    kind, key, size = pid[1].name.rpartition(".")[2], pid[2], pid[4]
    view = pid[5] if len(pid) == 6 else None
    if (kind not in _DTYPES or type(key) is not str or not re.fullmatch(r"\w{1,100}", key) or not _is_count(size)
            or not (view is None or type(view) is tuple and len(view) == 3 and _is_count(view[1]))):
        raise Refused("holds a storage in an unknown form")
    return _Storage(key, np.dtype(_DTYPES[kind]), size, 0 if view is None else view[1])


# ------------------------------------------------------------------------------ the two formats

def _open_zip(archive: zipfile.ZipFile, size: int, where: str) -> tuple[Any, _Read]:
    members = {info.filename: info for info in archive.infolist()}
    pickled = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickled:
        raise wrong_kind(where, _WHAT)
    prefix = pickled[0][:-len("data.pkl")]

    def member(name: str, most: int) -> bytes:
        info = members.get(prefix + name)
        if (info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size > most
                or info.compress_size > size):
            raise Refused(f"has a part {name[:40]} that is missing, compressed or too large")
        return archive.read(info)

    if prefix + "byteorder" in members and member("byteorder", 16).strip() != b"little":
        raise StorytellerError(f"{where}: is big-endian; expected {_WHAT} in little-endian order, so save it again on "
                               "such a machine")
    content = io.BytesIO(member("data.pkl", 1 << 26))
    state = SafeUnpickler(content, where, names=_NAMES, persistent=_make_storage).load()

    @functools.lru_cache(maxsize=1)
    def read(storage: _Storage) -> np.ndarray:
        data = member("data/" + storage.key, storage.size * storage.dtype.itemsize)
        if len(data) != storage.size * storage.dtype.itemsize:
            raise Refused(f"has a storage of {len(data)} bytes where another size is announced")
        return np.frombuffer(data, storage.dtype)

    return state, read


def _open_legacy(file: BinaryIO, where: str) -> tuple[Any, _Read]:
    widths: dict[str, int] = {}     # bytes of a number; they stand only in the pickle

    def make_storage(pid: Any) -> _Storage:
        storage = _make_storage(pid)
        if widths.setdefault(storage.key, storage.dtype.itemsize) != storage.dtype.itemsize:
            raise Refused("holds a storage of two types")
        return storage

    reader = SafeUnpickler(file, where, names=_NAMES, persistent=make_storage)
    _, version, system, state, keys = [reader.load() for _ in range(5)]
    if version != 1001 or (isinstance(system, dict) and system.get("little_endian") is False):
        raise StorytellerError(f"{where}: is a PyTorch file of an unknown version or byte order; expected {_WHAT}, so "
                               "save it again with a recent PyTorch")
    places: dict[str, tuple[int, int]] = {}
    position = file.tell()
    for key in keys if type(keys) is list else [None]:
        file.seek(position)
        field = file.read(8)
        if type(key) is not str or key not in widths or len(field) < 8:
            raise Refused("is truncated or damaged behind its pickles")
        places[key] = (position + 8, int.from_bytes(field, "little"))
        position += 8 + places[key][1] * widths[key]
        if position > reader.size:
            raise Refused("is truncated or damaged behind its pickles")

    @functools.lru_cache(maxsize=1)
    def read(storage: _Storage) -> np.ndarray:
        start, size = places.get(storage.key, (0, -1))
        if size != storage.size:
            raise Refused("has a storage of another size than its tensors say")
        file.seek(start)
        data = file.read(size * storage.dtype.itemsize)
        if len(data) < size * storage.dtype.itemsize:
            raise Refused("is truncated behind its pickles")
        return np.frombuffer(data, storage.dtype)

    return state, read
