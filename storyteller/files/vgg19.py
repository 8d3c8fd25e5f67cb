"""The weights of VGG-19, in the four forms in which they are published.

Lasagne's vgg19.pkl, Caffe's VGG_ILSVRC_19_layers.caffemodel, torchvision's state dict and Keras'
.h5 hold the same network with other layouts, channel orders and input scales.  `load_vgg19` tells
them apart by content and returns one layout for all; none of the four frameworks is needed (Keras'
file needs h5py).

The network: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration E.
"""
from __future__ import annotations

import io
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Callable

import numpy as np

from ..errors import StorytellerError
from .io import AGAIN, check_readable, open_file, write_atomically, wrong_kind
from .unpickle import Machine


def _vgg19_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), 1):
        for number in range(1, count + 1):
            shapes[f"conv{block}_{number}"] = (width, channels, 3, 3)
            channels = width
    shapes.update(fc6=(channels * 7 * 7, 4096), fc7=(4096, 4096), fc8=(4096, 1000))
    return shapes


#: Layer name -> shape of its W in network order; convolutions (out, in, 3, 3), dense (in, out).
VGG19_SHAPES: dict[str, tuple[int, ...]] = _vgg19_shapes()

# B, G, R: the mean that `im` has had subtracted (2014, the Caffe model's own).
_MEAN = np.array([103.939, 116.779, 123.68])
# B, G, R: what torchvision's weights expect, of values in 0..1 (torchvision, "transforms").
_TORCH_MEAN = np.array([0.406, 0.456, 0.485])
_TORCH_STD = np.array([0.225, 0.224, 0.229])

