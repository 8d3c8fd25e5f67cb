"""The only module that knows which Theano this is.

Every graph of the package is written once, in Theano's language, with the names of
this module.  Under them stands PyTensor (Python 3.11 and newer) or Theano 1.0.5 (Python
3.9 and 3.10); ``DIALECT`` says which.

Parts compute on one of these devices:

``'cpu'``
    NumPy and its BLAS.  What is written with the functions of :mod:`.either` is computed as it stands, without an
    engine; a graph is evaluated operation by operation.  Nothing is compiled by a C compiler or by Numba, so the
    first result comes after a fraction of a second; the matrix products, which are nearly all the work, run at the
    same speed.
``'gpu'``
    PyTensor's JAX mode on the GPU that JAX finds, or Theano's own GPU back end where
    ``THEANO_FLAGS`` names a device.
``'jax'``
    The code path of ``'gpu'`` on whatever device JAX has, the CPU included (PyTensor only).

Where a program names no device, the environment variable ``STORYTELLER_DEVICE`` does, before the settings'
``FLAG_CPU_MODE``; see :func:`device_of` and :func:`choose_device`.

The engine is imported where the first graph is made: for training, and for devices other than the CPU.
"""
from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from ..errors import StorytellerError, shown
from ..progress import without_warnings
from . import jax_device
from .either import (
    dot,
    dot_distinct,
    fixed_conv2d,
    fixed_filters,
    max_pool2d,
    relu,
    rows_or_zeros,
    same_conv2d,
    sigmoid,
    softmax,
    tanh,
)

if TYPE_CHECKING:       # else see __getattr__
    from .engine import (
        DIALECT,
        Variable,
        all_finite,
        cast,
        concatenate,
        constant,
        cos,
        counter,
        eq,
        grad,
        import_lasagne,
        int_matrix,
        int_vector,
        is_one_of,
        less,
        log,
        matrix,
        maximum,
        minimum,
        repeated,
        shared,
        sqrt,
        square,
        switch,
        tensor3,
        tensor4,
        total,
        trainable,
        vector,
        zeros_like,
    )
    from .operations import (
        adam_step,
        as_rows,
        as_steps,
        conv2d,
        copies,
        embedded_dense,
        embedding,
        gru_sequence,
        join,
        largest,
        last_step,
        log_sum_exp,
        pairwise_ranking_loss,
        sentences_ended,
        softmax_cross_entropy,
        softmax_output_cost,
        split,
        sum_of_squares,
        unit_rows,
        words_before,
        zero_states,
    )

__all__ = [
    "adam_step",
    "all_finite",
    "bucket",
    "computation",
    "device_of",
    "fetch",
    "largest",
    "on_jax",
    "padded",
    "as_rows",
    "as_steps",
    "cast",
    "choose_device",
    "concatenate",
    "constant",
    "conv2d",
    "copies",
    "cos",
    "counter",
    "DIALECT",
    "dot",
    "dot_distinct",
    "embedded_dense",
    "embedding",
    "eq",
    "fixed_conv2d",
    "fixed_filters",
    "function",
    "grad",
    "gru_sequence",
    "import_lasagne",
    "int_matrix",
    "int_vector",
    "is_one_of",
    "join",
    "kept",
    "last_step",
    "less",
    "log",
    "log_sum_exp",
    "matrix",
    "max_pool2d",
    "same_conv2d",
    "maximum",
    "minimum",
    "pairwise_ranking_loss",
    "parameters",
    "relu",
    "repeated",
    "rows",
    "rows_or_zeros",
    "sentences_ended",
    "shared",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "softmax_output_cost",
    "split",
    "sqrt",
    "square",
    "sum_of_squares",
    "switch",
    "tanh",
    "tensor3",
    "tensor4",
    "total",
    "train_function",
    "trainable",
    "unit_rows",
    "Variable",
    "vector",
    "words_before",
    "zero_states",
    "zeros_like",
]

VARIABLE = "STORYTELLER_DEVICE"
_TABLE = 2 ** 28        # bytes of the largest table of vectors that stays on a device


