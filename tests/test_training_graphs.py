"""Costs, gradients, clipping and Adam of the three models against the original's (training), and the
operations under them against finite differences."""
from __future__ import annotations

import numpy as np
import pytest

from storyteller import StorytellerError, backend, decoder, embedding, layers, threads
from storyteller.training import losses, optimise
from tests.conftest import GOLDENS, read_json

TRAINING = GOLDENS / "training"
MODELS = {  # folder, prefix of the files, symbolic inputs, cost, the optimiser's rate
    "skipthoughts": ("skipthoughts", "", losses.skipthoughts_inputs, losses.skipthoughts_cost),
    "decoder_plain": ("decoder", "plain_", losses.decoder_inputs, losses.decoder_cost),
    "decoder_doutput": ("decoder", "doutput_", losses.decoder_inputs, losses.decoder_cost),
    "vse_gru": ("vse", "gru_", losses.embedding_inputs, losses.embedding_cost),
    "vse_bow": ("vse", "bow_", losses.embedding_inputs, losses.embedding_cost),
}
DEVICES = ["cpu", "jax"]
RATE = 0.0002


class Golden:
    """A model of the goldens, its minibatch, and what the original made of them."""

    def __init__(self, name: str, device: str):
        folder, prefix, self.symbols, self.cost = MODELS[name]
        folder = TRAINING / folder
        self.device = device
        self.init = dict(np.load(folder / f"{prefix}init.npz"))
        self.outputs = dict(np.load(folder / f"{prefix}outputs.npz"))
        self.grad_clip = read_json(folder / f"{prefix}info.json")["clipA"]["grad_clip"]
        batch = np.load(folder / "minibatch.npz")
        self.inputs = self.symbols()
        self.batch = [batch[variable.name] for variable in self.inputs]

    def graph(self, decay_c: float = 0.0):
        """New parameters, the cost, and its gradients."""
        p = losses.parameters(self.init)
        cost = self.cost(p, *self.inputs)
        if decay_c:
            cost = cost + losses.weight_decay(p, decay_c)
        return p, cost, optimise.gradients(cost, p)

    def train(self, updates: int, grad_clip: float, decay_c: float = 0.0):
        """Costs before each update, and the parameters after the last."""
        p, cost, gradients = self.graph(decay_c)
        scale, _ = optimise.clip_scale(gradients, grad_clip)
        adam = optimise.adam_2015(p, gradients, scale, RATE)
        step = backend.train_function(self.inputs, [cost], adam.updates, self.device)
        costs = [float(step(*self.batch)[0]) for _ in range(updates)]
        assert adam.state["step"].get_value() == updates
        return costs, {name: value.get_value() for name, value in p.items()}

    def assert_parameters(self, ours: dict[str, np.ndarray], which: str):
        for name, value in ours.items():
            expected = self.outputs[f"{which}_{name}"]
            # Where a gradient is all but rounding, Adam makes a full step of it.
            clear = (np.abs(self.outputs[f"clipA_{name}"]) >= 1e-6) | (self.outputs[f"clipA_{name}"] == 0)
            assert clear.mean() > 0.7
            np.testing.assert_allclose(value[clear], expected[clear], rtol=0, atol=1e-5, err_msg=name)


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "jax":
        if backend.DIALECT == "theano":
            pytest.skip("Theano does not use JAX")
        pytest.importorskip("jax")
    return request.param


@pytest.fixture(params=MODELS)
def golden(request, device):
    return Golden(request.param, device)


@pytest.fixture(params=MODELS)
def golden_on_cpu(request):     # JAX takes seconds to compile each graph
    return Golden(request.param, "cpu")


def test_cost_and_gradients(golden):
    p, cost, gradients = golden.graph()
    assert set(p) == {name[len("grad_"):] for name in golden.outputs if name.startswith("grad_")}
    f = backend.train_function(golden.inputs, [cost, *gradients.values()], (), golden.device)
    found, *grads = f(*golden.batch)
    np.testing.assert_allclose(found, golden.outputs["cost"], rtol=1e-5)
    for name, ours in zip(p, grads):
        expected = golden.outputs[f"grad_{name}"]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("which", ["clipA", "clipB"])
