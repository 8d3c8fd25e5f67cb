"""The training loop that all three models share: updates, log, checkpoints, resuming.

What is trained is a :class:`Task`.  A training that is resumed from a checkpoint goes on exactly as if
it had never stopped: parameters, optimiser, order of the batches and random numbers are all in it.
"""
from __future__ import annotations

import csv
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from .. import files
from ..errors import StorytellerError
from ..progress import counted, progress_bar
from . import losses, optimise

_log = logging.getLogger(__name__)

COLUMNS = ("update", "epoch", "seconds", "words", "cost", "gradient_norm", "heldout")
SAVE_SECONDS = 600  # a checkpoint at least so often, whatever saveFreq says
LAST_RATE = 0.02  # of lrate, where decay_updates ends
OPTIMISERS = {"adam": optimise.adam, "adam_2015": optimise.adam_2015}
# Options that say how long or how closely a training is watched; they may change when it is resumed.
FREE_OPTIONS = frozenset({"max_epochs", "dispFreq", "saveFreq", "validFreq", "sampleFreq", "precision"})
# Options that older checkpoints lack, and what those trainings did.
NEW_OPTIONS = {"batches": "bucketed", "context": "passage", "sample_power": 1.0, "put_back": 0.0, "tied": False,
               "average": 0.0, "dropout": 0.0, "word_dropout": 0.0, "style_share": 0.0, "precision": "float32"}


class Task(Protocol):
    """A model to train.

    Attributes
    ----------
    options : dict
        Saved with the model; ``grad_clip``, ``lrate``, ``optimizer``, ``decay_c``, ``average`` and ``seed`` are
        read here.
    params : dict of str to arrays
        Initial parameters.
    batches
        Order of the training rows, see :mod:`storyteller.training.batches`.
    data_key : str
        The fingerprint of the training data.
    init_key : str
        That of the model that the training starts from; empty for random parameters.
    better : str
        ``'lower'`` or ``'higher'``: what is better in the held-out measure.
    unit : str
        What a minibatch is counted in: ``'words'`` or ``'pairs'``.
    device : str
        Where it is trained and measured, see :func:`storyteller.backend.function`.
    """

    options: dict[str, Any]
    params: dict[str, np.ndarray]
    batches: Any
    data_key: str
    init_key: str
    better: str
    unit: str
    device: str

    def inputs(self) -> list[Any]:
        """Symbolic inputs of a minibatch."""

    def cost(self, p: dict[str, Any], inputs: list[Any]) -> Any:
        """The cost of a minibatch as a graph, summed over its words (or pairs)."""

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], float] | None:
        """Arrays of a minibatch and what its cost is a sum over, or None where no row is short enough."""

    def heldout(self, p: dict[str, Any]) -> float | None:
        """The measure on held-out data by the parameters' shared variables, or None where there is none."""

    def save(self, params: dict[str, np.ndarray]) -> None:
        """Write the model's files, as the package's (and the original's) loaders read them."""

    def sample(self, params: dict[str, np.ndarray]) -> list[str]:
        """Lines that show what the model can do by now."""


@dataclass
class Summary:
    """What a training did.

    Attributes
    ----------
    updates, epochs : int
    seconds : float
        In all, over interruptions.
    words_per_second : float
        Of the updates of this run alone.
    best : float or None
        The best held-out measure.
    stopped : str
        Why it ended.
    history : list of dict
        Rows of the log of this run.
    """

    updates: int
    epochs: int
    seconds: float
    words_per_second: float
    best: float | None
    stopped: str
    history: list[dict[str, Any]] = field(default_factory=list)


def checkpoint_path(saveto: str | os.PathLike) -> str:
    """Where the checkpoint of a model stands."""
    return f"{os.fspath(saveto)}.checkpoint.npz"


def log_path(saveto: str | os.PathLike) -> str:
    """Where the training log of a model stands (.csv)."""
    return f"{os.fspath(saveto)}.log.csv"


