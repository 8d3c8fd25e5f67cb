"""How the English Punkt parameters in ``storyteller/data/punkt`` were made.

Punkt (Kiss & Strunk, "Unsupervised Multilingual Sentence Boundary Detection",
Computational Linguistics 32:4, 2006) learns abbreviations, collocations and frequent
sentence starters from plain text.  This trains NLTK's trainer on a spread of whole novels
and on image captions, drops what does not matter, adds a short list of well-known
abbreviations, and writes plain text in the layout of NLTK's ``punkt_tab``::

    python recipes/punkt.py CORPORA

CORPORA is a folder with ``romance.txt.xz`` and ``adventure.txt.xz`` (one paragraph a line),
``works.tsv`` (where a work starts and ends in them: file, first_line, last_line, ...) and
``coco_captions.txt.xz`` (one caption a line).  Takes one to two minutes on one core.
The result depends on nothing but the corpora.
"""
from __future__ import annotations

import argparse
import csv
import lzma
import re
import time
from collections import Counter
from pathlib import Path

from nltk.tokenize import punkt

MEGABYTES = {"romance": 28, "adventure": 10}  # of whole works, spread over each file
MIN_COUNT = 12  # a word seen less often tells Punkt nothing reliable about its case
MIN_CAPITAL_COUNT = 25  # a word capitalised less often may be a name where it is
MIN_ABBREVIATION_COUNT = 8  # a learned abbreviation must be seen this often with its point
MIN_ABBREVIATION_SHARE = 0.95  # ... and this often with it rather than without it

# Abbreviations that every English reader knows, without their final point.  Left out on
# purpose: words that end sentences as often as they abbreviate ("no", "fig", "ed", "al",
# "in", "sat", "sun", "wed", "jan", "art", "may", "us").
ABBREVIATIONS = """
mr mrs ms messrs mme mlle dr drs prof rev revd hon esq fr st ste mt
gen col maj capt cpt lt lieut cpl sgt pvt adm cmdr brig gov sen rep pres supt insp
jr sr vs etc e.g i.e a.m p.m a.d b.c n.b p.s viz cf c.f approx
u.s u.k u.n u.s.a d.c l.a n.y ph.d m.d b.a m.a d.d
inc ltd co corp bros dept univ assn vol pp ch
feb apr aug sept oct nov dec
ave blvd rd hwy ft lb lbs oz hr hrs sq
""".split()

# Words that begin a sentence when they follow an abbreviation with a capital ("5 p.m. The").
STARTERS = """
the this that these those there here he she it they we you i his her its their our my your
what who how why when where while if but and so then now as at in on after before
""".split()

# A capital after one of these says that the next word can be a name, not that a sentence begins.
TITLES = """Mr Mrs Ms Messrs Mme Mlle Dr Prof Rev Hon St Gen Col Maj Capt Lt Lieut Sgt""".split()


