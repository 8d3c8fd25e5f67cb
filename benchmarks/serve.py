"""Load test of ``storyteller serve``: many requests from several clients, and a worker killed meanwhile.

::

    python -m benchmarks.serve [--requests N] [--clients N] [--workers N] [--photos FOLDER] [--quick] [--config FILE]

Needs the extra ``storyteller[web]`` and Linux (memory is read from /proc).  Every answer is compared with the story
that a single call of ``generate.story`` tells, and the memory of server and workers is printed as it goes.  With
``--quick`` the stories are short and the beam narrow: what is tested is the server.  Exit status 1 where a request is
lost, or answered with another's story.
"""
from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

HOUSE = Path(__file__).resolve().parent.parent
STYLES = ("romance", "adventure", "verse")
QUICK = {"k": 20, "beam_width": 5, "candidates": 4, "max_words": 40}
NAMES = {"beam_width": "bw", "max_words": "maxlen"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", type=int, default=40, help="different requests among them")
    parser.add_argument("--photos", type=Path, default=HOUSE / "images")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--config")
    options = parser.parse_args()

    photos = sorted(options.photos.glob("*.jpg"))
    kinds = [(photos[i % len(photos)], {"style": STYLES[i % 3], "seed": i, **(QUICK if options.quick else {})})
             for i in range(options.kinds)]
    expected = [single(options.config, photo, asked) for photo, asked in kinds]
    print(f"{len(kinds)} different requests, {len({story['passage'] for story in expected})} different stories")

    command = [sys.executable, "-m", "storyteller", "-q", "serve", "--port", "0", "--workers", str(options.workers)]
    server = subprocess.Popen(command + (["--config", options.config] if options.config else []), cwd=HOUSE,
                              stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+)/", server.stdout.readline()).group(1))     # type: ignore[union-attr]
        return load(server.pid, port, kinds, expected, options)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


_z: dict[str | None, Any] = {}


def single(config: str | None, photo: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What a single call tells."""
    from storyteller import generate
    if config not in _z:
        _z[config] = generate.load_all(config, verbose=False)
    return comparable(generate.story(_z[config], photo, show=False, **{
        NAMES.get(name, name): value for name, value in asked.items()}).to_dict())


def comparable(story: dict[str, Any]) -> dict[str, Any]:
    """A story without its times and the picture's name, costs and scores rounded."""
    kept = {name: value for name, value in story.items() if name not in ("timings", "image")}
    return json.loads(json.dumps(kept), parse_float=lambda number: round(float(number), 2))


def ask(port: int, photo: Path, asked: dict[str, Any]) -> tuple[int, dict[str, Any], float]:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/story?" + urlencode(asked), photo.read_bytes())
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told, time.perf_counter() - start


def load(server: int, port: int, kinds: list, expected: list, options: argparse.Namespace) -> int:
    """Ask, and print what came of it."""
    done, lock, memory, killed = 0, threading.Lock(), [], []

    def one(number: int) -> tuple[str, float]:
        nonlocal done
        kind = number % len(kinds)
        try:
            status, told, seconds = ask(port, *kinds[kind])
            outcome = "right" if status == 200 and comparable(told) == expected[kind] else \
                "another's story" if status == 200 else f"{status}: {told.get('error')}"
        except Exception as error:
            outcome, seconds = f"lost: {error!r}", 0.
        with lock:
            done += 1
            if done % max(1, options.requests // 10) == 0:
                memory.append((done, resident(server), sorted(map(resident, workers(server)))))
            if done == options.requests // 2:
                killed.append(workers(server)[0])
                os.kill(killed[0], signal.SIGKILL)
        return outcome, seconds

    start = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as clients:
        outcomes = list(clients.map(one, range(options.requests)))
    seconds = time.perf_counter() - start
    wrong = [outcome for outcome, _ in outcomes if outcome != "right"]
    times = [one for _, one in outcomes]
    print(f"{options.requests} requests of {options.clients} clients, {options.workers} workers: "
          f"{options.requests - len(wrong)} right, {len(wrong)} not, {seconds:.0f} s "
          f"({options.requests / seconds:.2f} stories a second); a request took {statistics.median(times):.2f} s "
          f"(median), {max(times):.2f} s (longest)")
    print(f"after {options.requests // 2} worker {killed[0]} was killed (kill -9); alive: {workers(server)}")
    print("requests  server MB  workers MB")
    for number, of_server, of_workers in memory:
        print(f"{number:8d}  {of_server:9.0f}  " + " ".join(f"{one:.0f}" for one in of_workers))
    for outcome in wrong[:10]:
        print(outcome)
    return 1 if wrong else 0


def workers(server: int) -> list[int]:
    """Ids of the server's worker processes."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and b"spawn_main" in Path("/proc", number, "cmdline").read_bytes():
                found.append(int(number))
        except OSError:
            pass
    return sorted(found)


def resident(process: int) -> float:
    """A process's own memory in MB."""
    try:
        return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text()).group(1)) / 1024  # type: ignore[union-attr]
    except (OSError, AttributeError):
        return 0.


if __name__ == "__main__":
    sys.exit(main())