class Trainer:
    """Trains a task.

    Parameters
    ----------
    task : Task
    saveto : path
        The model's archive; the checkpoint and the log stand beside it.
    resume : bool
        Go on from the checkpoint.  Without one the training starts anew.

    Raises
    ------
    StorytellerError
        If the checkpoint is damaged or was made with other options or data.
    """

    def __init__(self, task: Task, saveto: str | os.PathLike, resume: bool = False):
        from .. import backend as be
        self.task, self.saveto = task, os.fspath(saveto)
        options = task.options
        if options["optimizer"] not in OPTIMISERS:
            raise StorytellerError(f"optimizer is {options['optimizer']!r}: expected one of {', '.join(OPTIMISERS)}")
        folder = os.path.dirname(os.path.abspath(self.saveto))
        if not os.path.isdir(folder):
            raise StorytellerError(f"{self.saveto}: its folder does not exist; make it first")
        self.p = losses.parameters(task.params)
        inputs = task.inputs()
        cost = task.cost(self.p, inputs)
        total = cost
        if options.get("decay_c"):
            total = cost + losses.weight_decay(self.p, options["decay_c"])
        gradients = optimise.gradients(total, self.p)
        scale, norm = optimise.clip_scale(gradients, options["grad_clip"])
        rate: Any = options["lrate"]
        if options.get("decay_updates"):
            rate = optimise.warmup_cosine(rate, options.get("warmup", 0), options["decay_updates"], LAST_RATE)
        elif options.get("warmup"):
            rate = optimise.warmup(rate, options["warmup"])
        self.optimiser = OPTIMISERS[options["optimizer"]](self.p, gradients, scale, learning_rate=rate)
        # What is measured and written.
        self._kept = (optimise.averaged(self.p, self.optimiser, options["average"]) if options.get("average")
                      else self.p)
        self._step = be.train_function(inputs, [cost, norm], self.optimiser.updates, task.device,
                                       options.get("precision", "float32"), fetched=False)
        self.rng = np.random.default_rng(options["seed"])
        self.update, self.seconds = 0, 0.0
        self.best: float | None = None
        self._words = 0.0               # (or pairs) that were trained on
        self._since_row = [0.0, 0.0]    # cost and words since the last row of the log
        self._written = 0  # updates at the last checkpoint
        self._place = self._here()      # after the last update; the minibatches themselves are one ahead
        if resume:
            self._resume()

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the parameters as they are, or of their averages (option ``average``)."""
        return {name: np.array(value.get_value(borrow=True)) for name, value in self._kept.items()}

    # -- checkpoints ------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write everything that the rest of the training depends on, in one file, under a temporary name
        first."""
        state = {"update": self.update, "seconds": self.seconds, "best": self.best,
                 "words": self._words, "since_row": self._since_row,
                 "options": self.task.options, "data": self.task.data_key, "init": self.task.init_key,
                 **self._place}
        arrays = {f"p/{name}": value.get_value(borrow=True) for name, value in self.p.items()}
        arrays.update({f"o/{name}": value.get_value(borrow=True) for name, value in self.optimiser.state.items()})
        text = np.frombuffer(json.dumps(state).encode("utf-8"), dtype=np.uint8)
        with files.write_atomically(checkpoint_path(self.saveto), sync=True) as file:
            np.savez(file, state=text, **arrays)
        self._written = self.update

    def _here(self) -> dict[str, Any]:
        """Where the walk over the data is, as a checkpoint has it."""
        return {"batches": self.task.batches.get_state(), "rng": self.rng.bit_generator.state}

    def _go_to(self, place: dict[str, Any]) -> None:
        self.task.batches.set_state(place["batches"])
        self.rng.bit_generator.state = place["rng"]
        self._place = place

    def _resume(self) -> None:
        path = checkpoint_path(self.saveto)
        files.remove_parts(os.path.dirname(os.path.abspath(path)))
        if not os.path.exists(path):
            _log.info("no checkpoint %s: starting anew", path)
            return
        try:
            with np.load(path, allow_pickle=False) as archive:
                state = _state(archive)
                _check_options(path, state["options"], self.task.options)
                if state["init"] != self.task.init_key:
                    raise StorytellerError(f"{path}: was begun from other initial parameters: resume with the "
                                           "same model to start from (init), or start anew without resuming")
                if state["data"] != self.task.data_key:
                    raise StorytellerError(f"{path}: was made with other training data: resume with the data it was "
                                           "started with, or start anew without resuming")
                for prefix, variables in (("p", self.p), ("o", self.optimiser.state)):
                    for name, variable in variables.items():
                        array, old = archive[f"{prefix}/{name}"], variable.get_value(borrow=True)
                        if np.shape(array) != np.shape(old):
                            raise StorytellerError(f"{path}: {name!r} has shape {np.shape(array)}: expected "
                                                   f"{np.shape(old)}; resume with the options it was started with")
                        variable.set_value(np.array(array, dtype=np.asarray(old).dtype), borrow=False)
            self._go_to({name: state[name] for name in self._place})
            self.update, self.seconds, self.best = state["update"], state["seconds"], state["best"]
            self._words, self._since_row = state["words"], state["since_row"]
        except StorytellerError:
            raise
        except Exception as error:  # zip, JSON and array errors of a damaged file
            raise StorytellerError(f"{path}: the checkpoint is damaged, or of another version of storyteller "
                                   f"({type(error).__name__}: {str(error)[:200]}); delete it to start anew, or put "
                                   "back a copy") from error
        self._written = self.update
        _log.info("resuming after update %d", self.update)

    # -- the loop ---------------------------------------------------------------------------------

    def run(self, verbose: bool = True, max_updates: int | None = None,
            max_seconds: float | None = None) -> Summary:
        """Train until the epochs are over, or so many updates or seconds in all.

        Parameters
        ----------
        verbose : bool
            Show a progress bar (on a terminal only), log costs and samples.
        max_updates : int, optional
        max_seconds : float, optional
            Of this run.

        Returns
        -------
        Summary

        Raises
        ------
        StorytellerError
            If the cost is no longer a number; the last good checkpoint is kept.  If no minibatch
            holds what can be learned from; nothing is written.
        KeyboardInterrupt, SystemExit
            After Ctrl-C and SIGTERM (status 143), when the current update is done and a checkpoint
            is written.
        """
        from .. import backend as be
        options, log = self.task.options, _Log(log_path(self.saveto), self.update)
        start, before = time.perf_counter(), (self.update, self.seconds, self._words)
        stopped = "all epochs done"
        self._go_to(self._place)    # a run before this one drew a minibatch more than it used
        minibatches = self._minibatches(options["max_epochs"])
        saved = start

        def rate() -> float:
            return (self._words - before[2]) / max(1e-9, self.seconds - before[1])

        # NumPy would warn of the numbers that are too large, which are told below.
        with np.errstate(all="ignore"), _Interruption() as interruption, \
                progress_bar(max_updates, "training", "update", verbose, self.update) as bar:
            found = next(minibatches, None)
            while True:
                if interruption.asked:
                    self.save_checkpoint()
                    _log.warning("interrupted after update %d; %s holds everything to go on with --resume",
                                 self.update, checkpoint_path(self.saveto))
                    interruption.end()
                if max_updates is not None and self.update >= max_updates:
                    stopped = f"{counted(max_updates, 'update')} done"
                    break
                if max_seconds is not None and time.perf_counter() - start > max_seconds:
                    stopped = f"{max_seconds:g} seconds are over"
                    break
                if found is None:
                    if not self.update:
                        raise StorytellerError(f"{self.saveto}: no minibatch of the training data holds anything to "
                                               "learn from: give more data, or a larger maxlen_w or batch_size")
                    self._place = self._here()
                    break
                arrays, weight, self._place = found
                running = self._step(*arrays)
                found = next(minibatches, None)     # while the device computes
                cost, norm = map(float, be.fetch(*running))
                if not (np.isfinite(cost) and np.isfinite(norm)):
                    raise self._not_a_number(cost, norm)
                self.update += 1
                self._words += weight
                self._since_row = [self._since_row[0] + cost, self._since_row[1] + weight]
                self.seconds = before[1] + time.perf_counter() - start
                bar.update()
                if self.update % options["dispFreq"] == 0 or self.update % options["validFreq"] == 0:
                    row = self._row(norm, None if self.update % options["validFreq"] else self._validate())
                    self._since_row = [0.0, 0.0]
                    log.write(row)
                    bar.set_postfix_str(f"cost {row['cost']:.3f}, {rate():,.0f} {self.task.unit}/s, best {self.best}")
                    if verbose:
                        _log.info("update %d, epoch %d: cost %.4f%s, %.0f %s/s", self.update, row["epoch"],
                                  row["cost"], "" if row["heldout"] is None else
                                  f", held-out {row['heldout']:.4f}", rate(), self.task.unit)
                if verbose and self.update % options["sampleFreq"] == 0:
                    for line in self.task.sample(self.arrays()):
                        _log.info("  %s", line)
                if self.update % options["saveFreq"] == 0 or time.perf_counter() - saved > SAVE_SECONDS:
                    self.save_checkpoint()
                    saved = time.perf_counter()
        if self.update % options["validFreq"] or not self.update:
            value = self._validate()
            # After --minutes or --updates the last measure stands in the log, too, and the cost up to it.
            if self.update > before[0] and (value is not None or self._since_row[1]):
                log.write(self._row(norm, value))
        self.save_checkpoint()
        return Summary(self.update, self._place["batches"]["epoch"], self.seconds, rate(), self.best, stopped, log.rows)

    def _row(self, norm: float, heldout: float | None) -> dict[str, Any]:
        """A row of the log; without a cost where no update was done since the last."""
        cost, words = self._since_row
        return {"update": self.update, "epoch": self._place["batches"]["epoch"], "seconds": round(self.seconds, 2),
                "words": int(self._words), "cost": cost / words if words else None,
                "gradient_norm": norm if words else None, "heldout": heldout}

    def _minibatches(self, epochs: int) -> Iterator[tuple[list[np.ndarray], float, dict[str, Any]]]:
        """Arrays and weights, each with the place after it was drawn."""
        batches = self.task.batches
        in_vain = 0     # epochs; that of a checkpoint may have been at its end
        while batches.epoch < epochs and in_vain < 2:
            in_vain += 1
            for rows in batches:
                found = self.task.minibatch(rows, self.rng)
                if found is not None:
                    in_vain = 0
                    yield (*found, self._here())

    def _validate(self) -> float | None:
        """Measure on held-out data; save the model where that has improved (or there is none)."""
        value = self.task.heldout(self._kept)
        improved = value is None or self.best is None or (
            value < self.best if self.task.better == "lower" else value > self.best)
        if value is not None and not np.isfinite(value):
            improved = False
        if improved:
            self.best = value
            self.task.save(self.arrays())
        return value

    def _not_a_number(self, cost: float, norm: float) -> StorytellerError:
        kept = (f"the checkpoint after update {self._written} is kept in {checkpoint_path(self.saveto)}"
                if self._written else "no checkpoint was written yet")
        return StorytellerError(f"{self.saveto}: update {self.update + 1} gave cost {cost} and gradient norm "
                                f"{norm}; {kept}; train with a smaller lrate or grad_clip")


