"""How well a decoder predicts passages (perplexity), and writes them again (BLEU)."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError
from ..progress import progress_bar
from ..text import sorted_batches

Text = Any  # a string of words, or a list of words


def perplexity(dec: Any, sequences: Sequence[np.ndarray], vectors: np.ndarray, batch_size: int = 64,
               verbose: bool = False) -> tuple[float, int]:
    """Perplexity of a decoder on passages, by its full softmax.

    Parameters
    ----------
    dec : storyteller.decoder.Decoder
    sequences : sequence of arrays (words,) int
        Word indices of the passages, without ends.
    vectors : array (len(sequences), dimctx) float32
        Their thought vectors.
    batch_size : int
        Passages that are read side by side.
    verbose : bool
        Show progress (on a terminal only).

    Returns
    -------
    perplexity : float
        exp of the mean negative log-likelihood of a word.
    words : int
        How many were predicted, the end of each passage included.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    total = 0.0
    with progress_bar(len(sequences), "measuring perplexity", "passage", verbose) as bar:
        for rows in sorted_batches(lengths, batch_size):
            words = np.zeros((len(rows), lengths[rows[0]] + 1), dtype=np.int64)
            for i, row in enumerate(rows):
                words[i, :lengths[row]] = sequences[row]
            state, last = dec.f_init(vectors[rows]), np.full(len(rows), -1, dtype=np.int64)
            for step in range(words.shape[1]):
                live = int((lengths[rows] >= step).sum())  # the longest come first
                logits, state = dec.step(last[:live], state[:live])
                last = words[:live, step]
                top = logits.max(axis=1, keepdims=True)
                total += float((np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
                                - logits[np.arange(live), last]).sum(dtype=np.float64))
            bar.update(len(rows))
    n_words = int(lengths.sum()) + len(lengths)
    with np.errstate(over="ignore"):
        return float(np.exp(total / n_words)), n_words


def bleu(references: Sequence[Text] | Sequence[Sequence[Text]], hypotheses: Sequence[Text], n: int = 4) -> float:
    """Corpus BLEU (Papineni et al., ACL 2002), not smoothed.

    Parameters
    ----------
    references : sequence of str, or of sequences of str
        One tokenised text (split at white space), or several, for each hypothesis.
    hypotheses : sequence of str
        Tokenised texts, such as passages told from their own vectors.
    n : int
        Longest n-gram that counts.

    Returns
    -------
    float
        From 0 to 100; 0 where an n-gram of some length is never matched.

    Raises
    ------
    StorytellerError
        If there is nothing to compare, or not one reference or more for each hypothesis.

    Notes
    -----
    Matches and n-grams are summed over the corpus, and a text that is too short for an n-gram
    has none, as in sacreBLEU and in COCO's evaluation (NLTK counts one that is missed).  Where
    all hypotheses are too short the longer n-grams are left out (sacreBLEU's
    ``effective_order``), so that an exact copy is always 100.

    Hypotheses may also be lists of words, references then lists of such lists, as for
    ``nltk.translate.bleu_score.corpus_bleu``.

    Examples
    --------
    >>> bleu(["she sat by the window ."], ["she sat by the window ."])
    100.0
    """
    for name, value in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise StorytellerError(f"{name} is {type(value).__name__}: expected a list of texts, such as ['a dog .']")
    references, hypotheses = list(references), list(hypotheses)
    if not hypotheses or len(references) != len(hypotheses):
        raise StorytellerError(f"{len(references)} references for {len(hypotheses)} hypotheses: expected at least "
                               "one text, and one reference (or list of references) for each")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise StorytellerError(f"n is {n!r}: expected a whole number of at least 1")
    matched, possible, written, wanted = [0] * n, [0] * n, 0, 0
    for several, hypothesis in zip(references, hypotheses):
        words = _words(hypothesis, "hypotheses")
        several = [several] if isinstance(several, str) else several
        if not isinstance(several, (list, tuple)) or not several or any(
                isinstance(text, str) != isinstance(hypothesis, str) for text in several):
            raise StorytellerError("references and hypotheses do not fit: expected strings for both, or lists of words "
                                   "for hypotheses, and for each of them a list of one such list or more")
        others = [_words(text, "references") for text in several]
        written += len(words)
        wanted += min(map(len, others), key=lambda length: (abs(length - len(words)), length))
        for size in range(n):
            grams = _grams(words, size + 1)
            most: Counter[tuple[str, ...]] = Counter()
            for other in others:
                most |= _grams(other, size + 1)
            matched[size] += sum((grams & most).values())
            possible[size] += sum(grams.values())
    orders = sum(count > 0 for count in possible)  # the longest come last
    if not orders or not all(matched[:orders]):
        return 0.0
    brevity = min(1.0, math.exp(1 - wanted / written))
    return 100 * brevity * math.prod(matched[i] / possible[i] for i in range(orders)) ** (1 / orders)


def _words(text: Text, name: str) -> list[str]:
    if isinstance(text, str):
        return text.split()
    if isinstance(text, (list, tuple)) and all(isinstance(word, str) for word in text):
        return list(text)
    raise StorytellerError(f"{name} holds {type(text).__name__} where a text is expected: give strings, or lists of "
                           "words")


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i:i + size]) for i in range(len(words) - size + 1))
