"""The encoder that models share."""
import numpy as np
import pytest

from storyteller.layers import GRUEncoder, init_gru


@pytest.fixture(scope="module")
def encoder():
    random = np.random.default_rng(3)
    params = init_gru("encoder", 6, 5, random)
    return GRUEncoder({name: a + random.normal(0, .1, a.shape).astype(np.float32) for name, a in params.items()})


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_beginnings_are_run_once(encoder, batch_size, monkeypatch):
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 3, n) for n in random.integers(0, 9, 60)] + [np.array([300]), np.array([1, 1, 1])]
    projected = encoder.project(random.normal(0, 1, (301, 6)))
    alone = np.concatenate([encoder.final_states(projected, [sequence]) for sequence in sequences])
    taken, step, done = [], encoder._step, []
    monkeypatch.setattr(encoder, "_step", lambda x, h: (taken.append(len(x)), step(x, h))[1])
    states = encoder.final_states(projected, sequences, batch_size, done.append)
    np.testing.assert_allclose(states, alone, atol=1e-6)
    assert sum(done) == len(sequences) and max(taken) <= batch_size
    different = {tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)}
    if batch_size == 128:
        assert sum(taken) == len(different)
    assert len(different) <= sum(taken) < sum(map(len, sequences))
    same = np.array([len(sequence) == 0 for sequence in sequences])
    assert not states[same].any()


def test_equal_sequences_have_equal_states(encoder):
    projected = encoder.project(np.random.default_rng(1).normal(0, 1, (4, 6)))
    states = encoder.final_states(projected, [np.array([1, 2]), np.array([3]), np.array([1, 2])])
    np.testing.assert_array_equal(states[0], states[2])
    assert encoder.final_states(projected, []).shape == (0, 5)
