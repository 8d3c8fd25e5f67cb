"""The command line: one module a command."""
from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import StorytellerError

COMMANDS = ("check", "encode", "style", "vocab", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 1 for an error that was told in a sentence (or, for ``check``, for files
        that are not all right), 2 for wrong usage, 130 when interrupted.
    """
    import importlib
    import logging
    import os
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # --config may stand before a command as well as behind it.
    leading = 2 if arguments[:1] in (["--config"],) else 1 if arguments and arguments[0].startswith(
        "--config=") else 0
    command = arguments[leading] if len(arguments) > leading else None
    if command in COMMANDS:
        del arguments[leading]
    else:
        command = "story"
    options = importlib.import_module(f".{command}", __name__).parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("storyteller").setLevel(logging.ERROR if options.quiet else logging.INFO)
    try:
        return options.run(options)
    except StorytellerError as error:
        print(f"storyteller: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("storyteller: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `storyteller ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
