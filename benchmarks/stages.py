"""Time each stage of a story beside the peers, in one run.

::

    python -m benchmarks.stages DIR [--image images/ex1.jpg] [--runs 5] [--k 100] [--bw 50] [--busy]

DIR is made by ``benchmarks.make_models``.  Measured are storyteller, the straightforward algorithm
in plain NumPy (:mod:`benchmarks.straightforward`) and, where torch can be imported, the same
networks in PyTorch (:mod:`benchmarks.torch_peer`): one warm-up each, then in turns A B C A B C ...;
medians are printed.  With ``--busy`` all but the straightforward one run again, and storyteller with
one thread as well, while another process keeps one core busy.  The first start with a DIR fills its
cache, which takes minutes.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import memory
from .parts import Told, read_parts

STAGES = ("features", "captions", "thoughts", "passage", "whole")
OURS, PLAIN, TORCH, ONE_THREAD = "storyteller", "straightforward", "torch", "one thread"

# Ends with the process that started it, however that ends.
BUSY = """
import os, sys
core, parent = map(int, sys.argv[1:])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {core})
print(flush=True)
while os.getppid() == parent:
    sum(range(100_000))
"""

Teller = Callable[[], Told]


def time_in_turns(tellers: Mapping[str, Teller], runs: Mapping[str, int],
                  report: Callable[[str], object]) -> tuple[dict, dict[str, Told]]:
    """Warm up, then run in turns.

    Parameters
    ----------
    tellers : mapping
        Name -> tells the story.
    runs : mapping
        Name -> how often it is timed, after one run that is not.
    report : callable
        Gets a line after every run.

    Returns
    -------
    times : dict
        Name -> stage -> list of seconds.
    told : dict
        Name -> the last story.
    """
    times = {name: {stage: [] for stage in STAGES} for name in tellers}
    told = {}
    for turn in range(max(runs.values()) + 1):
        for name, tell in tellers.items():
            if turn > runs[name]:
                continue
            time.sleep(0.2)         # threads of the one before stop spinning
            start = time.perf_counter()
            told[name] = tell()
            whole = time.perf_counter() - start
            report(f"  {'warm-up' if not turn else f'run {turn}'}: {name} {whole:.2f} s")
            if turn:
                for stage in STAGES:
                    times[name][stage].append(told[name].timings.get(stage, whole))
    return times, told


@contextlib.contextmanager
def busy_core() -> Iterator[subprocess.Popen]:
    """Another process keeps a core busy, the last of those that this one may use; gives the process.

    Only Linux can bind it to one; elsewhere it runs where the system places it.
    """
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) - 1
    with subprocess.Popen([sys.executable, "-c", BUSY, str(core), str(os.getpid())], stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                raise SystemExit("the process that keeps a core busy did not start")
            yield process
        finally:
            process.kill()


def with_one_thread(tell: Teller) -> Teller:
    """The same with one thread of linear algebra."""
    from threadpoolctl import threadpool_limits

    def alone() -> Told:
        with threadpool_limits(1, "blas"):
            return tell()
    return alone


def caption_rates(embedders: Mapping[str, Callable[[list[str]], np.ndarray]], captions: list[str],
                  runs: int = 3) -> dict[str, float]:
    """Captions embedded per second, the best of a few runs in turns."""
    best = dict.fromkeys(embedders, 0.0)
    for _ in range(runs):
        for name, embed in embedders.items():
            time.sleep(0.2)
            start = time.perf_counter()
            embed(captions)
            best[name] = max(best[name], len(captions) / (time.perf_counter() - start))
    return best


def table(times: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Medians in seconds, and how many times storyteller's each peer takes."""
    peers = [name for name in times if name != OURS]
    lines = [f"{'stage':<10}" + "".join(f"{name:>17}" for name in times)
             + "".join(f"{name + ' / ours':>23}" for name in peers)]
    for stage in STAGES:
        middle = {name: median(found[stage]) for name, found in times.items()}
        lines.append(f"{stage:<10}" + "".join(f"{middle[name]:>15.4f} s" for name in times)
                     + "".join(f"{middle[name] / middle[OURS]:>21.2f} x" for name in peers))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--image", type=Path, default=memory.HOUSE / "images" / "ex1.jpg")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=2, help="of the straightforward one")
    parser.add_argument("--k", type=int, default=100, help="captions")
    parser.add_argument("--bw", type=int, default=50, help="beam width")
    parser.add_argument("--sample", type=int, default=4096,
                        help="captions embedded to measure the rate")
    parser.add_argument("--busy", action="store_true", help="time the stages with a busy core, too")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-straightforward", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, flush=True)

    folder, image = options.folder.resolve(), options.image.resolve()
    os.environ["STORYTELLER_CACHE"] = str(memory.cache_of(folder))
    results: dict[str, Any] = {"k": options.k, "bw": options.bw, "image": image.name,
                               "python": platform.python_version(), "numpy": np.__version__,
                               "cores": os.cpu_count()}
    if not options.no_memory:
        # First, while this process is small; fills the cache where it is empty.
        memory.run_child("load", folder / "config.py", image, 0,
                         cache=memory.cache_of(folder))
        results["memory"] = memory.measure_later(folder, image)

    from storyteller import embedding, generate
    z = generate.load_all(folder / "config.py")
    parts = read_parts(z)

    def ours() -> Told:
        story = generate.story(z, image, options.k, options.bw, show=False)
        return Told([caption.text for caption in story.captions], story.passage, story.cost,
                    story.timings)

    tellers: dict[str, Teller] = {OURS: ours}
    runs = {OURS: options.runs}
    embedders: dict[str, Callable] = {
        OURS: lambda captions: embedding.encode_sentences(z["vse"], captions, batch_size=512)}
    if not options.no_straightforward:
        from .straightforward import Straightforward
        plain = Straightforward(parts)
        tellers[PLAIN], runs[PLAIN] = (lambda: plain.story(image, options.k, options.bw),
                                       min(options.runs, options.slow_runs))
        embedders[PLAIN] = plain.embed_captions
    if not options.no_torch and find_spec("torch"):
        import torch

        from .torch_peer import TorchPeer
        torch.set_num_threads(os.cpu_count() or 1)
        results["torch"] = torch.__version__
        peer = TorchPeer(parts)
        tellers[TORCH], runs[TORCH] = (lambda: peer.story(image, options.k, options.bw),
                                       options.runs)
        embedders[TORCH] = peer.embed_captions
    say(f"{image.name}, k {options.k}, beam width {options.bw}; {len(parts.captions):,} captions, "
        f"{len(parts.words):,} words, decoder of {len(parts.vocabulary):,}; "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    times, told = time_in_turns(tellers, runs, say)
    say(table(times))
    results["seconds"] = times
    if options.busy:
        with busy_core():
            say("another process keeps a core busy:")
            beside = {OURS: ours, ONE_THREAD: with_one_thread(ours),
                      **{name: tell for name, tell in tellers.items() if name == TORCH}}
            busy, _ = time_in_turns(beside, dict.fromkeys(beside, options.runs), say)
        say(table(busy))
        say("a busy core / idle: " + ", ".join(
            f"{stage} " + " ".join(f"{name} {median(busy[name][stage]) / median(times[name][stage]):.2f}"
                                   for name in busy if name in times) for stage in STAGES))
        results["seconds_busy"] = busy
    if options.sample:
        sample = parts.captions[:options.sample]
        results["captions_per_s"] = caption_rates(embedders, sample)
        say("captions embedded a second: " + ", ".join(
            f"{name} {rate:,.0f} (all: {len(parts.captions) / rate:,.0f} s)"
            for name, rate in results["captions_per_s"].items()))

    own = told[OURS]
    best = generate.story(z, image, options.k, options.bw, n_best=2, show=False).alternatives
    gap = best[1].cost - best[0].cost if len(best) > 1 else float("nan")
    results.update(words=len(own.passage.split()), passage=own.passage, gap=gap, identical={})
    say(f"passage: {results['words']} words, cost {own.cost:.3f}, {gap:.4f} before the next best")
    for name, other in told.items():
        if name != OURS:
            same = {"text": other.passage == own.passage,
                    "captions": other.captions == own.captions,
                    "set of captions": set(other.captions) == set(own.captions)}
            results["identical"][name] = same
            say(f"{name} against storyteller: " + ", ".join(
                f"{what} {'identical' if equal else 'DIFFERENT'}" for what, equal in same.items())
                + f", cost differs by {abs(other.cost - own.cost):.1e}")
    if "memory" in results:
        memory.print_later("storyteller in a process of its own, cache filled",
                           results["memory"])
    say(f"load at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not all(same["text"] for same in results["identical"].values()):
        raise SystemExit("the texts differ")


if __name__ == "__main__":
    main()
