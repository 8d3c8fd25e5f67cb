"""The engine, PyTensor or Theano, and its names that both have."""
from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import numpy as np

from ..errors import StorytellerError


def _import_engine():
    """Import PyTensor, or Theano where that is what is installed."""
    def with_flags(variable: str, defaults: dict[str, str]):
        # Flags are read once, at import.  Whatever the user set stays in force.
        given = os.environ.get(variable)
        named = {part.partition("=")[0].strip() for part in (given or "").split(",")}
        extra = [f"{key}={value}" for key, value in defaults.items() if key not in named]
        os.environ[variable] = ",".join(([given] if given else []) + extra)
        return given

    def restore(variable: str, given: str | None):
        if given is None:
            del os.environ[variable]
        else:
            os.environ[variable] = given

    try:
        # An empty cxx keeps the import from looking for a compiler that is not needed.
        given = with_flags("PYTENSOR_FLAGS", {"cxx": ""})
        try:
            import pytensor
        finally:
            restore("PYTENSOR_FLAGS", given)
        return "pytensor", pytensor
    except ImportError as pytensor_error:
        defaults = {"blas.ldflags": ""}  # unset, Theano fails on numpy's build information
        if "device=" not in os.environ.get("THEANO_FLAGS", ""):
            defaults["cxx"] = ""
        given = with_flags("THEANO_FLAGS", defaults)
        level = logging.getLogger("theano").level
        logging.getLogger("theano").setLevel(logging.ERROR)  # "no C++ compiler": intended
        # Importing Theano sets that level back before it remarks on the empty blas.ldflags.
        logging.getLogger("theano.tensor.blas").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import theano
                import theano.tensor  # noqa: F401
                import theano.tensor.signal.pool  # noqa: F401
        except ImportError:
            raise StorytellerError(
                "neither PyTensor nor Theano can be imported "
                f"({pytensor_error}): install one with `pip install pytensor` (Python 3.11 "
                "and newer) or `pip install 'numpy<1.24' Theano==1.0.5 Lasagne==0.1` (3.9, 3.10)"
            ) from pytensor_error
        finally:
            logging.getLogger("theano").setLevel(level)
            restore("THEANO_FLAGS", given)
        return "theano", theano


DIALECT, library = _import_engine()


if DIALECT == "pytensor":
    import pytensor.tensor as T
    from pytensor.compile.mode import Mode as Mode
    from pytensor.gradient import DisconnectedType as DisconnectedType
    from pytensor.graph.basic import Apply as Apply
    from pytensor.graph.op import Op as Op
else:
    import theano.tensor as T
    from theano import Mode as Mode
    from theano.gof import Apply as Apply
    from theano.gof import Op as Op
    from theano.gradient import DisconnectedType as DisconnectedType


Variable = Any  # a node of a graph, of either engine
concatenate = T.concatenate
constant = T.as_tensor_variable
cos = T.cos
dot = T.dot
eq = T.eq
grad = T.grad
log = T.log
maximum = T.maximum
minimum = T.minimum
sqrt = T.sqrt
square = T.sqr
switch = T.switch
tanh = T.tanh


def total(x: Variable, axis: int | None = None, keepdims: bool = False) -> Variable:
    """Sum over an axis, or over all of them."""
    return T.sum(x, axis=axis, keepdims=keepdims)


def cast(x: Variable, dtype: str) -> Variable:
    """Convert to another dtype."""
    return T.cast(x, dtype)


def zeros_like(x: Variable) -> Variable:
    """Zeros of the same shape and dtype."""
    return T.zeros_like(x)


def matrix(name: str) -> Variable:
    """A symbolic float32 matrix."""
    return T.matrix(name, dtype="float32")


def vector(name: str) -> Variable:
    """A symbolic float32 vector."""
    return T.vector(name, dtype="float32")


def int_vector(name: str) -> Variable:
    """A symbolic int64 vector."""
    return T.vector(name, dtype="int64")


