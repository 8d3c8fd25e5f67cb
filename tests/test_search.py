"""Search over step functions of our own, the arguments of search, decoder and style, and lists of texts."""
from __future__ import annotations

import numpy as np
import pytest

from storyteller import StorytellerError, compact, decoder, search, style, text
from storyteller.errors import check_count, check_flag, check_floats, check_number
from storyteller.training import vocabulary

STATE = np.zeros((1, 2), np.float32)


def fixed(logits):
    """A step function that always gives the same row, in an array of its own that must stay as it is."""
    logits = np.array(logits, np.float32)

    def step(words, states):
        rows = np.repeat(logits[None], len(words), axis=0)
        rows.flags.writeable = False
        return rows, states
    return step


@pytest.fixture(scope="module")
def dec():
    paths = compact.paths()
    return decoder.load_model(paths["decmodel"], paths["dictionary"])


@pytest.mark.parametrize("use_unk", [True, False])
def test_the_callers_logits_stay_as_they_are(use_unk):
    kept = np.log(np.array([0.2, 0.5, 0.2, 0.1], np.float32))
    logits = np.repeat(kept[None], 3, axis=0)
    given = []

    def step(words, states):
        given.append(logits[:len(words)])
        return given[-1], states
    search.beam_search(step, STATE, 3, maxlen=3, use_unk=use_unk)
    search.samples(step, STATE, 3, maxlen=3, use_unk=use_unk)
    assert given and (logits == kept).all()


def test_a_beam_wider_than_the_words_takes_the_unknown_one_last():
    found = search.beam_search(fixed(np.log([0.25, 0.5, 0.25])), STATE, 3, maxlen=1)
    assert [h.words for h in found] == [[0], [2], [1]] and found[2].cost == np.float32(1e20)


def test_unknown_words_within_the_first_block():
    """The likeliest word is the unknown one: the next likeliest of its block is found."""
    logits = np.zeros(700)
    logits[1], logits[5], logits[600] = 9, 3, 2
    assert search.beam_search(fixed(logits), STATE, 2, maxlen=1)[0].words == [5]
    assert search.beam_search(fixed(logits), STATE, 2, maxlen=1, use_unk=True)[0].words == [1]


def test_a_nucleus_of_a_flat_distribution():
    """The words are those of sorting all, wherever the nucleus ends."""
    random = np.random.default_rng(0)
    log_p, u = np.log(random.dirichlet(np.full(3000, 0.3))), random.random(50)
    for top_p in (0.0, 0.5, 0.99, 0.9999, 1 - 1e-7, 1.0):
        p = np.exp(log_p - log_p.max())
        order = np.argsort(-p, kind="stable")
        mass = np.cumsum(p[order])
        mass = mass[:np.searchsorted(mass, p.sum() * top_p) + 1]
        expected = order[np.minimum(np.searchsorted(mass, u * mass[-1], side="right"), len(mass) - 1)]
        assert (search.draw(log_p, 1.0, None, top_p, u) == expected).all()


def test_each_search_keeps_its_logits_to_itself(dec):
    """What it finds is what a search by plain steps finds, and no other search writes there."""
    state = dec.f_init(np.random.default_rng(0).standard_normal((1, dec.dimctx), np.float32) / 50)
    expected = search.beam_search(dec.step, state, 7, maxlen=6)
    found = search.beam_search(dec.step, state, 7, maxlen=6, expand=dec.expander(state, 7, False))
    assert [h.words for h in found] == [h.words for h in expected]
    assert [h.cost for h in found] == pytest.approx([h.cost for h in expected], rel=1e-5)
    first, second = dec.stepper(), dec.stepper()
    words, states = np.array([2, 3]), np.repeat(state, 2, axis=0)
    logits, _ = first(words, states)
    assert np.array_equal(logits, dec.step(words, states)[0])
    assert np.shares_memory(first(words, states)[0], logits)
    assert not np.shares_memory(second(words, states)[0], logits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(value):
    for run in (search.beam_search, search.samples):
        with pytest.raises(StorytellerError):
            run(fixed([0, 0, value]), STATE, 1)


def test_extreme_temperatures():
    """Too small or too large for a float32, yet the likeliest word, or any."""
    step = fixed([0, 5, 1, 2, 1])
    assert {h.words[0] for h in search.samples(step, STATE, 50, 1, False, temperature=1e-300, rng=0)} == {3}
    assert {h.words[0] for h in search.samples(step, STATE, 99, 1, False, temperature=1e300, rng=0)} == {0, 2, 3, 4}


@pytest.mark.parametrize("name, value", [
    ("width", 0), ("width", 1.5), ("width", True), ("width", None), ("maxlen", 0), ("maxlen", np.nan),
    ("use_unk", "no"), ("state", np.zeros(2)), ("state", np.zeros((2, 2))), ("state", np.full((1, 2), np.nan)),
    ("state", "a")])
def test_arguments_of_the_beam(name, value):
    with pytest.raises(StorytellerError, match=name if name != "width" else "beam width"):
        search.beam_search(**{"step": fixed([0, 0]), "state": STATE, "width": 1, name: value})


SAMPLING = [("temperature", 0), ("temperature", -1.0), ("temperature", np.nan), ("temperature", np.inf),
            ("temperature", "1"), ("temperature", 10 ** 400),
            ("top_k", 0), ("top_k", 2.0), ("top_p", 0.0), ("top_p", 1.1), ("top_p", np.nan),
            ("seed", -1), ("seed", 1.5), ("seed", "a"), ("seed", True), ("argmax", 2), ("maxlen", -3)]


@pytest.mark.parametrize("name, value", SAMPLING)
def test_arguments_of_sampling(name, value, dec):
    given = {"rng" if name == "seed" else name: value}
    with pytest.raises(StorytellerError, match=name):
        search.sample(fixed([0, 0]), STATE, **given)
    with pytest.raises(StorytellerError, match=name):
        decoder.passages(dec, np.zeros(dec.dimctx), stochastic=True, **{name: value})


@pytest.mark.parametrize("options", [{"seed": 0}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"argmax": True}])
def test_options_of_sampling_are_not_ignored(options, dec):
    for tell in (decoder.passages, decoder.run_sampler):
        with pytest.raises(StorytellerError, match=next(iter(options))):
            tell(dec, np.zeros(dec.dimctx), **options)
    assert decoder.run_sampler(dec, np.zeros(dec.dimctx), maxlen=2, temperature=1, argmax=False)


