"""Processes that tell stories, and the queue before them."""
from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, cast

from .. import generate, workers
from ..errors import StorytellerError
from ..images import FORMATS
from ..progress import counted, inform, without_warnings

_log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000        # of a photo that a stranger may send; a PNG of so many takes 300 MB
_SECONDS_TO_END = 2             # of workers that have nothing to do
_ATTEMPTS = 2                   # a photo that has ended two workers is not given to a third


class Busy(StorytellerError):
    """The queue is full."""


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
    Every worker is an executor of its own: one that is killed takes only its own story with it, which is told again
    by the process that takes its place.
    """

    def __init__(self, z: generate.Models, n: int = 1, threads: int = 1, most_waiting: int = 32):
        self.z, self.n, self.most_waiting = z, n, most_waiting
        self._shared, self._threads = workers.Shared(z), threads
        self.working = self._asked = 0
        self._executors = [self._executor() for _ in range(n)]
        self._idle: asyncio.Queue[int] | None = None

    def _executor(self) -> ProcessPoolExecutor:
        # Not forked: the server has threads.
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), workers.begin, (self._threads,))

    @property
    def waiting(self) -> int:
        """Photos that wait for a worker."""
        return max(0, self._asked - self.working)

    def load(self) -> list[int]:
        """Start the processes and wait until each has loaded its models.

        Returns
        -------
        list of int
            Their process ids.

        Raises
        ------
        StorytellerError
            If files are missing or do not fit each other, or a process ends.
        """
        inform(_log, "Loading the models, %s...", counted(self.n, "worker"))
        try:
            # One after the other: the first computes what the others find in the cache.
            return [executor.submit(_load, self._shared, self._threads).result() for executor in self._executors]
        except BrokenProcessPool:
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
                try:
                    return await asyncio.wrap_future(self._executors[number].submit(
                        _told, self._shared, photo, options))
                except BrokenProcessPool:
                    _log.warning("worker %d has ended; another takes its place", number + 1)
                    self._executors[number].shutdown(wait=False)
                    self._executors[number] = self._executor()
                    self._executors[number].submit(_load, self._shared, self._threads)
            raise StorytellerError(f"{_Photo.name}: the worker has ended over it {_ATTEMPTS} times, perhaps for want "
                                   "of memory: make the picture smaller")
        finally:
            self.working -= 1
            idle.put_nowait(number)

    def close(self) -> None:
        """End the processes, whatever they do."""
        # An executor has no public way to end a process that works, before Python 3.14.
        processes = [process for executor in self._executors for process in (executor._processes or {}).values()]
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + _SECONDS_TO_END
        for process in processes:
            process.join(max(0, until - time.monotonic()))
            process.kill()


class _Photo(io.BytesIO):
    """An uploaded photo, as messages call it."""

    name = "the photo"


# What runs in a worker.

def _load(shared: workers.Shared, threads: int) -> int:
    generate.load_parts(cast(generate.Models, shared.z))
    workers.limit_threads(threads)      # of the libraries that came with the parts, too
    return os.getpid()


def _told(shared: workers.Shared, photo: bytes, options: dict[str, Any]) -> dict[str, Any]:
    _check_size(photo)
    return generate.story(shared.z, _Photo(photo), show=False, **options).to_dict()


def _check_size(photo: bytes) -> None:
    from PIL import Image
    size = (0, 0)
    # What is no picture is told by story().
    with without_warnings(), suppress(Exception), Image.open(io.BytesIO(photo), formats=FORMATS) as picture:
        size = picture.size
    if size[0] * size[1] > MAX_PIXELS:
        raise StorytellerError(f"{_Photo.name}: {size[0]} x {size[1]} pixels are too many: expected at most "
                               f"{MAX_PIXELS:,}; make the picture smaller first")