def int_matrix(name: str) -> Variable:
    """A symbolic int64 matrix."""
    return T.matrix(name, dtype="int64")


def tensor3(name: str) -> Variable:
    """A symbolic float32 tensor of three dimensions."""
    return T.tensor3(name, dtype="float32")


def tensor4(name: str) -> Variable:
    """A symbolic float32 tensor of four dimensions."""
    return T.tensor4(name, dtype="float32")


def shared(value: np.ndarray, name: str | None = None) -> Variable:
    """A parameter: a float32 array that graphs refer to.  The array is not copied."""
    return library.shared(np.asarray(value, dtype=np.float32), name=name, borrow=True)


def trainable(value: np.ndarray, name: str | None = None) -> Variable:
    """A parameter that a training function may change in place: a copy of a float32 array."""
    return library.shared(np.array(value, dtype=np.float32, order="C"), name=name, borrow=True)


def counter(value: int = 0, name: str | None = None) -> Variable:
    """A shared int64 number, such as the updates done so far."""
    return library.shared(np.asarray(value, dtype=np.int64), name=name)


def sigmoid(x: Variable) -> Variable:
    """The logistic function, as 0.5 tanh(x/2) + 0.5.

    The form by tanh is exact to a float32 rounding and several times faster than either
    engine's own in NumPy, whose tanh is vectorised.
    """
    half = np.float32(0.5)
    return half * tanh(half * x) + half


def relu(x: Variable) -> Variable:
    """max(0, x)."""
    return maximum(x, np.float32(0))


def softmax(x: Variable) -> Variable:
    """Softmax over the last axis of a matrix (rows, classes)."""
    e = T.exp(x - T.max(x, axis=1, keepdims=True))
    return e / T.sum(e, axis=1, keepdims=True)


def rows_or_zeros(table: Variable, index: Variable) -> Variable:
    """Rows of ``table`` (n, d) for int64 ``index`` (m,); zeros where the index is negative."""
    found = T.ge(index, 0)
    rows = table[T.maximum(index, 0)]
    return rows * T.cast(found, "float32").dimshuffle(0, "x")


# -- operations for training -----------------------------------------------------------------
# Each has its gradient written by hand.  A recurrence as scan would be evaluated node by node
# and step by step; here one operation holds the loop, and its gradient does one product per
# step, leaving every weight's gradient to one large product at the end.

class GradientOp(Op):
    """An operation whose ``pullback(inputs, outputs, output_grads)`` gives the inputs' gradients."""

    if DIALECT == "theano":
        def L_op(self, inputs, outputs, output_grads):  # noqa: N802  (Theano's name for it)
            return self.pullback(inputs, outputs, output_grads)


def as_float32(x) -> Variable:
    x = T.as_tensor_variable(x)
    return x if x.dtype == "float32" else T.cast(x, "float32")


def as_int64(x) -> Variable:
    x = T.as_tensor_variable(x)
    return x if x.dtype == "int64" else T.cast(x, "int64")


def tensor_of(ndim: int) -> Variable:
    """A float32 variable without a name, for an operation's output."""
    return (T.scalar, T.vector, T.matrix, T.tensor3)[ndim](dtype="float32")


def theano_on_gpu() -> bool:
    """Whether Theano was started on a GPU, where its own operations are the fast ones."""
    return DIALECT == "theano" and library.config.device.startswith(("cuda", "gpu", "opencl"))


def import_lasagne():
    """Lasagne 0.1 over today's Theano (Theano dialect only)."""
    import sys
    import types
    # Lasagne imports a module that Theano renamed in 0.9; the new one serves it as well.
    name = "theano.tensor.signal.downsample"
    if name not in sys.modules:
        stand_in = types.ModuleType(name)
        stand_in.max_pool_2d = T.signal.pool.pool_2d
        sys.modules[name] = T.signal.downsample = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lasagne
    except ImportError as error:
        raise StorytellerError(f"Lasagne cannot be imported ({error}): "
                               "`pip install Lasagne==0.1`") from error
    return lasagne