def __getattr__(name: str) -> Any:
    """Names of the engine and of the operations, which are imported where one of them is asked for."""
    if name in __all__:
        for module in ("engine", "operations"):
            found = importlib.import_module(f".{module}", __name__)
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def device_of(device: str | None = None) -> str:
    """The device of a part of the package, ready to compute.

    Parameters
    ----------
    device : str, optional
        ``'cpu'``, ``'gpu'`` or ``'jax'``, see the module's text.  By default what the environment variable
        ``STORYTELLER_DEVICE`` names, else the CPU.

    Returns
    -------
    str

    Raises
    ------
    StorytellerError
        If it is none of these, or a GPU and none can be used: the CPU never takes its place unasked.
    """
    named = "device"
    if device is None:
        device, named = os.environ.get(VARIABLE) or "cpu", VARIABLE
    if not isinstance(device, str) or device not in ("cpu", "gpu", "jax"):
        raise StorytellerError(f"{named} is {shown(device)}: expected 'cpu' or 'gpu'")
    if device == "cpu":
        return device
    from . import engine
    if engine.DIALECT == "pytensor":
        jax_device.start(device)
        return device
    reason = engine.start_gpu() if device == "gpu" else "JAX needs PyTensor (Python 3.11 or newer)"
    if reason:
        raise StorytellerError(f"a GPU is asked for (FLAG_CPU_MODE = False, device {device!r} or --device gpu), but "
                               f"none can be used: {reason}; or compute on the CPU (FLAG_CPU_MODE = True, "
                               "--device cpu)")
    return device


def choose_device(cpu_mode: bool = True) -> str:
    """The device that settings ask for.

    Parameters
    ----------
    cpu_mode : bool
        ``FLAG_CPU_MODE``.  The environment variable ``STORYTELLER_DEVICE`` comes before it.

    Returns
    -------
    str

    Raises
    ------
    StorytellerError
        As :func:`device_of`.
    """
    return device_of(os.environ.get(VARIABLE) or ("cpu" if cpu_mode else "gpu"))


def on_jax(device: str) -> bool:
    """Whether this device's functions are JAX's."""
    if device == "cpu":
        return False
    from . import engine
    return engine.DIALECT == "pytensor"


def _mode(device: str) -> Any:
    if device == "cpu":
        from .engine import Mode
        # Without a compiler an Elemwise is a NumPy function, or, where NumPy has none, a Python loop over the numbers:
        # so is the fill (second) in the gradient of a sum.  Alloc takes its place.  (Theano's name, PyTensor's name.)
        return Mode(linker="py", optimizer="fast_compile").including("local_fill_to_alloc", "local_second_to_alloc")
    return "JAX" if on_jax(device) else None    # None: Theano's own default, for the device of THEANO_FLAGS


# The engine's rewriting of graphs is not made for threads.  A process is not forked while one compiles.
_compiling = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_compiling.acquire, after_in_parent=_compiling.release,
                        after_in_child=_compiling.release)


class _Pool:
    """A compiled function that many threads may call at once.

    The engine keeps what it computes in cells that belong to the function: of two calls at once each would read the
    other's values.  So every call takes a copy that no other call is using.  The copies share the parameters, and
    there come to be as many as there were calls at once.
    """

    def __init__(self, call: Any):
        self._first = call
        self._idle = [call]     # pop and append are atomic

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        try:
            call = self._idle.pop()
        except IndexError:
            with _compiling:
                call = self._first.copy()
            call.trust_input = True
        try:
            return call(*arrays)
        finally:
            self._idle.append(call)


def _compiled(inputs: Sequence[Variable], outputs: Sequence[Variable], device: str, **options: Any) -> Any:
    from . import engine
    device = device_of(device)
    # PyTensor warns of each check in a graph that JAX has no place for.
    with _compiling, without_warnings() if on_jax(device) else contextlib.nullcontext():
        call = engine.library.function(list(inputs), list(outputs), mode=_mode(device), on_unused_input="ignore",
                                       **options)
    # The graph's inputs come from this package with the right dtype and are never kept.
    call.trust_input = True
    if on_jax(device):
        jax_device.keep(parameter.container.storage for parameter in call.get_shared())
    return call


