"""Many photos: workers, a Dask cluster, damaged photos, kills, memory, threads.

::

    python -m benchmarks.batch PHOTOS [--only TASK ...] [--photos N] [--json FILE]

PHOTOS is a folder of photos; the models are those of the package.  Each task prints what it measured:

workers   stories a second of one process, of one worker and of two, in turns, all with one thread; texts are compared
dask      the same on a LocalCluster of one and of two workers (needs ``storyteller[dask]``)
memory    what a second worker adds to the memory of all processes (PSS), forked, and on a cluster
damaged   N photos, of which 3 in 100 are damaged: N rows
kills     ten runs killed at random moments and gone on with: the rows of a run that nothing disturbed
threads   a story with one and with two threads, alone and beside a busy neighbour

Needs Linux.  Run it on a machine that does nothing else: a second busy process halves the rates.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
# The rows are what is measured here, not the stories: fewer words are looked at.
FAST = ["-k", "20", "-b", "3", "--candidates", "0", "--max-words", "12"]
N_DAMAGED = 3       # in 100


def child(task: str, *arguments: object) -> dict[str, Any]:
    """Run one of the functions ``child_...`` in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    done = subprocess.run([sys.executable, "-m", "benchmarks.batch", "--child", task, *map(str, arguments)],
                          env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def proportional(process: int | str) -> float:
    """MB of memory of a process, what it shares divided among those that share it; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def family(process: int) -> list[int]:
    """A process and all its descendants."""
    found = [process]
    for one in found:
        for tasks in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(number) for number in tasks.read_text(encoding="ascii").split()]
    return found


def _timed(z: Any, photos: list[str], executor: Any) -> dict[str, Any]:
    from storyteller import generate
    start, spent = time.perf_counter(), time.process_time()
    told = [str(outcome) for _, outcome in generate.outcomes(z, photos, executor)]
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - spent, "texts": told,
            "memory_mb": sum(map(proportional, family(os.getpid())))}


def child_workers(n_workers: str, *photos: str) -> dict[str, Any]:
    """Stories of so many worker processes; 0: of this process."""
    from storyteller import generate, workers
    workers.limit_threads(1)
    z = generate.load_all({}, verbose=False)
    workers.limit_threads(1)
    if n_workers == "0":
        _timed(z, list(photos[:1]), None)
        return _timed(z, list(photos), None)
    with workers.processes(z, int(n_workers)) as pool:
        _timed(z, list(photos[:2 * int(n_workers)]), pool)      # so that every worker has told one
        return _timed(z, list(photos), pool)


def child_dask(n_workers: str, *photos: str) -> dict[str, Any]:
    """Stories of a cluster of so many processes with one thread each."""
    from distributed import LocalCluster

    from storyteller import generate, workers
    z = generate.Models({}, verbose=False)
    shared = workers.Shared(z)
    with LocalCluster(n_workers=int(n_workers), threads_per_worker=1, processes=True,
                      dashboard_address=None) as cluster, cluster.get_client() as client:
        for address in client.scheduler_info()["workers"]:      # each loads the models
            client.submit(_first, shared, photos[0], workers=[address], pure=False).result()
        executor = client.get_executor()
        _timed(z, list(photos[:2 * int(n_workers)]), executor)
        return _timed(z, list(photos), executor)


def _first(shared: Any, photo: str) -> None:
    from storyteller import generate
    generate.story(shared.z, photo, show=False)


def child_threads(threads: str, *photos: str) -> dict[str, Any]:
    """Stories of this process with so many threads."""
    from storyteller import generate, workers
    workers.limit_threads(int(threads))
    z = generate.load_all({}, verbose=False)
    workers.limit_threads(int(threads))
    _timed(z, list(photos[:1]), None)
    return _timed(z, list(photos), None)


def compare(task: str, counts: list[int], photos: list[Path], rounds: int) -> dict[str, Any]:
    """Rates and memory of a task with several numbers of workers, in turns."""
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            found[count].append(child(task, count, *photos))
    texts = [one["texts"] for runs in found.values() for one in runs]
    if any(one != texts[0] for one in texts):
        sys.exit(f"{task}: the stories differ")
    rates = {count: len(photos) / min(one["seconds"] for one in runs) for count, runs in found.items()}
    memory = {count: runs[-1]["memory_mb"] for count, runs in found.items()}
    for count in counts:
        spent = f", {found[0][-1]['cpu_seconds'] / len(photos):.2f} s of a processor for each" if count == 0 else ""
        print(f"{task} {count}: {rates[count]:.3f} stories a second{spent}; {memory[count]:,.0f} MB of all processes")
    few, many = counts[-2:]
    print(f"{task}: {many} are {rates[many] / rates[few]:.2f} times {few}; one more costs "
          f"{memory[many] - memory[few]:,.0f} MB; all stories equal", flush=True)
    return {"rates": rates, "memory_mb": memory}


def storyteller(*arguments: object, folder: Path, **options: Any) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "storyteller", "-q", *map(str, arguments)], cwd=folder,
                            env={**os.environ, "PYTHONPATH": str(HOUSE)}, **options)


def spoil(photo: Path, way: int) -> None:
    """Damage a photo so that it cannot be told of."""
    data = photo.read_bytes()
    photo.unlink()
    photo.write_bytes((b"", data[:20], b"<!DOCTYPE html><html>404</html>", b"\0" * len(data),
                       bytes(reversed(data)), b"\x89PNG\r\n\x1a\n" + data[:500])[way % 6])


def damaged(photos: list[Path], n: int, folder: Path) -> dict[str, Any]:
    """Rows of n photos, some of which are damaged."""
    (folder / "many").mkdir()
    bad = random.Random(3).sample(range(n), n * N_DAMAGED // 100)
    for i in range(n):
        copy = folder / "many" / f"{i:06d}.jpg"
        shutil.copy(photos[i % len(photos)], copy)
        if i in bad:
            spoil(copy, bad.index(i))
    start = time.perf_counter()
    storyteller("batch", "many", "-o", "many.jsonl", "--workers", 2, *FAST, folder=folder,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
    seconds = time.perf_counter() - start
    rows = [json.loads(line) for line in (folder / "many.jsonl").read_text(encoding="utf-8").splitlines()]
    failed = [i for i, row in enumerate(rows) if row["error"] is not None]
    aligned = [row["path"] for row in rows] == [f"many/{i:06d}.jpg" for i in range(n)]
    size = (folder / "many.jsonl").stat().st_size / max(1, len(rows))
    print(f"damaged: {n} photos, {len(rows)} rows{'' if aligned else ', NOT in order'}; {len(failed)} failures, "
          f"{'those damaged' if failed == sorted(bad) else 'OTHERS than those damaged'}; {size:,.0f} bytes a row; "
          f"{seconds:.0f} s", flush=True)
    return {"photos": n, "rows": len(rows), "aligned": aligned, "failed": failed == sorted(bad), "bytes_a_row": size}


def kills(n_kills: int, folder: Path) -> dict[str, Any]:
    """The folder of :func:`damaged` again, in runs that are killed."""
    whole = (folder / "many.jsonl").read_bytes()
    total, moments = whole.count(b"\n"), random.Random(4)
    output, done, runs = folder / "killed.jsonl", 0, 0
    resume: list[str] = []
    for i in range(n_kills):
        process = storyteller("batch", "many", "-o", output.name, "--workers", 2, *FAST, *resume, folder=folder,
                              stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        aim = done + (total - done) // (n_kills - i + 1)
        while process.poll() is None and not (output.exists() and output.read_bytes().count(b"\n") > aim):
            time.sleep(0.02)
        time.sleep(moments.random() / 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        runs += process.returncode == -signal.SIGKILL
        resume, done = ["--resume"], output.read_bytes().count(b"\n")
    storyteller("batch", "many", "-o", output.name, "--workers", 2, *FAST, "--resume", folder=folder,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
    same = output.read_bytes() == whole
    print(f"kills: {runs} runs killed by SIGKILL; then the rows are {'' if same else 'NOT '}those of a run that "
          "nothing disturbed, byte for byte", flush=True)
    return {"killed": runs, "same": same}


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Another process that keeps a processor busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def threads(photos: list[Path]) -> dict[str, Any]:
    """Seconds a story with one and two threads, alone and with one processor taken."""
    seconds = {}
    for beside in (False, True):
        with neighbour() if beside else contextlib.nullcontext():
            for count in (1, 2):
                found = child("threads", count, *photos)["seconds"] / len(photos)
                seconds[f"{count} {'beside' if beside else 'alone'}"] = found
                print(f"threads {count}, {'beside a busy neighbour' if beside else 'alone'}: {found:.2f} s a story",
                      flush=True)
    return seconds


TASKS = ("workers", "dask", "memory", "damaged", "kills", "threads")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PHOTOS")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--photos", type=int, default=1000, metavar="N", help="of damaged and kills (default: 1000)")
    parser.add_argument("--timed", type=int, default=40, metavar="N", help="of the other tasks (default: 40)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of workers and dask (default: 2)")
    parser.add_argument("--kills", type=int, default=10, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    photos = sorted(path.resolve() for path in options.folder.rglob("*.jpg"))
    timed = [photos[i * len(photos) // options.timed] for i in range(options.timed)]
    results: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    print(f"load average {results['load_average']:.2f}, {len(os.sched_getaffinity(0))} processors", flush=True)
    if {"workers", "memory"} & set(options.only):
        results["workers"] = compare("workers", [0, 1, 2], timed, options.rounds)
    if "dask" in options.only:
        results["dask"] = compare("dask", [1, 2], timed, options.rounds)
    if "threads" in options.only:
        results["threads"] = threads(timed[:10])
    if {"damaged", "kills"} & set(options.only):
        with tempfile.TemporaryDirectory() as temporary:
            results["damaged"] = damaged(photos, options.photos, Path(temporary))
            if "kills" in options.only:
                results["kills"] = kills(options.kills, Path(temporary))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(globals()[f"child_{sys.argv[2]}"](*sys.argv[3:])))
    else:
        main()
