"""Passages for the compact decoder, and the thought vector of each: the mean over its sentences.

When a story is told, x is the mean of many captions' vectors.  So here a passage's vector is the mean of its
sentences' vectors, not the vector of the passage read as one sentence; so is the style b.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from storyteller.files import write_atomically
from storyteller.progress import progress_bar
from storyteller.text import split_sentences, tokenize_words
from storyteller.training import corpus

LONGEST = 60        # words of a sentence; a passage with a longer one is left out
_CHUNK = 65536      # sentences that are encoded at a time


def passages(files: Iterable[str], min_words: int, max_words: int) -> Iterator[list[list[str]]]:
    """Passages of so many words, as lists of tokenised sentences.

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


def sentence_vectors(model: Any, sentences: corpus.EncodedCorpus, first: int, last: int) -> np.ndarray:
    """Thought vectors of encoded sentences [first, last): what ``skipthoughts.encode`` gives for their texts."""
    rows = [np.asarray(sentences[i], dtype=np.int64) for i in range(first, last)]
    return model.vectors(rows, batch_size=512)


def vectors(model: Any, folder: str, name: str) -> np.ndarray:
    """Mean vectors of the passages of ``folder/name``, float16, memory-mapped from ``folder/name.vectors.npy``.

    Goes on where it was interrupted.
    """
    path = os.path.join(folder, f"{name}.vectors.npy")
    if os.path.exists(path):
        return np.load(path, mmap_mode="r")
    sentences = corpus.EncodedCorpus(os.path.join(folder, f"{name}.sentences"))
    ends = np.concatenate([[0], np.cumsum(np.load(os.path.join(folder, f"{name}.counts.npy")))])
    rows = len(ends) - 1
    part, mark = f"{path}.part", f"{path}.done"
    done = int(open(mark).read()) if os.path.exists(mark) and os.path.exists(part) else 0
    found = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float16, None if done else (rows, model.dim))
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


def part(folder: str, name: str, target: str, keep: int, of: int, first: int = 0) -> None:
    """Write ``keep`` of every ``of`` passages of ``folder/name``, from number ``first`` of them on, with their
    sentences as ``folder/target``."""
    if os.path.exists(os.path.join(folder, f"{target}.counts.npy")):
        return
    counts = np.load(os.path.join(folder, f"{name}.counts.npy"))
    kept = (np.arange(len(counts)) - first) % of < keep
    for end, rows in (("", kept), (".sentences", np.repeat(kept, counts))):
        source = corpus.EncodedCorpus(os.path.join(folder, name + end))
        write(os.path.join(folder, target + end), np.asarray(source.tokens)[np.repeat(rows, source.lengths)],
               source.lengths[rows])
    with write_atomically(os.path.join(folder, f"{target}.counts.npy")) as file:
        np.save(file, counts[kept])


def write(path: str, tokens: np.ndarray, lengths: np.ndarray) -> None:
    """The two files of an encoded corpus: all its tokens, and lengths of its passages."""
    for end, array in (("tokens", tokens.astype("<i4")),
                       ("offsets", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))):
        with write_atomically(f"{path}.{end}.npy") as file:
            np.save(file, array)
