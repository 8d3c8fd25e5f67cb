"""Time and memory of loading and of a story, each in a process of its own.

::

    python -m benchmarks.memory DIR [--small] [--image IMAGE] [--json FILE]

DIR is made by ``benchmarks.make_models``.  Needs Linux (memory is read from /proc).

Of a process's resident memory one part is its own (anonymous: arrays, the interpreter), the other
pages of memory-mapped files, which the system takes back whenever it needs them.  Both are printed:
``peak`` is the largest sum (VmHWM), ``own`` and ``mapped`` are the state at the end.
"""
from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
ENGINES = ("pytensor", "theano", "jax", "torch")


def resident() -> dict[str, float]:
    """This process's resident memory in MB: peak, own, mapped (/proc/self/status)."""
    kilobytes = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if value.endswith("kB"):
            kilobytes[name] = int(value.split()[0])
    mapped = kilobytes.get("RssFile", 0) + kilobytes.get("RssShmem", 0)
    return {"peak_mb": kilobytes["VmHWM"] / 1024, "own_mb": kilobytes.get("RssAnon", 0) / 1024,
            "mapped_mb": mapped / 1024}


def child_load(config: str, image: str, stories: int) -> dict[str, Any]:
    """In the child: load everything, tell so many stories."""
    start = time.perf_counter()
    from storyteller import generate
    result: dict[str, Any] = {"import_s": time.perf_counter() - start}
    start = time.perf_counter()
    z = generate.load_all(config, verbose=True)
    result["load_s"] = time.perf_counter() - start
    result["after_load"] = resident()
    result["story_s"] = []
    for _ in range(stories):
        start = time.perf_counter()
        generate.story(z, image, show=False)
        result["story_s"].append(time.perf_counter() - start)
    if stories:
        result["first_words_s"] = result["import_s"] + result["load_s"] + result["story_s"][0]
        result["after_stories"] = resident()
    return result


def child_import() -> dict[str, Any]:
    """In the child: what importing costs, and what it brings along."""
    start = time.perf_counter()
    import storyteller  # noqa: F401
    package = time.perf_counter() - start
    from storyteller import generate  # noqa: F401
    return {"storyteller_s": package, "generate_s": time.perf_counter() - start, **resident(),
            "engines": [name for name in ENGINES if name in sys.modules]}


def run_child(task: str, *arguments: object, cache: Path | None = None) -> dict[str, Any]:
    """Run one of the tasks above in a fresh process.

    Parameters
    ----------
    task : str
        'load' or 'import'.
    *arguments
        Of the task.
    cache : path, optional
        STORYTELLER_CACHE of the process.

    Returns
    -------
    dict
        What the task gives, with ``wall_s``, from start to end of the process, interpreter
        included, and ``children_peak_mb``, ``ru_maxrss`` of the largest child so far.
    """
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    if cache is not None:
        environment["STORYTELLER_CACHE"] = str(cache)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--child", task,
                           *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                          text=True)
    if done.returncode:
        sys.exit(f"the process for {task!r} ended with code {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    result["wall_s"] = time.perf_counter() - start
    result["children_peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return result


def measure_later(folder: Path, image: Path, stories: int = 3) -> dict[str, Any]:
    """A process that finds the cache filled: load, then stories."""
    return run_child("load", folder / "config.py", image, stories, cache=cache_of(folder))


def cache_of(folder: Path) -> Path:
    """The cache that all benchmarks of this folder share."""
    return folder / "cache"


def _megabytes(memory: dict[str, float]) -> str:
    return (f"peak {memory['peak_mb']:,.0f} MB (at the end own {memory['own_mb']:,.0f} MB, "
            f"mapped {memory['mapped_mb']:,.0f} MB)")


def _small(folder: Path, image: Path) -> dict[str, Any]:
    """Cold start of the practice models, by the folder's VGG-19, which is theirs as well."""
    sys.path.insert(0, str(HOUSE))
    from tests.practice import write_settings
    with tempfile.TemporaryDirectory() as temporary:
        settings = write_settings(Path(temporary) / "config.py",
                                  (folder / "vgg19.pkl").resolve())
        cache = Path(temporary) / "cache"
        return {"cold": run_child("load", settings, image, 2, cache=cache),
                "later": run_child("load", settings, image, 2, cache=cache)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--image", type=Path, default=HOUSE / "images" / "ex1.jpg")
    parser.add_argument("--small", action="store_true", help="the practice models as well")
    parser.add_argument("--keep-cache", action="store_true",
                        help="leave out the first load if the cache is filled already")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    folder, image = options.folder.resolve(), options.image.resolve()
    results: dict[str, Any] = {"import": run_child("import")}
    found = results["import"]
    print(f"import storyteller           {found['storyteller_s']:8.3f} s")
    print(f"import storyteller.generate  {found['generate_s']:8.3f} s; {_megabytes(found)}; "
          f"engines imported: {', '.join(found['engines']) or 'none'}", flush=True)
    cache = cache_of(folder)
    if not (options.keep_cache and cache.is_dir()):
        # A new cache, and the benchmarks' own one from then on.
        fresh = folder / "cache.new"
        shutil.rmtree(fresh, ignore_errors=True)
        results["first"] = found = run_child("load", folder / "config.py", image, 0, cache=fresh)
        shutil.rmtree(cache, ignore_errors=True)
        fresh.rename(cache)
        size = sum(path.stat().st_size for path in cache.iterdir()) / 1e9
        print(f"first load, cache empty      {found['load_s']:8.2f} s; "
              f"{_megabytes(found['after_load'])}; cache {size:.2f} GB", flush=True)
    results["later"] = found = measure_later(folder, image)
    print_later("later", found)
    if options.small:
        results["small"] = _small(folder, image)
        print_later("practice models, first time", results["small"]["cold"])
        print_later("practice models, later", results["small"]["later"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def print_later(title: str, found: dict[str, Any]) -> None:
    cold, *warm = found["story_s"]
    print(f"{title}:")
    print(f"  load_all                   {found['load_s']:8.2f} s; "
          f"{_megabytes(found['after_load'])}")
    print(f"  first story                {cold:8.2f} s; next "
          f"{', '.join(f'{s:.2f}' for s in warm)} s; {_megabytes(found['after_stories'])}")
    print(f"  import to first story      {found['first_words_s']:8.2f} s", flush=True)


def _child(arguments: list[str]) -> None:
    task, *rest = arguments
    if task == "load":
        result = child_load(rest[0], rest[1], int(rest[2]))
    else:
        result = child_import()
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
    else:
        main()
