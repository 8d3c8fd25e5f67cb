"""What the decoder reads: passages of prose, of simple stories and of our own, one dictionary, and thought vectors.

Everything stands in one folder: NAME.txt has the passages of a source, tokenised, one a line, a tab between two
sentences; NAME.tokens.npy and NAME.offsets.npy have the decoder's word indices
(:class:`storyteller.training.corpus.EncodedCorpus`), and NAME.vectors.npy the mean of the vectors of each passage's
sentences.
"""
from __future__ import annotations

import glob
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storyteller import compact, files
from storyteller.text import load_vocabulary, split_sentences, tokenize_words
from storyteller.training import vocabulary
from storyteller.training.corpus import EncodedCorpus

from . import captions, passages, texts

N_WORDS = 20000             # of the decoder, the end mark and UNK included
LENGTHS = (30, 85)          # words of a passage
PROSE = ("tales", "romance", "adventure", "verse")
SIMPLE = ("tinystories", "picture_books", "fables")
STYLES = ("tale", "romance", "adventure", "verse")
# How many times a word of these counts where the dictionary is chosen: they are few and small, and matter most.
WEIGHTS = {"tinystories": 8, "picture_books": 8, "fables": 4}

# Half of the simple stories open alike and are about the same five children; others' names and openings stand there
# in training, so that not every story is theirs.
GIRLS = tuple("Anna Mary Lucy Rose Emma Clara Ella Nora Kate Ruth".split())
BOYS = tuple("Tom Ben Sam Jack Peter Will Max Henry Oscar Leo".split())
WORN = {**dict.fromkeys("""Lily Lilly Mia Sara Sarah Sue Lucy Amy Anna Jane Jill Jenny Emma Molly Daisy Mandy Sally
                        Lola Ella Annie Kitty Susie Emily Ellie Bella Maya""".split(), GIRLS),
        **dict.fromkeys("""Tim Timmy Tom Tommy Ben Max Jack Bob Billy Sam Joe John Johnny Jimmy Mike Fred Freddy Peter
                        Bobby Spot Buddy Charlie David Mark Jim Toby Joey Bill""".split(), BOYS)}
OPENINGS = (("Once upon a time,? (?=there (?:was|were|lived)|in )", ("", "", "", "Once ", "Long ago ")),
            ("Once upon a time,? ", ("One day ", "One morning ", "Once ", "That day ")))
KEPT = 0.15         # of the simple stories keep their opening


def thoughts_folder(work: str) -> str:
    """The folder of the skip-thoughts: those that the recipe trained, or the package's where it trained none."""
    trained = os.path.join(work, "thoughts")
    return trained if os.path.exists(os.path.join(trained, "dictionary.txt")) else compact.FOLDER


def sentences_of(text: str) -> list[list[str]]:
    """The sentences of a text, as lists of words."""
    return [words for words in map(tokenize_words, split_sentences(text)) if words]


def renamed(story: str, rng: np.random.Generator) -> str:
    """A simple story with other names, each for all its occurrences, and mostly another opening."""
    names: dict[str, str] = {}
    for name in dict.fromkeys(re.findall(r"\b[A-Z][a-z]+\b", story)):
        if name in WORN:
            free = [other for other in WORN[name] if other not in names.values()]
            names[name] = str(rng.choice(free or WORN[name]))
    story = re.sub(r"\b[A-Z][a-z]+\b", lambda found: names.get(found[0], found[0]), story)
    if rng.random() >= KEPT:
        for pattern, others in OPENINGS:
            other = str(rng.choice(others))
            story, changed = re.subn(f"^{pattern}", other, story)
            if changed:
                return story[:1].upper() + story[1:]
    return story


def cut(sentences: Sequence[Sequence[str]], rng: np.random.Generator) -> Iterator[list[Sequence[str]]]:
    """A whole story as passages of 45 to 80 words; what is left and short goes to the last one."""
    held: list[Sequence[str]] = []
    wanted = int(rng.integers(45, LENGTHS[1] - 5))
    for sentence in sentences:
        if held and sum(map(len, held)) + len(sentence) > wanted:
            yield held
            held, wanted = [], int(rng.integers(45, LENGTHS[1] - 5))
        if len(sentence) <= passages.LONGEST:
            held.append(sentence)
    if sum(map(len, held)) >= LENGTHS[0] // 2:
        yield held


