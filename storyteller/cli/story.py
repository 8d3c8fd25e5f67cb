"""``storyteller IMAGE``: tell stories."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import StorytellerError
from .arguments import new_parser

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


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from .. import __version__
    made = new_parser("storyteller", "Look at a picture and tell a short story about it in the style of a book.",
                      _EPILOG)
    add = made.add_argument
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
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Tell the stories."""
    from .. import files, generate
    from ..stories import html_page
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
    from ..stories import print_story
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