def _state(archive: Any) -> dict[str, Any]:
    return json.loads(archive["state"].tobytes())


def check_resume(saveto: str | os.PathLike, options: Mapping[str, Any]) -> None:
    """Whether a training can go on with these options, before its data are made; no checkpoint, or one that is
    damaged, is left to the :class:`Trainer`.

    Raises
    ------
    StorytellerError
        If one differs from that of the checkpoint.
    """
    path = checkpoint_path(saveto)
    try:
        with np.load(path, allow_pickle=False) as archive:
            saved = _state(archive)["options"]
    except Exception:   # zip, JSON and array errors of a damaged file
        return
    _check_options(path, saved, {name: value for name, value in options.items() if name in {**NEW_OPTIONS, **saved}},
                   set(saved) - set(options))


def _check_options(path: str, saved: Mapping[str, Any], options: Mapping[str, Any],
                   besides: Collection[str] = ()) -> None:
    given = json.loads(json.dumps(options))
    saved = {**{name: value for name, value in NEW_OPTIONS.items() if name in given}, **saved}
    for name in sorted({*saved, *given} - FREE_OPTIONS - set(besides)):
        if saved.get(name) != given.get(name):
            raise StorytellerError(f"{path}: was made with {name} {saved.get(name)!r}, and this training has "
                                   f"{given.get(name)!r}: resume with the same options, or start anew without "
                                   "resuming")


