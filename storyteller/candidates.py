"""Choosing among several passages the one that fits a picture best.

The likeliest passage for a thought vector is often one that could be told of many pictures.  So several
passages are written, each is put where captions are, into the joint space of images and sentences, and the
one is told that fits the picture and reads fluently.  The idea is that of reranking by a reverse model
(Li et al. 2016, arXiv:1510.03055, section 4.2), with the joint embedding in the reverse model's place.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .decoder import Passage
from .text import detokenize, split_sentences, tokenize_words

# The beam's best are much alike, and often what the decoder has learnt by heart; the passages drawn are
# conservative, and the same every time.
OF_BEAM = 10
SAMPLING_OPTIONS = {"temperature": 0.7, "top_k": None, "top_p": 0.95, "seed": 0}

REPEATED = 3           # no passage is told that has so many words in a row twice
WEIGHT = 8.0           # of the similarity beside the mean cost of a word, see rerank
WORDS = (30, 110)      # lengths that count as a short story


def image_similarity(vse: Any, passages: Sequence[Passage], query: np.ndarray) -> np.ndarray:
    """How similar passages are to a picture, in the joint space.

    Parameters
    ----------
    vse : JointEmbedding
    passages : sequence of Passage
    query : array (dim,) float32
        The picture in the joint space, of unit norm.

    Returns
    -------
    array (len(passages),) float32
        Cosine of the picture and the passage's sentence that is nearest to it, plus that of the passage read as
        one sentence: between -2 and 2.  0 for a passage without words.
    """
    texts = [[_caption(s) for s in split_sentences(detokenize(passage.text)) if s.split()] for passage in passages]
    told = [row for row, sentences in enumerate(texts) if sentences]
    flat = [sentence for row in told for sentence in texts[row]] + [" ".join(texts[row]) for row in told]
    found = np.zeros(len(passages), dtype=np.float32)
    if told:
        # Of a novel's words many are unknown to a model of captions, which need not be said.
        scores = vse.sentence_vectors(list(map(vse.indices, flat)), 128) @ np.asarray(query, dtype=np.float32)
        starts = np.cumsum([0, *(len(texts[row]) for row in told)])
        found[told] = np.maximum.reduceat(scores[:starts[-1]], starts[:-1]) + scores[starts[-1]:]
    return found


def _caption(sentence: str) -> str:
    """A sentence as captions are written: words apart by blanks, in lower case."""
    return " ".join(tokenize_words(sentence)).lower()


def words_of(text: str) -> list[str]:
    """Words of a decoder's passage as a reader counts them: no punctuation, "do n't" is one, lower case."""
    return re.findall(r"[^\W_](?:[\w']*\w)?", detokenize(text).lower())


def repeats(words: Sequence[str], n: int = REPEATED) -> bool:
    """Whether any n words in a row occur twice."""
    runs = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) < len(runs)


def quotes_close(text: str) -> bool:
    """Whether every quotation of a decoder's passage that is opened is closed, and the other way round."""
    marks = [word for word in text.split() if word in ("``", "''")]
    return marks == ["``", "''"] * (len(marks) // 2)


def rerank(passages: Sequence[Passage], similarity: np.ndarray, weight: float = WEIGHT) -> list[Passage]:
    """Passages with the best first: by ``weight`` times the similarity less the cost a word, in nats.

    Those that are unfinished, of an unfit length, repeat themselves or leave a quotation open come last.
    """
    def unfit(passage: Passage) -> int:
        words = words_of(passage.text)
        return ((not passage.finished) + repeats(words) + (not WORDS[0] <= len(words) <= WORDS[1])
                + (not quotes_close(passage.text)))

    scores = [weight * s - p.cost / (len(p.text.split()) + 1) for p, s in zip(passages, similarity)]
    order = sorted(range(len(passages)), key=lambda i: (unfit(passages[i]), -scores[i]))
    return [passages[i] for i in order]
