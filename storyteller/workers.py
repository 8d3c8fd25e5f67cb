"""Stories told by worker processes, on this machine or on a cluster, and the threads of each."""
from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from typing import TYPE_CHECKING, Any

from .errors import StorytellerError, check_count
from .threads import limit

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

_keeping = threading.Lock()
_kept: dict[str, Mapping[str, Any]] = {}     # the z that this process was sent last, by its key


class Shared:
    """The parts of a story as work for an executor carries them.

    Threads share ``z`` itself.  Another process unpickles it once, however many pictures it is sent: a
    :class:`~storyteller.generate.Models` travels as its settings, and the worker loads the parts.

    Parameters
    ----------
    z : mapping
        From :func:`storyteller.generate.load_all`.
    """

    def __init__(self, z: Mapping[str, Any]):
        self.z = z
        self._pickled: tuple[str, bytes] | None = None

    def __reduce__(self) -> tuple:
        if self._pickled is None:
            data = pickle.dumps(self.z)
            self._pickled = hashlib.blake2b(data, digest_size=16).hexdigest(), data
        return _received, self._pickled

    def keep(self) -> None:
        """Let this process, and those forked from it, use ``z`` itself in place of what it is sent."""
        _, (key, _) = self.__reduce__()
        with _keeping:
            _kept.clear()
            _kept[key] = self.z


def _received(key: str, data: bytes) -> Shared:
    with _keeping:
        if key not in _kept:
            z = pickle.loads(data)
            _kept.clear()
            _kept[key] = z
        return Shared(_kept[key])


def limit_threads(threads: int) -> None:
    """Let every library of linear algebra that is loaded use so many threads, until this process ends."""
    limit(check_count("threads", threads))


@contextlib.contextmanager
def processes(z: Mapping[str, Any], workers: int, threads: int = 1) -> Iterator[ProcessPoolExecutor]:
    """Worker processes on this machine, for ``generate.stories(z, images, executor=...)``.

    Parameters
    ----------
    z : mapping
        From :func:`storyteller.generate.load_all`.
    workers : int
        How many.
    threads : int
        Of linear algebra, for each.

    Yields
    ------
    ProcessPoolExecutor
        Its processes end when the block does, at once where it raises, and when this process is killed.

    Notes
    -----
    On Linux the workers are forked and share the memory of what is loaded, so that another one costs little.
    Elsewhere, and with a GPU, each loads the models itself.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    workers, threads = check_count("workers", workers), check_count("threads", threads)
    fork = _may_fork(z)
    shared = Shared(z)
    if fork:
        shared.keep()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork" if fork else "spawn"), _begin,
                               (shared, threads))
    try:
        yield pool
    except BaseException:
        # First, no more work: before Python 3.12 a pool that breaks while work is cancelled leaves a traceback.
        # Its thread, which ends when all processes have, is private, and a shutdown without waiting forgets it.
        thread = getattr(pool, "_executor_manager_thread", None)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if thread is not None:
            thread.join()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _may_fork(z: Mapping[str, Any]) -> bool:
    return sys.platform == "linux" and getattr(z, "device", "cpu") == "cpu"


def _begin(shared: Shared, threads: int) -> None:
    """Prepare a worker process, with every part loaded."""
    begin(threads)
    for key in shared.z:
        shared.z[key]
    limit_threads(threads)      # of the libraries that came with the parts, too


def begin(threads: int) -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the parent's, which ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("storyteller").setLevel(logging.ERROR)        # what is to be said of a story, the parent says
    limit_threads(threads)


def _end_with_parent() -> None:
    import multiprocessing
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def lost(error: Exception) -> StorytellerError | None:
    """The error to tell where an executor, and not the work that it was given, has failed; else None."""
    if isinstance(error, BrokenExecutor):
        return StorytellerError("a worker process ended before its work was done (it was killed, or there is not "
                                "enough memory): use fewer workers")
    if isinstance(error, CancelledError) or type(error).__module__.startswith("distributed"):
        return StorytellerError(f"the executor lost the work that it was given ({type(error).__name__}: "
                                f"{str(error)[:200]}); see whether its workers run and have enough memory")
    if isinstance(error, ImportError):
        return StorytellerError(f"a worker lacks a module ({error}): install the same storyteller on every worker")
    return None
