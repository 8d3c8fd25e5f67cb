"""Caption sentences of our own: a grammar over the thousand classes of ImageNet and the scenes around them.

Every class belongs to a family; a family says what its members do or how they stand about, where, and what
people do with them.  A sentence takes one of a few openings and fills it.  Where the class's name does not
say what kind of thing it is, the family's ``kind`` is put behind it ("beagle dog") or one of its ``extras``
is added ("with its wings spread").
"""
from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .families import CLASSES, FAMILIES, KINDS, SCENES, TIMES

SHORTEST, LONGEST = 7, 16
EACH = 44           # captions of a class
SCENE_EACH = 330    # captions of a theme of scenes


@dataclass(frozen=True)
class Family:
    """What is said of the members of a family.

    Attributes
    ----------
    kind : str
        Put behind names that do not say what they are; may be empty.
    adjectives, acts, places, people, extras : tuple of str
        Words before the name; what one of them does (third person singular); where; what people do, with
        a blank ``_`` for the name and its article; phrases that say what it is.
    words : frozenset of str
        A sentence with any of these has said what it is.
    """

    kind: str
    adjectives: tuple[str, ...]
    acts: tuple[str, ...]
    places: tuple[str, ...]
    people: tuple[str, ...]
    extras: tuple[str, ...]
    words: frozenset[str]


def _family(name: str) -> Family:
    fields = {}
    for line in FAMILIES[name].strip().split("\n"):
        key, _, value = line.partition(":")
        fields[key.strip()] = tuple(part.strip() for part in value.split(";") if part.strip())
    kind = fields.get("kind", ("",))[0] if fields.get("kind") else ""
    return Family(kind, fields["adj"], fields["acts"], fields["places"], fields["people"], fields.get("extras", ()),
                  frozenset(KINDS[name].split()))


def article(text: str) -> str:
    """The text with a or an before it."""
    silent = ("hour", "honest", "heir")
    said_you = ("uni", "use", "european", "one")
    vowel = (text[0] in "aeiou" and not text.startswith(said_you)) or text.startswith(silent)
    return f"{'an' if vowel else 'a'} {text}"


def plural(name: str) -> str:
    """Plural of a name by its last word."""
    irregular = {"wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer"}
    head, _, last = name.rpartition(" ")
    if last in irregular:
        last = irregular[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def _many(act: str) -> str:
    """A verb phrase in the plural: the first word's ending goes."""
    verb, _, rest = act.partition(" ")
    known = {"is": "are", "has": "have", "does": "do", "goes": "go", "flies": "fly", "carries": "carry",
             "reaches": "reach", "catches": "catch", "watches": "watch", "crosses": "cross", "stretches": "stretch",
             "passes": "pass"}
    verb = known.get(verb, verb[:-1] if verb.endswith("s") else verb)
    return f"{verb} {rest}".strip()


def _sentence(rng: random.Random, name: str, family: Family) -> str:
    pick = rng.choice
    said = set(name.split()) & family.words
    full = name if said or not family.kind else f"{name} {family.kind}"
    adjective = pick(family.adjectives)
    one, some = article(full), article(f"{adjective} {full}")
    many = plural(full)
    known = many.rpartition(" ")[2] in family.words     # novels know "dogs", but few "spatulas"
    act, place, time, person = pick(family.acts), pick(family.places), pick(TIMES), pick(family.people)
    opening = rng.randrange(10)
    if opening == 0:
        text = f"{some} {act} {place}"
    elif opening == 1:
        text = f"{one} {act} {place} {time}"
    elif opening == 2:
        text = f"{person.replace('_', one)} {place}"
    elif opening == 3:
        text = f"{person.replace('_', some)} {time}"
    elif opening == 4:
        text = f"there is {some} {place} {time}"
    elif opening == 5 and known:
        text = f"{pick(('two', 'three', 'a pair of', 'several'))} {adjective} {many} {place}"
    elif opening == 6 and known:
        text = f"two {many} {_many(act)} {place}"
    elif opening == 7:
        text = f"a close view of {some} {place}"
    elif opening == 8:
        text = f"{time} {one} {act} {place}"
    else:
        text = f"{person.replace('_', one)} {place} {time}"
    if family.extras and not set(text.split()) & family.words:
        text = f"{text} {pick(family.extras)}"
    return " ".join(text.split())


def _fit(text: str) -> bool:
    return SHORTEST <= len(text.split()) <= LONGEST


def groups(seed: int = 0) -> Iterator[tuple[int | None, list[str]]]:
    """Captions in groups that belong together: (class or None, sentences), no sentence twice.

    Parameters
    ----------
    seed : int

    Yields
    ------
    tuple of int or None and list of str
        The classes in their order, then the themes of scenes.
    """
    rng, seen = random.Random(seed), set()
    for label, (name, family_name) in CLASSES.items():
        family, found = _family(family_name), []
        for _ in range(60 * EACH):
            text = _sentence(rng, name, family)
            if _fit(text) and text not in seen:
                seen.add(text)
                found.append(text)
            if len(found) == EACH:
                break
        yield label, found
    for theme in SCENES:
        slots, found = [[part.strip() for part in line.split(";")] for line in theme.strip().split("\n")], []
        for _ in range(60 * SCENE_EACH):
            text = " ".join(" ".join(rng.choice(slot) for slot in slots).split())
            if _fit(text) and text not in seen:
                seen.add(text)
                found.append(text)
            if len(found) == SCENE_EACH:
                break
        yield None, found


def captions(seed: int = 0) -> list[str]:
    """All sentences of :func:`groups`."""
    return [text for _, found in groups(seed) for text in found]
