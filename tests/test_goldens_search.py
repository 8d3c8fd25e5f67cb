"""Decoder steps and searches against the original's (family decoder)."""
from __future__ import annotations

import numpy as np
import pytest

from storyteller import StorytellerError, decoder, search
from tests.conftest import GOLDENS, read_json

FOLDER = GOLDENS / "decoder"
NAMES = ("dec_doutput", "dec_plain", "dec_tiny")


@pytest.fixture(scope="module")
def models():
    return {name: (decoder.load_model(FOLDER / f"{name}.npz", FOLDER / f"{name}_dictionary.pkl"),
                   np.load(FOLDER / f"{name}_contexts.npy"), read_json(FOLDER / f"{name}_search.json"))
            for name in NAMES}


@pytest.mark.parametrize("name", NAMES[:2])
def test_steps(models, name):
    dec, _, _ = models[name]
    golden = np.load(FOLDER / f"{name}_steps.npz")
    np.testing.assert_allclose(dec.f_init(golden["ctx"]), golden["f_init"], atol=1e-5)
    probs, state = dec.f_next(golden["step_y"], golden["step_state"])
    np.testing.assert_allclose(probs, golden["step_probs"], atol=1e-5)
    np.testing.assert_allclose(state, golden["step_next_state"], atol=1e-5)
    state = dec.f_init(golden["ctx"][:1])
    for y, probs, next_state in zip(golden["chain_y"], golden["chain_probs"], golden["chain_states"]):
        p, state = dec.f_next(np.array([y]), state)
        np.testing.assert_allclose(p[0], probs, atol=1e-5)
        np.testing.assert_allclose(state[0], next_state, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gen_sample(models, name):
    dec, contexts, golden = models[name]
    assert golden["gen_sample"]
    for case in golden["gen_sample"]:
        samples, costs = search.gen_sample(dec.f_init, dec.step, contexts[case["context"]], k=case["k"],
                                           maxlen=case["maxlen"], use_unk=case["use_unk"])
        best = int(np.argmin(case["scores"]))
        assert samples[int(np.argmin(costs))] == case["samples"][best], case
        if case["order_stable"]:
            assert samples == case["samples"], case
            np.testing.assert_allclose(costs, case["scores"], rtol=1e-4, atol=1e-5)
        elif case["set_stable"]:
            assert sorted(samples) == sorted(case["samples"]), case


@pytest.mark.parametrize("name", NAMES)
def test_run_sampler(models, name):
    dec, contexts, golden = models[name]
    for case in golden["run_sampler"]:
        text = decoder.run_sampler(dec, contexts[case["context"]], beam_width=case["beam_width"],
                                   use_unk=case["use_unk"])
        # Where the original found nothing but the empty passage it raised.
        assert text == ("" if case["raises"] else case["text"]), case


@pytest.mark.parametrize("name", NAMES[:2])
def test_greedy(models, name):
    """The likeliest word every time.

    The original appends the likeliest word but feeds back the one that it drew at random, so
    its samples cannot be repeated beyond the first word (two recordings of one context differ
    from each other).  That this is the reason is checked on the second word: it is the
    likeliest after *some* first word.
    """
    dec, contexts, golden = models[name]
    assert golden["greedy_argmax"]
    for case in golden["greedy_argmax"]:
        context = contexts[case["context"]]
        (ours,), _ = search.gen_sample(dec.f_init, dec.step, context, k=1, maxlen=case["maxlen"],
                                       stochastic=True, argmax=True)
        y, state = -1, dec.f_init(context[None])
        for word in ours:
            p, state = dec.f_next(np.array([y]), state)
            assert word == p.argmax()
            y = word
        assert len(ours) == case["maxlen"] or ours[-1] == 0
        assert ours[0] == case["sample"][0]
        if len(case["sample"]) > 1:
            _, first = dec.f_next(np.array([-1]), dec.f_init(context[None]))
            every = np.arange(len(dec.vocabulary))
            p, _ = dec.f_next(every, np.repeat(first, len(every), axis=0))
            assert case["sample"][1] in p.argmax(axis=1)


def test_stopping_early_changes_nothing(models):
    """n-best passages found with early stopping are those of the whole search."""
    for name in NAMES:
        dec, contexts, _ = models[name]
        for context in contexts:
            for n_best in (1, 3):
                state = dec.f_init(context[None])
                whole = list(search.passages_in_order(search.beam_search(dec.step, state, 10)))[:n_best]
                early = decoder.passages(dec, context, beam_width=10, n_best=n_best)
                assert [dec.text(h.words[:-1]) for h in whole] == [p.text for p in early]


def test_each_text_once(models):
    """Where the search ends before the passages do, their last words are dropped."""
    dec, contexts, _ = models["dec_doutput"]
    texts = [p.text for p in decoder.passages(dec, contexts[0], beam_width=20, n_best=20, maxlen=2)]
    assert 1 < len(texts) < 20 and len(set(texts)) == len(texts)


def test_sampling(models):
    dec, contexts, _ = models["dec_doutput"]
    one = decoder.run_sampler(dec, contexts[0], stochastic=True, seed=3, maxlen=30)
    assert one == decoder.run_sampler(dec, contexts[0], stochastic=True, seed=3, maxlen=30)
    drawn = {decoder.run_sampler(dec, contexts[0], stochastic=True, seed=s, maxlen=30) for s in range(8)}
    assert len(drawn) > 1
    assert not any("UNK" in text.split() for text in drawn)
    greedy = decoder.run_sampler(dec, contexts[0], stochastic=True, argmax=True, maxlen=30)
    for narrow in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-3}):
        assert decoder.run_sampler(dec, contexts[0], stochastic=True, seed=5, maxlen=30, **narrow) == greedy
    costs = [p.cost for p in decoder.passages(dec, contexts[0], n_best=4, stochastic=True, seed=1, maxlen=20)]
    assert len(costs) == 4 and costs == sorted(costs)


