"""JAX's side of a device: finding the GPU, its memory, the compiled programs that are kept, errors in a sentence."""
from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError

#: What an environment may say of JAX's memory, see https://docs.jax.dev/en/latest/gpu_memory_allocation.html
MEMORY = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR")
#: Names of precisions (see :func:`storyteller.backend.train_function`), and JAX's for them.
PRECISIONS = {"float32": "highest", "bfloat16": "BF16_BF16_F32"}
PROGRAMS = "programs"       # folder of the cache

_CPU = "or compute on the CPU (FLAG_CPU_MODE = True, --device cpu)"
# What CUDA and XLA say, and what that means.
_REASONS = (
    (r"driver version is insufficient|INSUFFICIENT_DRIVER|SYSTEM_DRIVER_MISMATCH|UNSUPPORTED_PTX_VERSION"
     r"|COMPAT_NOT_SUPPORTED_ON_DEVICE|forward compatibility was attempted",
     "the GPU's driver is older than this JAX needs: install a newer driver, or an older JAX"),
    (r"Outdated \w+ installation|Unable to load \w+\. Is it installed",
     "CUDA's libraries are missing, or older than this JAX needs: `pip install -U 'jax[cuda12]'`"),
    (r"busy or unavailable|DEVICE_UNAVAILABLE",
     "another process has the GPU for itself: `nvidia-smi` lists it; end it, or let processes share the GPU "
     "(`nvidia-smi -c 0`)"),
    # CUDA's libraries say the latter two where there is no memory left for them (JAX's FAQ).
    (r"RESOURCE_EXHAUSTED|out of memory|OUT_OF_MEMORY|CUBLAS_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)"
     r"|DNN library initialization failed",
     "the GPU has not enough free memory: `nvidia-smi` lists the processes that hold it; end them, or give smaller "
     "batches, a narrower beam or a smaller model"),
    (r"no devices? (was|were) found|no CUDA-capable device|NO_DEVICE|No visible GPU|no platforms that are instances",
     "JAX finds none: see whether `nvidia-smi` lists a GPU and `pip list` jax-cuda12-plugin, which "
     "`pip install 'jax[cuda12]'` installs"),
)


def start(device: str) -> None:
    """Make JAX ready for a device.

    Parameters
    ----------
    device : str
        ``'gpu'``, or ``'jax'`` for whatever JAX computes on.

    Raises
    ------
    StorytellerError
        If JAX is not installed, or finds no GPU where one is asked for.
    """
    try:
        import jax

        from . import jax_operations
        jax_operations.register()
    except ImportError as error:
        raise StorytellerError(f"device {device!r} needs JAX ({error}): `pip install 'jax[cuda12]'`, {_CPU}"
                               ) from error
    if device == "gpu":
        gpus()
    else:
        with _memory_as_needed():
            jax.devices()
    if not jax.config.jax_compilation_cache_dir:    # the user's own setting stays
        from .. import cache
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache.cache_dir(), PROGRAMS))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def gpus() -> list[Any]:
    """JAX's GPUs.

    Memory is taken as it is needed, up to JAX's share (three quarters of the GPU's), unless the environment says
    otherwise (:data:`MEMORY`): JAX's default, to take all of its share at once, leaves little to other programs.

    Raises
    ------
    StorytellerError
        If there is none that can be used.
    """
    import jax
    failures: list[BaseException] = []
    try:
        with _memory_as_needed(), _failures_of_plugins(failures):
            return jax.devices("gpu")
    except RuntimeError as error:
        reason = _reason((failures or [error])[0], f"JAX {jax.__version__} cannot start one")
        raise StorytellerError(f"a GPU is asked for (FLAG_CPU_MODE = False, device 'gpu' or --device gpu), but "
                               f"{reason}; {_CPU[3:]}") from error


@contextlib.contextmanager
def _memory_as_needed() -> Iterator[None]:
    """The environment in which JAX starts, where it is read once."""
    ours = {} if any(os.environ.get(name) for name in MEMORY) else {MEMORY[0]: "false"}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


@contextlib.contextmanager
def _failures_of_plugins(failures: list[BaseException]) -> Iterator[None]:
    """Collect what JAX, while it starts, logs with a traceback before it goes on without the GPU's plugin."""
    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            failures.append(record.exc_info[1])
        return not record.exc_info

    logger = logging.getLogger("jax._src.xla_bridge")
    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)


def keep(cells: Iterable[list[Any]]) -> None:
    """Move the arrays that stand in these cells to the device, where they stay: a NumPy array is copied at every
    call."""
    import jax
    with computing():
        for cell in cells:
            cell[0] = jax.device_put(cell[0])


def put(array: np.ndarray) -> Any:
    """An array's copy on the device."""
    import jax
    with computing():
        return jax.device_put(array)


def take(table: Any, index: np.ndarray) -> Any:
    """Rows of a table on the device, there."""
    import jax.numpy as jnp
    with computing():
        return jnp.take(table, index, axis=0)


def fetch(arrays: Sequence[Any]) -> list[np.ndarray]:
    """Arrays as NumPy's; all are copied at once, not one after the other."""
    import jax
    return list(map(np.asarray, jax.device_get(list(arrays))))


def found() -> str:
    """JAX's version and devices, for ``storyteller check``.

    Raises
    ------
    ImportError
        Without JAX.
    """
    import jax
    try:
        devices = gpus()
    except StorytellerError:
        try:
            devices = jax.devices()
        except RuntimeError as error:   # a plugin that cannot start leaves JAX without any
            return f"JAX {jax.__version__} cannot compute: {_reason(error, 'it cannot start')}"
    names = [f"{device.device_kind} ({device.platform})" for device in devices]
    return f"JAX {jax.__version__}: {', '.join(names)}; {' '.join(devices[0].client.platform_version.split())}"


def _reason(error: BaseException, otherwise: str) -> str:
    text = str(error)
    for pattern, meaning in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return meaning
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{otherwise} ({first[:200]})"


@contextlib.contextmanager
def computing(precision: str = "float32") -> Iterator[None]:
    """For a call: products in this precision (float32 is never TF32), and JAX's errors in a sentence."""
    import jax
    try:
        with jax.default_matmul_precision(PRECISIONS[precision]):
            yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        raise StorytellerError(f"the device failed: {_reason(error, 'JAX stopped')}") from error
