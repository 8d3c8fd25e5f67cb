"""How well a decoder writes: perplexity of given passages, and BLEU of those it writes again."""
from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError
from ..progress import progress_bar
from ..text import sorted_batches


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


def bleu(references: Sequence[str] | Sequence[Sequence[str]], hypotheses: Sequence[str],
         n: int = 4) -> float:
    """Corpus BLEU (Papineni et al., ACL 2002), not smoothed, by NLTK.

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
        From 0 to 100; 0 where no n-gram is shared.

    Raises
    ------
    StorytellerError
        If there is nothing to compare, or not one reference or more for each hypothesis.

    Examples
    --------
    >>> bleu(["she sat by the window ."], ["she sat by the window ."])
    100.0
    """
    for name, value in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(value, str):
            raise StorytellerError(f"{name} is one string: expected a list of texts; write [{name}]")
    if not hypotheses or len(references) != len(hypotheses):
        raise StorytellerError(f"{len(references)} references for {len(hypotheses)} hypotheses: expected at least "
                               "one text, and one reference (or list of references) for each")
    if n < 1:
        raise StorytellerError(f"n is {n}: expected at least 1")
    from nltk.translate.bleu_score import corpus_bleu

    several = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
    if not all(several):
        raise StorytellerError("references holds an empty list: expected at least one text for each hypothesis")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no n-gram is shared, which the result says, too
        score = corpus_bleu([[text.split() for text in texts] for texts in several],
                            [text.split() for text in hypotheses], weights=[1 / n] * n)
    score = 100 * float(score)
    return score if score > 1e-9 else 0.0  # NLTK puts the smallest float for a zero
