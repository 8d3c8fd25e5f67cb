"""The only room that knows which Theano this is.

Every graph of the package is written once, in Theano's language, with the names of
this module.  Under them stands PyTensor (Python 3.11 and newer) or Theano 1.0.5 (Python
3.9 and 3.10); ``DIALECT`` says which.

Functions are compiled for one of these devices:

``'cpu'``
    The graph is evaluated operation by operation with NumPy and its BLAS.  Nothing is
    compiled by a C compiler or by Numba, so the first result comes after a fraction of
    a second; the matrix products, which are nearly all the work, run at the same speed.
``'gpu'``
    PyTensor's JAX mode on the GPU that JAX finds, or Theano's own GPU back end where
    ``THEANO_FLAGS`` names a device.
``'jax'``
    The code path of ``'gpu'`` on whatever device JAX has, the CPU included (PyTensor only).

Importing this module imports the engine; the rest of the package does so only when a
model is loaded.
"""
from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from .errors import StorytellerError

_log = logging.getLogger(__name__)


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


DIALECT, _engine = _import_engine()

if DIALECT == "pytensor":
    import pytensor.tensor as _T
    from pytensor.compile.mode import Mode as _Mode
    from pytensor.graph.basic import Apply as _Apply
    from pytensor.graph.op import Op as _Op
else:
    import theano.tensor as _T
    from theano import Mode as _Mode
    from theano.gof import Apply as _Apply
    from theano.gof import Op as _Op

Variable = Any  # a node of a graph, of either engine

concatenate = _T.concatenate
dot = _T.dot
maximum = _T.maximum
tanh = _T.tanh


def matrix(name: str) -> Variable:
    """A symbolic float32 matrix."""
    return _T.matrix(name, dtype="float32")


def int_vector(name: str) -> Variable:
    """A symbolic int64 vector."""
    return _T.vector(name, dtype="int64")


def tensor4(name: str) -> Variable:
    """A symbolic float32 tensor of four dimensions."""
    return _T.tensor4(name, dtype="float32")


def shared(value: np.ndarray, name: str | None = None) -> Variable:
    """A parameter: a float32 array that graphs refer to.  The array is not copied."""
    return _engine.shared(np.asarray(value, dtype=np.float32), name=name, borrow=True)


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
    e = _T.exp(x - _T.max(x, axis=1, keepdims=True))
    return e / _T.sum(e, axis=1, keepdims=True)


def rows_or_zeros(table: Variable, index: Variable) -> Variable:
    """Rows of ``table`` (n, d) for int64 ``index`` (m,); zeros where the index is negative."""
    found = _T.ge(index, 0)
    rows = table[_T.maximum(index, 0)]
    return rows * _T.cast(found, "float32").dimshuffle(0, "x")


# -- two-dimensional convolution and pooling ---------------------------------------------
# Theano's own need a C++ compiler to be usable and PyTensor has none with channels, so
# both dialects share these two operations.

_CHUNK_BYTES = 4 << 20  # of the patch matrix at a time: it should stay in the cache


