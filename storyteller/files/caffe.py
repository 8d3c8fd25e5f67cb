"""Caffe's VGG_ILSVRC_19_layers.caffemodel, in the layout in which it was published.

Wire format: Protocol Buffers documentation, "Encoding".  Field numbers: Caffe's ``caffe.proto``
(NetParameter, V1LayerParameter, BlobProto).
"""
from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..errors import StorytellerError
from .arrays import Wanted, check_array, lacks
from .io import AGAIN

_LAYERS, _NAME, _BLOBS, _DATA = 2, 4, 6, 5      # layers of a network; name and blobs of a layer; numbers of a blob
_DIMENSIONS = (1, 2, 3, 4)                      # num, channels, height and width of a blob


class _Damaged(Exception):
    """A protocol buffer does not add up; becomes a StorytellerError with the file."""


def read_weights(file: BinaryIO, path: Any, wanted: Wanted) -> Iterator[np.ndarray]:
    """Yield the parameters of `wanted` one by one.

    Parameters
    ----------
    file, path : the file, and its name for messages.
    wanted : name and shape of each parameter, a name being LAYER.W or LAYER.b.
    """
    path = os.fsdecode(path)
    try:
        # Closed with its last reference: an array, or an error on its way, may point into it.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        spans = _find_blobs(data)
        for name, shape in wanted:
            layer, _, part = name.rpartition(".")
            blobs = spans.get(layer, [])
            if len(blobs) != 2:
                raise lacks(path, name, "check whether this is the published file, and of this network")
            array = _read_blob(data, *blobs["Wb".index(part)], len(shape))
            check_array(path, name, array, shape)
            yield np.array(array, dtype=np.float32)
    except (_Damaged, ValueError, OverflowError, OSError) as error:
        raise StorytellerError(f"{path}: is no .caffemodel of the published layout, or a damaged one ({error}); "
                               f"{AGAIN}") from error


def _find_blobs(data: Any) -> dict[str, list[tuple[int, int]]]:
    """Where the blobs of each layer begin and end."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, wire, start, stop in _fields(data, 0, len(data)):
        if (number, wire) != (_LAYERS, 2):
            continue
        name, blobs = "", []
        for inner, inner_wire, begin, end in _fields(data, start, stop):
            if (inner, inner_wire) == (_NAME, 2):
                name = data[begin:min(end, begin + 100)].decode("utf-8", "replace")
            elif (inner, inner_wire) == (_BLOBS, 2):
                blobs.append((begin, end))
        if blobs:
            found[name] = blobs
    return found


def _read_blob(data: Any, start: int, stop: int, ndim: int) -> np.ndarray:
    """The numbers of a blob: its shape without the leading ones that make up four dimensions."""
    shape, numbers = [1, 1, 1, 1], None
    for number, wire, begin, end in _fields(data, start, stop):
        if number in _DIMENSIONS and wire == 0:
            shape[number - 1] = _varint(data, begin, end)[0]
        elif (number, wire) == (_DATA, 2):
            numbers = np.frombuffer(data, "<f4", (end - begin) // 4, begin)
    if numbers is None:
        raise _Damaged("a layer without numbers")
    while len(shape) > ndim and shape[0] == 1:
        shape = shape[1:]
    return numbers.reshape(shape)


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
    """Yield (field number, wire type, start, end) of each field; a varint's span is its own bytes."""
    while pos < end:
        tag, start = _varint(data, pos, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, pos = _varint(data, start, end)
        elif wire == 2:
            size, start = _varint(data, start, end)
            pos = start + size
        elif wire in (1, 5):
            pos = start + (8 if wire == 1 else 4)
        else:
            raise _Damaged(f"a field has the unknown wire type {wire}")
        if pos > end or not number:
            raise _Damaged("a field runs over the end")
        yield number, wire, start, pos
