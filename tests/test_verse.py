"""Verse told line by line."""
from __future__ import annotations

import numpy as np
import pytest

from storyteller import StorytellerError, decoder, search, telling, verse
from storyteller.decoder import Decoder
from storyteller.layers import init_dense, init_gru
from storyteller.stories import verse_lines

RHYMES = ["cat hat bat mat rat sat", "day way say hay may lay", "tree sea me free bee key", "sky dry fly"]
WORDS = ["<eos>", "UNK", ".", ",", ";", "``", "''", "the", "orange", *" ".join(RHYMES).split()]
NUMBER = {word: i for i, words in enumerate(RHYMES, 1) for word in words.split()}


def made(bias=None, **more):
    """A small decoder that writes a line after every few words, and stands back a little after every sentence."""
    rng = np.random.default_rng(4)
    n, dim = len(WORDS), 8
    params = {"Wemb": rng.standard_normal((n, 5)).astype(np.float32), **init_dense("ff_state", 4, dim, rng),
              **init_gru("decoder", 5, dim, rng), **init_dense("ff_hid", dim, 5, rng),
              **init_dense("ff_logit", 5, n, rng),
              "sentences": rng.standard_normal((6, dim)).astype(np.float32)}
    params["ff_logit_W"] = rng.standard_normal((5, n)).astype(np.float32) * 2
    params["ff_logit_b"] = np.array([0, 0, 0, 2, 1] + [1] * (n - 5), dtype=np.float32)
    if bias:
        params["ff_logit_b"][bias[0]] = bias[1]
    return Decoder({"dim": dim, "put_back": 0.3, "ends": [2], **more}, params, WORDS)


@pytest.fixture(scope="module")
def dec():
    return made(rhymes=[NUMBER.get(word, 0) for word in WORDS])


def vector(seed):
    return np.random.default_rng(seed).standard_normal(4).astype(np.float32)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(verse, "RHYMABLE", 2)
    monkeypatch.setattr(telling, "LENGTHS", (12, 50))


def test_lines_rhyme_in_pairs(dec):
    for seed in range(6):
        told = telling.tell(dec, vector(1), vector(2), 6, seed=seed, lyric=True)
        assert told.finished and told.text.endswith(" .") and "``" not in told.text and "UNK" not in told.text
        lines = [line.strip(",.;").split() for line in verse_lines(told.text)]
        assert len(lines) % 2 == 0 and all(len(line) < verse.LINE for line in lines)
        ends = [line[-1].lower() for line in lines]
        assert len(set(ends)) == len(ends)
        assert all(NUMBER[a] == NUMBER[b] for a, b in zip(ends[::2], ends[1::2]))
        assert telling.tell(dec, vector(1), vector(2), 6, seed=seed, lyric=True) == told
    plain = telling.tell(dec, vector(1), vector(2), 6, seed=0)
    assert plain != telling.tell(dec, vector(1), vector(2), 6, seed=0, lyric=True)


def test_costs_are_the_decoders(dec):
    for seed in range(6):
        told = telling.tell(dec, vector(1), vector(2), 6, seed=seed, lyric=True)
        state, last, cost = dec.f_init(vector(1)[None]), np.array([search.FIRST]), 0.0
        for word in map(WORDS.index, told.text.split()):
            p, state = dec.f_next(last, state)
            cost, last = cost - np.log(p[0, word]), np.array([word])
        assert told.cost == pytest.approx(cost, rel=1e-4)


def test_no_line_is_left_without_its_rhyme(dec):
    for most in range(1, 40, 3):
        told = telling.tell(dec, vector(1), vector(2), 4, maxlen=most, seed=most, lyric=True)
        lines = verse_lines(told.text)
        assert len(lines) == 1 or len(lines) % 2 == 0
        assert told.text.endswith(" .")
        assert len(told.text.split()) <= max(most, 2 * verse.LINE)


def test_every_line_ends_and_rhymes(dec):
    """However hot the drawing, and with a decoder that hardly ever pauses or likes words that nothing rhymes with."""
    for bias in ((3, -9.0), (WORDS.index("orange"), 3.0)):
        for seed in range(4):
            told = telling.tell(made(bias, rhymes=dec.options["rhymes"]), vector(1), vector(2), 2, temperature=2.0,
                                seed=seed, lyric=True)
            ends = [line.strip(",.;").split()[-1].lower() for line in verse_lines(told.text)]
            assert told.finished and len(ends) % 2 == 0
            assert all(NUMBER[a] == NUMBER[b] for a, b in zip(ends[::2], ends[1::2]))


def test_titles_end_no_line():
    assert verse_lines("He met Mr. Jones , and Mrs. Day .") == ["He met Mr. Jones,", "And Mrs. Day."]


def test_a_decoder_without_rhymes_tells_sentences(dec):
    assert (telling.tell(made(), vector(1), vector(2), 4, lyric=True)
            == telling.tell(dec, vector(1), vector(2), 4, lyric=False))


def test_what_a_line_is_blamed_for(dec):
    lines = verse.Lines(dec)

    def faults(text, used=()):
        return lines.faults(list(map(WORDS.index, text.split())), text.split()[:-1], list(map(WORDS.index, used)))
    even = "the " * 7
    assert faults(even + "cat ,") == 0 and faults(even + "the cat ,") == pytest.approx(verse.UNEVEN)
    assert faults(even + "orange ,") == pytest.approx(verse.UNRHYMABLE + verse.UNEVEN)
    assert faults(even + "cat ,", ["cat", "hat"]) == verse.UNRHYMABLE and faults(even + "cat ,", ["sky"]) == 0
    assert [WORDS[word] for word in lines.rhyming(WORDS.index("cat"), [WORDS.index(word) for word in ("cat", "mat")])
            ] == ["hat", "bat", "rat", "sat"]
    assert lines.rhyming(WORDS.index("orange"), []).size == 0


def test_syllables():
    for word, count in {"cat": 1, "orange": 2, "tree": 1, "made": 1, "table": 2, "the": 1, "sees": 1, "quickly": 2,
                        "I'm": 1, "banana": 3, "hm": 1}.items():
        assert verse.syllables(word) == count, word


def test_guidance_away_from_the_mean_of_all_styles(dec):
    plain = made(plain=vector(3).tolist())
    told = telling.tell(plain, vector(1), vector(2), 4, guidance=2)
    assert told == telling.tell(made(), vector(1), vector(3), 4, guidance=2)
    assert told != telling.tell(made(), vector(1), vector(2), 4, guidance=2)
    options = {"dim": 4, "dim_word": 3, "dimctx": 2, "n_words": 8}
    for wrong in ([0.5], [0.5, float("nan")], "no", 3):
        with pytest.raises(StorytellerError, match="option 'plain'"):
            decoder.parameter_shapes({**options, "plain": wrong}, "")


@pytest.mark.parametrize("rhymes", [[0] * 3, "aabb", [-1] * 8, [0.5] * 8, 7])
def test_rhymes_are_checked(tmp_path, rhymes):
    options = {"dim": 4, "dim_word": 3, "dimctx": 5, "n_words": 8, "rhymes": rhymes}
    with pytest.raises(StorytellerError, match="option 'rhymes'"):
        decoder.parameter_shapes(options, tmp_path / "romance.npz.pkl")
    assert decoder.parameter_shapes({**options, "rhymes": [0] * 8}, "")
