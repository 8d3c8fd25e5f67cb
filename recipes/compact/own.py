"""Our own stories, paired with what pictures of such things come to: x - c + b.

A picture is one of a story's kind if it was found by one of our captions of that kind, or by a caption of a class
that has the story's noun in its name, or whose kind is called so; then the class's own noun may stand in its place.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from storyteller import compact, embedding, files, skipthoughts, text
from storyteller.training.corpus import EncodedCorpus

from . import library
from .captions import article, plural
from .captions.families import CLASSES, KINDS
from .pairs import COMMON

OF_CLASS = 6            # pictures of each class
NEAREST = 100           # captions that a picture comes to
TIMES = 6               # how often a story is told, each time of another picture
OF_KIND = 0.5           # of the pictures, those of our captions, where there are pictures of classes, too
EXCHANGED = 0.6         # of the stories told of a class, those that name it by its own noun


def styles(corpora: str, folder: str) -> dict[str, np.ndarray]:
    """b of each style: the mean vector of our own stories in it."""
    names = np.array([style for _, style, _ in library.own_stories(corpora)])
    vectors = np.load(os.path.join(folder, "own.vectors.npy"))
    if len(names) != len(vectors):
        raise ValueError(f"{folder}: own.vectors.npy has {len(vectors)} rows, but there are {len(names)} stories")
    return {style: library.mean(vectors[names == style]) for style in library.STYLES}


def pictures(corpora: str, folder: str) -> dict[str, np.ndarray]:
    """Pictures found by captions: ``x`` (n, dim), ``label`` (n,), the class or -1, and ``kind`` (n,), ours or ''."""
    path = os.path.join(folder, "pictures.npz")
    if not os.path.exists(path):
        texts = text.read_captions(os.path.join(compact.FOLDER, "captions.txt"))
        ours = library.own_captions(corpora)
        rng = np.random.default_rng(0)
        asked, labels = [], []
        heads = {label: name for label, (name, _) in CLASSES.items()}
        named = _naming(texts, heads)
        for label, rows in named.items():
            for row in rng.permutation(rows)[:OF_CLASS]:
                asked.append(int(row))
                labels.append(label)
        kinds = [""] * len(asked) + [kind for kind, _ in ours]
        asked += range(len(texts), len(texts) + len(ours))
        labels += [-1] * len(ours)
        texts = [*texts, *(library.plain(caption) for _, caption in ours)]
        x = library.pictures(embedding.load_model(os.path.join(compact.FOLDER, "embedding.npz")),
                             skipthoughts.load_model(compact.FOLDER), texts, asked, NEAREST)
        with files.write_atomically(path) as file:
            np.savez(file, x=x, label=np.array(labels), kind=np.array(kinds))
    with np.load(path) as found:
        return dict(found)


def _naming(texts: Sequence[str], names: Mapping[int, str]) -> dict[int, np.ndarray]:
    """Captions that have the whole name of each class, singular or plural."""
    found: dict[int, list[int]] = {}
    words = {label: (f" {name} ", f" {plural(name)} ") for label, name in names.items()}
    first: dict[str, list[int]] = {}
    for label, forms in words.items():
        for form in forms:
            first.setdefault(form.split()[0], []).append(label)
    for row, caption in enumerate(texts):
        padded = f" {caption} "
        for word in set(caption.split()):
            for label in first.get(word, ()):
                if any(form in padded for form in words[label]):
                    found.setdefault(label, []).append(row)
    return {label: np.unique(rows) for label, rows in sorted(found.items())}


SINGULAR = {"children": "child", "men": "man", "women": "woman", "knives": "knife", "mice": "mouse", "geese": "goose",
            "oxen": "ox", "axes": "axe", "buses": "bus", "people": "person"}


def singular(noun: str) -> str:
    """The noun without the ending of its plural; of several words, the last one's."""
    head, blank, last = noun.rpartition(" ")
    if last in SINGULAR:
        return head + blank + SINGULAR[last]
    if not re.search("(ss|us|is)$", last):
        for end, other in (("ies", "y"), ("ves", "f"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"),
                           ("s", "")):
            if last.endswith(end):
                return head + blank + last[:-len(end)] + other
    return noun


def of_classes(noun: str) -> list[tuple[int, str]]:
    """Classes that a noun may stand for, each with the noun that it has itself."""
    found = []
    for label, (name, family) in CLASSES.items():
        words = name.split()
        if noun in words and " of " not in name:
            found.append((label, noun))
        elif noun in KINDS[family].split():
            found.append((label, words[-1] if words[-1] not in COMMON and " of " not in name else noun))
    return found


def exchanged(story: str, noun: str, other: str) -> str:
    """The story with another noun in the braces where the noun stands, singular or plural, with its article."""
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
    return re.sub(r"(\b[Aa]n? )?\{([^}]*)\}", change, story)


def told(stories: Sequence[tuple[str, str, str]], found: Mapping[str, np.ndarray], words: Mapping[str, int],
         times: int, seed: int = 0) -> Iterator[tuple[str, str, int]]:
    """(style, text, picture) of every story, so many times where there are pictures for it."""
    rng = np.random.default_rng(seed)
    by_kind = {kind: np.flatnonzero(found["kind"] == kind) for kind in np.unique(found["kind"]) if kind}
    by_label = {label: np.flatnonzero(found["label"] == label) for label in np.unique(found["label"]) if label >= 0}
    known: dict[str, list[tuple[int, str]]] = {}
    for kind, style, story in stories:
        nouns = [singular(noun) for noun in re.findall(r"\{([^}]*)\}", story)]
        noun = max(dict.fromkeys(nouns), key=nouns.count) if nouns else ""
        if noun not in known:
            known[noun] = [(label, other) for label, other in of_classes(noun) if label in by_label]
        ours, classes = by_kind.get(kind, ()), known[noun]
        for _ in range(times):
            if len(ours) and (not classes or rng.random() < OF_KIND):
                yield style, story, int(rng.choice(ours))
            elif classes:
                label, other = classes[int(rng.integers(len(classes)))]
                fits = other != noun and other in words and plural(other) in words and rng.random() < EXCHANGED
                yield style, exchanged(story, noun, other) if fits else story, int(rng.choice(by_label[label]))


def make(corpora: str, folder: str, target: str, source: str, times: int) -> None:
    """Write stories and x - c + b of their pictures as ``folder/target``."""
    if os.path.exists(os.path.join(folder, f"{target}.vectors.npy")):
        return
    words = files.load_dictionary(os.path.join(folder, "dictionary.pkl"))
    found, of_style = pictures(corpora, folder), styles(corpora, folder)
    c = np.load(os.path.join(compact.FOLDER, "caption_style.npy"))
    stories = list(library.own_stories(corpora, source == "stories_heldout.tsv"))
    lines, vectors = [], []
    for style, story, picture in told(stories, found, words, times):
        lines.append(" ".join(word for sentence in library.sentences_of(library.plain(story)) for word in sentence))
        vectors.append(found["x"][picture] - c + of_style[style])
    EncodedCorpus.build(os.path.join(folder, target), lines, words, library.N_WORDS)
    with files.write_atomically(os.path.join(folder, f"{target}.vectors.npy")) as file:
        np.save(file, np.array(vectors, dtype=np.float16))
