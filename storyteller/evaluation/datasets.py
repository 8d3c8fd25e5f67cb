"""The data sets of transfer: TREC, MR, CR, SUBJ, MPQA, MSRP and SICK, as their authors publish them."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import StorytellerError
from ..files import open_text


def _rows(path: str | os.PathLike, what: str) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, of UTF-8 or else Latin-1; blank ones are left out."""
    found = False
    for number, line in enumerate(open_text(path, what, "latin-1"), start=1):
        if line.strip():
            found = True
            yield number, line
    if not found:
        raise StorytellerError(f"{os.fspath(path)}: is blank; expected {what}")


def _malformed(path: str | os.PathLike, number: int, line: str, what: str) -> StorytellerError:
    shown = line if len(line) <= 60 else line[:57] + "..."
    return StorytellerError(f"{os.fspath(path)}, line {number}: {shown!r} is not {what}; check whether files were "
                            "swapped, or fetch the file again")


def load_trec(path: str | os.PathLike, fine: bool = False) -> tuple[list[str], list[str]]:
    """Read questions of TREC (Li & Roth, COLING 2002): ``LABEL:sub text`` a line, Latin-1.

    Parameters
    ----------
    path : path
        Such as ``train_5500.label`` or ``TREC_10.label``.
    fine : bool
        Labels such as ``NUM:date`` (50) instead of ``NUM`` (6).

    Returns
    -------
    texts, labels : lists of str

    Raises
    ------
    StorytellerError
        If the file cannot be read, or a line is malformed.
    """
    texts, labels = [], []
    for number, line in _rows(path, "questions of TREC (LABEL:sub text, one a line)"):
        label, _, text = line.strip().partition(" ")
        coarse, colon, sub = label.partition(":")
        if not (colon and coarse.isupper() and sub and text.strip()):
            raise _malformed(path, number, line, "a question of TREC (LABEL:sub text)")
        texts.append(text.strip())
        labels.append(label if fine else coarse)
    return texts, labels


def load_binary(positive: str | os.PathLike, negative: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Read MR, CR, SUBJ or MPQA: a file of positive and one of negative sentences, one a line.

    For SUBJ the subjective sentences are the positive ones.

    Returns
    -------
    texts : list of str
        Positive ones first.
    labels : array (n,) int64
        1 or 0.

    Raises
    ------
    StorytellerError
        If a file cannot be read or is blank.
    """
    sides = [[line.strip() for _, line in _rows(path, f"{name} sentences, one a line")]
             for path, name in ((positive, "positive"), (negative, "negative"))]
    return sides[0] + sides[1], np.repeat(np.array([1, 0]), [len(side) for side in sides])


def load_msrp(path: str | os.PathLike) -> tuple[list[str], list[str], np.ndarray]:
    """Read paraphrases of the Microsoft Research corpus (Dolan et al., COLING 2004).

    Parameters
    ----------
    path : path
        ``msr_paraphrase_train.txt`` or ``msr_paraphrase_test.txt``: five tab-separated columns
        under a header; quotes are plain text.

    Returns
    -------
    first, second : lists of str
    labels : array (n,) int64
        1 where they are paraphrases, else 0.

    Raises
    ------
    StorytellerError
        If the file cannot be read, or a line is malformed.
    """
    what = "a pair of MSRP (Quality, two ids and two sentences, tab-separated)"
    rows = _table(path, ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), what)
    first, second, labels = [], [], []
    for number, line, (quality, _, _, one, two) in rows:
        if quality not in ("0", "1") or not (one and two):
            raise _malformed(path, number, line, what)
        first.append(one)
        second.append(two)
        labels.append(int(quality))
    return first, second, np.array(labels, dtype=np.int64)


def load_sick(path: str | os.PathLike) -> tuple[list[str], list[str], np.ndarray, list[str]]:
    """Read pairs of SICK (Marelli et al., LREC 2014).

    Parameters
    ----------
    path : path
        ``SICK_train.txt``, ``SICK_trial.txt`` or ``SICK_test_annotated.txt``: five
        tab-separated columns under a header.

    Returns
    -------
    first, second : lists of str
    scores : array (n,) float64
        Relatedness, 1 to 5.
    labels : list of str
        ENTAILMENT, NEUTRAL or CONTRADICTION.

    Raises
    ------
    StorytellerError
        If the file cannot be read, or a line is malformed.
    """
    what = "a pair of SICK (id, two sentences, a score from 1 to 5 and a judgment, tab-separated)"
    header = ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")
    first, second, scores, labels = [], [], [], []
    for number, line, (_, one, two, score, label) in _table(path, header, what):
        try:
            value = float(score)
        except ValueError:
            value = 0.0
        if not (1 <= value <= 5 and one and two and label in ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")):
            raise _malformed(path, number, line, what)
        first.append(one)
        second.append(two)
        scores.append(value)
        labels.append(label)
    return first, second, np.array(scores, dtype=np.float64), labels


def _table(path: str | os.PathLike, header: Sequence[str], what: str,
           ) -> Iterator[tuple[int, str, list[str]]]:
    any_row = False
    for i, (number, line) in enumerate(_rows(path, "a table with a header: " + ", ".join(header))):
        cells = [cell.strip() for cell in line.split("\t")]
        if i == 0:
            if [cell.lower() for cell in cells] != [name.lower() for name in header]:
                raise _malformed(path, number, line, f"the header {', '.join(header)} (tab-separated)")
            continue
        if len(cells) != len(header):
            raise _malformed(path, number, line, what)
        any_row = True
        yield number, line, cells
    if not any_row:
        raise StorytellerError(f"{os.fspath(path)}: has a header and no rows; expected {what} a line, so fetch "
                               "the file again")
