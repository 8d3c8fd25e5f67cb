"""``storyteller batch``: stories of many photos, into a file."""
from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import StorytellerError
from ..progress import progress_bar
from . import UsageError
from .arguments import check_output, new_parser, whole
from .story import add_telling, load_parts, telling_options
from .terminal import complain, say

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..batch import Rows, State
    from ..config import Config

_log = logging.getLogger(__name__)

_EPILOG = """\
Every photo has a row, in the order asked for: path, text, passage, style, cost, warnings and captions, or an error;
size, mtime_ns and content of the photo, and options, from which --resume sees what is to be told again.

examples:
  storyteller batch photos -o stories.jsonl
  storyteller batch photos -o stories.jsonl --resume
  storyteller batch 'photos/**/*.jpg' -o stories.parquet --workers 4
  storyteller batch --from-file photos.csv --column path -o stories.jsonl
  storyteller batch photos -o stories.jsonl --dask tcp://scheduler:8786
"""
_REPORT = 60.       # seconds between reports where no bar is shown


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller batch", "Tell stories about many photos, one row a photo, into a file.", _EPILOG)
    add = made.add_argument
    add("photos", metavar="PHOTO|FOLDER|PATTERN", nargs="*", help="photos; folders, searched with their subfolders; "
        "patterns such as 'photos/**/*.jpg'")
    add("--from-file", metavar="LIST", help="photos: a text file with a path a line, or a .csv, .tsv or .parquet file")
    add("--column", metavar="NAME", help="with --from-file: where the paths are in a table (default: path)")
    add("-o", "--output", metavar="FILE", required=True, help="rows to write: .jsonl, or .parquet (needs PyArrow)")
    add("--resume", action="store_true", help="go on with what is in the file: tell what is missing, what has changed, "
        "and what was told with other options or models")
    add("--retry-failed", action="store_true", help="with --resume: also what could not be told")
    add("--check-content", action="store_true", help="photos have changed where their contents have, not their size or "
        "time")
    add("--captions", type=whole(0), default=5, metavar="N", help="nearest captions in a row (default: %(default)s)")
    add("--workers", type=whole(), metavar="N", help="processes on this machine (default: 1)")
    add("--dask", metavar="ADDRESS", help="the scheduler of a Dask cluster that shall tell the stories, such as "
        "tcp://scheduler:8786; its workers need storyteller, its settings' files and the photos under the same paths")
    add_telling(made)
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Tell the stories."""
    from .. import batch
    ending = os.path.splitext(options.output)[1].lower()
    if ending not in (*batch.LINES, batch.PARQUET):
        raise UsageError(f"-o {options.output}: expected a name that ends in .jsonl or .parquet")
    if not options.photos and options.from_file is None:
        raise UsageError("there are no photos to tell of: name photos, folders or patterns, or give --from-file")
    if options.column is not None and options.from_file is None:
        raise UsageError("--column: only with --from-file")
    if options.retry_failed and not options.resume:
        raise UsageError("--retry-failed: only with --resume")
    if options.dask is not None and options.workers is not None:
        raise UsageError("--workers and --dask: give one of them; a Dask cluster has its own workers")
    if options.dask is not None and options.threads is not None:
        raise UsageError("--threads and --dask: give one of them; of a Dask cluster its workers decide "
                         "(dask worker --nthreads 1)")
    telling = telling_options(options)
    check_output(options.output, [options.from_file] if options.from_file else [])
    if ending == batch.PARQUET:
        batch.check_parquet()
    photos = batch.find_photos(options.photos, not options.quiet)
    if options.from_file is not None:
        photos += batch.read_list(options.from_file, options.column)
    with _locked(options.output):
        return _tell(options, photos, telling, ending == batch.PARQUET)


@contextlib.contextmanager
def _locked(output: str) -> Iterator[None]:
    """Refuse to write what another batch is writing."""
    from filelock import FileLock, Timeout
    lock = FileLock(f"{output}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StorytellerError(f"{output}: another batch is writing it; wait for its end, or give another file"
                               ) from None
    except (OSError, NotImplementedError) as error:
        raise StorytellerError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or error}); check that "
                               "its folder may be written to") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{output}.lock")
        lock.release()


def _tell(options: argparse.Namespace, photos: list[str], telling: dict[str, Any], parquet: bool) -> int:
    from .. import batch, config
    # A Parquet file is whole or not there: until then its rows are in a file beside it.
    path = f"{options.output}.jsonl" if parquet else options.output
    known = [name for name in {path, options.output} if os.path.lexists(name)]
    if known and not options.resume:
        raise StorytellerError(f"{sorted(known)[-1]}: is there already; go on with it with --resume, or remove it")
    settings = config.load(options.config)
    settings.require()
    if options.dask is not None and telling["style"] and os.path.isfile(telling["style"]):
        telling["style"] = os.path.abspath(telling["style"])
    made_by = _fingerprint(settings, telling, options.captions)
    rows = batch.Rows(path, photos)
    if known:
        if parquet and path not in known:
            batch.write_rows(path, batch.read_parquet(options.output))

        def keep(row: dict[str, Any]) -> bool:
            return (row["options"] == made_by and not (options.retry_failed and row["error"] is not None)
                    and batch.State.of(row["path"], options.check_content).is_of(row))
        rows.take_over(keep, not options.quiet)
    total = len(set(photos))
    given: deque[tuple[str, State]] = deque()      # outcomes come in this order

    def todo() -> Iterator[str]:
        for photo in dict.fromkeys(photos):
            if photo not in rows:
                # As it is before it is told: what changes meanwhile will be told again.
                given.append((photo, batch.State.of(photo, options.check_content)))
                # Workers elsewhere have another current folder.
                yield photo if options.dask is None else os.path.abspath(photo)
    try:
        if len(rows) < total:
            from .. import generate
            z = load_parts(options, settings, 1) if options.dask is None else (
                generate.Models(settings, not options.quiet, options.device))
            with _executor(options, z) as (executor, ahead), _Progress(rows, total, options.quiet) as progress:
                for _, outcome in generate.outcomes(z, todo(), executor, ahead, **telling):
                    photo, state = given.popleft()
                    row = batch.row_of(photo, outcome, state, made_by, options.captions)
                    rows.append(row)
                    progress.update(row)
        rows.finish()
    except BaseException:
        if len(rows):
            complain(f"{len(rows):,} of {total:,} rows are in {path}; --resume goes on")
        raise
    finally:
        rows.close()
    if parquet:
        batch.write_parquet(options.output, rows.each())
        os.remove(path)
    told = len(rows) - rows.failed
    say(f"{options.output}: {len(photos):,} rows, {told:,} stories"
        + (f"; {rows.failed:,} photos could not be told" if rows.failed else ""))
    return 1 if rows.failed else 0


def _fingerprint(settings: Config, telling: dict[str, Any], captions: int) -> str:
    """Names the options and the contents of the models that stories are told with."""
    from .. import __version__, cache
    chosen = {**telling, "telling": settings.telling, "captions": captions, "version": __version__}
    models = [file.path for file in settings.needed() if file.path]
    style = telling["style"]
    if style is not None:
        models.append(style if os.path.isfile(style) else settings.style_path(style))
    return cache.fingerprint([repr(sorted(chosen.items()))], *models)


@contextlib.contextmanager
def _executor(options: argparse.Namespace, z: Any) -> Iterator[tuple[Executor | None, int]]:
    """Who tells the stories, and how many it is given ahead."""
    from .. import threads, workers
    if options.dask is not None:
        with _dask(options.dask) as (executor, n_threads):
            yield executor, max(8, 4 * n_threads)
    elif (options.workers or 1) > 1:
        each = min(options.threads or 1, max(1, threads.cores() // options.workers))
        with workers.processes(z, options.workers, each) as pool:
            yield pool, 4 * options.workers
    else:
        yield None, 1


@contextlib.contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise StorytellerError("--dask needs Dask: pip install distributed") from error
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise StorytellerError(f"--dask {address}: cannot be reached ({str(error)[:200]}); expected the address of a "
                               "running Dask scheduler, such as tcp://localhost:8786") from error
    with client:
        n_threads = sum(client.nthreads().values())
        if not n_threads:
            raise StorytellerError(f"--dask {address}: this cluster has no workers; start some (dask worker {address})")
        with client.get_executor() as executor:
            yield executor, n_threads


class _Progress:
    """A bar with rate, time left and failures; where none is shown, a message a minute."""

    def __init__(self, rows: Rows, total: int, quiet: bool):
        self._rows, self._total = rows, total
        self._before = len(rows)
        self._bar = progress_bar(total, "telling stories", "photo", not quiet, self._before)
        self._start = self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar.set_postfix(failed=self._rows.failed, refresh=False)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, row: dict[str, Any]) -> None:
        if row["error"] is not None:
            with self._bar.external_write_mode(file=sys.stderr):
                _log.warning("%s", row["error"])
        self._bar.set_postfix(failed=self._rows.failed, refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now > self._said + _REPORT:
            self._said = now
            done = len(self._rows)
            rate = (done - self._before) / (now - self._start)
            _log.info("%s of %s photos, %s failed; %.3g a second, %.1f hours left", f"{done:,}", f"{self._total:,}",
                      f"{self._rows.failed:,}", rate, (self._total - done) / rate / 3600)
