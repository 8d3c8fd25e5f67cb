"""What a shell may complete on the command line, by argcomplete (``storyteller[completion]``).

In bash and zsh: ``eval "$(register-python-argcomplete storyteller)"``.
"""
from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any, NoReturn

from . import COMMANDS, leading_options


def complete() -> NoReturn:
    """Tell the shell what may stand at its cursor, and end the process."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)
    words = os.environ.get("COMP_LINE", "")[:int(os.environ.get("COMP_POINT", "0"))].split(" ")[1:]
    words = [word for word in words[:-1] if word] + words[-1:]
    before = leading_options(words)
    command = words[before] if len(words) > before + 1 else ""      # the word at the cursor is none yet
    if command in COMMANDS:
        parser = importlib.import_module(f".{command}", __package__).parser()
        os.environ["_ARGCOMPLETE"] = str(before + 2)        # argcomplete begins behind it
    else:
        parser = importlib.import_module(".story", __package__).parser()
        _images(parser, argcomplete.completers.FilesCompleter(), not command)
    for action in parser._actions:
        if "--style" in action.option_strings:
            action.completer = _styles
    argcomplete.autocomplete(parser)
    sys.exit(0)


def _images(parser: argparse.ArgumentParser, files: Any, first: bool) -> None:
    action: Any = next(action for action in parser._actions if action.dest == "images")
    action.completer = lambda prefix, **options: [
        *(command for command in COMMANDS if first and command.startswith(prefix)), *files(prefix)]


def _styles(prefix: str, parsed_args: argparse.Namespace, **options: object) -> list[str]:
    from .. import styles
    return [name for name in styles(parsed_args.config) if name.startswith(prefix)]
