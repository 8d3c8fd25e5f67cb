"""The figures of docs/compact.md, in one run: ``python -m recipes.compact.evaluate --inputs DIR``.

DIR holds photos/ and corpora/.  All photos were kept out of training.  Every measure is a function of texts.
"""
from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from storyteller import generate
from storyteller.progress import progress_bar
from storyteller.text import split_sentences, tokenize_words

from . import captions, features, kneser_ney

K, BW = 100, 50
CARD_PHOTOS = 20


# -- measures of texts -----------------------------------------------------------------------------

def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether any of the words occurs as a whole word, case ignored."""
    return bool(set(re.findall(r"[a-z']+", text.lower())) & {word.lower() for word in words})


def names_class(text: str, name: str) -> bool:
    """Whether the name occurs as whole words, singular or plural, case and the kind of blank ignored."""
    plain = re.sub(r"[_-]", " ", name.lower())
    return re.search(rf"\b{re.escape(plain)}(s|es)?\b", re.sub(r"[_-]", " ", text.lower())) is not None


def shuffled_share(texts: Sequence[str], words: Sequence[Sequence[str]], rounds: int = 20, seed: int = 0) -> float:
    """Share of texts that mention the words of another one's photo, over random permutations."""
    rng = np.random.default_rng(seed)
    return float(np.mean([[mentions(texts[j], of) for j, of in zip(rng.permutation(len(texts)), words)]
                          for _ in range(rounds)]))


def repeats(text: str, n: int = 5) -> bool:
    """Whether any n words in a row occur twice."""
    words = re.findall(r"[a-z']+", text.lower())
    runs = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) < len(runs)


def overlap(one: str, other: str) -> float:
    """Share of the words of the shorter text that are in the other, each as often as it stands there."""
    a, b = (Counter(re.findall(r"[a-z']+", text.lower())) for text in (one, other))
    return sum((a & b).values()) / max(1, min(sum(a.values()), sum(b.values())))


def words_in(text: str) -> int:
    return len(re.findall(r"[A-Za-z0-9']*[A-Za-z0-9][A-Za-z0-9']*", text))


def commonest(sentences: Iterable[str]) -> tuple[str, int]:
    """The sentence that occurs most often, and how often."""
    found = Counter(" ".join(re.findall(r"[a-z']+", sentence.lower())) for sentence in sentences)
    return found.most_common(1)[0] if found else ("", 0)


def plain(sentence: str) -> str:
    """A sentence for the classifier of styles: words alone, lower case, so that it sees no format."""
    return " ".join(re.findall(r"[a-z']+", " ".join(tokenize_words(sentence)).lower()))


# -- the run ---------------------------------------------------------------------------------------

