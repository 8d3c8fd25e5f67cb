"""The command line."""
from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import StorytellerError

COMMANDS = ("check", "encode", "style", "vocab", "train", "evaluate")

_EPILOG = """\
other commands (storyteller COMMAND --help):
  check        list every configured file: found, missing, damaged or of the wrong shape
  encode       turn lines of text into skip-thought vectors
  style make   turn texts into a style vector
  vocab        number the words of texts
  train        train skip-thoughts, a decoder or a joint embedding (docs/training.md)
  evaluate     measure a model

settings: --config FILE, else the file named by STORYTELLER_CONFIG, else ./config.py

examples:
  storyteller photo.jpg
  storyteller photo.jpg --style adventure --beam-width 20 --n-best 3
  storyteller photos/*.jpg --json > stories.json
  storyteller photos/*.jpg --html stories.html
  storyteller photo.jpg --sample --temperature 0.8 --top-p 0.9 --seed 1
"""


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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # --config may stand before a command as well as behind it.
    leading = 2 if arguments[:1] in (["--config"],) else 1 if arguments and arguments[0].startswith(
        "--config=") else 0
    command = arguments[leading] if len(arguments) > leading else None
    if command in COMMANDS:
        del arguments[leading]
        make = {"check": _check_parser, "encode": _encode_parser, "style": _style_parser}.get(command)
        parser = make() if make else _training_parser(command)
    else:
        parser = _story_parser()
    options = parser.parse_args(arguments)
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


def _parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description, epilog=epilog,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(config=None, quiet=False)
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    # Without defaults of their own, so that a subcommand's parser keeps what stood before it.
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS,
                        help="settings file (see README.md)")
    parser.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS,
                        help="no progress and no messages but errors")


