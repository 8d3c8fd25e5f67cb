"""The gallery: pictures with their stories in every style, told by the models at hand.

    python docs/gallery.py > gallery.md

The documentation tells them anew whenever it is built.
"""
from __future__ import annotations

import html
from pathlib import Path

DOCS = Path(__file__).resolve().parent
FOLDERS = (DOCS.parent / "images", DOCS / "photos")     # the samples of the package, and some more
CAPTIONS = 3


def sources(folder: Path) -> dict[str, list[str]]:
    """File of a picture -> what it shows, its source and its licence, as the folder's SOURCES.md lists them."""
    lines = (folder / "SOURCES.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows[2:]}


def page() -> str:
    """The page, as Markdown beside the folders images/ and photos/."""
    import storyteller
    from storyteller import generate
    z = generate.load_all({}, verbose=False)       # no settings: the models of the package
    parts = [f"""# Gallery

Photos with a free licence, and what storyteller {storyteller.__version__} tells about each with the models of
the package: nothing was picked out, nothing edited. The page is made by `docs/gallery.py`.
"""]
    pictures = [(folder / name, *facts) for folder in FOLDERS for name, facts in sources(folder).items()]
    for path, what, source, licence in pictures:
        parts.append(f"## {what[:1].upper()}{what[1:]}\n\n"
                     f"![{what}]({path.parent.name}/{path.name}){{ width=\"360\" }}\n\n"
                     f"`{path.name}`: {source}; {licence}.\n")
        for number, style in enumerate(storyteller.styles({})):
            told = generate.story(z, path, style=style, lyric=style == "verse", show=False)
            if not number:
                nearest = "\n".join(f"- {caption.text}" for caption in told.captions[:CAPTIONS])
                parts.append(f"The nearest captions:\n\n{nearest}\n")
            lines = "<br>\n".join(html.escape(line) for line in told.lines)
            parts.append(f"**{style}**\n\n<blockquote>{lines}</blockquote>\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page())