def simple_passages(corpora: str, name: str, seed: int = 0) -> Iterator[list[Sequence[str]]]:
    """Passages of whole simple stories, other names and openings in those of TinyStories."""
    rng = np.random.default_rng(seed)
    with lzma.open(os.path.join(corpora, f"{name}.txt.xz"), "rt", encoding="utf-8") as file:
        for story in file:
            story = story.strip()
            if name.startswith("tinystories"):
                story = renamed(story, rng)
            yield from cut(sentences_of(story), rng)


def tokenise(corpora: str, works: str, folder: str, name: str) -> None:
    """Write ``folder/NAME.txt``."""
    path = os.path.join(folder, f"{name}.txt")
    if os.path.exists(path):
        return
    found: Iterable[Sequence[Sequence[str]]]
    if name in texts.KINDS:
        found = passages.passages(sorted(glob.glob(os.path.join(works, name, "*.txt"))), *LENGTHS)
    elif name.startswith("own"):
        source = "stories_heldout" if name == "own_heldout" else "stories"
        found = (sentences_of(captions.plain(text)) for _, _, text in captions.read(source))
    else:
        found = simple_passages(corpora, name)
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        for sentences in found:
            file.write("\t".join(" ".join(sentence) for sentence in sentences) + "\n")
    os.replace(f"{path}.part", path)