def _story_parser() -> argparse.ArgumentParser:
    from . import __version__
    parser = _parser("storyteller", "Look at a picture and tell a short story about it in the style of a book.",
                     _EPILOG)
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="+", help="picture (JPEG, PNG, GIF, WebP, TIFF, BMP); - for "
        "standard input")
    add("-k", type=int, default=100, help="nearest captions to think of (default: %(default)s)")
    add("-b", "--beam-width", type=int, default=50, metavar="N", help="a wider beam takes longer and finds "
        "likelier stories (default: %(default)s)")
    add("--style", metavar="NAME|FILE", help="book style: a name (romance) or an .npy file (default: the "
        "settings' posbias)")
    add("--strength", type=float, default=1.0, metavar="X", help="of the style shift; 0 tells in caption "
        "style (default: %(default)s)")
    add("--lyric", action="store_true", help="print the story in lines, split at commas")
    add("--prose", action=argparse.BooleanOptionalAction, help="print the story with capitals and without blanks "
        "before punctuation, or the decoder's own words (default: the settings')")
    add("--candidates", type=int, metavar="N", help="write N stories at random beside the beam's best; tell the one "
        "that fits the picture best; 0: the likeliest (default: the settings')")
    add("--n-best", type=int, default=1, metavar="N", help="print the N best stories with their costs")
    add("--sample", action="store_true", help="draw the words at random instead of searching")
    add("--temperature", type=float, default=1.0, metavar="T", help="with --sample: below 1 bolder, above 1 "
        "wilder (default: %(default)s)")
    add("--top-k", type=int, metavar="K", help="with --sample: draw among the K likeliest words")
    add("--top-p", type=float, metavar="P", help="with --sample: draw among the likeliest words of total "
        "probability P")
    add("--seed", type=int, metavar="N", help="with --sample: the same seed gives the same story")
    add("--max-words", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    add("--json", action="store_true", help="print JSON: one object a line, with captions, scores and costs")
    add("--html", metavar="FILE", help="also write one self-contained page of pictures, captions and stories")
    add("--version", action="version", version=f"storyteller {__version__}")
    parser.set_defaults(run=_tell)
    return parser


def _tell(options: argparse.Namespace) -> int:
    from . import files, generate
    from .stories import html_page
    if options.html and not Path(options.html).absolute().parent.is_dir():
        raise StorytellerError(f"--html {options.html}: its folder does not exist; make it or name another")
    z = generate.load_all(options.config, verbose=not options.quiet)
    told, failed = [], 0
    for image in options.images:
        try:
            source = sys.stdin.buffer.read() if image == "-" else image
            story = generate.story(
                z, source, options.k, options.beam_width, options.lyric, style=options.style,
                strength=options.strength, n_best=options.n_best, sample=options.sample,
                temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
                seed=options.seed, maxlen=options.max_words, candidates=options.candidates, prose=options.prose,
                show=False)
        except StorytellerError as error:
            if len(options.images) == 1:
                raise
            print(f"storyteller: {error}", file=sys.stderr)
            failed += 1
            continue
        told.append(story)
        _print(story, options)
    if options.html and told:
        with files.write_atomically(options.html) as file:
            file.write(html_page(told).encode("utf-8"))
    return 1 if failed else 0


def _print(story, options: argparse.Namespace) -> None:
    from .stories import print_story
    if options.json:
        print(json.dumps(story.to_dict(), ensure_ascii=False), flush=True)
        return
    if len(options.images) > 1:
        print(f"== {story.image}")
    print_story(story)
    for passage in story.alternatives[1:]:
        print()
        print("\n".join(story.lines_of(passage.text)))
        print(f"(cost {passage.cost:.2f}; the first: {story.cost:.2f})")
    if len(options.images) > 1:
        print()


def _check_parser() -> argparse.ArgumentParser:
    parser = _parser("storyteller check", "List every configured file as found, missing, damaged or of the "
                     "wrong shape, and what to do.  Exit status 0 if all are found, else 1.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)
    return parser


def _check(options: argparse.Namespace) -> int:
    from . import config as configs
    from .check import FOUND, check
    config = configs.load(options.config)
    findings = check(config, verbose=not options.quiet)
    wrong = sum(finding.status != FOUND for finding in findings)
    if options.json:
        print(json.dumps([{"key": f.file.key, "path": f.file.path, "status": f.status, "message": f.message}
                          for f in findings], indent=1))
        return 1 if wrong else 0
    print(f"settings: {config.source}; FLAG_CPU_MODE = {config.cpu_mode}")
    for finding in findings:
        print(f"{finding.status:12s} {finding.file.path or '(not set)'}\n{'':13s}{finding.message}")
    print(f"{len(findings) - wrong} of {len(findings)} files are all right"
          + ("" if wrong else ": `storyteller IMAGE` will work"))
    return 1 if wrong else 0


def _encode_parser() -> argparse.ArgumentParser:
    parser = _parser("storyteller encode", "Turn every line of a text file into a skip-thought vector.")
    parser.add_argument("text", metavar="FILE", nargs="?", default="-",
                        help="UTF-8 text, one text a line (default: standard input)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.npy",
                        help="array (lines, dim) float32")
    parser.add_argument("--no-norm", action="store_true", help="do not scale the uni and bi parts to unit norm")
    parser.add_argument("--eos", action="store_true", help="read an <eos> after the last word")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="(default: %(default)s)")
    parser.set_defaults(run=_encode)
    return parser


def _encode(options: argparse.Namespace) -> int:
    import numpy as np

    from . import files, skipthoughts, text
    from .generate import Models
    if options.text == "-":
        lines = [line.strip() for line in sys.stdin.buffer.read().decode("utf-8", "replace").split("\n")]
        lines = lines[:-1] if lines and not lines[-1] else lines
    else:
        lines = text.read_lines(options.text)
    z = Models(options.config, verbose=not options.quiet)
    vectors = skipthoughts.encode(z["stv"], lines, use_norm=not options.no_norm, use_eos=options.eos,
                                  batch_size=options.batch_size, verbose=not options.quiet)
    with files.write_atomically(options.output) as file:
        np.save(file, vectors, allow_pickle=False)
    print(f"{options.output}: {vectors.shape[0]} vectors of {vectors.shape[1]} numbers")
    return 0


def _training_parser(command: str) -> argparse.ArgumentParser:
    from .training import commands
    return commands.fill(_parser(f"storyteller {command}", commands.DESCRIPTIONS[command]), command, _add_common)


def _style_parser() -> argparse.ArgumentParser:
    parser = _parser("storyteller style", "Make style vectors.")
    make = parser.add_subparsers(title="commands", required=True, metavar="make").add_parser(
        "make", help="turn texts into a style vector",
        description="The style of texts: the mean skip-thought vector of their paragraphs.  Paragraphs are "
        "separated by blank lines; in a file without blank lines every line is one.")
    _add_common(make)
    make.add_argument("texts", metavar="TEXT", nargs="+",
                      help="text files (UTF-8, plain or .gz, .xz, .bz2), or folders of them")
    make.add_argument("-o", "--output", required=True, metavar="NAME_style.npy",
                      help="vector file; use it as --style or as posbias")
    make.add_argument("--min-words", type=int, default=100, metavar="N",
                      help="leave out shorter paragraphs (default: %(default)s; use 1 for captions)")
    make.add_argument("--sentences", action=argparse.BooleanOptionalAction, help="a paragraph's vector is the mean of "
                      "its sentences', not that of the paragraph read as one (default: as the settings' decoder was "
                      "trained)")
    make.set_defaults(run=_style_make)
    return parser


def _reads_means(settings: Any) -> bool:
    """Whether the settings' decoder was trained with --context sentences."""
    from . import files
    path = f"{settings.paths.get('decmodel')}.pkl"
    return os.path.isfile(path) and files.load_options(path).get("context") == "sentences"


def _style_make(options: argparse.Namespace) -> int:
    from . import style
    from .generate import Models
    from .training.corpus import books, paragraphs
    files = books(options.texts)
    z = Models(options.config, verbose=not options.quiet)
    passages = (paragraph for path in files for paragraph in paragraphs(path))
    sentences = _reads_means(z.config) if options.sentences is None else options.sentences
    vector = style.make(z["stv"], passages, options.min_words, not options.quiet, sentences)
    style.save(options.output, vector)
    print(f"{options.output}: style of {len(files)} file{'s' if len(files) > 1 else ''}, "
          f"{len(vector)} numbers")
    return 0