def test_clipping(golden_on_cpu, which):
    grad_clip = {"clipA": golden_on_cpu.grad_clip, "clipB": 10000.}[which]
    _, _, gradients = golden_on_cpu.graph()
    scale, norm = optimise.clip_scale(gradients, grad_clip)
    f = backend.train_function(golden_on_cpu.inputs, [norm, scale, *(g * scale for g in gradients.values())], (),
                               golden_on_cpu.device)
    norm, scale, *clipped = f(*golden_on_cpu.batch)
    assert (scale < 1) == (which == "clipA") == (norm > grad_clip)
    for name, ours in zip(gradients, clipped):
        expected = golden_on_cpu.outputs[f"{which}_{name}"]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_updates(golden):
    costs, after = golden.train(1, golden.grad_clip)
    golden.assert_parameters(after, "after1")
    costs, after = golden.train(3, golden.grad_clip)
    golden.assert_parameters(after, "after3")
    np.testing.assert_allclose(costs, golden.outputs["costs_before_updates_1_2_3"], rtol=1e-5)


def test_updates_without_clipping(golden_on_cpu):
    golden_on_cpu.assert_parameters(golden_on_cpu.train(3, 0)[1], "noclip_after3")


def test_decay(golden_on_cpu):
    costs, after = golden_on_cpu.train(1, golden_on_cpu.grad_clip, decay_c=0.01)
    np.testing.assert_allclose(costs[0], golden_on_cpu.outputs["decay_cost"], rtol=1e-5)
    golden_on_cpu.assert_parameters(after, "decay_after1")


def test_contrastive_loss(device):
    g = np.load(TRAINING / "vse" / "contrastive_loss.npz")
    images, sentences = backend.matrix("images"), backend.matrix("sentences")
    loss = losses.pairwise_ranking_loss(images, sentences, 0.2)
    ours = backend.train_function([images, sentences], [loss], (), device)(g["images"], g["sentences"])[0]
    np.testing.assert_allclose(ours, g["loss_margin_0p2"], rtol=1e-5)


# -- operations ---------------------------------------------------------------------------------

def check_gradient(make_cost, arrays, constants=(), device="cpu", step=1e-2, tolerance=3e-3):
    """Gradients along random directions against central differences of the cost."""
    symbols = [{0: None, 1: backend.vector, 2: backend.matrix, 3: backend.tensor3}[a.ndim](f"x{i}")
               for i, a in enumerate(arrays)]
    cost = make_cost(*symbols, *constants)
    f = backend.train_function(symbols, [cost], (), device)
    g = backend.train_function(symbols, backend.grad(cost, symbols), (), device)(*arrays)
    rng = np.random.default_rng(5)
    for i, (array, gradient) in enumerate(zip(arrays, g)):
        assert gradient.shape == array.shape and gradient.dtype == np.float32
        for _ in range(4):
            direction = rng.standard_normal(array.shape).astype(np.float32)
            direction /= np.sqrt(np.sum(direction ** 2))
            ends = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[i] = array + np.float32(sign * step) * direction
                ends.append(float(f(*moved)[0]))
            expected = (ends[0] - ends[1]) / (2 * step)
            scale = max(1, float(np.sqrt(np.sum(gradient ** 2))))
            assert abs(np.sum(gradient * direction) - expected) < tolerance * scale, i