def spread_of_works(corpora: Path, name: str, megabytes: float) -> list[str]:
    """Whole works of one corpus, taken at even distances until the size is reached."""
    with lzma.open(corpora / f"{name}.txt.xz", "rt", encoding="utf-8", newline="\n") as f:
        lines = f.read().split("\n")
    with open(corpora / "works.tsv", encoding="utf-8", newline="") as f:
        rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
        spans = [(int(r["first_line"]), int(r["last_line"])) for r in rows
                 if r["file"] == f"{name}.txt.xz"]
    works = ["\n\n".join(lines[first - 1:last]) for first, last in spans]
    stride = max(1, sum(map(len, works)) // int(megabytes * 1e6))
    chosen, size = [], 0
    for start in range(stride):
        for work in works[start::stride]:
            if size >= megabytes * 1e6:
                return chosen
            chosen.append(work)
            size += len(work)
    return chosen


def names_after_titles(texts: list[str]) -> Counter[str]:
    """How often each capitalised word follows a title ("Mr. Brown" counts "brown")."""
    pattern = re.compile(r"\b(?:" + "|".join(TITLES) + r")\.\s+([A-Z][\w'-]*)")
    names: Counter[str] = Counter()
    for text in texts:
        names.update(word.lower() for word in pattern.findall(text))
    return names


def train(texts: list[str]) -> punkt.PunktParameters:
    """Punkt's parameters for the texts, pruned to what matters."""
    trainer = punkt.PunktTrainer()
    for text in texts:
        trainer.train(text, finalize=False)
    trainer.finalize_training()
    params = trainer.get_params()

    words: Counter[str] = Counter()
    for text in texts:
        words.update(text.lower().split())
    stripped: Counter[str] = Counter()
    for word, count in words.items():
        stripped[word.strip("\"'()[]*_,;:!?")] += count

    def is_reliable(abbreviation: str) -> bool:
        with_point, without = stripped[abbreviation + "."], stripped[abbreviation]
        share = with_point / max(1, with_point + without)
        return with_point >= MIN_ABBREVIATION_COUNT and share >= MIN_ABBREVIATION_SHARE

    learned = {a for a in params.abbrev_types if is_reliable(a)}
    params.abbrev_types = learned | set(ABBREVIATIONS) | set("bcdefghjklmnpqrstuvwxyz")

    plain: Counter[str] = Counter()
    for word, count in stripped.items():
        plain[word.strip(".")] += count

    lower = Counter(word for text in texts for word in re.findall(r"\b[a-z]+\b", text))
    capital = Counter(word.lower() for text in texts
                      for word in re.findall(r"\b[A-Z][\w'-]*", text))
    names = names_after_titles(texts)

    # A character's name starts many sentences, and yet "Mr. John" must stay together.
    params.sent_starters = set(STARTERS) | {
        word for word in params.sent_starters
        if lower[word] >= 0.5 * plain[word] and names[word] < 2 and len(word) > 1}

    # Punkt splits "Mr. Marvel" if it has seen "marvel" and never "Marvel" within a sentence.
    # Let it trust what it has seen only of words that do begin sentences and are no names.
    kept = {}
    for word, flags in params.ortho_context.items():
        if (re.match(r"\w", word) and not re.search(r"[\s\d]", word)
                and plain[word] >= MIN_COUNT and capital[word] >= MIN_CAPITAL_COUNT):
            kept[word] = flags | (punkt._ORTHO_MID_UC if names[word] >= 2 else 0)
    params.ortho_context.clear()
    params.ortho_context.update(kept)
    return params


def save(params: punkt.PunktParameters, folder: Path) -> None:
    """Write the four sorted files of NLTK's tab layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "abbrev_types.txt": sorted(params.abbrev_types),
        "collocations.tab": ["\t".join(pair) for pair in sorted(params.collocations)],
        "sent_starters.txt": sorted(params.sent_starters),
        "ortho_context.tab": [f"{w}\t{n}" for w, n in sorted(params.ortho_context.items())],
    }
    for name, lines in tables.items():
        text = "".join(line + "\n" for line in lines)
        (folder / name).write_bytes(text.encode("utf-8"))
        print(f"{name}: {len(lines)} entries, {len(text.encode('utf-8'))} bytes")


def main() -> None:
    home = Path(__file__).resolve().parent.parent / "storyteller" / "data" / "punkt"
    parser = argparse.ArgumentParser(description="Train the package's own English Punkt.")
    parser.add_argument("corpora", type=Path, help="folder with the texts (see this file's head)")
    parser.add_argument("--out", type=Path, default=home, help="folder for the four files")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the text to use")
    args = parser.parse_args()

    started = time.perf_counter()
    texts = []
    for name, megabytes in MEGABYTES.items():
        texts += spread_of_works(args.corpora, name, megabytes * args.scale)
    with lzma.open(args.corpora / "coco_captions.txt.xz", "rt", encoding="utf-8") as f:
        captions = f.read().split("\n")
    texts.append("\n\n".join(captions[:int(len(captions) * args.scale)]))
    print(f"{len(texts)} texts, {sum(map(len, texts)) / 1e6:.1f} MB")
    save(train(texts), args.out)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