def test_a_decoder_as_a_dict(dec):
    assert dec["options"] is dec.options and dec["word_idict"][0] == "<eos>"
    word = dec["word_idict"][7]
    assert dec["worddict"][word] == 7
    state = dec["f_init"](np.zeros((1, dec.dimctx)))
    assert dec["f_next"](np.array([-1]), state)[0].sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(KeyError):
        dec["none"]


@pytest.mark.parametrize("call", [
    lambda dec: decoder.passages(None, np.zeros(3)),
    lambda dec: decoder.passages(dec, None),
    lambda dec: decoder.passages(dec, "a"),
    lambda dec: decoder.passages(dec, np.zeros((2, dec.dimctx))),
    lambda dec: decoder.passages(dec, np.full(dec.dimctx, np.inf)),
    lambda dec: dec.step(np.array([10 ** 6]), np.zeros((1, dec.dim), np.float32)),
    lambda dec: dec.step(np.array([0.5]), np.zeros((1, dec.dim), np.float32)),
    lambda dec: dec.f_next(np.array([0]), np.zeros((2, dec.dim), np.float32)),
    lambda dec: dec.f_next(None, None)])
def test_arguments_of_the_decoder(dec, call):
    with pytest.raises(StorytellerError):
        call(dec)


def test_numbers():
    assert check_count("n", np.int64(3)) == 3 and check_number("x", np.float32(0.5), 0, 1) == 0.5
    assert check_flag("f", np.True_) is True and check_flag("f", 0) is False
    array = check_floats("a", [[1, 2]], (1, None))
    assert array.dtype == np.float32 and array.shape == (1, 2)
    for value in (None, "2", 2.0, np.nan, True, [1], np.zeros(1), 1j, 10 ** 30):
        with pytest.raises(StorytellerError, match="n is"):
            check_count("n", value)
    for value in ([None], ["a"], [[1], [1, 2]], 10 ** 30, 1j, object):
        with pytest.raises(StorytellerError, match="a is"):
            check_floats("a", value)
    with pytest.raises(StorytellerError) as caught:
        check_count("n", "x" * 10 ** 6)
    assert len(str(caught.value)) < 200


# Lists of texts.

class Table:
    """As a data frame behaves: its columns, and iteration over their names."""

    columns = ("id", "text")
    ndim = 2

    def __iter__(self):
        return iter(self.columns)


class Model:
    """Vectors that say how many words a text has."""

    def encode(self, texts, verbose=False):
        return np.array([[len(one.split())] for one in texts], np.float32)


WRONG = [("a man", "[X]"), (b"a man", "[X]"), (np.array("a man"), "item"), ({"a": "b"}, "values"),
         ({"a", "b"}, "sorted"), (Table(), "X['text']"), (np.array([["a", "b"]]), "column"),
         (None, "list"), (3, "list"), (["a", None], "X[1]"),
         (["a", float("nan")], "X[1]"), ([3], "X[0]"), ([["a", "man"]], "X[0]"), ([{"text": "a"}], "X[0]"),
         (iter([b"a", 1]), "X[1]")]