def normal(*shape: int, scale: float = 1., seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


MASKS = {
    "ones": np.ones((5, 4)),
    "sorted": np.arange(5)[:, None] < np.array([5, 4, 2, 1]),
    "unsorted": np.arange(5)[:, None] < np.array([1, 5, 0, 3]),
    "nobody at the end": np.arange(5)[:, None] < np.array([3, 2, 3, 1]),
    "holes": np.random.default_rng(3).random((5, 4)) < 0.5,
    "fractions": np.random.default_rng(4).random((5, 4)),
}


def gru_reference(projected, mask, h, U):
    """layers.gru_step in NumPy, step by step."""
    d = h.shape[1]
    states = []
    for x, m in zip(projected, mask):
        recurrent = h @ U
        gates = 1 / (1 + np.exp(-(x + recurrent)[:, :2 * d]))
        candidate = np.tanh(gates[:, :d] * recurrent[:, 2 * d:] + x[:, 2 * d:])
        new = gates[:, d:] * h + (1 - gates[:, d:]) * candidate
        h = m[:, None] * new + (1 - m[:, None]) * h
        states.append(h)
    return np.stack(states)


@pytest.mark.parametrize("kind", MASKS)
def test_gru_sequence(kind, device):
    if device == "jax" and kind not in ("unsorted", "fractions"):
        pytest.skip("enough seen")
    mask = MASKS[kind].astype(np.float32)
    arrays = [normal(5, 4, 9), normal(4, 3), normal(3, 9)]
    projected, h0, U = backend.tensor3("projected"), backend.matrix("h0"), backend.matrix("U")
    f = backend.train_function([projected, h0, U], [backend.gru_sequence(projected, mask, h0, U)], (), device)
    np.testing.assert_allclose(f(*arrays)[0], gru_reference(arrays[0], mask, *arrays[1:]), atol=1e-6)
    weights = normal(5, 4, 3, seed=1)
    check_gradient(lambda x, h, U: backend.total(backend.gru_sequence(x, mask, h, U) * weights), arrays,
                   device=device)


def put_back_reference(projected, mask, h0, U, ended, added, share):
    states, h = [], h0
    for x, m, k in zip(projected, mask, ended):
        h = gru_reference(x[None], m[None], h, U)[0]
        h = np.where(k[:, None] >= 0, (1 - share) * h + share * (h0 + added[k]), h)
        states.append(h)
    return np.stack(states)


def test_the_first_state_put_back(device):
    mask = MASKS["unsorted"].astype(np.float32)
    ended = np.array([[-1, 0, -1, -1], [-1, -1, -1, 0], [-1, -1, -1, 1], [-1, -1, -1, -1], [-1, -1, -1, -1]])
    projected, h0, U, added = (backend.tensor3("projected"), backend.matrix("h0"), backend.matrix("U"),
                               backend.matrix("added"))
    arrays = [normal(5, 4, 9), normal(4, 3), normal(3, 9), normal(2, 3)]
    states = backend.gru_sequence(projected, mask, h0, U, backend.constant(ended), added, 0.35)
    f = backend.train_function([projected, h0, U, added], [states], (), device)
    expected = put_back_reference(arrays[0], mask, arrays[1], arrays[2], ended, arrays[3], 0.35)
    np.testing.assert_allclose(f(*arrays)[0], expected, atol=1e-6)
    weights = normal(5, 4, 3, seed=1)
    check_gradient(lambda x, h, U, added: backend.total(
        backend.gru_sequence(x, mask, h, U, backend.constant(ended), added, 0.35) * weights), arrays, device=device)


def test_where_sentences_end(device):
    words = backend.int_matrix("words")
    f = backend.train_function([words], [backend.sentences_ended(words, (3, 5), 2)], (), device)
    read = np.array([[3, 2], [4, 5], [5, 5], [3, 0], [0, 0]])
    np.testing.assert_array_equal(f(read)[0], [[-1, -1], [0, -1], [-1, 0], [1, 1], [1, -1]])


def decoder_reference(arrays, x, mask, ctx, share=0.0, ends=(), read=None, drop=None):
    """The decoder's cost, one passage and one word after the other."""
    total, (a, W, U, b) = 0.0, (arrays, *(np.concatenate(
        [arrays[f"decoder_{name}"], arrays[f"decoder_{name}x"]], axis=-1) for name in "WUb"))
    for i in range(x.shape[1]):
        h = h0 = np.tanh(ctx[i] @ a["ff_state_W"] + a["ff_state_b"])
        count, last = 0, -1
        for t in range(int(mask[:, i].sum())):
            skipped = last < 0 or (read is not None and not read.reshape(x.shape)[t, i])
            vector = np.zeros(len(W)) if skipped else a["Wemb"][last]
            h = gru_reference((vector @ W + b)[None, None], np.ones((1, 1)), h[None], U)[0, 0]
            if last in ends:
                h = (1 - share) * h + share * (h0 + a["sentences"][min(count, len(a["sentences"]) - 1)])
                count += 1
            top = h if drop is None else h * drop[i]
            if "ff_hid_W" in a:
                top = np.tanh(top @ a["ff_hid_W"] + a["ff_hid_b"])
            logits = top @ a["ff_logit_W"] + a["ff_logit_b"]
            last = x[t, i]
            total += np.log(np.exp(logits).sum()) - logits[last]
    return total


ENDS, SHARE = (3, 5), 0.35


@pytest.fixture
def passages():
    """Two passages with their ends, sentences of which end with words 3 and 5, and a decoder's arrays."""
    x = np.array([[2, 4], [3, 5], [5, 5], [4, 0], [5, 0], [3, 0], [0, 0]])
    mask = np.ones((7, 2), np.float32)
    mask[4:, 1] = 0
    arrays = losses.init_decoder(4, 3, 5, 7, np.random.default_rng(0), n_sentences=2)
    return x, mask, normal(2, 4), {name: a + normal(*a.shape, scale=0.3) for name, a in arrays.items()}


@pytest.mark.parametrize("full", [True, False])
def test_cost_with_the_state_put_back(passages, device, full):
    x, mask, ctx, arrays = passages
    p, inputs, more = losses.parameters(arrays), losses.decoder_inputs(), {}
    if full:
        rng = np.random.default_rng(1)
        more = {"read": losses.words_read(x, 0.3, rng), "drop": losses.dropped(2, 5, 0.3, rng)}
        assert 0 < more["read"].mean() < 1 and set(np.unique(more["drop"])) == {0, np.float32(1) / np.float32(0.7)}
    symbols = [backend.vector("read"), backend.matrix("drop")] if full else []
    cost = losses.decoder_cost(p, *inputs, put_back=losses.PutBack(SHARE, ENDS), words=losses.WordCost(epsilon=0),
                               **dict(zip(more, symbols)))
    f = backend.train_function([*inputs, *symbols], [cost, *backend.grad(cost, list(p.values()))], (), device)
    found, *gradients = f(x, mask, ctx, *more.values())
    np.testing.assert_allclose(found, decoder_reference(arrays, x, mask, ctx, SHARE, ENDS, **more), rtol=1e-5)
    for name, gradient in zip(p, gradients):
        direction = normal(*gradient.shape, seed=3)
        ends = [decoder_reference({**arrays, name: arrays[name] + sign * 1e-3 * direction}, x, mask, ctx, SHARE, ENDS,
                                  **more) for sign in (1, -1)]
        np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / 2e-3, atol=5e-3, err_msg=name)