def bucket(n: int) -> int:
    """How many rows n are padded to for JAX, which compiles for every shape: 1, 4, 16, a power of 2 from 64 on, or a
    multiple of 4096."""
    if n > 4096:
        return -(-n // 4096) * 4096
    bits = (n - 1).bit_length()
    return 1 << (bits + bits % 2 if n <= 64 else bits)


def padded(array: np.ndarray, size: int, value: float = 0, axis: int = 0) -> np.ndarray:
    """The array with so many rows (or columns, ...), new ones being full of a value."""
    axis %= array.ndim
    if size <= array.shape[axis]:
        return array
    result = np.full((*array.shape[:axis], size, *array.shape[axis + 1:]), value, dtype=array.dtype)
    result[(slice(None),) * axis + (slice(array.shape[axis]),)] = array     # np.pad takes ten times as long
    return result


def parameters(arrays: Mapping[str, np.ndarray], graph: bool) -> dict[str, Any]:
    """Float32 arrays as the parameters of a network: as they are, or for a graph as shared variables."""
    if not graph:
        return dict(arrays)
    from . import engine
    return {name: engine.shared(array, name) for name, array in arrays.items()}


def computation(network: Callable[..., list[Any]], ndims: Sequence[int], device: str,
                ) -> Callable[..., list[np.ndarray]]:
    """A network as a function of arrays, which threads may call at once.

    Parameters
    ----------
    network : callable
        Written with the functions of :mod:`.either` and with :func:`parameters`: takes one array or variable for each
        input, gives the list of outputs.  All have one row per example.
    ndims : sequence of int
        Dimensions of each input, float32; 0 stands for a vector of int64.
    device : str
        On the CPU the network is what is returned; else its graph is compiled, see :func:`function`.
    """
    if device == "cpu":
        return network
    from . import engine
    variables = [engine.tensor_of(ndim) if ndim else engine.int_vector("y") for ndim in ndims]
    return function(variables, network(*variables), device)


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
        Takes arrays of the inputs' dtypes, gives the list of outputs as NumPy arrays.  Threads may call it at once.

    Notes
    -----
    JAX traces and compiles once for every shape.  Batches are therefore padded with zeros there, see :func:`bucket`.
    """
    if not on_jax(device_of(device)):
        return _Pool(_compiled(inputs, outputs, device))
    call = train_function(inputs, outputs, device=device)

    def in_buckets(*arrays: np.ndarray) -> list[np.ndarray]:
        n = len(arrays[0])
        return [result[:n] for result in call(*(padded(array, bucket(n)) for array in arrays))]
    return in_buckets


def train_function(inputs: Sequence[Variable], outputs: Sequence[Variable],
                   updates: Sequence[tuple[Variable, Variable]] | Mapping[Variable, Variable] = (),
                   device: str = "cpu", precision: str = "float32",
                   fetched: bool = True) -> Callable[..., list[np.ndarray]]:
    """Compile a graph that changes shared variables, with inputs of any shapes.

    Parameters
    ----------
    inputs, outputs : sequences of variables
    updates : pairs of a shared variable and its new value
        All are computed from the values before the call.  The parameters among them must come
        from :func:`trainable`, since they are changed in place.
    device : str
        ``'cpu'``, ``'gpu'`` or ``'jax'``; see the module's text.
    precision : str
        Of products on a GPU: ``'float32'`` (never TF32), or ``'bfloat16'`` with sums in float32.
    fetched : bool
        False leaves the outputs on the device (as JAX's arrays, which may not be computed yet), for other functions
        to take: see :func:`fetch`.

    Returns
    -------
    callable
        Takes arrays of the inputs' dtypes, gives the list of outputs as NumPy arrays.  Calls of several threads
        are made one after the other.

    Notes
    -----
    JAX compiles once for every shape: give it batches of a few lengths only.
    """
    updates = list(updates.items() if isinstance(updates, Mapping) else updates)
    call = _compiled(inputs, outputs, device, updates=updates, accept_inplace=True)
    lock, computing = threading.Lock(), on_jax(device)

    def in_turn(*arrays: np.ndarray) -> list[np.ndarray]:
        with lock, jax_device.computing(precision) if computing else contextlib.nullcontext():
            results = call(*arrays)
            return [np.asarray(result) for result in results] if fetched else results
    return in_turn


def kept(table: np.ndarray, device: str) -> Any:
    """A table of vectors (n, d), for :func:`rows` for instance: a float32 copy on the device that JAX computes on, or
    itself on the CPU and where the copy would have more than 256 MB."""
    if not on_jax(device) or table.size * 4 > _TABLE:
        return table
    return jax_device.put(np.asarray(table, dtype=np.float32))


def rows(table: Any, index: np.ndarray, device: str) -> Any:
    """Rows of a table of vectors.

    Parameters
    ----------
    table : array (n, d), or what :func:`kept` gave
    index : array (m,) int64
    device : str

    Returns
    -------
    array (m, d)
        Of the table's dtype; through JAX a float32 array on the device, with more rows, see :func:`bucket`.

    Raises
    ------
    IndexError
        If a row is outside the table.
    """
    if not on_jax(device):
        return table[index]
    if len(index) and not -len(table) <= index.min() <= index.max() < len(table):   # of which JAX says nothing
        raise IndexError(f"rows {index.min()} to {index.max()} of a table of {len(table)}")
    index = padded(index, bucket(len(index)))
    if isinstance(table, np.ndarray):
        return jax_device.put(np.asarray(table[index], dtype=np.float32))
    return jax_device.take(table, index)


def fetch(*arrays: Any) -> list[np.ndarray]:
    """Arrays of a device as NumPy's, as soon as they are computed; NumPy's own as they are."""
    there = all(isinstance(array, (np.ndarray, np.generic)) for array in arrays)
    if there:
        return list(map(np.asarray, arrays))
    with jax_device.computing():
        return jax_device.fetch(arrays)
