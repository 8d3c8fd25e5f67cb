"""The engine, PyTensor or Theano, and its names that both have."""
from __future__ import annotations

import configparser
import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError
from ..progress import without_warnings

_INSTALL = ("install one with `pip install pytensor` (Python 3.11 and newer) or `pip install 'numpy<1.24' "
            "Theano==1.0.5 Lasagne==0.1` (3.9, 3.10)")
_KEPT = ("base_compiledir", "compiledir")       # of the user's flags: where files may be written


def _import_engine() -> tuple[str, Any]:
    """Import PyTensor, or Theano where that is what is installed.

    A program that has imported the engine before keeps its own settings.  Else it is started with ours alone:
    what THEANO_FLAGS, .theanorc and the like say of a GPU is heard by :func:`start_gpu`; what else they say (checks
    of test values, settings of versions long gone, mistakes) has nothing to do with a story.
    """
    # An empty cxx keeps the import from looking for a compiler that is not needed.
    flags = {"pytensor": {"cxx": ""},
             # Without blas.ldflags Theano fails on NumPy's build information.
             "theano": {"blas.ldflags": "", "device": "cpu",
                        **({} if _wants_gpu() and importlib.util.find_spec("pygpu") else {"cxx": ""})}}
    missing: list[str] = []
    for name, ours in flags.items():
        try:
            return name, _with_flags(name, ours)
        except ModuleNotFoundError as error:
            missing.append(str(error))
        except Exception as error:
            raise StorytellerError(f"{name} is installed but cannot be started ({_first_line(error)}): install it "
                                   f"again, or {_INSTALL}") from error
    raise StorytellerError(f"neither PyTensor nor Theano can be imported ({'; '.join(missing)}): {_INSTALL}")


def _imported(name: str) -> Any:
    with without_warnings(), _absolute_paths() if name == "theano" else contextlib.nullcontext():
        importlib.import_module(f"{name}.tensor")
        if name == "theano":
            importlib.import_module("theano.tensor.signal.pool")
        return sys.modules[name]


@contextlib.contextmanager
def _absolute_paths() -> Iterator[None]:
    """Without the relative paths of imports where the working folder is gone: Theano resolves them."""
    paths = sys.path
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.path = [path for path in paths if os.path.isabs(path)]
    try:
        yield
    finally:
        sys.path = paths


def _with_flags(name: str, flags: dict[str, str]) -> Any:
    """Import an engine with these flags and without its settings files; both are read once, at import."""
    if name in sys.modules:
        return _imported(name)
    upper = name.upper()
    given = {variable: os.environ.get(variable) for variable in (f"{upper}_FLAGS", f"{upper}RC")}
    kept = [part for part in (given[f"{upper}_FLAGS"] or "").split(",") if part.partition("=")[0].strip() in _KEPT]
    os.environ[f"{upper}_FLAGS"] = ",".join([*kept, *(f"{key}={value}" for key, value in flags.items())])
    os.environ[f"{upper}RC"] = os.devnull
    loggers = [logging.getLogger(of) for of in (name, f"{name}.configdefaults", f"{name}.tensor.blas")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)   # on compilers and BLAS that are left out on purpose
    try:
        return _imported(name)
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        for variable, value in given.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def _gpu_setting() -> tuple[str, str]:
    """The device that THEANO_FLAGS or .theanorc names, and where; ('', '') for none.

    Raises
    ------
    StorytellerError
        If .theanorc cannot be read.
    """
    for part in os.environ.get("THEANO_FLAGS", "").split(","):
        key, _, value = part.partition("=")
        if key.strip() == "device":
            return value.strip(), "THEANO_FLAGS"
    for path in reversed(os.environ.get("THEANORC", "~/.theanorc").split(os.pathsep)):
        path = os.path.expanduser(path)
        parser = configparser.RawConfigParser(inline_comment_prefixes=("#", ";"), strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, ValueError) as error:
            raise StorytellerError(f"{path}: Theano's settings cannot be read ({_first_line(error)}); correct or "
                                   "remove it") from error
        device = parser.get("global", "device", fallback="")
        if device:
            return device.strip(), f"{path}, [global] device"
    return "", ""


