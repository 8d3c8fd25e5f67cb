"""Functions of NumPy's arrays and of a graph's variables alike.

A network that is written with them is computed as it stands where it is given arrays, which needs no engine, and is
a graph for the engine where it is given variables; see :func:`storyteller.backend.computation`.  The first argument
decides.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..threads import matmul
from . import kernels

Either = Any    # an array, or a variable of either engine


def _is_array(x: Either) -> bool:
    return isinstance(x, np.ndarray)


def dot(x: Either, y: Either, out: np.ndarray | None = None) -> Either:
    """The product of matrices (n, d) and (d, m); of arrays, in `out` (n, m) where it is given."""
    if _is_array(x):
        return matmul(x, y, out)
    from . import operations
    return operations.dot(x, y)


def dot_distinct(x: Either, y: Either) -> Either:
    """:func:`dot` for rows of x that are often alike: of arrays each different row is multiplied once."""
    if not _is_array(x):
        return dot(x, y)
    distinct: dict[bytes, int] = {}
    which = [distinct.setdefault(row.tobytes(), len(distinct)) for row in x]
    if len(distinct) == len(x):
        return matmul(x, y)
    first = np.unique(which, return_index=True)[1]
    return matmul(x[first], y)[which]


def tanh(x: Either) -> Either:
    """The hyperbolic tangent."""
    if _is_array(x):
        return np.tanh(x)
    from .engine import T
    return T.tanh(x)


def sigmoid(x: Either) -> Either:
    """The logistic function, as 0.5 tanh(x/2) + 0.5.

    The form by tanh is exact to a float32 rounding and several times faster than either
    engine's own in NumPy, whose tanh is vectorised.
    """
    half = np.float32(0.5)
    return half * tanh(half * x) + half


def relu(x: Either) -> Either:
    """max(0, x)."""
    if _is_array(x):
        return np.maximum(x, np.float32(0))
    from .engine import T
    return T.maximum(x, np.float32(0))


def softmax(x: Either) -> Either:
    """Softmax over the last axis of a matrix (rows, classes)."""
    if _is_array(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    from .engine import T
    e = T.exp(x - T.max(x, axis=1, keepdims=True))
    return e / T.sum(e, axis=1, keepdims=True)


def rows_or_zeros(table: Either, index: Either) -> Either:
    """Rows of ``table`` (n, d) for int64 ``index`` (m,); zeros where the index is negative."""
    if _is_array(table):
        return kernels.take(table, index, 0)
    from .engine import T
    found = T.ge(index, 0)
    # Zeros whatever stands in the row that is read in their place.
    return T.switch(found.dimshuffle(0, "x"), table[T.maximum(index, 0)], np.float32(0))


FEW_CHANNELS = 16       # with fewer Winograd's transforms cost more than they save


def fixed_filters(w: np.ndarray, tile: int, device: str = "cpu") -> np.ndarray:
    """3x3 filters (o, c, 3, 3) float32 that never change, in the form in which :func:`fixed_conv2d` is fastest.

    The outputs are computed in tiles of 2x2 or 4x4: 4 wins where the filters, then four times as large as they were,
    are few beside the pixels.
    """
    return kernels.winograd_filters(w, tile) if device == "cpu" and w.shape[1] >= FEW_CHANNELS else w


def fixed_conv2d(x: Either, filters: np.ndarray, b: Either) -> Either:
    """max(0, cross-correlation with padding 1 and filters of :func:`fixed_filters`, plus biases).

    x (n, c, h, w), b (o,) -> (n, o, h, w) float32.  The channels of the result may lie side by side in the memory.
    """
    if not _is_array(x):
        from . import operations
        return operations.fixed_conv2d(x, filters, b)
    if filters.ndim == 3:
        return kernels.winograd_conv2d(x, filters, b)
    # Filters of few channels stand before others in Winograd's form.
    return relu(kernels.conv2d(x, filters, 1, channels_last=filters.shape[1] < FEW_CHANNELS) + b[:, None, None])


def same_conv2d(x: Either, w: Either, b: Either, stride: int = 1, groups: int = 1, limit: float | None = None,
                ) -> Either:
    """Cross-correlate as TensorFlow's "SAME" convolutions do, add biases, and cut to 0 .. ``limit``.

    Parameters
    ----------
    x : array or variable (n, c, h, w) float32
    w : array or variable (o, c / groups, k, k) float32
    b : array or variable (o,) float32
    stride : int
        The output has ceil(h / stride) rows; of an odd number of padding zeros the odd one is behind.
    groups : int
        1, or c for a depthwise convolution (o = c).
    limit : float, optional
        6 for ReLU6; None leaves the values alone.

    Returns
    -------
    array or variable (n, o, h', w') float32
    """
    if _is_array(x):
        return kernels.same_conv2d(x, w, b, stride, groups, limit)
    from . import operations
    return operations.same_conv2d(x, w, b, stride, groups, limit)


def max_pool2d(x: Either) -> Either:
    """2x2 max pooling with stride 2, incomplete windows dropped: (n, c, h, w) -> (n, c, h // 2, w // 2)."""
    if _is_array(x):
        return kernels.max_pool2d(x)
    from . import operations
    return operations.max_pool2d(x)
