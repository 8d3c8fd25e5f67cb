"""Work shared by threads: parts of arrays, and products of matrices.

The threads of OpenBLAS wait in a loop for their next product, and so take a processor from all that is done between
two products.  Therefore it computes with one thread here, and threads of our own, which sleep while they wait, share
the products and the rest.  Parts are handed out one by one, so that a thread that has less of its processor gets fewer.

How many threads there are is what the BLAS has been granted: by OPENBLAS_NUM_THREADS and its like, by threadpoolctl, or
by :func:`storyteller.workers.limit_threads`.  What one thread grants by threadpoolctl while another computes may be
taken back.
"""
from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator
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
def _openblas() -> list[tuple[Any, Callable[[int], None]]]:
    """Each OpenBLAS with threads of its own, and what sets their number.

    Threadpoolctl lets one thread alone change it, and another's change is silently none.
    """
    found = []
    for library in _libraries():
        if library.internal_api == "openblas" and getattr(library, "threading_layer", "") == "pthreads":
            names = (f"{before}openblas_set_num_threads{behind}"
                     for before, behind in itertools.product(("", "scipy_"), ("", "64_", "_64")))
            dll = ctypes.CDLL(library.filepath)
            found += [(library, getattr(dll, name)) for name in names if hasattr(dll, name)][:1]
    return found