def test_telling_puts_the_state_back_as_training_does(passages, device):
    x, mask, ctx, arrays = passages
    dec = decoder.Decoder({"put_back": SHARE, "n_sentences": 2, "ends": list(ENDS)}, arrays, ["w"] * 7, device)
    total = 0.0
    for i in range(2):
        state, last = dec.f_init(ctx[i:i + 1]), np.array([-1])
        for t in range(int(mask[:, i].sum())):
            logits, state = dec.step(last, state)
            last = x[t, i:i + 1]
            total += float(np.log(np.exp(logits[0]).sum()) - logits[0, last[0]])
    np.testing.assert_allclose(total, decoder_reference(arrays, x, mask, ctx, SHARE, ENDS), rtol=1e-5)


@pytest.mark.parametrize("sampled", [False, True])
def test_tied_words(passages, device, sampled):
    """The cost of word vectors as weights of the output, and the sum of both gradients."""
    x, mask, ctx, arrays = passages
    arrays["ff_logit_W"] = np.ascontiguousarray(arrays["Wemb"].T)
    del arrays["sentences"]
    proposal = losses.Proposal.log_uniform(7, 4)
    drawn = [proposal.draw(np.random.default_rng(0))] if sampled else []
    found = {}
    for tied in (False, True):
        p = losses.parameters({name: a for name, a in arrays.items() if not (tied and name == "ff_logit_W")})
        inputs, samples = losses.decoder_inputs(), [backend.int_vector("samples")] if sampled else []
        words = losses.WordCost(epsilon=0, samples=samples[0] if sampled else None,
                                log_expected=backend.shared(proposal.log_expected()) if sampled else None)
        cost = losses.decoder_cost(p, *inputs, words=words)
        f = backend.train_function([*inputs, *samples], [cost, *backend.grad(cost, list(p.values()))], (), device)
        value, *gradients = f(x, mask, ctx, *drawn)
        found[tied] = {"cost": value, **dict(zip(p, gradients))}
    expected = found[False]
    expected["Wemb"] = expected["Wemb"] + expected.pop("ff_logit_W").T
    assert found[True].keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[True][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_gru_layer_is_the_steps(device):
    """The same function as the graph that inference uses, from the same parameters."""
    arrays = layers.init_gru("encoder", 6, 5, np.random.default_rng(0))
    arrays = {name: a + normal(*a.shape, scale=0.1) for name, a in arrays.items()}
    sequences = [np.arange(n) % 7 for n in (3, 1, 6)]
    vectors = normal(7, 6)
    encoder = layers.GRUEncoder(arrays)
    expected = encoder.final_states(encoder.project(vectors), sequences)
    words = np.full((6, 3), -1)
    for i, s in enumerate(sequences):
        words[:len(s), i] = s
    table, index, mask = backend.matrix("table"), backend.int_vector("index"), backend.matrix("mask")
    states = layers.gru(table, index, mask, losses.parameters(arrays), "encoder")
    f = backend.train_function([table, index, mask], [backend.last_step(states)], (), device)
    ours = f(vectors, words.ravel(), (words >= 0).astype(np.float32))[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


SETTINGS = [(0., 0.), (1e-8, 0.), (0.05, 0.), (0., 0.1)]


def softmax_reference(logits, targets, weights, epsilon, smoothing):
    logits = logits.astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    target = np.full(p.shape, smoothing / p.shape[1])
    target[np.arange(len(p)), targets] += 1 - smoothing
    return -np.sum(weights[:, None] * target * np.log(p + epsilon))


@pytest.mark.parametrize("epsilon, smoothing", SETTINGS)
def test_softmax(epsilon, smoothing, device, monkeypatch):
    monkeypatch.setattr(backend.kernels, "SOFTMAX_BLOCK", 33)      # blocks of 3 rows of 11
    monkeypatch.setattr(backend.kernels, "LOGITS_BLOCK", 1)
    targets, weights = np.array([0, 3, 3, 10, 1, 2, 9, 4, 4, 0, 7, 7, 5]), normal(13) ** 2
    weights[[2, 5, 12]] = 0
    logits = normal(13, 11)
    settings = {"epsilon": epsilon, "smoothing": smoothing}
    if device == "jax" and (epsilon, smoothing) not in SETTINGS[1::2]:
        pytest.skip("enough seen")
    check_gradient(lambda x: backend.softmax_cross_entropy(x, targets, weights, **settings), [logits],
                   device=device)
    x, W, b = normal(13, 3), normal(3, 11), normal(11)
    check_gradient(lambda *v: 2 * backend.softmax_output_cost(*v, targets, weights, **settings), [x, W, b],
                   device=device)
    symbols = [backend.matrix("x"), backend.matrix("W"), backend.vector("b")]
    costs = [backend.softmax_output_cost(*symbols, targets, weights, **settings, gradient=gradient)
             for gradient in (True, False)]
    costs.append(backend.softmax_cross_entropy(backend.dot(*symbols[:2]) + symbols[2], targets, weights,
                                               **settings))
    expected = softmax_reference(x @ W + b, targets, weights, epsilon, smoothing)
    np.testing.assert_allclose(backend.train_function(symbols, costs, (), device)(x, W, b), expected, rtol=2e-6)
    with pytest.raises(StorytellerError, match="evaluation"):
        backend.grad(costs[1], symbols)


def test_softmax_where_nothing_counts():
    """A batch whose weights are all zero costs nothing and teaches nothing."""
    x, W, b = backend.matrix("x"), backend.matrix("W"), backend.vector("b")
    cost = backend.softmax_output_cost(x, W, b, np.zeros(4, np.int64), np.zeros(4, np.float32))
    found = backend.train_function([x, W, b], [cost, *backend.grad(cost, [x, W, b])])(
        normal(4, 3), normal(3, 5), normal(5))
    assert not any(np.any(value) for value in found)
    assert [value.shape for value in found] == [(), (4, 3), (3, 5), (5,)]


@pytest.mark.parametrize("axis", [0, 1])
def test_embedding(axis, device):
    index = np.array([2, -1, 0, 2, 4, 2, -1, 4])
    table, weights = normal(*(5, 3) if axis == 0 else (3, 5)), normal(8, 3, seed=1)
    x = backend.matrix("x")
    rows = backend.embedding(x, index, axis)
    f = backend.train_function([x], [rows, backend.grad(backend.total(rows * weights), x)], (), device)
    found, gradient = f(table)
    expected = np.where(index[:, None] < 0, 0, (table if axis == 0 else table.T)[index])
    np.testing.assert_array_equal(found, expected)
    by_hand = np.zeros((5, 3), np.float32)
    np.add.at(by_hand, index[index >= 0], weights[index >= 0])
    np.testing.assert_allclose(gradient, by_hand if axis == 0 else by_hand.T, atol=1e-6)
    none = backend.embedding(x, np.full(3, -1), axis)
    found, gradient = backend.train_function([x], [none, backend.grad(backend.total(none), x)], (), device)(table)
    assert not found.any() and not gradient.any()


def test_embedded_dense(device):
    index = np.array([2, -1, 0, 2, 4, 2, -1, 4])
    arrays, weights = [normal(5, 3), normal(3, 6), normal(6)], normal(8, 6, seed=1)
    table, W, b = arrays
    symbols = [backend.matrix("table"), backend.matrix("W"), backend.vector("b")]
    y = backend.embedded_dense(symbols[0], index, *symbols[1:])
    expected = np.where(index[:, None] < 0, 0, table[index]) @ W + b
    np.testing.assert_allclose(backend.train_function(symbols, [y], (), device)(*arrays)[0], expected, atol=1e-6)
    check_gradient(lambda table, W, b: backend.total(backend.embedded_dense(table, index, W, b) * weights),
                   arrays, device=device)


def test_copies_and_joins(device):
    """A parameter read three times, and parts of a joined array."""
    weights = [normal(4, 3, seed=i) for i in range(3)]

    def cost(x, y):
        copies = backend.copies(x, 3)
        parts = backend.split(backend.square(backend.join([x, y], 1)), [y, x], 1)
        return (sum(backend.total(backend.square(copy) * w) for copy, w in zip(copies, weights))
                + backend.total(parts[0] * weights[0]) + backend.total(parts[1]))
    check_gradient(cost, [normal(4, 3), normal(4, 3, seed=9)], device=device, step=3e-2)


def test_threads_change_nothing():
    """Results do not depend on how many threads there are."""
    n = 2 * backend.kernels.SOFTMAX_BLOCK // 1000
    logits, b, targets = normal(n, 1000), normal(1000), np.arange(n) % 1000
    found, before = [], threads.count()
    for count in (1, 3):
        threads.limit(count)
        gradient = logits.copy()
        cost, d_b = backend.kernels.softmax_costs(gradient, b, targets, np.ones(n, np.float32), 1e-8, 0.)
        found.append((cost, d_b, gradient))
    threads.limit(before)
    for one, three in zip(*found):
        np.testing.assert_array_equal(one, three)


# -- optimisers and options of new trainings -----------------------------------------------------

def run_adam(make, updates: int, seed: int = 0):
    value, gs = normal(40, 30), [normal(40, 30, seed=i + 1) for i in range(updates)]
    p, g = losses.parameters({"W": value}), backend.matrix("g")
    optimiser = make(p, {"W": g}, np.float32(1))
    f = backend.train_function([g], [], optimiser.updates)
    for gradient in gs:
        f(gradient)
    return value, gs, p["W"].get_value(), optimiser


def test_adam_is_the_papers():
    value, gs, ours, optimiser = run_adam(lambda *a: optimise.adam(*a, 0.01), 4)
    p, m, v = value.astype(np.float64), 0, 0
    for t, g in enumerate(gs, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        p = p - 0.01 * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(ours, p, atol=1e-6)
    assert set(optimiser.state) == {"step", "m_W", "v_W"}


def test_adam_can_be_resumed():
    """Parameters and state set back give bit-identical updates."""
    p, g = losses.parameters({"W": normal(6, 5)}), backend.matrix("g")
    optimiser = optimise.adam(p, {"W": g}, np.float32(1), optimise.warmup_cosine(0.1, 2, 9))
    f = backend.train_function([g], [], optimiser.updates)
    f(normal(6, 5, seed=1))
    saved = {name: value.get_value() for name, value in {**p, **optimiser.state}.items()}
    after = []
    for _ in range(2):
        for name, value in {**p, **optimiser.state}.items():
            value.set_value(saved[name])
        f(normal(6, 5, seed=2))
        f(normal(6, 5, seed=3))
        after.append(p["W"].get_value())
    np.testing.assert_array_equal(*after)


def test_averages(device):
    p, g = losses.parameters({"W": normal(3, 2)}), backend.matrix("g")
    optimiser = optimise.adam(p, {"W": g}, np.float32(1), 0.1)
    averages = optimise.averaged(p, optimiser, 0.3)
    f = backend.train_function([g], [], optimiser.updates, device)
    expected = normal(3, 2)
    for t in range(1, 9):
        f(normal(3, 2, seed=t))
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * p["W"].get_value()
    np.testing.assert_allclose(averages["W"].get_value(), expected, atol=1e-6)
    assert optimiser.state["a_W"] is averages["W"] and np.abs(expected - p["W"].get_value()).max() > 1e-3
    with pytest.raises(StorytellerError, match="decay"):
        optimise.averaged(p, optimiser, 1.0)


def test_training_leaves_its_arrays_alone():
    arrays = {"W": normal(6, 5)}
    p, g = losses.parameters(arrays), backend.matrix("g")
    backend.train_function([g], [], optimise.adam(p, {"W": g}, np.float32(1)).updates)(normal(6, 5, seed=1))
    np.testing.assert_array_equal(arrays["W"], normal(6, 5))
    assert np.abs(p["W"].get_value() - arrays["W"]).max() > 1e-4


def test_schedules():
    step = backend.counter(0, "step")
    for schedule, expected in (
            (optimise.constant(0.5), [0.5] * 5), (optimise.warmup(0.5, 2), [0.25, 0.5, 0.5, 0.5, 0.5]),
            (optimise.warmup_cosine(0.5, 2, 4, 0.1), [0.25, 0.5, 0.275, 0.05, 0.05])):
        step.set_value(np.int64(1))
        rate = backend.cast(schedule(backend.cast(step, "float64")), "float64")
        f = backend.train_function([], [rate], [(step, step + 1)])
        np.testing.assert_allclose([float(f()[0]) for _ in range(5)], expected, rtol=1e-6)
    with pytest.raises(StorytellerError, match="warms up"):
        optimise.warmup_cosine(1, 5, 5)
    with pytest.raises(StorytellerError, match="grad_clip"):
        optimise.clip_scale({"W": backend.matrix("g")}, -1)


def test_sampled_softmax_is_the_full_one_in_expectation(device):
    """Over many draws the gradient of the sampled cost comes near that of the full softmax."""
    rng = np.random.default_rng(0)
    n_words, targets, weights = 12, np.array([0, 3, 11]), np.array([1, 2, 0.5], np.float32)
    arrays = {"ff_logit_W": normal(4, n_words), "ff_logit_b": normal(n_words)}
    p, x = losses.parameters(arrays), backend.matrix("x")
    proposal = losses.Proposal.log_uniform(n_words, 400)
    samples = backend.int_vector("samples")
    sampled = losses.WordCost(0., 0., samples, backend.shared(proposal.log_expected()))
    states = normal(3, 4)
    full = losses.WordCost(0.)(p, x, targets, weights)
    cost = sampled(p, x, backend.constant(targets), weights)
    wrt = [x, *p.values()]
    exact = backend.train_function([x], [full, *backend.grad(full, wrt)], (), device)(states)
    f = backend.train_function([x, samples], [cost, *backend.grad(cost, wrt)], (), device)
    draws = [f(states, proposal.draw(rng)) for _ in range(50)]
    for i, expected in enumerate(exact):
        mean = np.mean([draw[i] for draw in draws], axis=0)
        np.testing.assert_allclose(mean, expected, atol=0.05 * max(1, np.abs(expected).max()))


def test_sampled_softmax_gradient():
    targets, weights = np.array([0, 3, 11, 3]), np.array([1, 2, 0, 0.5], np.float32)
    proposal = losses.Proposal.unigram(np.arange(12)[::-1], 9, 0.75)
    samples = proposal.draw(np.random.default_rng(1))
    words = losses.WordCost(0., 0., backend.constant(samples),
                            backend.shared(proposal.log_expected()))
    check_gradient(lambda x, W, b: words({"ff_logit_W": W, "ff_logit_b": b}, x, backend.constant(targets),
                                         weights), [normal(4, 3), normal(3, 12), normal(12)])


@pytest.mark.parametrize("model", ["skipthoughts", "decoder", "embedding", "bow"])
def test_no_loop_over_numbers_in_an_update(model):
    """An Elemwise without a function of NumPy's is a Python loop over all numbers: a training took six times as long
    with one such conversion."""
    rng, more, options, arrays = np.random.default_rng(0), [], {}, {}
    if model in ("embedding", "bow"):
        arrays = losses.init_embedding(3, 3, 3, 9, rng, "bow" if model == "bow" else "gru")
    else:
        proposal, samples = losses.Proposal.log_uniform(9, 4), backend.int_vector("samples")
        more = [samples]
        options["words"] = losses.WordCost(0., samples=samples, log_expected=backend.shared(proposal.log_expected()))
        arrays = (losses.init_skipthoughts(3, 3, 9, rng) if model == "skipthoughts" else
                  losses.init_decoder(3, 3, 3, 9, rng, n_sentences=2))
    if model == "decoder":
        options.update(put_back=losses.PutBack(0.5, (4,)), read=backend.vector("read"), drop=backend.matrix("drop"))
        more += [options["read"], options["drop"]]
    name = "embedding" if model == "bow" else model
    p, inputs = losses.parameters(arrays), getattr(losses, f"{name}_inputs")()
    cost = getattr(losses, f"{name}_cost")(p, *inputs, **options)
    gradients = optimise.gradients(cost, p)
    scale, norm = optimise.clip_scale(gradients, 5.)
    adam = optimise.adam(p, gradients, scale, optimise.warmup_cosine(1e-3, 2, 9))
    optimise.averaged(p, adam, 0.9)
    step = backend._compiled([*inputs, *more], [cost, norm], "cpu", updates=adam.updates, accept_inplace=True)
    elemwise = [node for node in step.maker.fgraph.apply_nodes if type(node.op).__name__ == "Elemwise"]
    assert elemwise
    assert not [node for node in elemwise if node.outputs[0].ndim
                and (node.op.nfunc_spec is None or node.op.nfunc_spec[1] != len(node.inputs))]


def test_proposals():
    proposal = losses.Proposal.log_uniform(50, 20000)
    counts = np.bincount(proposal.draw(np.random.default_rng(0)), minlength=50)
    np.testing.assert_allclose(counts, np.exp(proposal.log_expected()), atol=250)
    for q in ([], [1, 0], [1, np.nan], [[1]]):
        with pytest.raises(StorytellerError, match="proposal"):
            losses.Proposal(np.array(q), 3)
    with pytest.raises(StorytellerError, match="n_samples"):
        losses.Proposal(np.ones(3), 0)


@pytest.mark.parametrize("options", [{"smoothing": 0.1}, {"smoothing": 1., "epsilon": 0.}, {"samples": 1},
                                     {"samples": 1, "log_expected": 1, "smoothing": 0.1, "epsilon": 0.}])
def test_word_costs_that_make_no_sense(options):
    with pytest.raises(StorytellerError):
        losses.WordCost(**options)


def test_noise():
    ctx = normal(200, 50)
    noise = losses.noisy(ctx, 0.3, np.random.default_rng(0)) - ctx
    assert noise.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(noise) / np.linalg.norm(ctx), 0.3, rtol=0.05)


def test_initial_values():
    rng = np.random.default_rng(0)
    square, wide = layers.init_matrix(30, 30, rng), layers.init_matrix(30, 40, rng)
    np.testing.assert_allclose(square @ square.T, np.eye(30), atol=1e-5)
    assert 0.09 < np.abs(wide).max() <= 0.1
    made = losses.init_decoder(7, 5, 6, 20, rng)
    shapes = decoder.parameter_shapes({"dimctx": 7, "dim_word": 5, "dim": 6, "n_words": 20}, "x")
    assert {name: value.shape for name, value in made.items()} == shapes
    assert all(value.dtype == np.float32 for value in made.values())
    made = losses.init_decoder(7, 5, 6, 20, rng, False, normal(20, 5))
    np.testing.assert_array_equal(made["Wemb"], normal(20, 5))
    assert "ff_hid_W" not in made
    with pytest.raises(StorytellerError, match="word vectors"):
        losses.init_decoder(7, 5, 6, 20, rng, True, normal(21, 5))
    for encoder in ("gru", "bow"):
        made = losses.init_embedding(9, 5, 6, 20, rng, encoder)
        shapes = embedding.parameter_shapes(
            {"dim_image": 9, "dim_word": 5, "dim": 6, "n_words": 20, "encoder": encoder}, "x")
        assert {name: value.shape for name, value in made.items()} == shapes
    with pytest.raises(StorytellerError, match="lstm"):
        losses.init_embedding(9, 5, 6, 20, rng, "lstm")
    made = losses.init_skipthoughts(10, 12, 40, rng)
    assert {name: value.shape for name, value in made.items()} == {
        name: value.shape for name, value in np.load(TRAINING / "skipthoughts" / "init.npz").items()}


def test_each_models_smaller_cost_after_training():
    """A few updates with the options of new trainings bring the cost down."""
    rng = np.random.default_rng(0)
    words = rng.integers(2, 20, (6, 8))
    words[-1] = 0
    mask, ctx = np.ones((6, 8), np.float32), normal(8, 7)
    p = losses.parameters(losses.init_decoder(7, 5, 6, 20, rng))
    proposal = losses.Proposal.log_uniform(20, 10)
    inputs, samples = losses.decoder_inputs(), backend.int_vector("samples")
    cost = losses.decoder_cost(p, *inputs, losses.WordCost(0., 0., samples,
                                                           backend.shared(proposal.log_expected())))
    gradients = optimise.gradients(cost, p)
    adam = optimise.adam(p, gradients, optimise.clip_scale(gradients, 5)[0], optimise.warmup(0.02, 3))
    step = backend.train_function([*inputs, samples], [cost], adam.updates)
    held_out = losses.decoder_cost(p, *inputs, losses.WordCost(0., gradient=False))
    evaluate = backend.train_function(inputs, [held_out])
    before = float(evaluate(words, mask, ctx)[0])
    for _ in range(100):
        step(words, mask, losses.noisy(ctx, 0.1, rng), proposal.draw(rng))
    assert float(evaluate(words, mask, ctx)[0]) < 0.7 * before