def lines(folder: str, name: str) -> Iterator[str]:
    """The passages of ``folder/NAME.txt``."""
    with open(os.path.join(folder, f"{name}.txt"), encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def make_dictionary(corpora: str, folder: str, path: str) -> None:
    """Every word of our own stories and captions and of the classes' kinds, then the commonest of all others."""
    if os.path.exists(path):
        return
    counts: Counter[str] = Counter()
    for name in PROSE + SIMPLE:
        of_source: Counter[str] = Counter()
        for line in lines(folder, name):
            of_source.update(line.split())
        for word, count in of_source.items():
            counts[word] += WEIGHTS.get(name, 1) * count
    own = Counter(word for name in ("own", "own_heldout") for line in lines(folder, name) for word in line.split())
    own.update(word for _, caption in captions.read("captions") for word in tokenize_words(captions.plain(caption)))
    kinds = {word for known in captions.CLASSES.values() for name in (known.name, *known.nouns)
             for word in (*name.split(), *captions.plural(name).split())}
    counts.update(own)
    wanted = set(own) | {word for word in kinds if counts[word]}
    for word, _ in counts.most_common():
        if len(wanted) >= N_WORDS - 2:
            break
        wanted.add(word)
    ordered = sorted(wanted, key=lambda word: (-counts[word], word))[:N_WORDS - 2]
    vocabulary.save_dictionary(path, {word: i for i, word in enumerate(ordered, 2)},
                               {word: counts[word] for word in ordered})


def encode(folder: str, name: str, dictionary: str, thoughts: str) -> None:
    """Write the decoder's word indices of a source, and its sentences by the words of the skip-thoughts."""
    if os.path.exists(os.path.join(folder, f"{name}.counts.npy")):
        return
    words = files.load_dictionary(dictionary)
    of_thoughts, _ = load_vocabulary(os.path.join(thoughts, "dictionary.txt"))
    EncodedCorpus.build(os.path.join(folder, f"{name}.sentences"),
                        (sentence for line in lines(folder, name) for sentence in line.split("\t")), of_thoughts)
    EncodedCorpus.build(os.path.join(folder, name), (line.replace("\t", " ") for line in lines(folder, name)), words,
                        N_WORDS)
    with files.write_atomically(os.path.join(folder, f"{name}.counts.npy")) as file:
        np.save(file, np.array([line.count("\t") + 1 for line in lines(folder, name)], dtype=np.int32))


# -- what a stage of the training reads ----------------------------------------------------------

@dataclass(frozen=True)
class Share:
    """Passages of a source for a stage.

    Attributes
    ----------
    name : str
    rows : array of int, optional
        Which; all by default.
    style : array (dim,), optional
        What stands for the vector where b alone is read; the mean of the source's vectors by default.
    """

    name: str
    rows: np.ndarray | None = None
    style: np.ndarray | None = None


def some(n: int, count: int, seed: int = 0) -> np.ndarray:
    """``count`` of n rows, all where there are fewer, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def mix(folder: str, target: str, shares: Sequence[Share]) -> None:
    """Write passages, vectors, style vectors and which style each passage has, as one source ``target``."""
    if os.path.exists(os.path.join(folder, f"{target}.styles.npz")):
        return
    tokens, lengths, which, styles, chosen = [], [], [], [], []
    for number, share in enumerate(shares):
        corpus = EncodedCorpus(os.path.join(folder, share.name))
        vectors = np.load(os.path.join(folder, f"{share.name}.vectors.npy"), mmap_mode="r")
        rows = np.arange(len(corpus)) if share.rows is None else share.rows
        tokens += [np.asarray(corpus[i]) for i in rows]
        lengths.append(corpus.lengths[rows])
        which.append(np.full(len(rows), number))
        styles.append(mean(vectors) if share.style is None else share.style)
        chosen.append((vectors, rows))
    passages.write(os.path.join(folder, target), np.concatenate(tokens), np.concatenate(lengths))
    with files.write_atomically(os.path.join(folder, f"{target}.vectors.npy")) as file:
        np.save(file, np.concatenate([vectors[rows] for vectors, rows in chosen]).astype(np.float16))
    with files.write_atomically(os.path.join(folder, f"{target}.styles.npz")) as file:
        np.savez(file, styles=np.array(styles, dtype=np.float32), which=np.concatenate(which))


def mean(vectors: np.ndarray) -> np.ndarray:
    """The mean of many vectors, some at a time, float32."""
    total = sum(vectors[i:i + 4096].astype(np.float64).sum(axis=0) for i in range(0, len(vectors), 4096))
    return (total / len(vectors)).astype(np.float32)


def whitening(vectors: np.ndarray, ridge: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Mean m and map P, so that (v - m) P has about the same variance along every direction.

    Vectors of captions differ by a few hundredths of what all thought vectors share; a network that reads
    them as they are learns slowly to tell them apart.  The map goes into the decoder's weights afterwards
    (:func:`folded`): the decoder reads thought vectors as ever.
    """
    m = vectors.mean(axis=0, dtype=np.float64)
    centred = (vectors - m).astype(np.float64)
    eigenvalues, directions = np.linalg.eigh(centred.T @ centred / len(vectors))
    eigenvalues = np.maximum(eigenvalues, 0)
    return m, directions / np.sqrt(eigenvalues + ridge * eigenvalues.mean())


def folded(arrays: Mapping[str, np.ndarray], m: np.ndarray, P: np.ndarray) -> dict[str, np.ndarray]:
    """The decoder that reads v and does what this one does at (v - m) P."""
    W = P @ arrays["ff_state_W"].astype(np.float64)
    return {**arrays, "ff_state_W": W.astype(np.float32),
            "ff_state_b": (arrays["ff_state_b"] - m @ W).astype(np.float32)}


class Whitened:
    """Vectors v that are read as (v - m) P, see :func:`whitening`."""

    ndim = 2

    def __init__(self, vectors: np.ndarray, m: np.ndarray, P: np.ndarray):
        self._vectors, self._m, self._P = vectors, m.astype(np.float32), P.astype(np.float32)
        self.shape = vectors.shape

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, index: Any) -> np.ndarray:
        return (np.asarray(self._vectors[index], dtype=np.float32) - self._m) @ self._P


# -- pictures ------------------------------------------------------------------------------------

def pictures(places: np.ndarray, thoughts: np.ndarray, queries: np.ndarray, k: int = 100) -> np.ndarray:
    """x of pictures: the mean thought vectors of the k captions nearest to each.

    Parameters
    ----------
    places : array (captions, d) float32
        The captions in the joint space.
    thoughts : array (captions, dim) float32
        Their thought vectors.
    queries : array (n, d) float32
        The pictures in the joint space.
    k : int

    Returns
    -------
    array (n, dim) float32
    """
    found = np.empty((len(queries), thoughts.shape[1]), dtype=np.float32)
    for first in range(0, len(queries), 256):
        scores = queries[first:first + 256] @ places.T
        nearest = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k:]
        for row, best in zip(found[first:first + 256], nearest):
            row[:] = thoughts[best].mean(axis=0)
    return found
