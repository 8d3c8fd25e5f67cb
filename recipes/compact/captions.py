"""Captions of our own, written one by one: as they are, and of the thousand classes of ImageNet.

``stories/captions.tsv.xz`` has them, the noun of the thing in braces ("a brown {dog} asleep on a rug"); where the
name of a class can stand for the noun ("golden retriever") it is put there.  ``classes.tsv`` says which nouns these
are.
"""
from __future__ import annotations

import csv
import lzma
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

FOLDER = os.path.join(os.path.dirname(__file__), "stories")
SHORTEST, LONGEST = 7, 16       # words of a caption
EACH = 32                       # captions of a class
# Nouns that may stand after the name of a class ("beagle dog"): in every second caption they do, for few people know
# every breed, and the other models know few of their names.
KINDS = frozenset("""
dog cat bird fish snake monkey spider frog lizard turtle butterfly beetle insect crab duck fox wolf bear shark owl goose
rabbit""".split())


@dataclass(frozen=True)
class Class:
    """A class of ImageNet: what people call it, and the nouns in whose place the name can stand, most fitting
    first."""

    name: str
    nouns: tuple[str, ...]


def _nouns(column: str) -> tuple[str, ...]:
    return tuple(noun.replace("_", " ") for noun in column.split())


def _classes() -> dict[int, Class]:
    with open(os.path.join(os.path.dirname(__file__), "classes.tsv"), encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {int(row["class_index"]): Class(row["name"], _nouns(row["nouns"])) for row in rows}


CLASSES = _classes()


def read(name: str) -> Iterator[list[str]]:
    """Rows of a packed table of ours: ``stories``, ``stories_heldout`` or ``captions``."""
    with lzma.open(os.path.join(FOLDER, f"{name}.tsv.xz"), "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").split("\t")


def plain(text: str) -> str:
    """A story or caption as running text, without braces and the marks between lines of verse."""
    return re.sub(r"\s*/\s+", " ", re.sub(r"[{}]", "", text))


def nouns(text: str) -> list[str]:
    """The nouns in braces, in the singular, the most frequent first."""
    found = [singular(noun) for noun in re.findall(r"\{([^}]*)\}", text)]
    return sorted(dict.fromkeys(found), key=found.count, reverse=True)


def of_classes(noun: str) -> list[int]:
    """Classes whose names can stand for a noun."""
    return [label for label, known in CLASSES.items() if noun in known.nouns]


# -- English ---------------------------------------------------------------------------------------

SINGULAR = {"children": "child", "men": "man", "women": "woman", "knives": "knife", "mice": "mouse", "geese": "goose",
            "oxen": "ox", "axes": "axe", "buses": "bus", "people": "person", "calves": "calf", "wolves": "wolf",
            "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "scarves": "scarf"}
PLURAL = {one: many for many, one in SINGULAR.items()}
UNCHANGED = frozenset(("fish", "sheep", "deer"))


def article(text: str) -> str:
    """The text with a or an before it."""
    silent = ("hour", "honest", "heir")
    said_you = ("uni", "use", "european", "one")
    vowel = (text[0] in "aeiou" and not text.startswith(said_you)) or text.startswith(silent)
    return f"{'an' if vowel else 'a'} {text}"


def plural(noun: str) -> str:
    """The plural of a noun; of several words, the last one's."""
    head, blank, last = noun.rpartition(" ")
    if last in PLURAL:
        last = PLURAL[last]
    elif re.search(r"(s|x|z|ch|sh)$", last) and last not in UNCHANGED:
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    elif last not in UNCHANGED:
        last += "s"
    return head + blank + last


def singular(noun: str) -> str:
    """The noun without the ending of its plural; of several words, the last one's."""
    head, blank, last = noun.rpartition(" ")
    if last in SINGULAR:
        return head + blank + SINGULAR[last]
    if not re.search("(ss|us|is)$", last):
        for end, other in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("s", "")):
            if last.endswith(end):
                return head + blank + last[:-len(end)] + other
    return noun


def exchanged(text: str, noun: str, other: str) -> str:
    """The text with another noun in the braces where the noun stands, singular or plural, with its article."""
    def change(found: re.Match[str]) -> str:
        before, inside = found[1] or "", found[2]
        if inside == noun:
            new = other
        elif singular(inside) == noun:
            new = plural(other)
        else:
            return found[0]
        if before.lower().strip() in ("a", "an"):
            fitting = article(new).split(" ", 1)[0]
            before = (fitting.capitalize() if before[0] == "A" else fitting) + " "
        return f"{before}{{{new}}}"
    return re.sub(r"(\b[Aa]n? )?\{([^}]*)\}", change, text)


# -- captions --------------------------------------------------------------------------------------

def groups(seed: int = 0) -> Iterator[tuple[int | None, list[str]]]:
    """Captions in groups that belong together, none twice.

    Parameters
    ----------
    seed : int

    Yields
    ------
    tuple of int or None and list of str
        The classes in their order, with captions of their own nouns and of those that their name can stand for; then
        all our captions as they are, kind by kind.
    """
    rng, seen = random.Random(seed), set()
    ours = list(read("captions"))
    by_noun: dict[str, list[str]] = {}
    for _, caption in ours:
        for noun in nouns(caption):
            by_noun.setdefault(noun, []).append(caption)
    for label, known in CLASSES.items():
        found: list[str] = []
        many = singular(known.name) != known.name       # "sunglasses" stand for no single thing
        for noun in dict.fromkeys((singular(known.name), *known.nouns)):
            own = noun == singular(known.name)
            fitting = [caption for caption in by_noun.get(noun, ()) if own or not many]
            named = noun not in KINDS or noun in known.name.split() or known.name.endswith(noun)     # a goldfish
            kind = known.name if named else f"{known.name} {noun}"
            for caption in rng.sample(fitting, len(fitting)):
                text = plain(caption if own else exchanged(caption, noun, kind))
                if " of " in known.name and re.search(r"\bof [a-z ]*\bof\b", text):     # a cup of espresso of coffee
                    continue
                if len(found) < EACH and SHORTEST <= len(text.split()) <= LONGEST and text not in seen:
                    seen.add(text)
                    found.append(text)
        yield label, found
    kinds: dict[str, list[str]] = {}
    for kind, caption in ours:
        text = plain(caption)
        if text not in seen:
            seen.add(text)
            kinds.setdefault(kind, []).append(text)
    for found in kinds.values():
        yield None, found


def captions(seed: int = 0) -> list[str]:
    """All captions of :func:`groups`."""
    return [text for _, found in groups(seed) for text in found]