def _wants_gpu() -> bool:
    try:
        return _gpu_setting()[0].startswith(("cuda", "opencl"))
    except StorytellerError:    # told by start_gpu, if anybody asks for a GPU
        return False


def start_gpu() -> str:
    """Start Theano's GPU where FLAG_CPU_MODE is False; '' or why it cannot be started.

    Raises
    ------
    StorytellerError
        If .theanorc cannot be read, or it or THEANO_FLAGS names something else than a device.
    """
    if theano_on_gpu():
        return ""
    device, where = _gpu_setting()
    if device in ("", "cpu"):
        return "set THEANO_FLAGS=device=cuda for Theano (libgpuarray and pygpu are needed)"
    if not device.startswith(("cuda", "opencl")):
        raise StorytellerError(f"{where}: device is {device[:40]!r}, which Theano 1.0 does not know: write cuda or "
                               "cuda0 (gpu was the name until 2017), or set FLAG_CPU_MODE = True")
    if not importlib.util.find_spec("pygpu"):
        return f"{where} names {device}, but pygpu is not installed"
    try:
        import theano.gpuarray
        theano.gpuarray.use(device, force=True)
    except Exception as error:
        return f"{where} names {device}, which cannot be started ({_first_line(error)})"
    return ""


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
eq = T.eq
less = T.lt
grad = T.grad
log = T.log
maximum = T.maximum
minimum = T.minimum
sqrt = T.sqrt
square = T.sqr
switch = T.switch


def total(x: Variable, axis: int | None = None) -> Variable:
    """Sum over an axis, or over all of them."""
    return T.sum(x, axis=axis)


def cast(x: Variable, dtype: str) -> Variable:
    """Convert to another dtype.  For single numbers: of an array without a compiler each is converted in Python."""
    return T.cast(x, dtype)


def is_one_of(x: Variable, values: Sequence[int]) -> Variable:
    """For each of x (n,) int64 whether it is one of these numbers: (n,)."""
    return T.any(T.eq(x.dimshuffle(0, "x"), np.array(values, dtype=np.int64)), axis=1)


def all_finite(x: Variable) -> Variable:
    """Whether no number is NaN or infinite.

    Their sum or minimum would tell less well: XLA computes a product anew for its sum, and leaves NaN out of the
    minimum of many numbers on a CPU.
    """
    return T.all(T.lt(abs(x), np.float32(np.inf)))


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


def repeated(step: Callable[..., list[Variable]], first: Sequence[Variable], fixed: Sequence[Variable], steps: int,
             ) -> list[Variable]:
    """Steps of which each goes on from the one before, in one program; for JAX, since without it the engine would
    evaluate them node by node.

    Parameters
    ----------
    step : callable
        Given variables for what is handed on and then `fixed`, gives the new ones of what is handed on and then any
        other results.
    first : sequence of variables
        What is handed on to the first step.
    fixed : sequence of variables
        What is the same in all steps, shared variables included.
    steps : int

    Returns
    -------
    list of variables
        What the last step hands on; then all steps' other results, (steps, ...) each.
    """
    n_others = len(step(*first, *fixed)) - len(first)
    options = {"return_updates": False} if DIALECT == "pytensor" else {}
    found = library.scan(step, outputs_info=[*first, *[None] * n_others], non_sequences=list(fixed), n_steps=steps,
                         return_list=True, **options)
    return [x[-1] for x in found[:len(first)]] + list(found[len(first):])


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
    return bool(getattr(sys.modules.get("theano.gpuarray"), "pygpu_activated", False))


def import_lasagne():
    """Lasagne 0.1 over today's Theano (Theano dialect only)."""
    import sys
    import types
    # Lasagne imports a module that Theano renamed in 0.9; the new one serves it as well.
    name = "theano.tensor.signal.downsample"
    if name not in sys.modules:
        stand_in: Any = types.ModuleType(name)
        stand_in.max_pool_2d = T.signal.pool.pool_2d
        sys.modules[name] = T.signal.downsample = stand_in
    try:
        with without_warnings():
            import lasagne
    except ImportError as error:
        raise StorytellerError(f"Lasagne cannot be imported ({error}): "
                               "`pip install Lasagne==0.1`") from error
    return lasagne
