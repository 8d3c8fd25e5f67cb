"""Work shared by threads: parts of arrays, and products of matrices.

The threads of OpenBLAS wait in a loop for their next product, and so take a processor from all that is done between
two products.  Therefore it computes with one thread here, and threads of our own, which sleep while they wait, share
the products and the rest.  Parts are handed out one by one, so that a thread that has less of its processor gets fewer.

How many threads there are is what the BLAS has been granted: by OPENBLAS_NUM_THREADS and its like, by threadpoolctl, or
by :func:`storyteller.workers.limit_threads`.
"""
from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

SHARED = 128 << 20      # multiplications of a product that is worth sharing: threads take up to a millisecond to wake
MOST_KEPT = 16 << 20    # numbers of an array of scratch that is kept


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _libraries() -> list[Any]:
    """The BLAS that are loaded, as threadpoolctl knows them."""
    with contextlib.suppress(ImportError):      # a checkout that runs without all requirements is slower at most
        from threadpoolctl import ThreadpoolController
        return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
    return []


@cache
def _setters() -> list[Callable[[int], None]]:
    """What sets the number of threads of each OpenBLAS with threads of its own.

    Threadpoolctl lets one thread alone change it, and another's change is silently none.
    """
    found = []
    for library in _libraries():
        if library.internal_api == "openblas" and getattr(library, "threading_layer", "") == "pthreads":
            names = (f"{before}openblas_set_num_threads{behind}"
                     for before, behind in itertools.product(("", "scipy_"), ("", "64_", "_64")))
            dll = ctypes.CDLL(library.filepath)
            found += [getattr(dll, name) for name in names if hasattr(dll, name)][:1]
    return found


class _OneThread:
    """OpenBLAS with one thread, for as long as any thread is in this context."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users, self.granted = 0, 1

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.granted = _granted()
                self.set(1)
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.set(self.granted)

    def set(self, threads: int) -> None:
        if self.granted > 1:
            for setter in _setters():
                setter(threads)


one_thread = _OneThread()
_pool: tuple[int, ThreadPoolExecutor] | None = None
_spare: list[np.ndarray] = []
_sharing = threading.local()


def _after_fork() -> None:
    """Threads do not survive a fork; what they had taken is given back."""
    global one_thread, _pool
    if one_thread.users:
        one_thread.set(one_thread.granted)
    one_thread, _pool = _OneThread(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _granted() -> int:
    return max((library.num_threads for library in _libraries()), default=0) or cores()


def count() -> int:
    """How many threads share the work that this one begins."""
    if getattr(_sharing, "now", False):     # no part is shared again
        return 1
    with one_thread.lock:
        return one_thread.granted if one_thread.users else _granted()


def limit(n: int) -> None:
    """Grant so many threads to every library of linear algebra that is loaded, and to the work that is shared here."""
    with one_thread.lock, contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits
        threadpool_limits(n)        # others than those of _setters, too
        one_thread.granted = n
        for setter in _setters():
            setter(1 if one_thread.users else n)


def _helpers(n: int) -> ThreadPoolExecutor:
    global _pool
    with one_thread.lock:
        if _pool is None or _pool[0] != n:
            _pool = n, ThreadPoolExecutor(n, "storyteller")
        return _pool[1]


def in_threads(work: Callable[[int, int], Any], n: int, block: int) -> list:
    """``[work(0, block), work(block, 2 block), ...]`` up to n; NumPy lets go of the GIL in each.

    The blocks do not depend on the number of threads, so that neither does any result.
    """
    starts = range(0, n, block)
    threads = count() if len(starts) > 1 else 1
    if threads < 2:
        return [work(start, min(start + block, n)) for start in starts]
    parts = _Parts(work, [(start, min(start + block, n)) for start in starts])
    with one_thread:
        pool = _helpers(threads - 1)
        helping = [pool.submit(parts.take) for _ in range(min(threads, len(starts)) - 1)]
        try:
            parts.take()
        finally:
            for helper in helping:
                if not helper.cancel():     # it may not have begun: then there is nothing left to do
                    helper.result()
            results = parts.done()
    return results


class _Parts:
    """Parts of a work, taken one by one by any thread."""

    def __init__(self, work: Callable[[int, int], Any], blocks: list[tuple[int, int]]):
        self._work: Callable[[int, int], Any] | None = work
        self._blocks, self._results = blocks, [None] * len(blocks)
        self._turns = iter(range(len(blocks)))      # its next is atomic

    def take(self) -> None:
        """Do what nobody has begun."""
        work = self._work
        if work is None:
            return
        _sharing.now = True
        try:
            for turn in self._turns:
                self._results[turn] = work(*self._blocks[turn])
        finally:
            _sharing.now = False
            collections.deque(self._turns, maxlen=0)    # after an error, or Ctrl-C, nothing more is begun

    def done(self) -> list:
        """The results.  Arrays are let go of: a helper that is busy keeps what it was to take for a while."""
        results, self._results, self._work = self._results, [], None
        return results


@contextlib.contextmanager
def scratch(size: int) -> Iterator[np.ndarray]:
    """Memory for so many numbers, float32 and of any value, that was used before: new memory the system must clear."""
    try:
        array = _spare.pop()        # it and append are atomic
    except IndexError:
        array = np.empty(0, np.float32)
    if array.size < size:
        array = np.empty(size, np.float32)
    try:
        yield array[:size]
    finally:
        if array.size <= MOST_KEPT and len(_spare) < cores():
            _spare.append(array)


def matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """``np.matmul(x, y, out)`` of matrices, or of two stacks of matrices, shared by threads.

    Equal to NumPy's up to rounding.
    """
    rows, columns = x.shape[-2], y.shape[-1]
    # To read and reorder the other matrix costs as much as some rows.
    size = (rows + 24) * columns * x.shape[-1] * (len(x) if x.ndim == 3 else 1)
    with one_thread:
        threads = count() if size >= SHARED and _setters() else 1
        if threads < 2:
            return np.matmul(x, y, out=out)
        if out is None:
            out = np.empty((*x.shape[:-1], columns), np.result_type(x, y))

        def part(start: int, stop: int) -> None:
            here = slice(start, stop)
            if x.ndim == 3:
                np.matmul(x[here], y[here], out=out[here])
            elif rows > columns:
                np.matmul(x[here], y, out=out[here])
            else:
                np.matmul(x, y[:, here], out=out[:, here])

        length = len(x) if x.ndim == 3 else max(rows, columns)
        # Two parts a thread, so that one that is held up can be helped, and none that is hardly worth handing out.
        block = -(-length // min(2 * threads, 4 * size // SHARED))
        in_threads(part, length, block if block < 64 else -(-block // 64) * 64)
    return out
