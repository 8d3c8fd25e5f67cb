"""Writing a story sentence by sentence: several candidates of every sentence, of which the best one is told.

A decoder's next sentence is drawn some times over and the candidates are compared: how likely each is, how much
likelier the picture makes it than the style alone does (the mutual information of Li et al. 2016, arXiv:1510.03055,
section 3), how near the joint embedding finds it to the picture, whether it names what the picture shows, and whether
it has faults that a reader sees at once.  The words are drawn with guidance (Ho & Salimans 2022, arXiv:2207.12598):
from p_b (p_x / p_b)^w, where p_x is given the shifted thought and p_b the mean vector of all styles, so that both the
picture and the style are exaggerated; with a decoder that does not know it, the style's alone.

The mean thought of a hundred captions says "fruit" more than "pineapple".  So what the picture shows is made likelier
as the first noun of a story (shifting the distribution towards keywords is of Pascual et al. 2021, arXiv:2109.09707);
from there on the decoder's own state keeps it.

Verse is written in the same way, line by line: see :mod:`storyteller.verse`.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from . import search, verse
from .decoder import Decoder, Passage
from .errors import MOST_CANDIDATES, check_count, check_floats, check_number
from .text import END_ID, UNK_ID, detokenize, sentence_ends, tokenize_words

if TYPE_CHECKING:
    from .embedding import JointEmbedding

LENGTHS = (38, 72)      # words: a story may end from the first on, and ends with its sentence from the second on
SENTENCE = 64           # words of a sentence, at most
ENDS = 0.5              # a story ends where so many of the candidates would end it
# Of a candidate's score: mean log p_x and log p_x / p_b of a word, in nats; the cosine with the picture; and how well
# the content word that fits the picture best does, see named_by.
LIKELY, TOLD_OF, SEEN, NAMED = 1.0, 1.0, 8.0, 2.0
FAULT = 2.5             # nats that a fault costs
# What the picture shows is made likelier as the first noun, by so many nats where it fits best and up to so large a
# log-probability; words that fit half as well are, too.
OPENING, LARGEST, FITTING = 9.0, -1.0, 0.5
RARE = 0.03             # of captions; a word that fewer have is chance


HE = frozenset("he him his himself".split())
SHE = frozenset("she her hers herself".split())
MEN = frozenset("""
man men boy boys father son king prince brother uncle grandfather husband lord gentleman groom waiter fisherman cowboy
tom ben sam jack peter will max henry oscar leo john bill joe tim bob mr sir""".split())
WOMEN = frozenset("""
woman women girl girls mother daughter queen princess sister aunt grandmother wife lady bride mrs miss waitress
anna mary lucy rose emma clara ella nora kate ruth lily mia sue sara""".split())
# Words that may stand twice in a sentence.
COMMON = frozenset("""
a an the this that these those of in on at to for with from by about into over under after before up down out off and or
but so if as than then when while where who which what he she it they i you we him her them me us his hers its their my
your our was is are were be been being had has have did do does would could can may might must shall should will not no
yes all one two some any there here very too just only again more said says at back""".split())
DETERMINERS = frozenset("a an the this that my your his her its our their".split())


@dataclass(frozen=True)
class Sentence:
    """A candidate: its words, the states after it, its costs in nats given x and given b alone, what part of the first
    one is of a last word that was chosen for its rhyme, and what part is forgiven for naming what the picture shows."""

    words: list[int]
    states: np.ndarray
    cost: float
    plain_cost: float
    finished: bool
    forced: float = 0.0
    forgiven: float = 0.0


def words_of(text: str) -> list[str]:
    """Words of a decoder's passage as a reader counts them: no punctuation, "do n't" is one, lower case."""
    return list(_words_of(text))