@pytest.mark.parametrize("X, hint", WRONG, ids=lambda value: str(type(value).__name__))
def test_no_lists_of_texts(X, hint):
    with pytest.raises(StorytellerError) as caught:
        text.as_sentences(X)
    assert hint in str(caught.value)


def test_lists_of_texts():
    class Series:
        """As a column of a data frame."""

        ndim, index = 1, range(2)

        def __iter__(self):
            return iter(["a", "b"])
    for X in (["a", "b"], ("a", b"b"), np.array(["a", "b"]), np.array(["a", "b"], object), np.array([b"a", b"b"]),
              (c for c in "ab"), Series(), {"a": 1, "b": 2}.keys()):
        assert text.as_sentences(X) == ["a", "b"]
    assert text.as_sentences([]) == [] and text.as_sentences([b"caf\xe9"]) == ["caf\ufffd"]


@pytest.mark.parametrize("X", ["a man", {"a": "b"}, Table(), [None], [3], 5, np.array("a man")])
def test_every_door_takes_lists_of_texts_alone(X):
    model = Model()
    for call in (lambda: style.make(model, X, 1), lambda: style.sentence_means(model, [X]),
                 lambda: vocabulary.build(X), lambda: text.build_dictionary(X)):
        with pytest.raises(StorytellerError):
            call()


# Styles.

@pytest.mark.parametrize("call", [
    lambda path: style.shift(np.zeros(3), np.zeros(2), np.zeros(3)),
    lambda path: style.shift(np.full(3, np.nan), np.zeros(3), np.zeros(3)),
    lambda path: style.shift(np.zeros(3), np.zeros(3), np.full(3, np.inf)),
    lambda path: style.shift(np.zeros((0, 3)), np.zeros(3), np.zeros(3)),
    lambda path: style.shift(np.zeros(3), np.zeros(3), np.zeros(3), strength=np.nan),
    lambda path: style.shift(np.zeros(3), np.zeros(3), np.zeros(3), strength="1"),
    lambda path: style.make(None, ["a"]),
    lambda path: style.make(Model(), ["a"], min_words=-1),
    lambda path: style.make(Model(), ["a"], min_words=1.5),
    lambda path: style.make(Model(), ["a"], 1, sentences="no"),
    lambda path: style.sentence_means(Model(), ["a b"]),
    lambda path: style.sentence_means(Model(), {"a": ["b"]}),
    lambda path: style.save(path, np.array([0, np.nan])),
    lambda path: style.save(path, "a"),
    lambda path: style.save(path, np.zeros((2, 2))),
    lambda path: style.save(path, []),
    lambda path: style.load(path),
])
def test_arguments_of_styles(tmp_path, call):
    with pytest.raises(StorytellerError):
        call(tmp_path / "style.npy")
    assert not list(tmp_path.iterdir())


def test_a_style_is_kept(tmp_path):
    vector = style.make(Model(), ("two words" for _ in range(3)), 1)
    style.save(tmp_path / "style.npy", vector)
    assert style.load(tmp_path / "style.npy", 1) == vector == 2


def test_costs_of_given_words(dec):
    """Those of the search's own passages are the costs that it gave them."""
    state = dec.f_init(np.full((1, dec.dimctx), 0.01, np.float32))
    found = search.samples(dec.step, state, 6, maxlen=9, rng=1)
    np.testing.assert_allclose(search.costs(dec.step, state, [h.words for h in found]), [h.cost for h in found],
                               rtol=1e-4)
    assert search.costs(dec.step, state, []) == [] and search.costs(dec.step, state, [[]]) == [0]


@pytest.mark.parametrize("stochastic", [False, True])
def test_whole_sentences(dec, stochastic):
    options = dict(beam_width=9, n_best=9, stochastic=stochastic, maxlen=20, **({"seed": 2} if stochastic else {}))
    c = np.full(dec.dimctx, 0.01, np.float32)
    plain = decoder.passages(dec, c, **options)
    whole = decoder.passages(dec, c, **options, whole_sentences=True)
    ended = [p.text.split()[-1] in (".", "!", "?", "''", ")") for p in whole]
    assert any(ended) and ended == sorted(ended, reverse=True) == [p.finished for p in whole]
    assert len({p.text for p in whole}) == len(whole) and not all(p.finished for p in plain)
    state = dec.f_init(c[None])
    index = {word: i for i, word in enumerate(dec.vocabulary)}
    for p in whole[:ended.index(False) if False in ended else None]:
        words = [index[word] for word in p.text.split()]
        possible = search.costs(dec.step, state, [words, [*words, 0]])
        assert len(words) <= 20 and min(abs(p.cost - cost) for cost in possible) < 1e-3
    assert decoder.passages(dec, c, 3, maxlen=1, whole_sentences=True) == decoder.passages(dec, c, 3, maxlen=1)
