"""Checks the built documentation: no dead link, no undocumented public name.

    mkdocs build --strict && python docs/check.py [SITE]

Links to other sites are not followed.
"""
from __future__ import annotations

import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import hooks


class _Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value and tag in ("a", "img", "link", "script"):
                self.links.append(value)


def dead_links(site: Path) -> list[str]:
    """Links of the site's pages to files or anchors that are not there."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":     # its links count from the site's address
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.exists() or anchor and target in pages and anchor not in pages[target].anchors:
                dead.append(f"{path.relative_to(site.resolve())}: dead link {link}")
    return dead


def undocumented(site: Path) -> list[str]:
    """Public names that have no docstring, or are not in the reference."""
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    listed = {line.split(" ", 1)[0] for line in inventory.splitlines()}
    missing = []
    for module in hooks.public_modules():
        for name, described in hooks.documented(module):
            if not described:
                missing.append(f"{name}: no docstring")
            elif name not in listed and name != module:      # a module is a page
                missing.append(f"{name}: not in the reference")
    return missing


def main() -> int:
    site = Path(sys.argv[1] if len(sys.argv) > 1 else hooks.ROOT / "site")
    wrong = dead_links(site) + undocumented(site)
    print("\n".join(wrong) or f"{site}: no dead link, no undocumented public name")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