class _Interruption:
    """Ctrl-C and SIGTERM ask for an end after the current update; a second one ends at once, without a checkpoint."""

    def __enter__(self) -> _Interruption:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            self.end()
        self.asked = number

    def end(self) -> NoReturn:
        """Raise what the signal stands for."""
        if self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Log:
    """The .csv of a training, begun with its first row; rows behind the update that it resumes from are dropped."""

    def __init__(self, path: str, update: int):
        self._path, self._update = Path(path), update
        self.rows: list[dict[str, Any]] = []    # of this run

    def _begin(self) -> None:
        kept: list[list[str]] = []
        if self._update and self._path.exists():
            try:
                with open(self._path, newline="", encoding="utf-8") as file:
                    # A training that was killed may have left half a row.
                    kept = [row for row in csv.reader(file) if len(row) == len(COLUMNS)
                            and row[0].isdigit() and int(row[0]) <= self._update]
            except (OSError, ValueError, csv.Error) as error:
                _log.warning("the training log %s cannot be read (%s); it is begun anew", self._path, error)
        with files.write_atomically(self._path) as file:
            file.write("".join(",".join(row) + "\n" for row in [COLUMNS, *kept]).encode("utf-8"))

    def write(self, row: dict[str, Any]) -> None:
        if not self.rows:
            self._begin()
        self.rows.append(row)
        values = ["" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
                  for value in map(row.get, COLUMNS)]
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(",".join(values) + "\n")
        except OSError as error:
            _log.warning("the training log %s cannot be written (%s); training goes on", self._path, error)