_WHAT = "the weights of VGG-19 (Lasagne .pkl, .caffemodel, PyTorch .pth or Keras .h5)"
_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def load_vgg19(path: str | os.PathLike, shapes: Mapping[str, Sequence[int]] | None = None
               ) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Read the weights of VGG-19 from any of the files they are published in.

    Parameters
    ----------
    path : Lasagne's vgg19.pkl, Caffe's VGG_ILSVRC_19_layers.caffemodel (V1 or V2 layers),
        torchvision's vgg19 state dict (either format of torch.save), or Keras' vgg19 .h5 with its
        dense layers.  Told apart by content.
    shapes : layer name -> shape of W, in place of `VGG19_SHAPES`, for networks of the same layers
        with other widths.

    Returns
    -------
    params : 38 float32 arrays W, b, W, b, ... in network order, C-contiguous, perhaps read-only.
        Convolutions W (out, in, 3, 3), to be cross-correlated, over channels B, G, R; dense W
        (in, out), the input of fc6 flattened in (channel, row, column) order.
    spec : source 'lasagne', 'caffe', 'torchvision' or 'keras'; scale, shift : (3,) float32.
        The network takes x = im * scale + shift, channel by channel, B, G, R, where im is in
        0..255 minus (103.939, 116.779, 123.68).  Do so before conv1_1 pads with zeros.

    Raises
    ------
    StorytellerError : the file is missing, something else, damaged, or of another network.
    """
    shapes = VGG19_SHAPES if shapes is None else shapes
    kind = check_readable(path, _WHAT)
    with open_file(path, _WHAT) as file:
        head = file.read(64)
        file.seek(0)
        if kind == "hdf5":
            source, read = "keras", _read_keras
        elif kind in ("torch", "zip"):
            source, read = "torchvision", _vgg19_of(_read_torch_zip)
        elif head.startswith(_TORCH_MAGIC):
            source, read = "torchvision", _vgg19_of(_read_torch_legacy)
        elif head[:1] in (b"\x0a", b"\x12", b"\xa2") and kind in ("unknown", "text", "pickle"):
            source, read = "caffe", _read_caffe
        elif kind == "pickle":
            source, read = "lasagne", _read_lasagne
        else:
            raise wrong_kind(path, _WHAT)
        params = read(file, path, shapes)
    scale, shift = np.ones(3), np.zeros(3)
    if source == "torchvision":
        scale = 1 / (255 * _TORCH_STD)
        shift = (_MEAN / 255 - _TORCH_MEAN) / _TORCH_STD
    return params, {"source": source, "scale": scale.astype(np.float32),
                    "shift": shift.astype(np.float32)}


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
    what = "a state dict of PyTorch"
    kind = check_readable(path, what)
    with open_file(path, what) as file:
        if kind in ("torch", "zip"):
            return _read_torch_zip(file, path, _all_tensors)
        legacy = file.read(64).startswith(_TORCH_MAGIC)
        file.seek(0)
        if legacy:
            return _read_torch_legacy(file, path, _all_tensors)
    raise wrong_kind(path, what)


def _bias_shape(shape: Sequence[int]) -> tuple[int]:
    return (shape[0] if len(shape) == 4 else shape[1],)


def _check_shape(path: Any, layer: str, part: str, found: Sequence[int],
                 expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise StorytellerError(f"{path}: layer {layer} has {part} of shape {tuple(found)}; "
                               f"expected {tuple(expected)} as in VGG-19, so check whether this "
                               "is the file of another network")


def _lacks(path: Any, layer: str, hint: str = "") -> StorytellerError:
    return StorytellerError(f"{path}: lacks layer {layer}; expected {_WHAT}, so "
                            + (hint or "check whether this is the file of another network"))


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


# ------------------------------------------------------------------------------ Lasagne

def _read_lasagne(file: BinaryIO, path: Any, shapes: Mapping[str, Sequence[int]]
                  ) -> list[np.ndarray]:
    content = Machine(file, os.fstat(file.fileno()).st_size, path, strict=False).load()
    values = content.get("param values") if isinstance(content, dict) else None
    if not isinstance(values, (list, tuple)):
        raise StorytellerError(f"{path}: is a pickle without 'param values'; expected {_WHAT}, so "
                               "check whether files were swapped")
    if len(values) != 2 * len(shapes):
        raise StorytellerError(f"{path}: holds {len(values)} arrays; expected the {2 * len(shapes)}"
                               " of VGG-19, so check whether this is the file of another network")
    params = []
    for i, (layer, shape) in enumerate(shapes.items()):
        for part, expected, value in (("W", shape, values[2 * i]),
                                      ("b", _bias_shape(shape), values[2 * i + 1])):
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                raise StorytellerError(f"{path}: layer {layer} has {part} that is no array of "
                                       f"floating-point numbers; expected {_WHAT}")
            _check_shape(path, layer, part, value.shape, expected)
            params.append(_float32(value))
    return params


def save_vgg19_pickle(path: str | os.PathLike, params: Sequence[np.ndarray]) -> None:
    """Write weights in the form of Lasagne's vgg19.pkl.

    Parameters
    ----------
    path : the file, replaced when there is one.
    params : the arrays of `load_vgg19`; written as float32.

    Raises
    ------
    StorytellerError : the file cannot be written.

    Notes
    -----
    Python 3's pickle would turn array data into text for a protocol that Python 2 reads, which
    doubles the 575 MB; so the opcodes are written here, as Python 2 itself writes them.
    """
    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    with write_atomically(path) as file:
        file.write(b"\x80\x02}(" + string(b"model name") + string(b"VGG19")
                   + string(b"param values") + b"](")
        for i, array in enumerate(params):
            array = np.ascontiguousarray(array, dtype="<f4")
            if array.nbytes >= 1 << 31:
                raise StorytellerError(f"{path}: array {i} of {array.nbytes} bytes is too large "
                                       "for the format; expected less than 2 GB")
            if i == 0:
                file.write(b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02")
            else:
                file.write(b"h\x01h\x02")
            file.write(b"K\x00\x85" + string(b"b") + b"\x87R(K\x01("
                       + b"".join(map(integer, array.shape)) + b"t")
            if i == 0:
                file.write(b"cnumpy\ndtype\n" + string(b"f4") + b"K\x00K\x01\x87Rq\x03(K\x03"
                           + string(b"<") + b"NNN" + integer(-1) + integer(-1) + b"K\x00tb")
            else:
                file.write(b"h\x03")
            file.write(b"\x89T" + struct.pack("<i", array.nbytes))
            file.write(array.reshape(-1).view(np.uint8).data)
            file.write(b"tb")
        file.write(b"eu.")


# ------------------------------------------------------------------------------ Caffe

class _Damaged(Exception):
    """A protocol buffer does not add up; becomes a StorytellerError with the file."""


def _varint(data: Any, pos: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while pos < end and shift < 70:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
    raise _Damaged("a number runs over the end")


def _fields(data: Any, pos: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field; a varint's span is its own bytes.

    Wire format: Protocol Buffers documentation, "Encoding".
    """
    while pos < end:
        tag, pos = _varint(data, pos, end)
        number, wire = tag >> 3, tag & 7
        start = pos
        if wire == 0:
            _, pos = _varint(data, pos, end)
        elif wire == 1:
            pos += 8
        elif wire == 2:
            size, start = _varint(data, pos, end)
            pos = start + size
        elif wire == 5:
            pos += 4
        else:
            raise _Damaged(f"a field has the unknown wire type {wire}")
        if pos > end or not number:
            raise _Damaged("a field runs over the end")
        yield number, wire, start, pos


