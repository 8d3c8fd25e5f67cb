"""Texts of the compact models: works cut out of the corpora, COCO's captions, and one dictionary.

The corpora hold many works one after another; their ``works.tsv`` says where each begins.  Cut into one
file a work, no passage and no triplet of sentences crosses from one novel into the next.
"""
from __future__ import annotations

import csv
import lzma
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from storyteller.training import corpus, vocabulary

from . import features

KINDS = ("romance", "romance_heldout", "adventure", "verse", "tales", "tales_heldout")
# A heading: nothing is read across it (storyteller.training.corpus.is_heading), and it is left out.
BREAK = "CHAPTER I"
MAX_WORDS = 20000   # words of the skip-thoughts models
MIN_CAPTION_WORDS = 10  # a caption's word is kept when it occurs so often


def cut_works(corpora: str, folder: str) -> None:
    """Write each work of each corpus as ``folder/KIND/NNN_title.txt``."""
    with open(os.path.join(corpora, "works.tsv"), encoding="utf-8", newline="") as file:
        works = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for kind in KINDS:
        rows = [row for row in works if row["file"] == f"{kind}.txt.xz"]
        target = os.path.join(folder, kind)
        if os.path.isdir(target) and len(os.listdir(target)) == len(rows):
            continue
        os.makedirs(target, exist_ok=True)
        with lzma.open(os.path.join(corpora, f"{kind}.txt.xz"), "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
        for number, row in enumerate(rows):
            title = re.sub(r"\W+", "_", row["title"].lower()).strip("_")[:80]
            path = os.path.join(target, f"{number:03d}_{title}.txt")
            with open(f"{path}.part", "w", encoding="utf-8") as out:
                out.write("\n".join(lines[int(row["first_line"]) - 1:int(row["last_line"])]) + "\n")
            os.replace(f"{path}.part", path)


def some_works(folder: str, target: str, step: int = 12) -> None:
    """Copy every ``step``-th work of a folder."""
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(folder))[::step]:
        shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))


def coco_groups(corpora: str) -> Iterator[list[str]]:
    """COCO's captions in lower case, those of an image together, for images with two or more."""
    for _, texts in sorted(features.coco_captions(corpora).items()):
        if len(texts) > 1:
            yield texts


def write_groups(path: str, groups: Iterable[Sequence[str]]) -> None:
    """Captions one a line; nothing is read across from one group to the next."""
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        for group in groups:
            file.write("".join(f"{line}\n" for line in group) + f"{BREAK}\n")
    os.replace(f"{path}.part", path)


def make_dictionary(novels: Sequence[str], captions: Sequence[str], names: Iterable[str], path: str) -> int:
    """A dictionary of the novels' words that keeps the captions' and the classes' words.

    Parameters
    ----------
    novels, captions : sequence of path
        Files or folders.
    names : iterable of str
        Names of classes; their words are kept however rare.
    path : path
        Where the dictionary is written, with counts.

    Returns
    -------
    int
        How many words it has.
    """
    in_novels = Counter(word for text in corpus.sentence_stream(novels) for word in text.split())
    in_captions = Counter(word for text in corpus.sentence_stream(captions) for word in text.split())
    wanted = {word for name in names for word in re.findall(r"[a-z]+", name.lower())}
    wanted |= {word for word, count in in_captions.items() if count >= MIN_CAPTION_WORDS}
    counts = in_novels + in_captions
    for word, _ in in_novels.most_common():
        if len(wanted) >= MAX_WORDS:
            break
        wanted.add(word)
    ordered = sorted(wanted, key=lambda word: (-counts[word], word))
    words = {word: i for i, word in enumerate(ordered, 2)}
    vocabulary.save_dictionary(path, words, {word: max(counts[word], 1) for word in ordered})
    return len(words)