def test_sampling_follows_the_distribution():
    p = np.array([0.0, 0.0, 0.5, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        log_p = np.log(p).astype(np.float32)

    def first_words(n, **options):
        found = search.samples(lambda y, h: (np.tile(log_p, (len(y), 1)), h), np.zeros((1, 1)), n, maxlen=1,
                               rng=0, **options)
        return np.array([h.words[0] for h in found])

    np.testing.assert_allclose(np.bincount(first_words(4000), minlength=6) / 4000, p, atol=0.03)
    colder = p ** 2 / (p ** 2).sum()
    np.testing.assert_allclose(np.bincount(first_words(4000, temperature=0.5), minlength=6) / 4000, colder, atol=0.03)
    assert set(first_words(200, top_k=2)) == set(first_words(200, top_p=0.7)) == {2, 3}
    assert set(first_words(200, top_k=3, top_p=0.5)) == {2}


def test_a_nucleus_wider_than_the_words_looked_at_first():
    logits = np.zeros((1, 2000), dtype=np.float32)
    found = search.samples(lambda y, h: (np.repeat(logits, len(y), axis=0), h), np.zeros((1, 1)), 3000, maxlen=1,
                           rng=1, top_p=0.9)
    different = {h.words[0] for h in found}
    assert 1200 < len(different) <= 1801


def test_passages_drawn_side_by_side_are_those_the_network_gives(models):
    """Costs of passages that end at different steps, against one word at a time."""
    dec, contexts, _ = models[NAMES[0]]
    state = dec.f_init(contexts[:1])
    for found in search.samples(dec.step, state, 5, maxlen=12, rng=3, temperature=1.5):
        h, last, cost = state, -1, 0.0
        for word in found.words:
            p, h = dec.f_next(np.array([last]), h)
            cost, last = cost - np.log(p[0, word]), word
        assert found.cost == pytest.approx(cost, rel=1e-4)


def test_selection_is_exact():
    """The cheapest candidates, by blocks, are those of a full sort."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        n, width = int(rng.integers(1, 60)), int(rng.integers(2, 3000))
        count = int(rng.integers(1, 80))
        logits = rng.standard_normal((n, width)).astype(np.float32)
        offsets = rng.standard_normal(n).astype(np.float32)
        costs, rows, columns = search._cheapest(logits, offsets, search._block_maxima(logits), count)
        whole = (offsets[:, None] - logits).ravel()
        order = np.argsort(whole, kind="stable")[:count]
        np.testing.assert_array_equal(rows * width + columns, order)
        np.testing.assert_array_equal(costs, whole[order])


@pytest.mark.parametrize("call", [
    lambda dec, c: decoder.run_sampler(dec, c, beam_width=0),
    lambda dec, c: decoder.run_sampler(dec, c[:5]),
    lambda dec, c: decoder.run_sampler(dec, c * np.nan),
    lambda dec, c: decoder.run_sampler(dec, c, stochastic=True, temperature=0),
    lambda dec, c: decoder.run_sampler(dec, c, stochastic=True, top_p=2),
    lambda dec, c: decoder.run_sampler(dec, c, stochastic=True, top_k=0),
    lambda dec, c: decoder.passages(dec, c, n_best=0),
    lambda dec, c: search.gen_sample(dec.f_init, dec.step, c, k=2, stochastic=True),
])
def test_wrong_arguments(models, call):
    dec, contexts, _ = models["dec_plain"]
    with pytest.raises(StorytellerError):
        call(dec, contexts[0])
