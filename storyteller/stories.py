"""A told story: what it consists of, and how it is shown."""
from __future__ import annotations

import base64
import html
import io
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field, fields
from typing import Any

import numpy as np

from .decoder import Passage
from .errors import StorytellerError, shown
from .progress import printable
from .text import detokenize

SHOWN_CAPTIONS = 5
_PICTURE_SIDE = 480  # of the picture in HTML, in pixels


@dataclass(frozen=True)
class Caption:
    """A retrieved caption and its score, the dot product with the image in the joint space."""

    text: str
    score: float


@dataclass(repr=False, eq=False)
class Story:
    """A story about a picture.

    ``str(story)``, ``print(story)``, ``format(story)`` and ``story + ' The end.'`` take the whole story, as the
    programs do for which it was a string.

    Attributes
    ----------
    image : str
        Path or description of the picture.
    captions : list of Caption
        The k nearest, best first.
    passage : str
        The story's tokens, joined by spaces.
    cost : float
        Negative log-likelihood of the passage, in nats.
    style : str
        Name of the book style.
    timings : dict of str to float
        Seconds of each stage: features, captions, thoughts, passage.
    lyric : bool
        Whether it is to be shown in lines.
    prose : bool
        Whether it is to be shown as a reader expects it, with capitals and without blanks before
        punctuation, in place of the decoder's own words.
    alternatives : list of Passage
        All passages asked for, the best first.
    warnings : list of str
        What is wrong with the picture: it is truncated, or blank.
    picture : array (h, w, 3) uint8, or None
        For showing; at most 480 pixels a side.  No field: ``dataclasses.asdict`` leaves it out.
    """

    image: str
    captions: list[Caption]
    passage: str
    cost: float
    style: str
    timings: dict[str, float]
    lyric: bool = False
    prose: bool = False
    alternatives: list[Passage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    picture: InitVar[np.ndarray | None] = None

    def __post_init__(self, picture: np.ndarray | None) -> None:
        if picture is not None and max(picture.shape[:2]) > _PICTURE_SIDE:
            from PIL import Image
            small = Image.fromarray(picture)
            small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
            picture = np.asarray(small)
        # A copy, so that neither a caller's array nor a large one behind it is held.
        self.picture = None if picture is None else np.array(picture)   # type: ignore[attr-defined]
        self._shown_in: int | None = None    # the number of IPython's cell or line

    def __eq__(self, other: object) -> bool:
        """Whether all is equal but the timings."""
        if not isinstance(other, Story):
            return NotImplemented
        names = [one.name for one in fields(self) if one.name != "timings"]
        return (all(getattr(self, name) == getattr(other, name) for name in names)
                and np.array_equal(self.picture, other.picture))    # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((self.image, self.style, self.passage))

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __add__(self, other: str) -> str:
        return str(self) + str(other) if isinstance(other, (str, Story)) else NotImplemented

    def __radd__(self, other: str) -> str:
        return other + str(self) if isinstance(other, str) else NotImplemented

    @property
    def text(self) -> str:
        """The passage, made readable with ``prose``."""
        return detokenize(self.passage) if self.prose else self.passage

    @property
    def lines(self) -> list[str]:
        """The passage as it is printed: one line, or with ``lyric`` several."""
        return self.lines_of(self.passage)

    def lines_of(self, passage: str) -> list[str]:
        """A passage as this story's would be printed."""
        if not self.lyric:
            return [detokenize(passage) if self.prose else passage]
        return verse_lines(passage) if self.prose else lyric_lines(passage)

    def __repr__(self) -> str:
        words = self.passage.split()
        start = " ".join(words[:12]) + (" ..." if len(words) > 12 else "")
        return (f"<Story of {self.image!r} in style {self.style!r}: {len(words)} words, "
                f"cost {self.cost:.2f}: {start!r}>")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the picture, as plain Python values that JSON and UTF-8 can hold."""
        return {"image": _utf8(self.image), "style": _utf8(self.style), "passage": self.passage, "cost": self.cost,
                "lyric": self.lyric, "text": "\n".join(self.lines),
                "captions": [{"text": c.text, "score": c.score} for c in self.captions],
                "alternatives": [{"passage": p.text, "text": "\n".join(self.lines_of(p.text)), "cost": p.cost,
                                  "finished": p.finished, "similarity": p.similarity} for p in self.alternatives],
                "warnings": list(self.warnings), "timings": dict(self.timings)}

    def _ipython_display_(self) -> None:
        """Show the story, unless the same cell of a notebook or line of IPython has just done so."""
        shell = _ipython()
        if shell is None or shell.execution_count != self._shown_in:
            self._display(repr(self))

    def _display(self, plain: str) -> None:
        from IPython.display import display
        display({"text/plain": plain, "text/html": self._repr_html_()}, raw=True)

    def _repr_html_(self) -> str:
        """The picture beside the story, self-contained."""
        picture, pixels = "", self.picture      # type: ignore[attr-defined]
        if pixels is not None:
            from PIL import Image
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "JPEG", quality=88)
            source = base64.b64encode(data.getvalue()).decode()
            seen = self.captions[0].text if self.captions else self.image
            # As wide for every picture, so that the stories of a page stand below each other.
            picture = (f'<div style="flex:0 1 320px"><img alt="{html.escape(_utf8(seen))}" loading="lazy" '
                       f'width="{pixels.shape[1]}" height="{pixels.shape[0]}" src="data:image/jpeg;base64,{source}" '
                       'style="max-width:100%;height:auto"></div>')
        name, style = html.escape(_utf8(self.image)), html.escape(_utf8(self.style))
        captions = "".join(f'<li>{html.escape(c.text)} <small>{c.score:.3f}</small></li>'
                           for c in self.captions[:SHOWN_CAPTIONS])
        passage = "<br>".join(html.escape(line) for line in self.lines)
        return ('<div class="story" style="display:flex;gap:1.5em;align-items:flex-start;flex-wrap:wrap;'
                f'margin:1em 0">{picture}<div style="flex:1 1 20em;max-width:44em">'
                f'<p style="font-size:1.15em;line-height:1.5;margin-top:0">{passage}</p>'
                f'<details open><summary>Nearest captions</summary><ol>{captions}</ol></details>'
                f'<p><small>{name}, style {style}, '
                f'cost {self.cost:.2f}</small></p></div></div>')


def _utf8(name: str) -> str:
    """A name of a file as UTF-8, whatever the locale, with replacement characters for bytes that are not."""
    name = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\N{REPLACEMENT CHARACTER}", name)     # no bytes of names
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def lyric_lines(passage: str) -> list[str]:
    """Split at every comma; each piece loses its one leading space."""
    return [piece[1:] if piece.startswith(" ") else piece for piece in passage.split(",")]


def verse_lines(passage: str) -> list[str]:
    """Readable lines: one for every pause of the passage, its mark kept, each with a capital."""
    pieces = re.split(r"(?<=[,.;:!?])(?<!\b[MD]r\.)(?<!\bMrs\.)(?<!\bSt\.)\s+(?=\w|[`(\"'])", detokenize(passage))
    return [piece[:1].upper() + piece[1:] for piece in pieces if piece]


def _ipython() -> Any:
    """The shell of IPython or of a notebook in which this runs; None elsewhere."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def printed(story: Story) -> str:
    """Captions and passage exactly as the original prints them (labels end in a space)."""
    captions = [caption.text for caption in story.captions[:SHOWN_CAPTIONS]]
    return "\n".join(["NEAREST-CAPTIONS: ", *captions, "", "OUTPUT: ", *story.lines])


def print_story(story: Story) -> None:
    """Print captions and passage as the original does, in a notebook beside the picture.

    Control characters are replaced.  What story() has shown, the same cell does not show again as its result.
    """
    shell = _ipython()
    if shell is not None:
        story._shown_in = shell.execution_count
    if hasattr(shell, "kernel"):
        story._display(printed(story))
    else:
        print(printable(printed(story), sys.stdout))


def html_page(stories: Iterable[Story], title: str = "Stories") -> str:
    """One self-contained page of pictures, captions and stories.

    Raises
    ------
    StorytellerError
        If there are other things than stories, or no list of them.
    """
    if not isinstance(stories, Iterable):
        raise StorytellerError(f"stories is {shown(stories)}: expected a list of stories; for one write [story]")
    stories = list(stories)
    for story in stories:
        if not isinstance(story, Story):
            raise StorytellerError(f"stories holds something else ({shown(story)}): expected what generate.story gives")
    return page_start(title) + PAGE_BETWEEN.join(map(page_part, stories)) + PAGE_END


# The page in parts, for those who write it story by story.

PAGE_BETWEEN = "\n<hr>\n"
PAGE_END = "\n</body></html>\n"


def page_start(title: str = "Stories") -> str:
    """What stands before the first story of a page."""
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{html.escape(title)}</title>'
            '<style>:root{color-scheme:light dark;--text:#222;--paper:#fffdf8;--quiet:#666;--line:#ddd}'
            '@media(prefers-color-scheme:dark){:root{--text:#ddd;--paper:#1b1a18;--quiet:#a09c94;--line:#444}}'
            'body{font-family:Georgia,serif;max-width:64em;margin:2em auto;padding:0 1em;'
            'color:var(--text);background:var(--paper)}hr{border:0;border-top:1px solid var(--line)}'
            'h2{font-size:1.1em;font-weight:normal;margin:1em 0 0}h2,p,li{overflow-wrap:anywhere}'
            'small,summary,li,h2{color:var(--quiet)}</style></head>\n'
            f'<body><h1>{html.escape(title)}</h1>\n')


def page_part(story: Story) -> str:
    """A story of a page, headed by its picture's name."""
    name = html.escape(os.path.basename(_utf8(story.image)) or _utf8(story.image))
    return printable(f"<article><h2>{name}</h2>{story._repr_html_()}</article>")