def check_plot(output: str | os.PathLike) -> str:
    """The format of a drawing of a training's curves, which its name says; png for a name without an ending.

    Raises
    ------
    StorytellerError
        If matplotlib is not installed or does not write such pictures.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise StorytellerError("drawing curves takes matplotlib, which is not installed: pip install "
                               "matplotlib") from error
    ending, known = Path(output).suffix[1:].lower() or "png", FigureCanvasBase.get_supported_filetypes()
    if ending not in known:
        raise StorytellerError(f"{os.fspath(output)}: curves cannot be drawn as .{ending}; expected one of "
                               f"{', '.join(sorted(known))}")
    return ending


def plot_log(path: str | os.PathLike, output: str | os.PathLike) -> None:
    """Draw a training log's curves (needs matplotlib: ``storyteller[plot]``).

    Parameters
    ----------
    path : path
        A .csv log.
    output : path
        Picture to write; its ending says in which format.

    Raises
    ------
    StorytellerError
        As :func:`check_plot`; if the log cannot be read, or the picture not written.
    """
    kind = check_plot(output)
    from matplotlib.figure import Figure
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        updates = [int(row["update"]) for row in rows]
        curves = {name: [(u, float(row[name])) for u, row in zip(updates, rows) if row[name]]
                  for name in ("cost", "heldout")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorytellerError(f"{os.fspath(path)}: not a training log that can be read ({error}); expected the "
                               ".log.csv beside a model") from error
    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points), label=name)
    axes.set_xlabel("update")
    axes.legend()
    try:
        with files.write_atomically(output) as file:
            figure.savefig(file, format=kind)
    except (RuntimeError, ValueError, OSError) as error:     # some formats take another program
        raise StorytellerError(f"{os.fspath(output)}: the curves cannot be drawn as .{kind} ({str(error)[:200]}); try "
                               ".png") from error
