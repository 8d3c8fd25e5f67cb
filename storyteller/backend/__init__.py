"""The only module that knows which Theano this is.

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
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from ..errors import StorytellerError, shown
from .engine import (
    DIALECT,
    Mode,
    Variable,
    cast,
    concatenate,
    constant,
    cos,
    counter,
    dot,
    eq,
    grad,
    import_lasagne,
    int_matrix,
    int_vector,
    library,
    log,
    matrix,
    maximum,
    minimum,
    relu,
    rows_or_zeros,
    shared,
    sigmoid,
    softmax,
    sqrt,
    square,
    start_gpu,
    switch,
    tanh,
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
    fixed_conv2d,
    fixed_filters,
    gru_sequence,
    join,
    last_step,
    max_pool2d,
    pairwise_ranking_loss,
    same_conv2d,
    sentences_ended,
    softmax_cross_entropy,
    softmax_output_cost,
    split,
    sum_of_squares,
    words_before,
    zero_states,
)

__all__ = [
    "adam_step",
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
    "join",
    "last_step",
    "log",
    "matrix",
    "max_pool2d",
    "same_conv2d",
    "maximum",
    "minimum",
    "pairwise_ranking_loss",
    "relu",
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
    "Variable",
    "vector",
    "words_before",
    "zero_states",
    "zeros_like",
]

_log = logging.getLogger(__name__)


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
        reason = start_gpu()
        if not reason:
            return "gpu"
    else:
        try:
            import jax
            if any(device.platform != "cpu" for device in jax.devices()):
                return "gpu"
            reason = "JAX finds no GPU here: install JAX for your GPU (`pip install 'jax[cuda13]'`)"
        except ImportError:
            reason = "JAX is not installed: `pip install jax`"
        except RuntimeError as error:  # a GPU plug-in that cannot start
            reason = f"JAX cannot start its GPU: {error}"
    _log.warning("A GPU is asked for (FLAG_CPU_MODE = False, or --device gpu), but none is usable, so the CPU is used. "
                 "%s.", reason)
    return "cpu"


def _mode(device: str) -> Any:
    if not isinstance(device, str):
        raise StorytellerError(f"device is {shown(device)}: expected 'cpu' or 'gpu'")
    if device == "cpu":
        return Mode(linker="py", optimizer="fast_compile")
    if DIALECT == "theano":
        if device == "gpu":
            return None  # Theano's own default, for the device of THEANO_FLAGS
    elif device in ("gpu", "jax"):
        try:
            from . import jax_operations
            jax_operations.register()
        except ImportError as error:
            raise StorytellerError(
                f"device {device!r} needs JAX ({error}): `pip install jax`") from error
        return "JAX"
    raise StorytellerError(f"device is {device!r}: expected 'cpu', 'gpu'"
                           + (" or 'jax'" if DIALECT == "pytensor" else ""))


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
    with _compiling:
        call = library.function(list(inputs), list(outputs), mode=_mode(device), on_unused_input="ignore", **options)
    if device == "cpu" or DIALECT == "theano":
        # The graph's inputs come from this package with the right dtype and are never kept.
        call.trust_input = True
    return call


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
        Takes arrays of the inputs' dtypes, gives the list of outputs as NumPy arrays.  Threads may call it at once.

    Notes
    -----
    JAX traces and compiles once for every shape.  Batches are therefore padded with
    zeros to the next power of two there, so that a shrinking beam or batch meets a few
    shapes only.
    """
    call = _compiled(inputs, outputs, device)
    if device == "cpu" or DIALECT == "theano":
        return _Pool(call)
    lock = threading.Lock()     # a copy would be traced and compiled again

    def padded(*arrays: np.ndarray) -> list[np.ndarray]:
        n = len(arrays[0])
        size = _power_of_two(n)
        if size != n:
            arrays = tuple(np.concatenate([a, np.zeros((size - n,) + a.shape[1:], a.dtype)])
                           for a in arrays)
        with lock:
            return [np.asarray(result)[:n] for result in call(*arrays)]
    return padded


def train_function(inputs: Sequence[Variable], outputs: Sequence[Variable],
                   updates: Sequence[tuple[Variable, Variable]] | Mapping[Variable, Variable] = (),
                   device: str = "cpu") -> Callable[..., list[np.ndarray]]:
    """Compile a graph that changes shared variables, with inputs of any shapes.

    Parameters
    ----------
    inputs, outputs : sequences of variables
    updates : pairs of a shared variable and its new value
        All are computed from the values before the call.  The parameters among them must come
        from :func:`trainable`, since they are changed in place.
    device : str
        ``'cpu'``, ``'gpu'`` or ``'jax'``; see the module's text.

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
    lock = threading.Lock()

    def in_turn(*arrays: np.ndarray) -> list[np.ndarray]:
        with lock:
            return [np.asarray(result) for result in call(*arrays)]
    return in_turn