def _blob(data: Any, pos: int, end: int, limit: int) -> tuple[list[int], np.ndarray]:
    """Read a BlobProto: (shape, flat array of at most `limit` numbers)."""
    shape: list[int] = []
    legacy = {1: 0, 2: 0, 3: 0, 4: 0}
    chunks: list[np.ndarray] = []
    count = 0
    skip_to = pos
    for number, wire, start, stop in _fields(data, pos, end):
        if start < skip_to:
            continue
        if number in legacy and wire == 0:
            legacy[number] = _varint(data, start, stop)[0]
        elif number == 7 and wire == 2:
            for inner, inner_wire, at, until in _fields(data, start, stop):
                if inner == 1 and inner_wire in (0, 2):
                    while at < until and len(shape) < 8:
                        dim, at = _varint(data, at, until)
                        shape.append(dim)
        elif number in (5, 8):
            dtype = np.dtype("<f4" if number == 5 else "<f8")
            width = dtype.itemsize
            if wire == 2:
                if (stop - start) % width:
                    raise _Damaged("a list of numbers is cut off")
                chunk = np.frombuffer(data, dtype, (stop - start) // width, start)
            elif wire == (5 if number == 5 else 1):
                # Unpacked numbers repeat their one-byte tag: take the whole run at once.
                run = np.frombuffer(data, np.uint8, (end - start + 1) // (width + 1) * (width + 1),
                                    start - 1).reshape(-1, width + 1)
                other = np.flatnonzero(run[:, 0] != run[0, 0])
                run = run[:other[0]] if len(other) else run
                chunk = np.ascontiguousarray(run[:, 1:]).view(dtype)[:, 0]
                skip_to = start + run.size
            else:
                raise _Damaged("a list of numbers has the wrong type")
            count += len(chunk)
            if count > limit:
                break       # the caller finds the size to be wrong
            if len(chunk):
                chunks.append(chunk)
    if not shape and any(legacy.values()):
        shape = [legacy[i] for i in (1, 2, 3, 4)]
    array = np.concatenate(chunks) if len(chunks) > 1 else (chunks or [np.empty(0)])[0]
    return shape or [len(array)], array


def _strip_ones(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _read_caffe(file: BinaryIO, path: Any, shapes: Mapping[str, Sequence[int]]
                ) -> list[np.ndarray]:
    try:
        # Mapped, so that only what is copied out counts.  Not closed by hand: on an error its
        # traceback still holds views of the map, which goes when they go.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _caffe_params(data, path, shapes)
    except _Damaged as error:
        raise StorytellerError(f"{path}: is a damaged or truncated .caffemodel, or something else "
                               f"({error}); expected {_WHAT}, so {AGAIN}") from None
    except OSError as error:
        raise StorytellerError(f"{path}: cannot be read ({error.strerror or error}); {AGAIN}"
                               ) from error


def _caffe_params(data: Any, path: Any, shapes: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
    found: dict[str, list[tuple[int, int]]] = {}
    for number, wire, start, stop in _fields(data, 0, len(data)):
        if wire != 2 or number not in (2, 100):
            continue
        # NetParameter.layers (V1) and NetParameter.layer number their fields differently.
        name_field, blobs_field = (4, 6) if number == 2 else (1, 7)
        name, blobs = "", []
        for inner, inner_wire, at, until in _fields(data, start, stop):
            if inner_wire == 2 and inner == name_field and until - at < 100:
                name = data[at:until].decode("latin-1")
            elif inner_wire == 2 and inner == blobs_field:
                blobs.append((at, until))
                if len(blobs) > 8:
                    raise _Damaged("a layer has too many blobs")
        if name in shapes and blobs:
            found[name] = blobs
    params = []
    for layer, shape in shapes.items():
        if len(found.get(layer, ())) != 2:
            raise _lacks(path, layer)
        dense = len(shape) == 2
        stored = (shape[1], shape[0]) if dense else tuple(shape)
        for part, expected, (start, stop) in zip(
                "Wb", (stored, _bias_shape(shape)), found[layer]):
            size = math.prod(expected)
            dims, array = _blob(data, start, stop, size)
            if len(dims) > 1 or len(expected) == 1:
                _check_shape(path, layer, part, _strip_ones(dims), _strip_ones(expected))
            if len(array) != size:
                raise StorytellerError(f"{path}: layer {layer} has {part} of {len(array)} numbers;"
                                       f" expected {size}, so {AGAIN}")
            array = array.reshape(expected)
            if dense and part == "W":
                array = array.T
            # np.array copies in any case: nothing returned may point into the map.
            params.append(np.array(array, dtype=np.float32, order="C"))
    return params


# ------------------------------------------------------------------------------ torchvision

_TORCH_TYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8",
                "LongStorage": "<i8", "IntStorage": "<i4", "ByteStorage": "|u1"}
_FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
_TORCH_LAYERS = [f"features.{i}" for i in _FEATURES] + [f"classifier.{i}" for i in (0, 3, 6)]


class _Storage:
    """A run of numbers outside the pickle, named by key."""

    __slots__ = ("key", "dtype", "size", "offset")

    def __init__(self, key: str, dtype: np.dtype, size: int, offset: int):
        self.key, self.dtype, self.size, self.offset = key, dtype, size, offset


class _Tensor:
    """A view of a storage."""

    __slots__ = ("storage", "offset", "shape", "stride")

    def __init__(self, storage: _Storage, offset: int, shape: tuple, stride: tuple):
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _torch_machine(file: BinaryIO, size: int, path: Any) -> tuple[Machine, dict[str, int]]:
    """A machine that admits tensors; the dict collects key -> number of bytes of each storage."""
    sizes: dict[str, int] = {}

    def damaged(thing: str) -> StorytellerError:
        return StorytellerError(f"{path}: holds a {thing} in an unknown form; expected {_WHAT}, "
                                f"so {AGAIN}")

    def tensor(args: tuple) -> _Tensor:
        good = (len(args) >= 4 and type(args[0]) is _Storage and _is_count(args[1])
                and all(type(part) is tuple and len(part) <= 8 and all(map(_is_count, part))
                        for part in args[2:4]) and len(args[2]) == len(args[3]))
        if not good:
            raise damaged("tensor")
        storage, offset, shape, stride = args[:4]
        return _Tensor(storage, offset + storage.offset, shape, stride)

    def parameter(args: tuple) -> _Tensor:
        if not args or type(args[0]) is not _Tensor:
            raise damaged("parameter")
        return args[0]

    def marker(args: tuple) -> Any:
        raise damaged("storage")

    def text(value: Any) -> Any:
        return value.decode("latin-1") if type(value) is bytes else value

    def persistent(pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) not in (5, 6) or text(pid[0]) != "storage":
            raise damaged("storage")
        kind = getattr(pid[1], "name", "").rpartition(".")[2]
        key, numel = text(pid[2]), pid[4]
        view = pid[5] if len(pid) == 6 else None
        if kind not in _TORCH_TYPES or type(key) is not str or not _is_count(numel):
            raise damaged("storage")
        offset = 0
        if view is not None:
            if type(view) is not tuple or len(view) != 3 or not _is_count(view[1]):
                raise damaged("storage")
            offset = view[1]
        dtype = np.dtype(_TORCH_TYPES[kind])
        if sizes.setdefault(key, numel * dtype.itemsize) != numel * dtype.itemsize:
            raise damaged("storage")
        return _Storage(key, dtype, numel, offset)

    names: dict[str, Callable[[tuple], Any]] = {
        "torch._utils._rebuild_tensor": tensor, "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter}
    for kind in _TORCH_TYPES:
        names["torch." + kind] = names["torch.storage." + kind] = marker
    return Machine(file, size, path, names=names, persistent=persistent), sizes


# Takes the unpickled state, the path, and read(storage, first, count), which fetches numbers.
_Collect = Callable[[Any, Any, Callable[[_Storage, int, int], np.ndarray]], Any]


def _vgg19_of(read: Callable[[BinaryIO, Any, _Collect], list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
    def params(file: BinaryIO, path: Any, shapes: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
        return read(file, path, lambda state, path, fetch: _torch_params(state, path, shapes, fetch))
    return params


def _state_dict(state: Any, path: Any) -> dict[str, Any]:
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise StorytellerError(f"{path}: holds a pickled {type(state).__name__}; expected {_WHAT} "
                               "as a state dict, so save model.state_dict()")
    return state


def _fetch(tensor: _Tensor, name: str, path: Any, read: Callable[[_Storage, int, int], np.ndarray]) -> np.ndarray:
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride))
    if tensor.offset + last >= tensor.storage.size:
        raise StorytellerError(f"{path}: layer {name} lies beyond its storage; {AGAIN}")
    flat = read(tensor.storage, tensor.offset, last + 1)
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


def _all_tensors(state: Any, path: Any, read: Callable[[_Storage, int, int], np.ndarray]) -> dict[str, np.ndarray]:
    return {str(name): _float32(_fetch(tensor, str(name), path, read))
            for name, tensor in _state_dict(state, path).items()
            if type(tensor) is _Tensor and tensor.storage.dtype.kind == "f"}


def _torch_params(state: Any, path: Any, shapes: Mapping[str, Sequence[int]],
                  read: Callable[[_Storage, int, int], np.ndarray]) -> list[np.ndarray]:
    """Collect VGG-19's parameters."""
    state = _state_dict(state, path)
    params = []
    for (layer, shape), prefix in zip(shapes.items(), _TORCH_LAYERS):
        dense = len(shape) == 2
        stored = (shape[1], shape[0]) if dense else tuple(shape)
        for part, expected in (("weight", stored), ("bias", _bias_shape(shape))):
            tensor = state.get(f"{prefix}.{part}")
            if type(tensor) is not _Tensor or tensor.storage.dtype.kind != "f":
                raise _lacks(path, f"{prefix}.{part} ({layer})")
            _check_shape(path, f"{prefix} ({layer})", part, tensor.shape, expected)
            array = _fetch(tensor, f"{prefix}.{part} ({layer})", path, read)
            if dense and part == "weight":
                array = array.T
            elif layer == "conv1_1" and part == "weight":
                array = array[:, ::-1]      # R, G, B to the B, G, R of `im`
            params.append(_float32(array))
    return params


def _read_torch_legacy(file: BinaryIO, path: Any, collect: _Collect) -> Any:
    size = os.fstat(file.fileno()).st_size
    machine, sizes = _torch_machine(file, size, path)
    machine.load()
    version = machine.load()
    system = machine.load()
    if version != 1001 or (isinstance(system, dict) and system.get("little_endian") is False):
        raise StorytellerError(f"{path}: is a PyTorch file of an unknown version or byte order; "
                               f"expected {_WHAT}, so save it again with a recent PyTorch")
    state = machine.load()
    keys = machine.load()
    places: dict[str, tuple[int, int]] = {}
    position = machine.tell()
    short = StorytellerError(f"{path}: is truncated or damaged behind its pickles; {AGAIN}")
    # The width of a number stands only in the pickle, so each key must have been named there.
    if type(keys) is not list or not all(type(key) is str and key in sizes for key in keys):
        raise short
    for key in keys:
        file.seek(position)
        field = file.read(8)
        if len(field) < 8:
            raise short
        position += 8
        places[key] = (position, int.from_bytes(field, "little"))
        position += sizes[key]
        if position > size:
            raise short

    def read(storage: _Storage, first: int, count: int) -> np.ndarray:
        if places.get(storage.key, (0, -1))[1] != storage.size:
            raise short
        file.seek(places[storage.key][0] + first * storage.dtype.itemsize)
        data = file.read(count * storage.dtype.itemsize)
        if len(data) < count * storage.dtype.itemsize:
            raise short
        return np.frombuffer(data, storage.dtype)

    return machine.guarded(lambda: collect(state, path, read))


def _read_torch_zip(file: BinaryIO, path: Any, collect: _Collect) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _torch_zip_params(archive, os.fstat(file.fileno()).st_size, path, collect)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError,
            IndexError, OverflowError, struct.error, NotImplementedError) as error:
        raise StorytellerError(f"{path}: is a damaged or truncated PyTorch file ({error}); {AGAIN}"
                               ) from error


def _torch_zip_params(archive: zipfile.ZipFile, size: int, path: Any, collect: _Collect) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    pickled = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickled:
        raise wrong_kind(path, _WHAT)
    prefix = pickled[0][:-len("data.pkl")]

    def member(name: str, most: int) -> bytes:
        info = members.get(prefix + name)
        if info is None or info.file_size > most or (
                info.compress_type != zipfile.ZIP_STORED or info.compress_size > size):
            raise StorytellerError(f"{path}: has a part {name[:40]} that is missing, compressed or "
                                   f"too large; expected {_WHAT}, so {AGAIN}")
        return archive.read(info)

    if prefix + "byteorder" in members and member("byteorder", 16).strip() != b"little":
        raise StorytellerError(f"{path}: is big-endian; expected {_WHAT} in little-endian order, "
                               "so save it again on such a machine")
    content = member("data.pkl", 1 << 26)
    machine, _ = _torch_machine(io.BytesIO(content), len(content), path)
    state = machine.load()

    def read(storage: _Storage, first: int, count: int) -> np.ndarray:
        nbytes = storage.size * storage.dtype.itemsize
        if not re.fullmatch(r"\w+", storage.key):
            raise KeyError(storage.key[:40])
        data = member("data/" + storage.key, nbytes)
        if len(data) != nbytes:
            raise StorytellerError(f"{path}: has {len(data)} bytes for a storage of {nbytes}; "
                                   + AGAIN)
        return np.frombuffer(data, storage.dtype)[first:first + count]

    return collect(state, path, read)


# ------------------------------------------------------------------------------ Keras

def _keras_name(layer: str) -> str:
    if layer.startswith("conv"):
        return f"block{layer[4]}_conv{layer[6]}"
    return {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}[layer]


def _read_keras(file: BinaryIO, path: Any, shapes: Mapping[str, Sequence[int]]
                ) -> list[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise StorytellerError(f"{path}: is a Keras file, which needs h5py; run: "
                               "pip install storyteller[keras]") from error
    try:
        with h5py.File(path, "r") as content:
            return _keras_params(content, h5py, path, shapes)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError,
            MemoryError) as error:
        raise StorytellerError(f"{path}: is a damaged or truncated HDF5 file ({error}); {AGAIN}"
                               ) from error


def _keras_params(content: Any, h5py: Any, path: Any, shapes: Mapping[str, Sequence[int]]
                  ) -> list[np.ndarray]:
    def child(group: Any, name: str) -> Any:
        # Only what is in this file: links can lead to any other file.
        link = group.get(name, getlink=True)
        return group.get(name) if isinstance(link, h5py.HardLink) else None

    root = child(content, "model_weights")
    root = content if root is None else root
    params = []
    for layer, shape in shapes.items():
        name = _keras_name(layer)
        group = child(root, name)
        parts: dict[int, Any] = {}

        def collect(_: str, item: Any, parts: dict[int, Any] = parts) -> None:
            if isinstance(item, h5py.Dataset):
                parts[len(item.shape)] = item

        if isinstance(group, h5py.Group):
            group.visititems(collect)
        weights = len(shape)
        if weights not in parts or 1 not in parts:
            hint = ("take the file whose name does not say 'notop'" if layer.startswith("fc")
                    else "")
            raise _lacks(path, f"{name} ({layer})", hint)
        dense = weights == 2
        stored = tuple(shape) if dense else (3, 3, shape[1], shape[0])
        for part, expected, item in (("W", stored, parts[weights]),
                                     ("b", _bias_shape(shape), parts[1])):
            _check_shape(path, f"{name} ({layer})", part, item.shape, expected)
            if item.dtype.kind != "f" or item.is_virtual or item.external:
                raise StorytellerError(f"{path}: layer {name} ({layer}) has {part} that is no "
                                       f"plain array of numbers; expected {_WHAT}, so {AGAIN}")
            array = item[()]
            if part == "W" and not dense:
                array = array.transpose(3, 2, 0, 1)
            elif part == "W" and layer == "fc6":
                # (row, column, channel) to (channel, row, column)
                channels = list(shapes.values())[len(params) // 2 - 1][0]
                side = math.isqrt(shape[0] // channels)
                array = array.reshape(side, side, channels, shape[1]).transpose(2, 0, 1, 3)
                array = array.reshape(tuple(shape))
            params.append(_float32(array))
    return params
