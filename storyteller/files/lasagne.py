"""Lasagne's vgg19.pkl: a pickled dict with the list of all parameters."""
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..errors import StorytellerError
from .arrays import Wanted, check_array
from .unpickle import SafeUnpickler


def read_weights(file: BinaryIO, path: Any, wanted: Wanted) -> Iterator[np.ndarray]:
    """Yield the parameters one by one, in the order of the file, which is that of `wanted`.

    Parameters
    ----------
    file, path : the file, and its name for messages.
    wanted : name and shape of each parameter.
    """
    path = os.fsdecode(path)
    content = SafeUnpickler(file, path, strict=False).load()
    values = content.get("param values") if isinstance(content, dict) else None
    if not isinstance(values, (list, tuple)):
        raise StorytellerError(f"{path}: is a pickle without 'param values'; expected the weights of VGG-19, so check "
                               "whether files were swapped")
    if len(values) != len(wanted):
        raise StorytellerError(f"{path}: holds {len(values)} arrays; expected the {len(wanted)} of VGG-19, so check "
                               "whether this is the file of another network")
    for (name, shape), value in zip(wanted, values):
        check_array(path, name, value, shape)
        yield value
