"""``storyteller cache``: what was computed once and kept, and how to remove it."""
from __future__ import annotations

import argparse
import time

from ..progress import counted
from .arguments import new_parser
from .terminal import say, say_json


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller cache", "List the files that were computed once and kept: word tables and networks' "
                      "weights as they are used, and embedded captions.  They are made again when they are needed.")
    made.add_argument("what", nargs="?", choices=("list", "clear"), default="list", help="list them (the default), or "
                      "remove all that no other process is making just now")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """List the cache or clear it."""
    from .. import cache
    folder, found = cache.cache_dir(), cache.entries()
    if options.what == "clear":
        freed = cache.clear()
        left = cache.entries()
        if options.json:
            say_json({"folder": str(folder), "freed": freed, "left": [str(entry.path) for entry in left]})
            return 0
        say(f"{folder}: {counted(len(found) - len(left), 'file')} removed, {_megabytes(freed)}")
        for entry in left:
            say(f"left, as it is in use or belongs to someone else: {entry.path}")
        return 0
    if options.json:
        say_json({"folder": str(folder), "files": [{"path": str(entry.path), "what": entry.what, "size": entry.size,
                                                    "made": entry.made} for entry in found]}, 1)
        return 0
    for entry in found:
        say(f"{_megabytes(entry.size):>12s}  {_age(time.time() - entry.made):>8s}  {entry.what}\n"
            f"{'':24s}{entry.path.name}")
    total = _megabytes(sum(entry.size for entry in found))
    say(f"{folder}: {counted(len(found), 'file')}, {total}"
        + ("; `storyteller cache clear` removes them" if found else ""))
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:,.0f} {unit}"
    return "new"