@lru_cache(maxsize=4096)        # those of a story's sentences are asked for with every candidate
def _words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_](?:[\w']*\w)?", detokenize(text).lower()))


def named_by(captions: Sequence[str], similarity: Callable[[list[str]], np.ndarray] | None = None) -> dict[str, float]:
    """What a picture shows: content words of its captions, and how well each fits it, 1 for the best.

    Nothing where there are no such words.  A word fits by its cosine with the picture times the root of the share of
    the captions that have it; without ``similarity``, and where no word is anything like the picture, by that share.
    Of a pineapple on a table few captions say pineapple, more say table.

    Parameters
    ----------
    captions : sequence of str
    similarity : callable, optional
        Words -> array (n,), cosines with the picture.

    Returns
    -------
    dict of str to float
        0 to 1, lower-case words.
    """
    counts = Counter(word for caption in captions for word in set(words_of(caption)) if _has_content(word))
    shares = {word: count / len(captions) for word, count in counts.items() if count >= RARE * len(captions)}
    fits = shares
    if similarity is not None and shares:
        cosines = similarity(list(shares)).tolist()
        fits = {word: cosine * shares[word] ** 0.5 for word, cosine in zip(shares, cosines) if cosine > 0} or shares
    best = max(fits.values(), default=1.0)
    return {word: fit / best for word, fit in fits.items()}


def _has_content(word: str) -> bool:
    return word not in COMMON and len(word) > 2


def repeats_itself(text: str) -> bool:
    """Whether a content word stands twice in a sentence."""
    content = list(filter(_has_content, words_of(text)))
    return len(set(content)) < len(content)


def persons(words: Sequence[str]) -> tuple[set[str], set[str]]:
    """Of a sentence: whom its pronouns stand for, and whom its nouns name, ``'he'`` and ``'she'``."""
    spoken_of = {name for name, some in (("he", HE), ("she", SHE)) if some & set(words)}
    return spoken_of, {name for name, some in (("he", MEN), ("she", WOMEN)) if some & set(words)}


def faults(text: str, before: Sequence[str]) -> int:
    """What a reader stumbles over in a sentence that follows others.

    Counted are a content word that stands twice, a sentence told before, pronouns of someone who has not been
    spoken of where another one has, and a sentence that begins as the one before does.
    """
    words = words_of(text)
    told = [words_of(sentence) for sentence in before]
    known: set[str] = set()
    for sentence in told:
        known |= set.union(*persons(sentence))
    spoken_of, named = persons(words)
    found = int(repeats_itself(text)) + 2 * int(words in told)
    found += bool(known and spoken_of - named - known)
    found += bool(told and words[:2] == told[-1][:2] and len(words) > 1)
    return found


def image_similarity(vse: JointEmbedding, query: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """How near a decoder's sentences are to a picture in the joint space.

    Parameters
    ----------
    vse : JointEmbedding
    query : array (dim,) float32
        The picture in the joint space, of unit norm.
    texts : sequence of str

    Returns
    -------
    array (len(texts),) float32
        Cosines.
    """
    # As captions are written; of a novel's words many are unknown to a model of captions, which need not be said.
    plain = [" ".join(tokenize_words(detokenize(text))).lower() for text in texts]
    return vse.sentence_vectors(list(map(vse.indices, plain)), 128) @ query


def tell(dec: Decoder, thought: np.ndarray, style: np.ndarray, candidates: int = 12, guidance: float = 1.0,
         temperature: float = 0.6, top_k: int | None = None, top_p: float | None = 0.95, seed: int = 0,
         maxlen: int = 1000, use_unk: bool = False, similarity: Callable[[list[str]], np.ndarray] | None = None,
         named: Mapping[str, float] | None = None, lyric: bool = False) -> Passage:
    """Tell a story, sentence by sentence.

    Parameters
    ----------
    dec : Decoder
    thought : array (dimctx,) float32
        F(x) = x - c + b.
    style : array (dimctx,) float32
        b, what the thought is compared with where the decoder has no option ``plain``.
    candidates : int
        Sentences that each one is chosen from, at most 1,000.
    guidance : float
        w: 1 draws from p_x, 0 from p_b; above 1 what x adds is exaggerated.
    temperature, top_k, top_p, seed
        See :func:`storyteller.search.sample`.
    maxlen : int
        Words at most: the story ends before the sentence that goes beyond them, its first one excepted; verse before
        the pair of lines that does.
    use_unk : bool
        Allow the unknown word.
    similarity : callable, optional
        Sentences as texts of the decoder -> array (n,), cosines with the picture.
    named : mapping of str to float, optional
        Of :func:`named_by`: what the story should name.
    lyric : bool
        Write rhyming pairs of lines, with a decoder that knows what rhymes (:class:`storyteller.verse.Lines`).

    Returns
    -------
    Passage
        Its cost is that of its words given x; its similarity the mean of its sentences'.

    Raises
    ------
    StorytellerError
        If an argument is out of range.
    """
    candidates, maxlen = check_count("candidates", candidates, most=MOST_CANDIDATES), check_count("maxlen", maxlen)
    guidance = check_number("guidance", guidance)
    temperature, top_k, top_p, rng = search.check_sampling(temperature, top_k, top_p, seed)
    contexts = np.stack([check_floats(name, vector).reshape(-1) for name, vector
                         in (("the thought", thought), ("the style", dec.options.get("plain", style)))])
    lines = verse.Lines(dec) if lyric and verse.can_be_written(dec) else None
    ends = np.array(dec.options.get("ends") or sentence_ends(dec.vocabulary), dtype=np.int64)
    opening, closing = (dec.vocabulary.index(mark) if mark in dec.vocabulary else None for mark in ("``", "''"))
    is_whole = lines.is_whole if lines else partial(_is_whole, ends=ends, opening=opening, closing=closing)
    drawing = _Drawing(dec, is_whole, candidates * (verse.LINES if lines else 1), guidance,
                       (temperature, top_k, top_p), rng, use_unk, lines)
    first_noun: _FirstNoun | None = _FirstNoun(dec["worddict"], named or {})
    states, last = dec.f_init(contexts), search.FIRST
    finished, enough = True, False
    told: list[Sentence] = []
    texts: list[str] = []
    near: list[float] = []
    while finished and not enough:
        n_words = sum(len(sentence.words) for sentence in told)
        used = [sentence.words[-2] for sentence in told] if lines else []
        rhyming, last_line = None, False
        if lines and len(told) % 2:
            rhyming = lines.rhyming(told[-1].words[-2], used)
            last_line = n_words >= min(LENGTHS[1], maxlen) - 1.5 * verse.LINE     # another two would be too many
        may_end = n_words >= LENGTHS[0] and rhyming is None and (not lines or last in lines.ends)
        for _ in range(verse.ATTEMPTS if lines and rhyming is None else 1):     # until words rhyme with one's end
            drawn = drawing.sentences(states, last, may_end, rhyming, last_line, first_noun)
            going = [sentence for sentence in drawn if sentence.words]
            if lines and any(lines.is_rhymable(sentence.words[-2], used) for sentence in going):
                break
        if len(going) <= (1 - ENDS) * len(drawn):
            break
        as_text = [dec.text(sentence.words) for sentence in going]
        seen = [0.0] * len(going) if similarity is None else similarity(as_text).tolist()
        weights = (verse.LIKELY, verse.NAMED) if lines else (LIKELY, NAMED)
        scores = [_score(sentence, text, texts, cosine, named or {}, *weights)
                  for sentence, text, cosine in zip(going, as_text, seen)]
        if lines:
            scores = [score - FAULT * lines.faults(sentence.words, words_of(text), used)
                      - verse.FORCED * sentence.forced for score, sentence, text in zip(scores, going, as_text)]
        best = int(np.argmax(scores))
        chosen = going[best]
        if told and n_words + len(chosen.words) > maxlen:
            finished = False
            break
        told.append(chosen)
        first_noun = None if first_noun is None or first_noun.is_among(chosen.words) else first_noun
        texts.append(as_text[best])
        near.append(seen[best])
        states, last, finished = chosen.states, chosen.words[-1], chosen.finished
        enough = last_line if lines else n_words + len(chosen.words) >= LENGTHS[1]
    if lines and len(told) > 1 and len(told) % 2:       # cut off: no line is left without its rhyme
        told.pop(), near.pop()
    words = [word for sentence in told for word in sentence.words]
    if lines and words and words[-1] not in lines.ends:
        words[-1] = lines.full_stop
    return Passage(dec.text(words), sum(sentence.cost for sentence in told), finished,
                   float(np.mean(near)) if near and similarity else None)


def _is_whole(words: Sequence[int], ends: np.ndarray, opening: int | None, closing: int | None) -> bool:
    """Whether a sentence is at its end: what is said in quotation marks goes on until they are closed."""
    said = words.count(opening) > words.count(closing)
    if not words or said:
        return False
    return words[-1] in ends or (len(words) > 1 and words[-1] == closing and words[-2] in ends)


def _score(sentence: Sentence, text: str, before: Sequence[str], seen: float, named: Mapping[str, float],
           likely: float, naming: float) -> float:
    n = len(sentence.words)
    added = np.clip((sentence.plain_cost - sentence.cost) / n, -1, 1)
    return (-likely * (sentence.cost - sentence.forgiven) / n + TOLD_OF * added + SEEN * seen
            + naming * max((named.get(word, 0.0) for word in words_of(text)), default=0.0)
            - FAULT * (faults(text, before) + (not sentence.finished)))


class _FirstNoun:
    """What the picture shows, to be made likelier after the first determiner of a sentence.

    Parameters
    ----------
    worddict : mapping of str to int
        The decoder's.
    named : mapping of str to float
        Of :func:`named_by`.
    """

    def __init__(self, worddict: Mapping[str, int], named: Mapping[str, float]):
        fitting = [word for word, fit in named.items() if fit >= FITTING and word in worddict]
        self._words = np.array([worddict[word] for word in fitting], dtype=np.int64)
        nats = np.array([OPENING * named[word] for word in fitting], dtype=np.float32)
        vowel = np.array([word[0] in "aeiou" for word in fitting], bool)
        # Neither a bus, a kiss nor an iris is several.
        several = np.array([bool(re.search(r"[^sui]s$|(people|men|children)$", word)) for word in fitting], bool)
        self._nats = {i: nats * {"a": ~vowel & ~several, "an": vowel & ~several}.get(word.lower(), 1)
                      for word, i in worddict.items() if word.lower() in DETERMINERS}

    def is_among(self, words: Sequence[int]) -> bool:
        """Whether a sentence names it."""
        return bool(np.isin(self._words, words).any())

    def added(self, words: Sequence[int], log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Words that may come next in a sentence, (m,) int64, and the nats that each is likelier than ``log_p``
        (n_words,) float32 says, (m,) float32."""
        if not words or words[-1] not in self._nats or any(word in self._nats for word in words[:-1]):
            return self._words[:0], np.zeros(0, np.float32)
        return self._words, np.minimum(self._nats[words[-1]], np.maximum(LARGEST - log_p[self._words], 0))


@dataclass(frozen=True)
class _Drawing:
    """How candidates are drawn."""

    dec: Decoder
    is_whole: Callable[[Sequence[int]], bool]
    n: int
    guidance: float
    how: tuple[float, int | None, float | None]
    rng: np.random.Generator
    use_unk: bool
    lines: verse.Lines | None

    def sentences(self, states: np.ndarray, last: int, may_end: bool, rhyming: np.ndarray | None, last_line: bool,
                  first_noun: _FirstNoun | None) -> list[Sentence]:
        """Candidates of the next sentence or line; one without words would end the story."""
        # Candidates that have told the same so far are one hypothesis: m of them given x, then as many given b.
        both, y = states, np.full(1, last, dtype=np.int64)
        live, which = np.arange(self.n), np.zeros(self.n, dtype=np.int64)     # candidates, and the hypothesis of each
        words: list[list[int]] = [[] for _ in range(self.n)]
        # Of each candidate: given x, given b, and forgiven.
        costs, before, found = np.zeros((3, self.n)), np.zeros((3, self.n)), {}
        of_rhymes = np.zeros((3, 1, 0))     # choice and log-probabilities of the words that rhyme, in place of y
        endings: list[Sentence] = []
        limit = verse.LINE if self.lines else SENTENCE
        for position in range(limit):
            begun = both
            logits, both = self.dec.step(np.concatenate([y, y]), both)
            logits = search.log_softmax(logits)
            m = len(y)
            given_x, given_b = logits[:m], logits[m:]
            choice = given_b + np.float32(self.guidance) * (given_x - given_b)
            if not self.use_unk:
                choice[:, UNK_ID] = -np.inf
            if position or not may_end:
                choice[:, END_ID] = -np.inf
            if self.lines:
                choice[:, self.lines.unwanted if position else [*self.lines.unwanted, *self.lines.marks]] = -np.inf
                if position == limit - 1:
                    choice[:, self.lines.no_marks] = -np.inf
            # Each candidate has its own numbers, so that it does not depend on where the others end.
            u, drawn, forgiven = self.rng.random(self.n)[live], np.empty(len(live), np.int64), np.zeros(len(live))
            for hypothesis in range(m):
                mine = which == hypothesis
                if first_noun is not None:
                    likelier, nats = first_noun.added(words[live[np.argmax(mine)]], given_x[hypothesis])
                    choice[hypothesis, likelier] += nats
                drawn[mine] = search.draw(choice[hypothesis], *self.how, u[mine])
                if first_noun is not None:
                    forgiven[mine] = (drawn[mine, None] == likelier) @ nats
            start, before[:, live] = before.copy(), costs[:, live]
            costs[:, live] += -given_x[which, drawn], -given_b[which, drawn], forgiven
            for i, row, word in zip(live, which, drawn):
                if word != END_ID:
                    words[i].append(int(word))
                ended = self.is_whole(words[i])
                if word == END_ID or ended or position == limit - 1:
                    cost, plain_cost, forgiveness = costs[:, i].tolist()
                    found[i] = Sentence(words[i], both[[row, row + m]], cost, plain_cost, ended, 0.0, forgiveness)
                    if ended and self.lines and rhyming is not None:
                        rows, mark = begun[[row, row + m]], self.lines.full_stop if last_line else int(word)
                        # That it rhymes by itself is best.
                        likeliest = (np.flatnonzero(rhyming == words[i][-2]) if words[i][-2] in rhyming
                                     else np.argsort(-of_rhymes[0, row])[:verse.RHYMING])
                        for j in likeliest:
                            cost, plain_cost = (start[:2, i] - of_rhymes[1:, row, j]).tolist()
                            endings.append(Sentence([*words[i][:-2], int(rhyming[j]), mark], rows, cost, plain_cost,
                                                    True, -float(of_rhymes[1, row, j]), float(start[2, i])))
            going = np.array([i not in found for i in live])
            if not going.any():
                break
            n_words = logits.shape[1]
            different, after = np.unique(which[going] * n_words + drawn[going], return_inverse=True)
            parents, y = np.divmod(different, n_words)
            live, which, both = live[going], after.reshape(-1), both[np.concatenate([parents, parents + m])]
            if rhyming is not None:
                of_rhymes = np.stack([some[np.ix_(parents, rhyming)] for some in (choice, given_x, given_b)])
        return _read(self.dec, endings) if endings else [found[i] for i in sorted(found)]


def _read(dec: Decoder, endings: Sequence[Sentence]) -> list[Sentence]:
    """Lines whose last word has been exchanged, their states and costs those before it was read."""
    ends, marks = np.array([sentence.words[-2:] for sentence in endings]).T
    logits, states = dec.step(np.concatenate([ends, ends]),
                              np.concatenate([[sentence.states[i] for sentence in endings] for i in (0, 1)]))
    logits = search.log_softmax(logits)
    m = len(endings)
    rows = np.arange(m)
    given_x, given_b = logits[rows, marks], logits[m + rows, marks]
    return [Sentence(sentence.words, states[[i, i + m]], float(sentence.cost - given_x[i]),
                     float(sentence.plain_cost - given_b[i]), True, sentence.forced, sentence.forgiven)
            for i, sentence in enumerate(endings)]
