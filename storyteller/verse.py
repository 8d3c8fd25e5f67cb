"""Lines of verse that rhyme in pairs.

:mod:`storyteller.telling` writes a line as it does a sentence.  Every second line has to rhyme with the one before, so
its last word is chosen anew among those that do, by what the decoder thinks of them there and of the pause after them
(in Ghazvininejad et al. 2016, "Generating Topical Poetry", section 1, all rhymes are chosen before the lines; here the
first line of a pair chooses).  What rhymes comes with the decoder, in its option ``rhymes``.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .decoder import Decoder

LINE = 16               # words of a line, at most, and its mark
ATTEMPTS = 8            # at the candidates of a first line, where nothing rhymes with any
RHYMING = 4             # words that each second line is tried with at its end
LINES = 2               # lines that are drawn for each candidate: they are shorter than sentences, and must rhyme
LIKELY = 4.0            # what the mean log p_x of a word counts, in place of telling.LIKELY
NAMED = 8.0             # what it counts that a line names what the picture shows, in place of telling.NAMED
FORCED = 0.8            # and the log p_x of a last word that was chosen for its rhyme, besides
RHYMABLE = 8            # words that rhyme with the end of a first line, at least
SYLLABLES = 8           # of a line, as most of our own have
UNRHYMABLE = 100.0      # how much of a fault is a first line that nothing rhymes with
UNEVEN = 0.2            # how much of a fault is each syllable more or less


def can_be_written(dec: Decoder) -> bool:
    """Whether a decoder knows what rhymes, and how a sentence ends."""
    return "rhymes" in dec.options and "." in dec.vocabulary


class Lines:
    """How a decoder's lines of verse end.

    Parameters
    ----------
    dec : Decoder
        With the option ``rhymes``, n_words integers: words of one number rhyme; those of 0 rhyme with none.

    Attributes
    ----------
    marks, ends : list of int
        Marks that end a line, and those of them that end a sentence.
    no_marks : array of int
        All other words.
    unwanted : list of int
        Quotation marks: what is said has marks of its own, which would end lines.
    full_stop : int
    """

    def __init__(self, dec: Decoder):
        def found(marks: str) -> list[int]:
            return [dec.vocabulary.index(mark) for mark in marks.split() if mark in dec.vocabulary]
        self.ends, self.unwanted, self.full_stop = found(". ! ?"), found("`` ''"), dec.vocabulary.index(".")
        self.marks = [*found(", ; :"), *self.ends]
        self.no_marks = np.setdiff1d(np.arange(len(dec.vocabulary)), self.marks)
        self._rhymes = np.asarray(dec.options["rhymes"])
        self._n_rhyming = np.bincount(self._rhymes)
        self._n_rhyming[0] = 0

    def is_whole(self, words: Sequence[int]) -> bool:
        """Whether a line is at its end."""
        return len(words) > 1 and words[-1] in self.marks

    def rhyming(self, word: int, used: Sequence[int]) -> np.ndarray:
        """Words that rhyme with one, but for those that lines have ended with."""
        if not self._rhymes[word]:
            return np.zeros(0, dtype=np.int64)
        found = np.flatnonzero(self._rhymes == self._rhymes[word])
        return found[~np.isin(found, used)]

    def is_rhymable(self, word: int, used: Sequence[int]) -> bool:
        """Whether a first line may end with a word: enough others rhyme with it, and not all of them have ended a line,
        nor has it."""
        rhyme = self._rhymes[word]
        left = self._n_rhyming[rhyme] - np.count_nonzero(self._rhymes[list(used)] == rhyme)
        return bool(word not in used and self._n_rhyming[rhyme] > RHYMABLE and left > 1)

    def faults(self, line: Sequence[int], words: Sequence[str], used: Sequence[int]) -> float:
        """What a reader stumbles over: too many syllables or too few, and a first line whose end rhymes with little.

        Parameters
        ----------
        line : sequence of int
            With its mark.
        words : sequence of str
            The same as a reader counts them.
        used : sequence of int
            The last words of the lines before.
        """
        found = UNEVEN * abs(sum(map(syllables, words)) - SYLLABLES)
        if len(used) % 2 == 0:
            found += UNRHYMABLE * (not self.is_rhymable(line[-2], used))
        return float(found)


def syllables(word: str) -> int:
    """How many a word has, by its spelling: groups of vowels, but for a silent e.

    Of the words of our own verse it is right for 98.6 % (by the CMU Pronouncing Dictionary).
    """
    return max(1, len(re.findall("[aeiouy]+", re.sub(r"(?<=[^l\W])e(d|s)?$", "", word.lower()))))
