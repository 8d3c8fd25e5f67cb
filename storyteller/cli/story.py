"""``storyteller IMAGE``: tell stories."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import __version__, config
from ..errors import MOST_CANDIDATES, StorytellerError
from ..progress import progress_bar
from . import UsageError
from .arguments import add_device, check_output, new_parser, real, whole
from .terminal import complain, say, say_json, standard_input

if TYPE_CHECKING:
    from ..config import Config
    from ..generate import Models
    from ..stories import Story

THREADS = 4         # more hardly gain: most products of a story are small

_EPILOG = """\
other commands (storyteller COMMAND --help):
  batch        tell stories about many photos, in several processes, into a file; go on after an interruption
  check        list every configured file: found, missing, damaged or of the wrong shape
  encode       turn lines of text into skip-thought vectors
  styles       list the styles that have a name
  style make   turn texts into a style vector
  vocab        number the words of texts
  train        train skip-thoughts, a decoder or a joint embedding (docs/training.md)
  evaluate     measure a model
  cache        list or clear what was computed once and kept
  serve        show a page in the browser (docs/serve.md)

settings: --config FILE, else the file named by STORYTELLER_CONFIG, else ./config.py

examples:
  storyteller photo.jpg
  storyteller photo.jpg --style adventure --n-best 3
  storyteller photos/*.jpg --json > stories.json
  storyteller photos/*.jpg --html stories.html
  storyteller batch photos -o stories.jsonl --workers 2
  storyteller photo.jpg --sample --temperature 0.8 --top-p 0.9 --seed 1
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller", "Look at a picture and tell a short story about it in the style of a book.",
                      _EPILOG)
    add = made.add_argument
    add("images", metavar="IMAGE", nargs="+", help="picture (JPEG, PNG, GIF, WebP, TIFF, BMP); - for "
        "standard input")
    add("--n-best", type=whole(), default=1, metavar="N", help="print the N best stories with their costs")
    add_telling(made)
    add("--json", action="store_true", help="print JSON: one object a line, with captions, scores and costs")
    add("--html", metavar="FILE", help="also write one self-contained page of pictures, captions and stories")
    add("--version", action="version", version=f"storyteller {__version__}")
    made.set_defaults(run=run)
    return made


def add_telling(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of how a story is told."""
    add = parser.add_argument
    add("-k", type=whole(), default=100, metavar="N", help="nearest captions to think of (default: %(default)s)")
    add("-b", "--beam-width", type=whole(), default=50, metavar="N", help="with --candidates 0: a wider beam "
        "takes longer and finds likelier stories (default: %(default)s)")
    add("--style", metavar="NAME|FILE", help="book style: a name (romance) or an .npy file (default: the "
        "settings' posbias)")
    add("--strength", type=real(), default=1.0, metavar="X", help="of the style shift; 0 tells in caption "
        "style (default: %(default)s)")
    add("--lyric", action=argparse.BooleanOptionalAction, help="print the story in lines, split at commas; the "
        "compact decoder writes them in pairs that rhyme (default: with the style verse)")
    add("--prose", action=argparse.BooleanOptionalAction, help="print the story with capitals and without spaces "
        "before punctuation, or the decoder's own words (default: the settings')")
    add("--candidates", type=whole(0, MOST_CANDIDATES), metavar="N", help="tell sentence by sentence, each the best of "
        "N (up to 1000) drawn at random; 0: the likeliest story of a beam search (default: the settings')")
    add("--guidance", type=real(), metavar="X", help="with --candidates: above 1 what the picture and the "
        "style add is exaggerated, 0 leaves it out (default: the settings')")
    add("--sample", action="store_true", help="draw the words at random instead of searching")
    add("--temperature", type=real(0), metavar="T", help="of what is drawn: below 1 more conservative, above 1 more "
        "random")
    add("--top-k", type=whole(), metavar="K", help="draw among the K likeliest words")
    add("--top-p", type=real(0, 1), metavar="P", help="draw among the likeliest words of total "
        "probability P")
    add("--seed", type=whole(0), metavar="N", help="another seed, another story; the same seed gives the same one")
    add("--max-words", type=whole(), metavar="N", help="end the story with the last sentence within N words, "
        "where there is one (default: 1000 words, and no care for sentences)")
    add_device(parser)
    add("--strict", action="store_true", help="refuse pictures that are truncated or blank instead of warning")
    add("--threads", type=whole(), metavar="N", help="processors that one story may use (default: all, up to "
        f"{THREADS}; with batch 1)")


def telling_options(options: argparse.Namespace) -> dict[str, Any]:
    """Options of :func:`storyteller.generate.story`, as the arguments say."""
    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")
                if getattr(options, name) is not None}
    if options.sample and options.candidates:
        raise UsageError("--sample, --candidates: a story is drawn at random or the best of candidates; give one of "
                         "them")
    guided = options.guidance is not None
    if guided or sampling and not options.sample:
        candidates = (0 if options.sample else config.load(options.config).telling.get("candidates")
                      if options.candidates is None else options.candidates)
        if not candidates and guided:
            raise UsageError("--guidance: only with --candidates; nothing else is guided")
        if not candidates:
            names = ", ".join("--" + name.replace("_", "-") for name in sampling)
            raise UsageError(f"{names}: only with --sample or --candidates, which draw words at random")
    return {**sampling, "k": options.k, "bw": options.beam_width, "lyric": options.lyric, "style": options.style,
            "strength": options.strength, "sample": options.sample, "maxlen": options.max_words or 1000,
            "whole_sentences": options.max_words is not None,
            "candidates": options.candidates, "guidance": options.guidance,
            "prose": options.prose, "strict": options.strict}


def load_parts(options: argparse.Namespace, settings: Config, most: int = THREADS) -> Models:
    """Everything that a story needs, once the style is known to be there, with the threads of ``--threads``, by
    default as many as there are processors but not more than ``most``."""
    from .. import generate, threads, workers
    from .. import style as styles
    path = options.style
    if path is not None:
        path = path if os.path.isfile(path) else settings.style_path(path)
        styles.load(path)
    granted = options.threads or min(most, threads.cores())
    workers.limit_threads(granted)
    z = generate.load_all(settings, not options.quiet, options.device)
    workers.limit_threads(granted)      # of the libraries that came with the parts, too
    if path is not None:
        styles.load(path, z["stv"].dim)     # an error that is told once, not for every picture
    return z


def run(options: argparse.Namespace) -> int:
    """Tell the stories."""
    telling = telling_options(options)
    images = options.images
    if images.count("-") > 1:
        raise UsageError("standard input holds one picture: give - once")
    if options.html is not None:
        check_output(options.html, images)
        _check_page(options.html)
    from .. import config, generate
    settings = config.load(options.config)
    drawn = settings.telling.get("candidates", 0) if options.candidates is None else options.candidates
    if options.n_best > options.beam_width + drawn and not options.sample:
        raise UsageError(f"--n-best is {options.n_best}, but a --beam-width of {options.beam_width} finds no more than "
                         "that: give a wider beam or a smaller number")
    sources = _sources(images)
    if not sources:
        return 1
    z, failed = load_parts(options, settings), len(images) - len(sources)
    shown = not options.quiet and len(images) > 1
    with _Page(options.html) as page, progress_bar(len(sources), "telling stories", "picture", shown) as bar:
        for name, source in sources:
            try:
                story = generate.story(z, source, n_best=options.n_best, show=False, **telling)
            except StorytellerError as error:
                failed += 1
                with bar.external_write_mode(file=sys.stderr):
                    complain(_named(error, name))
                bar.set_postfix(failed=failed, refresh=False)
            else:
                with bar.external_write_mode(file=sys.stdout):
                    _print(story, options)
                page.add(story)
            bar.update()
    if failed and len(images) > 1:
        complain(f"{failed} of {len(images)} pictures could not be told")
    return 1 if failed or page.failed else 0


def _sources(images: Sequence[str]) -> list[tuple[str, str | BinaryIO]]:
    """Name and source of each picture that is there; it is told at once which are not."""
    from ..images import check_path
    found: list[tuple[str, str | BinaryIO]] = []
    for image in images:
        try:
            if image == "-":
                found.append(("standard input", standard_input("a picture")))
            else:
                check_path(image)
                found.append((image, image))
        except StorytellerError as error:
            complain(_named(error, image))
    return found


def _named(error: StorytellerError, name: str) -> str:
    return f"{error}" if os.path.basename(name) in str(error) else f"{name}: {error}"


def _check_page(path: str) -> None:
    """--html may replace an earlier page, but nothing else."""
    from ..files import sniff
    kind, phrase = sniff(path)
    if kind not in ("missing", "empty", "special", "html"):
        raise StorytellerError(f"{path}: this is {phrase}, which the page of --html would replace; give the page "
                               "another name")


class _Page:
    """The page of --html, written story by story: whatever ends the telling, it holds what was told.

    Attributes
    ----------
    failed : bool
        Whether it could not be written; that is told at the end, and the stories go on.
    """

    def __init__(self, path: str | None):
        self._path, self._writing = path, ExitStack()
        self._file: Any = None
        self._size = self._stories = 0
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        return self._error is not None

    def __enter__(self) -> _Page:
        return self

    def add(self, story: Story) -> None:
        if self._path is None or self._error:
            return
        from .. import files, stories
        between = stories.PAGE_BETWEEN
        try:
            if self._file is None:
                # Without a buffer, which would still be full when the disk is.
                page: Any = self._writing.enter_context(files.write_atomically(self._path))
                self._file = page.raw
                between = stories.page_start()
            self._write(between + stories.page_part(story))
            self._stories += 1
        except (OSError, StorytellerError) as error:
            self._error = error

    def _write(self, text: str) -> None:
        data = text.encode("utf-8")
        self._file.seek(self._size)
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        self._size += written

    def __exit__(self, *error: object) -> None:
        from .. import stories
        try:
            with self._writing:
                if self._error is not None and not self._stories:
                    raise self._error       # so that no empty page is left
                if self._file is not None:
                    self._file.truncate(self._size)     # up to the last whole story
                    try:
                        self._write(stories.PAGE_END)
                    except OSError as failure:
                        self._error = self._error or failure
        except (OSError, StorytellerError) as failure:
            self._error, self._stories = self._error or failure, 0
        if self._error is not None:
            reason = getattr(self._error, "strerror", None) or self._error
            told = f"it holds the first {self._stories} of the stories" if self._stories else "there is none"
            complain(f"{self._path}: the page could not be written in full ({reason}): {told}")


def _print(story: Story, options: argparse.Namespace) -> None:
    if options.json:
        say_json(story.to_dict())
        return
    from .. import stories
    lines = [f"== {story.image}"] if len(options.images) > 1 else []
    lines.append(stories.printed(story))
    for passage in story.alternatives[1:]:
        lines += ["", *story.lines_of(passage.text), f"(cost {passage.cost:.2f}; the first: {story.cost:.2f})"]
    say("\n".join(lines + [""] * (len(options.images) > 1)))
