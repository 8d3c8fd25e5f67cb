"""``storyteller styles``: the book styles that have a name."""
from __future__ import annotations

import argparse
import os

from .arguments import new_parser
from .terminal import say, say_json


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller styles", "List the styles that --style takes by name, and their files.")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """List the styles."""
    from .. import config
    settings = config.load(options.config)
    default = os.path.abspath(settings.paths.get("posbias", os.curdir))
    found = [(name, settings.style_path(name)) for name in settings.style_names()]
    if options.json:
        say_json([{"name": name, "path": path, "default": os.path.abspath(path) == default} for name, path in found],
                 indent=1)
        return 0
    width = max((len(name) for name, _ in found), default=0)
    for name, path in found:
        say(f"{name:{width}s}  {path}" + ("  (the default)" if os.path.abspath(path) == default else ""))
    if not found:
        say(f"no style has a name; the default is {settings.paths.get('posbias', 'not set')}")
    say("others: --style FILE.npy; make one with `storyteller style make TEXTS -o NAME_style.npy`")
    return 0
