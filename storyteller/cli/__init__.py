"""The command line: one module a command."""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import StorytellerError

# Whatever else is needed is imported in main, where Ctrl-C is told in a sentence.

COMMANDS = ("batch", "check", "encode", "style", "styles", "vocab", "train", "evaluate", "cache", "serve")


class UsageError(StorytellerError):
    """Arguments that do not go together; exit status 2, as for those that argparse refuses."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        Exit status:

        ===  ==========================================================================
        0    all was done
        1    an error, told in a sentence; for several pictures: some could not be told;
             for ``check``: not all files are right
        2    wrong usage (also raised as SystemExit, by argparse)
        130  interrupted by Ctrl-C; 143: ended by SIGTERM
        ===  ==========================================================================
    """
    signals = None
    try:
        if arguments is None and "_ARGCOMPLETE" in os.environ:
            from .completion import complete
            complete()
        from .signals import Signals
        signals = Signals()
        signals.catch()
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BaseException as error:
        number = signals.number if signals else 0
        if not (number or isinstance(error, KeyboardInterrupt)):
            raise
        if signals:
            signals.restore(at_end=True)
        from .terminal import complain
        complain("terminated" if number > 2 else "interrupted")
        return 128 + (number or 2)
    finally:
        if signals:
            signals.restore(at_end=arguments is None)


def _run(arguments: list[str]) -> int:
    import importlib
    import logging

    from . import terminal
    try:
        terminal.occupy_closed()
        leading = leading_options(arguments)
        command = arguments[leading] if len(arguments) > leading else ""
        if command in COMMANDS:
            del arguments[leading]
        else:
            _check_command(command)
            command = "story"
        options = importlib.import_module(f".{command}", __name__).parser().parse_args(arguments)
        terminal.check_open()
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(terminal.PrintableFormatter("%(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.getLogger("storyteller").setLevel(logging.ERROR if options.quiet else logging.INFO)
        status = options.run(options)
        return status if terminal.flush() else 1
    except SystemExit:  # of argparse
        terminal.flush()
        raise
    except StorytellerError as error:
        terminal.complain(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `storyteller ... | head`
        return 0
    except OSError as error:
        terminal.complain(f"{error.filename}: {error.strerror}" if error.filename else f"the system says: {error}")
        return 1
    except MemoryError:
        terminal.complain("there is not enough memory for this; give less at a time or close other programs")
        return 1


def leading_options(arguments: Sequence[str]) -> int:
    """How many arguments stand before the command: the options of every command may."""
    leading = 0
    while leading < len(arguments) and (arguments[leading] in ("-q", "--quiet", "--config")
                                        or arguments[leading].startswith("--config=")):
        leading += 2 if arguments[leading] == "--config" else 1
    return leading


def _check_command(word: str) -> None:
    """Say which command is meant where one is mistyped, before anything is loaded."""
    if not word.isalpha():
        return
    import difflib
    if not os.path.lexists(word):
        meant = difflib.get_close_matches(word.lower(), COMMANDS, 1, 0.6)
        advice = f"did you mean `storyteller {meant[0]}`?" if meant else "`storyteller --help` lists the commands"
        raise UsageError(f"{word[:60]!r} is neither a picture nor a command; {advice}")