def _conv2d_numpy(x: np.ndarray, w: np.ndarray, pad: int) -> np.ndarray:
    """Cross-correlation as one matrix product per block of rows (im2col in blocks).

    x (n, c, h, w), w (o, c, kh, kw) -> (n, o, h + 2 pad - kh + 1, w + 2 pad - kw + 1).
    """
    n, c, height, width = x.shape
    o, _, kh, kw = w.shape
    out_h, out_w = height + 2 * pad - kh + 1, width + 2 * pad - kw + 1
    flat = np.ascontiguousarray(w).reshape(o, c * kh * kw)
    padded = np.zeros((c, height + 2 * pad, width + 2 * pad), dtype=x.dtype)
    out = np.empty((n, o, out_h * out_w), dtype=x.dtype)
    rows = max(1, min(out_h, _CHUNK_BYTES // (c * kh * kw * out_w * x.itemsize)))
    for image, target in zip(x, out):
        padded[:, pad:pad + height, pad:pad + width] = image
        for top in range(0, out_h, rows):
            count = min(rows, out_h - top)
            patches = np.empty((c, kh, kw, count, out_w), dtype=x.dtype)
            for i in range(kh):
                for j in range(kw):
                    patches[:, i, j] = padded[:, top + i:top + i + count, j:j + out_w]
            np.matmul(flat, patches.reshape(c * kh * kw, count * out_w),
                      out=target[:, top * out_w:(top + count) * out_w])
    return out.reshape(n, o, out_h, out_w)


def _max_pool_numpy(x: np.ndarray) -> np.ndarray:
    """2x2 maxima with stride 2; an odd last row or column is dropped."""
    h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = np.maximum(x[:, :, 0:h:2, :w], x[:, :, 1:h:2, :w])
    return np.maximum(rows[..., 0::2], rows[..., 1::2])


class _Conv2d(_Op):
    __props__ = ("pad",)

    def __init__(self, pad: int):
        self.pad = pad

    def make_node(self, x, w):
        return _Apply(self, [x, w], [_T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = _conv2d_numpy(inputs[0], inputs[1], self.pad)


class _MaxPool2d(_Op):
    __props__ = ()

    def make_node(self, x):
        return _Apply(self, [x], [_T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = _max_pool_numpy(inputs[0])


def conv2d(x: Variable, w: Variable, pad: int = 0) -> Variable:
    """Cross-correlate (filters not flipped) with stride 1 and ``pad`` zeros on every side.

    x (n, c, h, w), w (o, c, kh, kw), both float32 -> (n, o, h', w').
    """
    if _theano_on_gpu():
        return _T.nnet.conv2d(x, w, border_mode=pad, filter_flip=False)
    return _Conv2d(pad)(x, w)


def max_pool2d(x: Variable) -> Variable:
    """2x2 max pooling with stride 2, incomplete windows dropped: (n, c, h, w) ->
    (n, c, h // 2, w // 2)."""
    if _theano_on_gpu():
        return _T.signal.pool.pool_2d(x, (2, 2), ignore_border=True)
    return _MaxPool2d()(x)


def _theano_on_gpu() -> bool:
    """Whether Theano was started on a GPU, where its own operations are the fast ones."""
    return DIALECT == "theano" and _engine.config.device.startswith(("cuda", "gpu", "opencl"))


def _register_jax() -> None:
    """Teach PyTensor's JAX linker the two operations above."""
    import jax
    from pytensor.link.jax.dispatch import jax_funcify

    @jax_funcify.register(_Conv2d)
    def _(op, **kwargs):
        def conv(x, w):
            return jax.lax.conv_general_dilated(
                x, w, (1, 1), [(op.pad, op.pad)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return conv

    @jax_funcify.register(_MaxPool2d)
    def _(op, **kwargs):
        def pool(x):
            return jax.lax.reduce_window(
                x, -np.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return pool


def import_lasagne():
    """Lasagne 0.1 over today's Theano (Theano dialect only)."""
    import sys
    import types
    # Lasagne imports a module that Theano renamed in 0.9; the new one serves it as well.
    name = "theano.tensor.signal.downsample"
    if name not in sys.modules:
        stand_in = types.ModuleType(name)
        stand_in.max_pool_2d = _T.signal.pool.pool_2d
        sys.modules[name] = _T.signal.downsample = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lasagne
    except ImportError as error:
        raise StorytellerError(f"Lasagne cannot be imported ({error}): "
                               "`pip install Lasagne==0.1`") from error
    return lasagne


# -- devices and compilation ---------------------------------------------------------------

def choose_device(cpu_mode: bool = True) -> str:
    """Turn config's ``FLAG_CPU_MODE`` into a device for :func:`function`.

    Parameters
    ----------
    cpu_mode : bool
        True: the CPU.  False: the GPU; where none is usable a warning says why and the
        CPU is taken.

    Returns
    -------
    str
        ``'cpu'`` or ``'gpu'``.
    """
    if cpu_mode:
        return "cpu"
    if DIALECT == "theano":
        if _theano_on_gpu():
            return "gpu"
        reason = ("Theano was started without a GPU: set THEANO_FLAGS=device=cuda,floatX=float32 "
                  "before Python starts (libgpuarray is needed)")
    else:
        try:
            import jax
            if any(device.platform != "cpu" for device in jax.devices()):
                return "gpu"
            reason = "JAX finds no GPU here: install JAX for your GPU (`pip install 'jax[cuda13]'`)"
        except ImportError:
            reason = "JAX is not installed: `pip install 'storyteller[gpu]'`"
        except RuntimeError as error:  # a GPU plug-in that cannot start
            reason = f"JAX cannot start its GPU: {error}"
    _log.warning("FLAG_CPU_MODE is False but no GPU is usable, so the CPU is used. %s.", reason)
    return "cpu"


def _mode(device: str):
    if device == "cpu":
        return _Mode(linker="py", optimizer="fast_compile")
    if DIALECT == "theano":
        if device == "gpu":
            return None  # Theano's own default, for the device of THEANO_FLAGS
    elif device in ("gpu", "jax"):
        try:
            _register_jax()
        except ImportError as error:
            raise StorytellerError(
                f"device {device!r} needs JAX ({error}): `pip install 'storyteller[gpu]'`") from error
        return "JAX"
    raise StorytellerError(f"device is {device!r}: expected 'cpu', 'gpu'"
                           + (" or 'jax'" if DIALECT == "pytensor" else ""))


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def function(inputs: Sequence[Variable], outputs: Sequence[Variable],
             device: str = "cpu") -> Callable[..., list[np.ndarray]]:
    """Compile a graph whose inputs and outputs all have one row per example.

    Parameters
    ----------
    inputs, outputs : sequences of variables
        The first axis of each is the batch.
    device : str
        ``'cpu'``, ``'gpu'`` or ``'jax'``; see the module's text.

    Returns
    -------
    callable
        Takes arrays of the inputs' dtypes, gives the list of outputs as NumPy arrays.

    Notes
    -----
    JAX traces and compiles once for every shape.  Batches are therefore padded with
    zeros to the next power of two there, so that a shrinking beam or batch meets a few
    shapes only.
    """
    call = _engine.function(list(inputs), list(outputs), mode=_mode(device),
                            on_unused_input="ignore")
    if device == "cpu" or DIALECT == "theano":
        # The graph's inputs come from this package with the right dtype and are never kept.
        call.trust_input = True
        return call

    def padded(*arrays: np.ndarray) -> list[np.ndarray]:
        n = len(arrays[0])
        size = _power_of_two(n)
        if size != n:
            arrays = tuple(np.concatenate([a, np.zeros((size - n,) + a.shape[1:], a.dtype)])
                           for a in arrays)
        return [np.asarray(result)[:n] for result in call(*arrays)]
    return padded
