"""Measures of told texts, each a function of texts alone; :mod:`recipes.compact.evaluate` puts them together."""
from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from storyteller import telling
from storyteller.text import split_sentences

from . import captions

LONG = 6            # words of a sentence that counts as copied


def words_in(text: str) -> list[str]:
    """Words without case, numbers among them."""
    return re.findall(r"[a-z0-9']*[a-z0-9][a-z0-9']*", text.lower())


def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether any of the words occurs as a whole word, case ignored."""
    return bool(set(words_in(text)) & {word.lower() for word in words})


def names_class(text: str, name: str) -> bool:
    """Whether the name occurs as whole words, singular or plural, case and the kind of blank ignored."""
    plain = re.sub(r"[_-]", " ", name.lower())
    return re.search(rf"\b{re.escape(plain)}(s|es)?\b", re.sub(r"[_-]", " ", text.lower())) is not None


def parts(text: str) -> list[str]:
    """The sentences of a story; of verse, which has several lines, the lines."""
    return text.splitlines() if "\n" in text else split_sentences(text)


def after_first(text: str) -> str:
    """A story without its first sentence or line."""
    return " ".join(parts(text)[1:])


def shuffled_share(texts: Sequence[str], words: Sequence[Iterable[str]], rounds: int = 20, seed: int = 0) -> float:
    """Share of texts that mention the words of another one's photo, over random permutations."""
    rng = np.random.default_rng(seed)
    return float(np.mean([[mentions(texts[j], of) for j, of in zip(rng.permutation(len(texts)), words)]
                          for _ in range(rounds)]))


def nouns_shared(text: str, said: Sequence[str]) -> set[str]:
    """Nouns of people's captions of a photo that a story has: the nouns in braces of our captions are what counts as
    nouns, singular or plural."""
    of_people = {captions.singular(word) for caption in said for word in words_in(caption)} & _nouns()
    return of_people & {captions.singular(word) for word in words_in(text)}


@functools.lru_cache(1)     # asked for every photo
def _nouns() -> frozenset[str]:
    return frozenset(noun for _, caption in captions.read("captions") for noun in captions.nouns(caption))


def distinct(texts: Sequence[str], n: int = 2, most: int = 4000) -> float:
    """Different n-grams as a share of all, over the first so many words (Li et al. 2016, arXiv:1510.03055)."""
    grams, words = [], 0
    for text in texts:
        found = words_in(text)[:max(0, most - words)]
        words += len(found)
        grams += list(zip(*(found[i:] for i in range(n))))
    return len(set(grams)) / max(1, len(grams))


def doubled(text: str) -> bool:
    """Whether a content word stands twice in a sentence or line of the story."""
    return any(telling.repeats_itself(part) for part in parts(text))


def flips(text: str) -> bool:
    """Whether "he" or "she" comes up where only the other one has been spoken of or named so far."""
    known: set[str] = set()
    for part in parts(text):
        spoken_of, named = telling.persons(words_in(part))
        if known and spoken_of - named - known:
            return True
        known |= spoken_of | named
    return False


def sentences(text: str) -> list[str]:
    """Its sentences or lines as words joined by blanks, lower case."""
    return [" ".join(words) for words in map(words_in, parts(text)) if words]


def told_again(texts: Sequence[str]) -> float:
    """Share of the sentences that are told of another photo, too."""
    counts = Counter(sentence for text in texts for sentence in set(sentences(text)))
    every = [sentence for text in texts for sentence in sentences(text)]
    return float(np.mean([counts[sentence] > 1 for sentence in every])) if every else 0.0


def copied(texts: Sequence[str], known: set[int]) -> float:
    """Share of the sentences of :data:`LONG` words or more that are in a corpus, word for word.

    Parameters
    ----------
    texts : sequence of str
    known : set of int
        ``hash`` of every sentence of the corpus, as :func:`sentences` gives them.
    """
    every = [sentence for text in texts for sentence in sentences(text) if len(sentence.split()) >= LONG]
    return float(np.mean([hash(sentence) in known for sentence in every])) if every else 0.0


def rhymes(lines: Sequence[str], sounds: Mapping[str, Sequence[Sequence[str]]]) -> float:
    """Share of a verse's line ends that rhyme with the next or the next but one, in either direction.

    Parameters
    ----------
    lines : sequence of str
    sounds : mapping of str to sequences of phonemes
        A pronouncing dictionary: the phonemes of each way to say a word, vowels with their stress (1 and 2 stressed),
        as in the CMU Pronouncing Dictionary.
    """
    ends = [(words_in(line) or [""])[-1] for line in lines]
    tails = [set(tails_of(word, sounds)) for word in ends]

    def rhyme(i: int, j: int) -> bool:
        return 0 <= j < len(ends) and ends[i] != ends[j] and bool(tails[i] & tails[j])

    return sum(any(rhyme(i, j) for j in (i - 2, i - 1, i + 1, i + 2)) for i in range(len(ends))) / max(1, len(ends))


def tails_of(word: str, sounds: Mapping[str, Sequence[Sequence[str]]]) -> list[tuple[str, ...]]:
    """From the last stressed vowel on, for each way to say the word."""
    found = []
    for phonemes in sounds.get(word, ()):
        stressed = [i for i, sound in enumerate(phonemes) if sound[-1] in "12"]
        if stressed:
            found.append(tuple(phonemes[stressed[-1]:]))
    return found


def interval(values: Sequence[float], rounds: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the bounds of its 95 % interval by the bootstrap (Efron & Tibshirani 1993, chapter 13)."""
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(array), size=(rounds, len(array)))
    low, high = np.percentile(array[drawn].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
