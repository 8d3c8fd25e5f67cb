"""``storyteller style make``: texts to a style vector."""
from __future__ import annotations

import argparse
import os
from typing import Any

from ..progress import counted
from .arguments import add_common, add_device, check_output, new_parser, whole
from .terminal import say


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller style", "Make style vectors.")
    make = made.add_subparsers(title="commands", required=True, metavar="make").add_parser(
        "make", help="turn texts into a style vector",
        description="The style of texts: the mean skip-thought vector of their paragraphs.  Paragraphs are "
        "separated by blank lines; in a file without blank lines every line is one.")
    add_common(make)
    make.add_argument("texts", metavar="TEXT", nargs="+",
                      help="text files (UTF-8, plain or .gz, .xz, .bz2, .zst), or folders of them")
    make.add_argument("-o", "--output", required=True, metavar="NAME_style.npy",
                      help="vector file; use it as --style or as posbias")
    make.add_argument("--min-words", type=whole(), default=100, metavar="N",
                      help="leave out shorter paragraphs (default: %(default)s; use 1 for captions)")
    make.add_argument("--sentences", action=argparse.BooleanOptionalAction, help="a paragraph's vector is the mean of "
                      "its sentences', not that of the paragraph read as one (default: as the settings' decoder was "
                      "trained)")
    add_device(make)
    make.set_defaults(run=run)
    return made


def _reads_means(settings: Any) -> bool:
    """Whether the settings' decoder was trained with --context sentences."""
    from .. import files
    path = f"{settings.paths.get('decmodel')}.pkl"
    return os.path.isfile(path) and files.load_options(path).get("context") == "sentences"


def run(options: argparse.Namespace) -> int:
    """Write the style vector."""
    from .. import style
    from ..generate import Models
    from ..training.corpus import books, paragraphs
    files = books(options.texts)
    check_output(options.output, files)
    z = Models(options.config, not options.quiet, options.device)
    passages = (paragraph for path in files
                for paragraph in paragraphs(path, normalized=z["stv"].normalize))
    sentences = _reads_means(z.config) if options.sentences is None else options.sentences
    vector = style.make(z["stv"], passages, options.min_words, not options.quiet, sentences)
    style.save(options.output, vector)
    say(f"{options.output}: style of {counted(len(files), 'file')}, {len(vector)}-dimensional")
    return 0
