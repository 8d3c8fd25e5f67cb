"""Processes that tell stories, and the queue before them."""
from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import pickle
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Callable

from .. import generate, workers
from ..errors import StorytellerError
from ..images import FORMATS
from ..progress import counted, inform, without_warnings

_log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000        # of a photo that a stranger may send; a PNG of so many takes 300 MB
_ATTEMPTS = 2                   # a photo that has ended two workers is not given to a third


class Busy(StorytellerError):
    """The queue is full."""


class Ended(Exception):
    """A worker process has ended before it answered."""


class InWorker(Exception):
    """What an error in a worker comes from: its traceback there."""


class Worker:
    """A process that does one thing at a time, and a pipe to it.

    Parameters
    ----------
    shared : workers.Shared
        The parts of a story.
    threads : int
        Of linear algebra.

    Notes
    -----
    A ``ProcessPoolExecutor`` of one process would do, but for two things: it has no public way to end a process that
    works, before Python 3.14; and where a process is killed before it has read its photo, the executor waits for
    ever, before 3.11.7.  Only the process itself holds its end of this pipe, so it breaks where the process ends.
    """

    def __init__(self, shared: workers.Shared, threads: int):
        context = multiprocessing.get_context("spawn")      # not forked: the server has threads
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, shared, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of this module makes of the parts and the arguments, in the process; Ended where it ends."""
        try:
            self._pipe.send((function, arguments))
            answer, error, where = self._pipe.recv()
        except (EOFError, OSError):
            raise Ended from None
        if error is not None:
            raise error from InWorker(where)
        return answer


class Workers:
    """Processes that tell stories, one at a time each, and a bounded queue before them.

    Parameters
    ----------
    z : Models
        Each worker loads its parts.
    n : int
        Workers.
    threads : int
        Of linear algebra, for each.
    most_waiting : int
        Photos that may wait for one.

    Attributes
    ----------
    z, n, most_waiting
    working : int
        Workers that tell a story.

    Notes
    -----
    One that is killed takes only its own story with it, which is told again by the process that takes its place.
    """

    def __init__(self, z: generate.Models, n: int = 1, threads: int = 1, most_waiting: int = 32):
        self.z, self.n, self.most_waiting = z, n, most_waiting
        self._shared, self._threads = workers.Shared(z), threads
        self.working = self._asked = 0
        self._workers: list[Worker | None] = [None] * n     # None: to be started
        self._waiting_for_them = ThreadPoolExecutor(n)
        self._idle: asyncio.Queue[int] | None = None

    def _worker(self, number: int) -> Worker:
        """A worker with its models loaded."""
        worker = self._workers[number]
        if worker is None:
            worker = self._workers[number] = Worker(self._shared, self._threads)
            worker.ask(_load, self._threads)
        return worker

    @property
    def waiting(self) -> int:
        """Photos that wait for a worker."""
        return max(0, self._asked - self.working)

    def load(self) -> None:
        """Start the processes and wait until each has loaded its models.

        Raises
        ------
        StorytellerError
            If files are missing or do not fit each other, or a process ends.
        """
        inform(_log, "Loading the models, %s...", counted(self.n, "worker"))
        try:
            for number in range(self.n):    # one after the other: the first computes what the others find in the cache
                self._worker(number)
        except Ended:
            raise StorytellerError("a worker ended while it loaded the models, perhaps for want of memory: give fewer "
                                   "--workers or close other programs") from None

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, or with a worker, for one photo; Busy where none is left."""
        if self._asked >= self.n + self.most_waiting:
            raise Busy(f"{self.waiting} photos are waiting already: try again in a minute")
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    async def tell(self, photo: bytes, options: dict[str, Any]) -> dict[str, Any]:
        """The story of a photo, from a worker, as :meth:`storyteller.stories.Story.to_dict` gives it.

        Parameters
        ----------
        photo : bytes
            A picture's file.
        options : dict
            Of :func:`storyteller.generate.story`.

        Raises
        ------
        StorytellerError
            As :func:`storyteller.generate.story`, or if the worker ended over it.
        """
        if self._idle is None:      # made where the event loop runs
            self._idle = asyncio.Queue()
            for number in range(self.n):
                self._idle.put_nowait(number)
        number = await self._idle.get()
        # Whoever asked may go meanwhile: the worker is idle only when it is done.
        return await asyncio.shield(asyncio.ensure_future(self._tell(number, self._idle, photo, options)))

    async def _tell(self, number: int, idle: asyncio.Queue[int], photo: bytes, options: dict[str, Any]
                    ) -> dict[str, Any]:
        self.working += 1
        try:
            for _ in range(_ATTEMPTS):
                with suppress(Ended):
                    return await asyncio.get_running_loop().run_in_executor(
                        self._waiting_for_them, self._told, number, photo, options)
                _log.warning("worker %d has ended; another takes its place", number + 1)
            raise StorytellerError(f"{_Photo.name}: the worker has ended over it {_ATTEMPTS} times, perhaps for want "
                                   "of memory: make the picture smaller")
        finally:
            self.working -= 1
            idle.put_nowait(number)

    def _told(self, number: int, photo: bytes, options: dict[str, Any]) -> dict[str, Any]:
        """The story, from a worker that is started where there is none; one that ends is forgotten."""
        try:
            return self._worker(number).ask(_tell, photo, options)
        except Ended:
            self._workers[number] = None
            raise

    def close(self) -> None:
        """End the processes, whatever they do."""
        processes = [worker.process for worker in self._workers if worker]
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        self._waiting_for_them.shutdown()


class _Photo(io.BytesIO):
    """An uploaded photo, as messages call it."""

    name = "the photo"


# What runs in a worker.

def _work(pipe: Connection, shared: workers.Shared, threads: int) -> None:
    """Do what comes through the pipe, until it ends."""
    workers.begin(threads)
    with suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            try:
                pipe.send((function(shared.z, *arguments), None, ""))
            except Exception as error:
                pipe.send((None, _portable(error), traceback.format_exc()))


def _portable(error: Exception) -> Exception:
    """An error as it can be sent: what holds, or asks for, other things than texts may not come through a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _load(z: generate.Models, threads: int) -> None:
    generate.load_parts(z)
    workers.limit_threads(threads)      # of the libraries that came with the parts, too


def _tell(z: generate.Models, photo: bytes, options: dict[str, Any]) -> dict[str, Any]:
    _check_size(photo)
    return generate.story(z, _Photo(photo), show=False, **options).to_dict()


def _check_size(photo: bytes) -> None:
    from PIL import Image
    size = (0, 0)
    # What is no picture is told by story().
    with without_warnings(), suppress(Exception), Image.open(io.BytesIO(photo), formats=FORMATS) as picture:
        size = picture.size
    if size[0] * size[1] > MAX_PIXELS:
        raise StorytellerError(f"{_Photo.name}: {size[0]} x {size[1]} pixels are too many: expected at most "
                               f"{MAX_PIXELS:,}; make the picture smaller first")
