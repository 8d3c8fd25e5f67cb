"""Passages for the compact decoder, and the thought vector of each: the mean over its sentences.

When a story is told, x is the mean of many captions' vectors.  So here a passage's vector is the mean of its
sentences' vectors, not the vector of the passage read as one sentence; so is the style b.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from storyteller.formats import write_atomically
from storyteller.layers import unit_rows
from storyteller.progress import progress_bar
from storyteller.text import split_sentences, tokenize_words
from storyteller.training import corpus

MIN_WORDS, MAX_WORDS = 30, 80
LONGEST = 60        # words of a sentence; a passage with a longer one is left out
_CHUNK = 65536      # sentences that are encoded at a time
# Of a family's passages, more for each member; of those that have a word of a member's own name.
_OF_FAMILY, _OF_MEMBER, _OF_NAME = 1200, 30, 150
# Words of names that say nothing of their own.
COMMON = frozenset("""
a of the and with in on old new common white black red green great small grey brown golden water sea tree king house
wild american european indian english irish french japanese german standard miniature wood garden night rock box hot
head table running long bell three""".split())



def passages(files: Iterable[str], min_words: int = MIN_WORDS, max_words: int = MAX_WORDS) -> Iterator[list[list[str]]]:
    """Passages as lists of tokenised sentences.

    Each begins where a paragraph begins or where the one before ended, and takes sentences as long as there
    is room; it crosses paragraphs, but no heading and no end of a work.
    """
    for path in files:
        held: list[list[str]] = []
        for paragraph in corpus.paragraphs(path):
            if corpus.is_heading(paragraph):
                held = []
                continue
            for sentence in split_sentences(paragraph):
                words = tokenize_words(sentence)
                if not words:
                    continue
                if sum(map(len, held)) + len(words) > max_words:
                    if sum(map(len, held)) >= min_words:
                        yield held
                    held = []
                if len(words) <= LONGEST:
                    held.append(words)
            if sum(map(len, held)) >= min_words:
                yield held
                held = []


def encode(files: Sequence[str], words: Mapping[str, int], n_words: int, folder: str, name: str) -> None:
    """Write ``folder/name`` (passages for a decoder of n_words words), ``name.sentences`` and ``name.counts.npy``."""
    if os.path.exists(os.path.join(folder, f"{name}.counts.npy")):
        return
    os.makedirs(folder, exist_ok=True)
    counts: list[int] = []
    whole: list[str] = []

    def sentences() -> Iterator[str]:
        for passage in passages(files):
            counts.append(len(passage))
            whole.append(" ".join(word for sentence in passage for word in sentence))
            for sentence in passage:
                yield " ".join(sentence)

    corpus.EncodedCorpus.build(os.path.join(folder, f"{name}.sentences"), sentences(), words)
    corpus.EncodedCorpus.build(os.path.join(folder, name), whole, words, n_words)
    with write_atomically(os.path.join(folder, f"{name}.counts.npy")) as file:
        np.save(file, np.array(counts, dtype=np.int32))


def sentence_vectors(model: Any, sentences: corpus.EncodedCorpus, first: int, last: int) -> np.ndarray:
    """Thought vectors of encoded sentences [first, last): what ``skipthoughts.encode`` gives for their texts."""
    rows = [np.asarray(sentences[i], dtype=np.int64) for i in range(first, last)]
    used, inverse = np.unique(np.concatenate(rows), return_inverse=True)
    forwards = np.split(inverse.reshape(-1), np.cumsum([len(row) for row in rows])[:-1])
    backwards = [row[::-1] for row in forwards]
    parts = []
    for group in (model._uni, model._bi):
        parts.append(unit_rows(np.concatenate(
            [encoder.last_states(encoder.project(table[used]), backwards if reverse else forwards, 512)
             for table, encoder, reverse in group], axis=1)))
    return np.concatenate(parts, axis=1)


def vectors(model: Any, folder: str, name: str, texts: str) -> np.ndarray:
    """Mean vectors of the passages in ``texts/name``, memory-mapped from ``folder/name.vectors.npy``.

    Goes on where it was interrupted.
    """
    path = os.path.join(folder, f"{name}.vectors.npy")
    if os.path.exists(path):
        return np.load(path, mmap_mode="r")
    sentences = corpus.EncodedCorpus(os.path.join(texts, f"{name}.sentences"))
    ends = np.concatenate([[0], np.cumsum(np.load(os.path.join(texts, f"{name}.counts.npy")))])
    rows = len(ends) - 1
    part, mark = f"{path}.part", f"{path}.done"
    done = int(open(mark).read()) if os.path.exists(mark) and os.path.exists(part) else 0
    found = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float32, None if done else (rows, model.dim))
    with progress_bar(rows, "vectors of passages", "passage", True, done) as bar:
        while done < rows:
            last = max(done + 1, int(np.searchsorted(ends, ends[done] + _CHUNK, side="right")) - 1)
            of_sentences = sentence_vectors(model, sentences, int(ends[done]), int(ends[last]))
            sums = np.add.reduceat(of_sentences, (ends[done:last] - ends[done]).astype(np.int64), axis=0)
            found[done:last] = sums / np.diff(ends[done:last + 1])[:, None]
            found.flush()
            bar.update(last - done)
            done = last
            with write_atomically(mark) as file:
                file.write(str(done).encode())
    del found
    os.replace(part, path)
    os.remove(mark)
    return np.load(path, mmap_mode="r")


def caption_views(vectors: np.ndarray, joint: np.ndarray, groups: Sequence[np.ndarray], k: int = 100, count: int = 6,
                  seed: int = 0) -> np.ndarray:
    """What a picture of each class may come to: mean thought vectors of the k captions nearest to a query.

    Parameters
    ----------
    vectors : array (captions, dim) float32
        Thought vectors of the captions.
    joint : array (captions, d) float32
        Their vectors in the joint space, of unit norm.
    groups : sequence of int arrays
        Rows of each class's captions.
    k : int
    count : int
        Queries for each class: its mean joint vector, with more and more noise.
    seed : int

    Returns
    -------
    array (len(groups), count, dim) float32
    """
    rng = np.random.default_rng(seed)
    found = np.empty((len(groups), count, vectors.shape[1]), dtype=np.float32)
    for views, rows in zip(found, groups):
        centre = joint[rows].mean(axis=0)
        for i, view in enumerate(views):
            noise = rng.standard_normal(len(centre)) * np.linalg.norm(centre) / np.sqrt(len(centre))
            scores = joint @ (centre + 0.2 * i * noise).astype(np.float32)
            view[:] = vectors[np.argpartition(scores, len(scores) - k)[len(scores) - k:]].mean(axis=0)
    return found


def mentions(corpus_: corpus.EncodedCorpus, words: Sequence[str], wanted: Iterable[str]) -> np.ndarray:
    """How often each passage has one of the wanted words, case ignored: (len(corpus),) int32."""
    wanted = set(wanted)
    is_wanted = np.array([word.lower() in wanted for word in words])
    marks = is_wanted[np.asarray(corpus_.tokens)]
    ends = np.concatenate([[0], np.cumsum(marks, dtype=np.int64)])
    offsets = np.concatenate([[0], np.cumsum(corpus_.lengths, dtype=np.int64)])
    return (ends[offsets[1:]] - ends[offsets[:-1]]).astype(np.int32)


def part(folder: str, name: str, target: str, keep: int, of: int) -> None:
    """Write ``keep`` of every ``of`` passages of ``folder/name`` with their sentences as ``folder/target``."""
    if os.path.exists(os.path.join(folder, f"{target}.counts.npy")):
        return
    counts = np.load(os.path.join(folder, f"{name}.counts.npy"))
    kept = np.arange(len(counts)) % of < keep
    for end, rows in (("", kept), (".sentences", np.repeat(kept, counts))):
        source = corpus.EncodedCorpus(os.path.join(folder, name + end))
        _write(os.path.join(folder, target + end), np.asarray(source.tokens)[np.repeat(rows, source.lengths)],
               source.lengths[rows])
    with write_atomically(os.path.join(folder, f"{target}.counts.npy")) as file:
        np.save(file, counts[kept])


def _write(path: str, tokens: np.ndarray, lengths: np.ndarray) -> None:
    """The two files of an encoded corpus."""
    for end, array in (("tokens", tokens.astype("<i4")),
                       ("offsets", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))):
        with write_atomically(f"{path}.{end}.npy") as file:
            np.save(file, array)


def pair_with_captions(source: corpus.EncodedCorpus, words: Sequence[str], classes: Mapping[int, tuple[str, str]],
                       kinds: Mapping[str, str], views: int, seed: int = 0) -> np.ndarray:
    """Passages that a picture of a class may have led to: those that mention it or its kind.

    Parameters
    ----------
    source : EncodedCorpus
        Passages.
    words : sequence of str
        Word of every index.
    classes : mapping of int to (name, family)
    kinds : mapping of str to str
        Words that say what a family's members are.
    views : int
        Vectors there are for each class.
    seed : int

    Returns
    -------
    array (n, 3) int64
        Passage, class, number of the vector.
    """
    rng = np.random.default_rng(seed)
    families: dict[str, list[int]] = {}
    for label, (_, family) in classes.items():
        families.setdefault(family, []).append(label)
    known = {word.lower() for word in words}
    pairs: list[tuple[int, int, int]] = []

    def add(passage: int, label: int) -> None:
        pairs.append((passage, label, int(rng.integers(views))))

    for family, labels in families.items():
        common = set(kinds[family].split())
        if common:
            times = mentions(source, words, common)
            found = np.flatnonzero(times)
            # Those that speak of it most.
            order = np.argsort(-(times[found] + rng.random(len(found))))
            for passage in found[order][:_OF_FAMILY + _OF_MEMBER * len(labels)]:
                add(int(passage), int(rng.choice(labels)))
        for label in labels:
            own = set(classes[label][0].split()) - COMMON - common
            if own & known:
                found = np.flatnonzero(mentions(source, words, own))
                for passage in rng.permutation(found)[:_OF_NAME]:
                    add(int(passage), label)
    return np.array(pairs, dtype=np.int64)


def mix(folder: str, plain: str, whole: str, pairs: np.ndarray, of_pairs: np.ndarray, vector_folder: str,
        target: str) -> None:
    """Every second passage of ``plain`` with its own vector, and the pairs with theirs, as ``target``."""
    some, every = (corpus.EncodedCorpus(os.path.join(folder, name)) for name in (plain, whole))
    vectors_ = np.load(os.path.join(vector_folder, f"{plain}.vectors.npy"), mmap_mode="r")
    texts = [np.asarray(some[i]) for i in range(0, len(some), 2)] + [np.asarray(every[int(i)]) for i in pairs[:, 0]]
    _write(os.path.join(folder, target), np.concatenate(texts), np.array([len(text) for text in texts]))
    rows = (len(some) + 1) // 2
    path = os.path.join(vector_folder, f"{target}.vectors.npy")
    out = np.lib.format.open_memmap(f"{path}.part", "w+", np.float32, (len(texts), vectors_.shape[1]))
    out[:rows] = vectors_[::2]
    out[rows:] = of_pairs[pairs[:, 1], pairs[:, 2]]
    out.flush()
    del out
    os.replace(f"{path}.part", path)
