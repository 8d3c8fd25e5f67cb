"""Arguments that several commands share."""
from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..errors import MANY, StorytellerError
from ..progress import printable
from . import UsageError

TEXTS = ("texts: UTF-8 files, plain or packed (.gz, .xz, .bz2, .zst), one paragraph a line or paragraphs apart by "
         "blank lines, and folders of such files ending in .txt, .txt.gz, .txt.xz, .txt.bz2 or .txt.zst")
_MIN_WORDS = 30         # of a decoder's passages
_SHOWN = 40             # characters of a wrong value


class _Parser(argparse.ArgumentParser):
    _again = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Files may stand on both sides of an option."""
        if self._again or self._subparsers:
            return super().parse_known_args(args, namespace)
        self._again = True      # it is called by what follows
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._again = False

    def error(self, message: str) -> NoReturn:
        super().error(printable(message, sys.stderr))


def new_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command, with the options that every command has."""
    parser = _Parser(prog=prog, description=description, epilog=epilog,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(config=None, quiet=False)
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Give a parser, also that of a subcommand, the options that every command has."""
    # Without defaults of their own, so that a subcommand's parser keeps what stood before it.
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS,
                        help="settings file (see README.md)")
    parser.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS,
                        help="no progress and no messages but errors")


def subcommands(parser: argparse.ArgumentParser, metavar: str) -> Callable[..., argparse.ArgumentParser]:
    """A function ``add(name, text, run, epilog, aliases)`` that adds a subcommand to a command's parser."""
    commands = parser.add_subparsers(title="commands", required=True, metavar=metavar, dest="what")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int], epilog: str | None = None,
            aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text.split(".  ")[0], description=text, epilog=epilog,
                                   aliases=list(aliases))
        add_common(made)
        made.set_defaults(run=run)
        return made
    return add


def whole(least: int = 1, most: int = MANY) -> Callable[[str], int]:
    """The type of an argument: a whole number from `least` to `most`."""
    def read(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{value[:_SHOWN]!r} is not a whole number from {least} to {most}")
        return number
    return read


def real(above: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The type of an argument: a finite number above `above`, up to `most`."""
    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and above < number <= most):
            wanted = f" above {above:g}" if above > -math.inf else ""
            wanted += f" up to {most:g}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{value[:_SHOWN]!r} is not a number{wanted}")
        return number
    return read


def add_skipthoughts(parser: argparse.ArgumentParser) -> None:
    """Give a parser --skipthoughts."""
    parser.add_argument("--skipthoughts", metavar="FOLDER", help="skip-thoughts model: uni_skip.npz, bi_skip.npz, "
                        "utable.npy, btable.npy and dictionary.txt (default: that of the settings)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Give a parser --device."""
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where to compute (default: what the environment "
                        "variable STORYTELLER_DEVICE says, else FLAG_CPU_MODE of the settings)")


def device_of(options: argparse.Namespace) -> str:
    """The device of ``--device``, else of the settings."""
    from .. import backend, config
    if options.device is not None:
        return backend.device_of(options.device)
    return backend.choose_device(config.load(options.config).cpu_mode)


def add_bounds(parser: argparse.ArgumentParser) -> None:
    """Give a parser the least and most words of a passage."""
    parser.add_argument("--min-words", type=whole(), default=_MIN_WORDS, metavar="N",
                        help="of a passage (default: %(default)s)")
    parser.add_argument("--max-words", type=whole(), metavar="N",
                        help="of a passage (default: one less than maxlen_w)")


def bounds(options: argparse.Namespace, maxlen: int) -> tuple[int, int]:
    """The least and most words of a passage, for a model that leaves out texts of `maxlen` words."""
    most = maxlen - 1 if options.max_words is None else options.max_words
    if most >= maxlen:
        raise UsageError(f"--max-words is {most}, but maxlen_w {maxlen} leaves out passages of so many "
                               f"words: give a --maxlen-w of {most + 1} or a smaller --max-words")
    if options.min_words > most:
        raise UsageError(f"--min-words is {options.min_words}, more than the {most} words that a passage "
                               "may have: give a smaller --min-words or a larger --max-words and --maxlen-w")
    return options.min_words, most


def check_output(path: str, inputs: Iterable[str] = ()) -> None:
    """Refuse an output that cannot be written, or is an input as well, before the work is done.

    Of `inputs` ``-`` is standard input; what does not exist is left to whoever reads it.
    """
    if not path:
        raise UsageError("the name of the output is empty: give the name of a file")
    if os.path.isdir(path) or path.endswith(os.sep):
        raise StorytellerError(f"{path}: the output would be a folder; give the name of a file")
    target = os.path.realpath(path)
    folder, there = os.path.dirname(target), os.path.exists(target)
    if not os.path.isdir(folder):
        raise StorytellerError(f"{path}: its folder does not exist; make it or name another")
    if there and not os.path.isfile(target):    # a device or a pipe
        folder = target
    if not os.access(folder, os.W_OK):
        raise StorytellerError(f"{path}: the output cannot be written, as {folder} may not be written to; name "
                               "another place")
    for source in inputs if folder != target and there else ():
        source = "/dev/stdin" if source == "-" else source
        if os.path.exists(source) and os.path.samefile(source, target):
            raise StorytellerError(f"{path}: is read and would be overwritten by the output; name another file for "
                                   "one of the two")
