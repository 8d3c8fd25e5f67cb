"""Arguments that several commands share."""
from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import StorytellerError

TEXTS = ("texts: UTF-8 files, plain or packed (.gz, .xz, .bz2), one paragraph a line or paragraphs apart by "
          "blank lines, and folders of such files ending in .txt, .txt.gz, .txt.xz or .txt.bz2")
_MIN_WORDS = 30         # of a decoder's passages


def new_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description, epilog=epilog,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(config=None, quiet=False)
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
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


def positive(kind: type) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        number = kind(value)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"{value} is not above 0")
        return number
    read.__name__ = kind.__name__
    return read


def add_skipthoughts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skipthoughts", metavar="FOLDER", help="skip-thoughts model: uni_skip.npz, bi_skip.npz, "
                        "utable.npy, btable.npy and dictionary.txt (default: that of the settings)")


def add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--min-words", type=positive(int), default=_MIN_WORDS, metavar="N",
                        help="of a passage (default: %(default)s)")
    parser.add_argument("--max-words", type=positive(int), metavar="N",
                        help="of a passage (default: one less than maxlen_w)")


def bounds(options: argparse.Namespace, maxlen: int) -> tuple[int, int]:
    most = maxlen - 1 if options.max_words is None else options.max_words
    if most >= maxlen:
        raise StorytellerError(f"--max-words is {most}, but maxlen_w {maxlen} leaves out passages of so many "
                               f"words: give a --maxlen-w of {most + 1} or a smaller --max-words")
    if options.min_words > most:
        raise StorytellerError(f"--min-words is {options.min_words}, more than the {most} words that a passage "
                               "may have: give a smaller --min-words or a larger --max-words and --maxlen-w")
    return options.min_words, most


def check_folder(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise StorytellerError(f"{path}: its folder does not exist; make it or name another")
