"""Judging stories by reading, without knowing who told them: ``python -m recipes.compact.reading SHEET|marks ...``.

``sheet`` shuffles the stories of several systems (JSON files of :mod:`recipes.compact.evaluate`) about the same
photos, with our own stories held out among them, into a sheet to be marked, and writes the key beside it.  A mark
is two numbers: sense (0 nonsense, 1 grammatical, 2 coherent, 3 enjoyable) and how it fits the picture (0 not at all,
1 in part, 2 well), judged by the photo or by what it is known to show.  ``marks`` gives the mean of each system with
its 95 % interval, and of the differences to the first one.
"""
from __future__ import annotations

import argparse
import csv
import json
import os
import random
from collections.abc import Sequence

import numpy as np

from storyteller.files import write_atomically

from . import captions, measures

FIELDS = ("number", "photo", "seen", "story", "sense", "fits")
OWN = "own stories"


def sheet(systems: Sequence[str], target: str, count: int = 60, seed: int = 0) -> None:
    """Write TARGET.tsv, to be marked, and TARGET.key.json.

    Parameters
    ----------
    systems : sequence of paths
        What systems told, as ``evaluate --json`` writes it; of the same photos.
    target : path
    count : int
        Photos, evenly spread over all.
    seed : int
    """
    rng = random.Random(seed)
    told = {}
    for path in systems:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)["stories"]
        told[os.path.splitext(os.path.basename(path))[0]] = {row["photo"]: row for row in rows}
    first = next(iter(told.values()))
    common = [photo for photo in first if all(photo in rows for rows in told.values())]
    photos = [common[i] for i in np.unique(np.linspace(0, len(common) - 1, count).round().astype(int))]
    rows = [(name, photo, first[photo]["seen"], found[photo]["story"])
            for name, found in told.items() for photo in photos]
    own = [row for row in captions.read("stories_heldout") if row[1] != "verse"]
    rows += [(OWN, "", " ".join(captions.nouns(text)), captions.plain(text))
             for _, _, text in rng.sample(own, len(photos))]
    rng.shuffle(rows)
    with write_atomically(f"{target}.tsv") as file:
        lines = ["\t".join(FIELDS), *(f"{i}\t{photo}\t{seen}\t{' '.join(' / '.join(story.splitlines()).split())}\t\t"
                                      for i, (_, photo, seen, story) in enumerate(rows))]
        file.write("".join(f"{line}\n" for line in lines).encode())
    with write_atomically(f"{target}.key.json") as file:
        file.write(json.dumps({"systems": list(told), "rows": [name for name, *_ in rows]}).encode())


def marks(target: str, sheets: Sequence[str]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean and 95 % interval of every system's marks, and of its differences to the first system on the same photos.

    Parameters
    ----------
    target : path
        As of :func:`sheet`.
    sheets : sequence of paths
        Marked sheets, of one or more readers.
    """
    with open(f"{target}.key.json", encoding="utf-8") as file:
        key = json.load(file)
    found: dict[str, dict[str, dict[tuple[str, str], float]]] = {}
    for path in sheets:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                for mark in ("sense", "fits"):
                    of_mark = found.setdefault(key["rows"][int(row["number"])], {}).setdefault(mark, {})
                    of_mark[path, row["photo"] or row["number"]] = float(row[mark])
    result: dict[str, dict[str, tuple[float, float, float]]] = {}
    first = key["systems"][0]
    for name, of_marks in found.items():
        for mark, values in of_marks.items():
            result.setdefault(name, {})[mark] = measures.interval(list(values.values()))
            base = found[first][mark]
            both = [photo for photo in values if photo in base]
            if name != first and both:
                result[name][f"{mark}, more than {first}"] = measures.interval(
                    [values[photo] - base[photo] for photo in both])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compact.reading", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sheet", "marks"))
    parser.add_argument("target", help="of the sheet, without ending")
    parser.add_argument("files", nargs="+", help="sheet: JSON files of systems; marks: marked sheets")
    options = parser.parse_args()
    if options.what == "sheet":
        sheet(options.files, options.target)
        return
    for name, values in marks(options.target, options.files).items():
        for mark, (mean, low, high) in values.items():
            print(f"{name}: {mark} {mean:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