class Bars:
    """Prints each figure beside its bar, and keeps them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, value: float, bar: str, good: bool) -> None:
        self.rows.append({"name": name, "value": value, "bar": bar, "good": bool(good)})
        print(f"{'ok  ' if good else 'LOW '} {name}: {value:.3f} (bar: {bar})", flush=True)


def tell(z: Mapping[str, Any], photos: Sequence[str], what: str, **options: Any) -> list[Any]:
    """A story for every photo."""
    told = []
    with progress_bar(len(photos), what, "photo", True) as bar:
        for photo in photos:
            told.append(generate.story(z, photo, K, BW, show=False, **options))
            bar.update()
    return told


def evaluate(inputs: str, only: Sequence[str], limit: int | None = None) -> tuple[Bars, list[Any]]:
    """Print all figures asked for; return them, and the stories."""
    photos, corpora = os.path.join(inputs, "photos"), os.path.join(inputs, "corpora")
    bars = Bars()
    z = generate.load_all(verbose=True)
    classes = {int(row["class_index"]): row for row in features.read_classes(photos)}
    with open(os.path.join(photos, "concept_words.json"), encoding="utf-8") as file:
        concept_words = json.load(file)
    labelled, coco = features.held_out(photos)
    if limit:
        labelled, coco = labelled[:limit], coco[:limit]
    stories = tell(z, [path for _, path in labelled], "stories")
    of_coco = tell(z, coco, "stories of coco")
    rows = [classes[label] for label, _ in labelled]
    with_concept = [(story, concept_words[row["concept"]]) for story, row in zip(stories, rows) if row["concept"]]

    if "sight" in only:
        share = np.mean([mentions(s.captions[0].text, w) for s, w in with_concept])
        bars.add("nearest caption mentions the concept", share, ">= 0.80", share >= 0.8)
        share = np.mean([any(names_class(c.text, row["name"]) for c in s.captions[:5])
                         for s, row in zip(stories, rows)])
        bars.add("one of the top five names the class", share, ">= 0.60", share >= 0.6)
    if "grounding" in only:
        texts, words = [s.text for s, _ in with_concept], [w for _, w in with_concept]
        share = np.mean([mentions(t, w) for t, w in zip(texts, words)])
        bars.add("story mentions the concept", share, ">= 0.45", share >= 0.45)
        wrong = shuffled_share(texts, words)
        bars.add("story mentions another photo's concept", wrong, "<= a third of it", wrong <= share / 3)
    everything = stories + of_coco
    if "style" in only:
        style_bars(bars, everything, corpora)
    if "language" in only:
        language_bars(bars, everything, corpora)
    if "styles" in only:
        styles_bars(bars, z, [path for _, path in labelled][:10], everything)
    if "speed" in only:
        speed_bars(bars, z, labelled[0][1])
    return bars, everything


def style_bars(bars: Bars, stories: Sequence[Any], corpora: str) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    rng = np.random.default_rng(0)
    with lzma.open(os.path.join(corpora, "coco_captions.txt.xz"), "rt", encoding="utf-8") as file:
        of_coco = [plain(line) for line in file]
    own = [plain(text) for text in captions.captions()]
    novels, heldout = (novel_sentences(corpora, name, count) for name, count in
                       (("romance", 20000), ("romance_heldout", 5000)))
    known = [*rng.permutation(of_coco)[:12000], *rng.permutation(own)[:12000]]
    test = known[:2000] + known[-2000:]
    train = known[2000:-2000]
    model = make_pipeline(make_union(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
                                     TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=5,
                                                     sublinear_tf=True)),
                          LogisticRegression(max_iter=300, C=10))
    model.fit(train + novels, [0] * len(train) + [1] * len(novels))
    right = np.concatenate([model.predict(test) == 0, model.predict(heldout) == 1]).mean()
    bars.add("classifier of styles right on held-out text", right, ">= 0.98", right >= 0.98)
    sentences = [plain(sentence) for story in stories for sentence in split_sentences(story.text)]
    share = np.mean(model.predict([sentence for sentence in sentences if sentence]) == 1)
    bars.add("story sentences taken for novel", share, ">= 0.95", share >= 0.95)


def novel_sentences(corpora: str, name: str, count: int) -> list[str]:
    """Sentences drawn from a corpus, plain, of three words or more."""
    with lzma.open(os.path.join(corpora, f"{name}.txt.xz"), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    found: list[str] = []
    for i in np.random.default_rng(1).permutation(len(lines)):
        found += [text for text in map(plain, split_sentences(lines[i])) if len(text.split()) > 2]
        if len(found) >= count:
            break
    return found[:count]


def language_bars(bars: Bars, stories: Sequence[Any], corpora: str) -> None:
    texts = [story.text for story in stories]
    works = heldout_works(corpora)
    counts = Counter(word for work in works for sentence in work for word in sentence)
    words = {word: i for i, word in enumerate((word for word, n in counts.items() if n > 1), 2)}

    def encoded(sentences: Iterable[Sequence[str]]) -> list[list[int]]:
        return [[words.get(word, 1) for word in sentence] for sentence in sentences]

    model = kneser_ney.fit([s for work in works for s in encoded(work)], 5, len(words) + 2)
    told = encoded(tokenize_words(s.lower()) for text in texts for s in split_sentences(text))
    ours = model.perplexity(told)
    theirs = []
    for i, work in enumerate(works):
        rest = kneser_ney.fit([s for j, other in enumerate(works) if j != i for s in encoded(other)], 5, len(words) + 2)
        theirs.append(rest.log_probs(encoded(work)))
    their = float(np.exp(-np.concatenate(theirs).mean()))
    bars.add("perplexity of stories under a 5-gram model of held-out novels", ours, f"<= theirs, {their:.1f}",
             ours <= their)
    first = texts[:100]
    bars.add(f"different stories of {len(first)}", len(set(first)), f">= {int(0.9 * len(first))}",
             len(set(first)) >= 0.9 * len(first))
    sentence, most = commonest(s for text in first for s in split_sentences(text))
    bars.add(f"stories with the commonest sentence ({sentence[:40]!r})", most, "<= 5", most <= 5)
    again = sum(map(repeats, texts))
    bars.add("stories that repeat a 5-gram", again, "0", again == 0)
    low, high = np.percentile([words_in(text) for text in texts], [10, 90])
    bars.add("words, 10th percentile", low, ">= 25", low >= 25)
    bars.add("words, 90th percentile", high, "<= 120", high <= 120)


def heldout_works(corpora: str) -> list[list[list[str]]]:
    """Sentences (lower-case words) of each work of romance_heldout."""
    with open(os.path.join(corpora, "works.tsv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                if row["file"] == "romance_heldout.txt.xz"]
    with lzma.open(os.path.join(corpora, "romance_heldout.txt.xz"), "rt", encoding="utf-8") as file:
        lines = file.read().lower().split("\n")
    return [[tokenize_words(s) for line in lines[int(row["first_line"]) - 1:int(row["last_line"])]
             for s in split_sentences(line)] for row in rows]


def styles_bars(bars: Bars, z: Mapping[str, Any], photos: Sequence[str], romance: Sequence[Any]) -> None:
    others = [tell(z, photos, style, style=style) for style in ("adventure", "verse")]
    pairs = [overlap(a.text, b.text) for one, other in ((romance, others[0]), (romance, others[1]), others)
             for a, b in zip(one[:len(photos)], other)]
    bars.add("words that two styles of a photo share", float(np.mean(pairs)), "<= 0.5", np.mean(pairs) <= 0.5)
    lines = generate.story(z, photos[0], K, BW, lyric=True, style="verse", show=False).lines
    bars.add("lines of a verse", len(lines), ">= 2", len(lines) > 1)


def speed_bars(bars: Bars, z: Mapping[str, Any], photo: str) -> None:
    start = time.perf_counter()
    generate.story(z, photo, K, BW, show=False)
    again = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as cache:
        for name, bar in (("right after installing", 30), ("warm", 8)):
            # Not getrusage's figure, which a child takes over from this process.
            code = ("import sys; from storyteller import cli; status = cli.main(sys.argv[1:]);"
                    "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')];"
                    "print(*peak, file=sys.stderr); sys.exit(status)")
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code, "-q", photo], capture_output=True, text=True, check=True,
                                  env={**os.environ, "STORYTELLER_CACHE": cache})
            seconds = time.perf_counter() - start
            bars.add(f"seconds of a fresh process, {name}", seconds, f"< {bar}", seconds < bar)
            memory = int(done.stderr.split()[-1]) / 1024
            bars.add(f"its largest resident memory, MB, {name}", memory, "< 1000", memory < 1000)
    bars.add("seconds of a further story", again, "< 2", again < 2)


def card(stories: Sequence[Any]) -> str:
    """Twenty photos with their captions and stories as Markdown, evenly spread over all."""
    parts = []
    for i in np.unique(np.linspace(0, len(stories) - 1, CARD_PHOTOS).round().astype(int)):
        story = stories[i]
        nearest = "; ".join(caption.text for caption in story.captions[:3])
        parts.append(f"**{os.path.basename(story.image)}**\n\n*{nearest}*\n\n> {story.text}\n")
    return "\n".join(parts)


PARTS = ("sight", "grounding", "style", "language", "styles", "speed")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photos", type=int, help="so many of each set (default: all)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--card", metavar="FILE.md", help="write twenty stories")
    options = parser.parse_args(arguments)
    bars, stories = evaluate(options.inputs, options.only, options.photos)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(bars.rows, file, indent=1)
    if options.card:
        with open(options.card, "w", encoding="utf-8") as file:
            file.write(card(stories))


if __name__ == "__main__":
    main()