class _OneThread:
    """OpenBLAS with one thread, for as long as any thread is in this context.

    Ctrl-C may come at any line: what is set is set again.  If a thread could not leave, it does with its next work.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[int] = set()       # threads; none enters twice
        self.granted: list[int] = []

    def __enter__(self) -> None:
        try:
            with self.lock:
                if not self.inside:
                    self.granted = [library.num_threads for library, _ in _openblas()]
                self.inside.add(threading.get_ident())
                self._set([1] * len(self.granted))
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self.lock:
            self.inside.discard(threading.get_ident())
            if not self.inside:
                self.give_back()

    def give_back(self) -> None:
        """Unless somebody else has changed it meanwhile."""
        self._set([granted if library.num_threads == 1 else library.num_threads
                   for granted, (library, _) in zip(self.granted, _openblas())])

    def _set(self, threads: list[int]) -> None:
        for n, (library, setter) in zip(threads, _openblas()):
            if library.num_threads != n:
                setter(n)

    def count(self) -> int:
        # By its file: where two threads were the first to ask, each may have its own objects.
        with self.lock:
            held = dict(zip((library.filepath for library, _ in _openblas()), self.granted)) if self.inside else {}
        return max((held.get(library.filepath, library.num_threads) for library in _libraries()), default=0) or cores()


one_thread = _OneThread()
_given: queue.SimpleQueue[_Parts] = queue.SimpleQueue()
_helpers: list[threading.Thread] = []
_spare: list[np.ndarray] = []
_here = threading.local()       # .parts: what this thread takes parts of; .helping: whether it is one of ours


def _after_fork() -> None:
    """Threads do not survive a fork; what they had taken is given back."""
    global one_thread, _given
    if one_thread.inside:
        one_thread.give_back()
    one_thread, _given = _OneThread(), queue.SimpleQueue()
    _helpers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def count() -> int:
    """How many threads share the work that this one begins."""
    parts = getattr(_here, "parts", None)
    if parts and (not parts.over or getattr(_here, "helping", False)):      # no part is shared again
        return 1
    return one_thread.count()


def limit(n: int) -> None:
    """Grant so many threads to every library of linear algebra that is loaded, and to the work that is shared here."""
    with one_thread.lock, contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits
        threadpool_limits(n)        # others than OpenBLAS, too
        one_thread.granted = [n] * len(_openblas())
        for _, setter in _openblas():
            setter(1 if one_thread.inside else n)


def in_threads(work: Callable[[int, int], Any], n: int, block: int) -> list:
    """Do ``work(0, block)``, ``work(block, 2 block)`` and so on up to n, in any order and thread.

    The blocks do not depend on the number of threads, so that neither does any result.

    Parameters
    ----------
    work : callable
        Takes the start and the end of a block; NumPy lets go of the GIL in it.  A long one asks
        :func:`leave_if_stopped` now and then.
    n, block : int

    Returns
    -------
    list
        What ``work`` gave, in the order of the blocks.

    Raises
    ------
    Exception
        What a block raised; no other one is begun then, and none is at work any more.
    """
    blocks = _blocks(n, block)
    threads = min(count(), len(blocks))
    if threads < 2:
        return [work(*some) for some in blocks]
    with one_thread:
        return _Parts(work, blocks).shared(threads - 1)


def _blocks(n: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, n)) for start in range(0, n, block)]


class _Stopped(BaseException):
    """A part is left, for another one has failed."""


def leave_if_stopped() -> None:
    """Leave a part where another one has failed, or Ctrl-C was pressed."""
    parts = getattr(_here, "parts", None)
    if parts and parts.stopped and getattr(_here, "helping", False):    # another's error has come up by itself
        raise _Stopped


class _Parts:
    """Parts of a work, taken one by one by any thread.

    No locks but C's own: Ctrl-C amid Python's, such as those of a Future, can leave them locked for ever.
    """

    def __init__(self, work: Callable[[int, int], Any], blocks: list[tuple[int, int]]):
        self._work: Callable[[int, int], Any] | None = work
        self._blocks, self._results = blocks, [None] * len(blocks)
        self._turns = iter(range(len(blocks)))      # its next is atomic
        self._lock, self._leaving = threading.Lock(), queue.SimpleQueue[None]()
        self._entered = self._left = 0
        self._error: BaseException | None = None
        self._errors = np.geterr()      # a thread has its own
        self.stopped = False        # nothing more is begun

    def shared(self, helpers: int) -> list:
        """The results, with the help of so many threads, where they are free."""
        _start_helpers(helpers)
        try:
            for _ in range(helpers):
                _given.put(self)
            self._take()
        except BaseException:
            self.stopped = True
            raise
        finally:
            self._wait()
            # A helper that is busy keeps for a while what it was to help with: not its arrays.
            results, self._results = self._results, []
        if self._error is not None:
            raise self._error
        return results

    @property
    def over(self) -> bool:
        """Whether nobody can begin any more."""
        return self._work is None

    def help(self) -> None:
        """What a helper does."""
        with self._lock:
            if self._work is None:
                return
            self._entered += 1
        try:
            with np.errstate(**self._errors):
                self._take()
        except BaseException as error:      # it is raised where the results are asked for
            if not isinstance(error, _Stopped):
                self._error = error
            self.stopped = True
        finally:
            with self._lock:
                self._left += 1
            self._leaving.put(None)

    def _take(self) -> None:
        work, _here.parts = self._work, self
        try:
            for turn in self._turns:
                if self.stopped or work is None:
                    break
                self._results[turn] = work(*self._blocks[turn])
        finally:
            _here.parts = None

    def _wait(self) -> None:
        """Until no helper is at work, and none can begin."""
        interrupted = None
        with self._lock:
            self._work = None
        while self._left < self._entered:
            try:
                self._leaving.get(timeout=0.1)
            except queue.Empty:     # Ctrl-C came behind a get
                pass
            except BaseException as error:      # Ctrl-C: they are told, and waited for all the same
                self.stopped, interrupted = True, error
        if interrupted is not None:
            raise interrupted


def _start_helpers(n: int) -> None:
    while len(_helpers) < n:
        helper = threading.Thread(target=_help, args=(_given,), name="storyteller", daemon=True)
        try:
            helper.start()
        except RuntimeError:        # the interpreter ends, or there may be no more threads: it goes without
            return
        _helpers.append(helper)


def _help(given: queue.SimpleQueue[_Parts]) -> None:
    _here.helping = True
    while True:
        given.get().help()


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
    """``np.matmul(x, y, out)``, equal up to rounding, shared by threads where it is large.

    Parameters
    ----------
    x : array (n, d) or (m, n, d)
    y : array (d, k) or (m, d, k)
    out : array (n, k) or (m, n, k), optional

    Returns
    -------
    array (n, k) or (m, n, k)
        ``out`` where it is given.
    """
    threads = count()
    if threads < 2:
        return np.matmul(x, y, out=out)
    rows, columns = x.shape[-2], y.shape[-1]
    shape = (*x.shape[:-1], columns)
    # To read and reorder the other matrix costs as much as some rows.
    size = (rows + 24) * columns * x.shape[-1] * (len(x) if x.ndim == 3 else 1)
    with one_thread:
        if size < SHARED or not _openblas() or x.ndim != y.ndim or out is not None and (
                out.shape != shape or np.may_share_memory(out, x) or np.may_share_memory(out, y)):
            return np.matmul(x, y, out=out)
        if out is None:
            out = np.empty(shape, np.result_type(x, y))

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
        blocks = _blocks(length, block if block < 64 else -(-block // 64) * 64)
        _Parts(part, blocks).shared(min(threads, len(blocks)) - 1)
    return out
