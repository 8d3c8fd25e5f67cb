"""Keras' vgg19 weights, an HDF5 file of one group a layer (read through h5py)."""
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..errors import StorytellerError
from .arrays import Wanted, check_array, lacks
from .io import AGAIN


def read_weights(file: BinaryIO, path: Any, wanted: Wanted) -> Iterator[np.ndarray]:
    """Yield the parameters of `wanted` one by one.

    Parameters
    ----------
    file, path : the file, and its name for messages.
    wanted : name and shape of each parameter, a name being GROUP.W or GROUP.b.
    """
    path = os.fsdecode(path)
    try:
        import h5py
    except ImportError as error:
        raise StorytellerError(f"{path}: is a Keras file, which needs h5py; run: pip install h5py"
                               ) from error
    try:
        with h5py.File(path, "r") as content:
            root = _child(content, "model_weights")
            for name, shape in wanted:
                layer, _, part = name.rpartition(".")
                found = _datasets(_child(content if root is None else root, layer))
                weights = found.get(len(shape))
                if weights is None:
                    raise lacks(path, name, *(["take the file whose name does not say 'notop'"]
                                              if layer.startswith(("fc", "pred")) else []))
                check_array(path, name, weights, shape)
                if weights.is_virtual or weights.external:
                    raise lacks(path, f"the numbers of {name}, which it says are in another file")
                yield weights[()]
    except StorytellerError:
        raise
    except Exception as error:      # h5py raises whatever a damaged file makes it trip over
        raise StorytellerError(f"{path}: is a damaged or truncated HDF5 file ({str(error)[:200]}); {AGAIN}") from error


def _child(group: Any, name: str) -> Any:
    """What a group holds under a name, but only in this file: links can lead to any other."""
    import h5py
    link = group.get(name, getlink=True)
    return group.get(name) if isinstance(link, h5py.HardLink) else None


def _datasets(group: Any) -> dict[int, Any]:
    """The arrays in a group at any depth by their number of dimensions, which tells weights from biases."""
    import h5py
    found: dict[int, Any] = {}

    def collect(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[len(item.shape)] = item

    if isinstance(group, h5py.Group):
        group.visititems(collect)
    return found
