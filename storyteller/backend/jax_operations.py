"""The operations for PyTensor's JAX mode, the road to GPUs."""
from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from . import operations


@cache
def register() -> None:
    """Teach PyTensor's JAX linker our operations, once."""
    import jax
    import jax.numpy as jnp
    from pytensor.compile.sharedvalue import SharedVariable
    from pytensor.link.jax.dispatch import jax_funcify, jax_typify

    def without_shared(convert: Callable) -> Callable:
        # Its value is handed over at each call; PyTensor would keep a copy of the first one on the device as well.
        def convert_unless_shared(data, dtype=None, variable=None, **kwargs):
            return None if isinstance(variable, SharedVariable) else convert(data, dtype=dtype, variable=variable,
                                                                             **kwargs)
        return convert_unless_shared

    for kind in (np.ndarray, jax.Array):
        jax_typify.register(kind, without_shared(jax_typify.dispatch(kind)))

    def converts(kind: type) -> Callable[[Callable], Callable]:
        """Register ``make(op)``, which gives an operation's function over JAX's arrays."""
        def register_for(make: Callable) -> Callable:
            @jax_funcify.register(kind)
            def _(op, node, **kwargs):
                function, dtypes = make(op), [x.dtype for x in node.inputs]
                # PyTensor's sums are in float64 in JAX, and are left so.
                return lambda *inputs: function(*map(jnp.asarray, inputs, dtypes))
            return make
        return register_for

    @converts(operations._Conv2d)
    def _(op):
        def conv(x, w):
            return jax.lax.conv_general_dilated(
                x, w, (1, 1), [(op.pad, op.pad)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return conv

    @converts(operations._SameConv2d)
    def _(op):
        def conv(x, w, b):
            out = jax.lax.conv_general_dilated(
                x, w, (op.stride, op.stride), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"),
                feature_group_count=op.groups) + b[:, None, None]
            return out if op.limit is None else jnp.clip(out, 0, op.limit)
        return conv

    @converts(operations._MaxPool2d)
    def _(op):
        def pool(x):
            return jax.lax.reduce_window(
                x, -np.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return pool

    def gru_parts(h, step, U):
        x, m = step
        d = h.shape[1]
        recurrent = h @ U
        gates = 0.5 * jnp.tanh(0.5 * (x[:, :2 * d] + recurrent[:, :2 * d])) + 0.5
        r, u = gates[:, :d], gates[:, d:]
        share = recurrent[:, 2 * d:]
        candidate = jnp.tanh(r * share + x[:, 2 * d:])
        new = m[:, None] * (u * h + (1 - u) * candidate) + (1 - m[:, None]) * h
        return new, (new, jnp.concatenate([gates, candidate, share], axis=1))

    @converts(operations._GRUSequence)
    def _(op):
        def gru(projected, mask, h0, U):
            return jax.lax.scan(lambda h, step: gru_parts(h, step, U), h0, (projected, mask))[1]

        def gru_put_back(projected, mask, h0, U, ended, added):
            def one(h, step):
                new, (_, kept) = gru_parts(h, step[:2], U)
                new = put_back(new, h0, step[2], added, op.share)
                return new, (new, kept)
            return jax.lax.scan(one, h0, (projected, mask, ended))[1]

        def both(*inputs):
            return gru(*inputs) if len(inputs) == 4 else gru_put_back(*inputs)
        return both

    def put_back(h, h0, ended, added, share):
        mixed = (1 - share) * h + share * (h0 + added[jnp.maximum(ended, 0)])
        return jnp.where(ended[:, None] >= 0, mixed, h).astype(h.dtype)

    @converts(operations._GRUSequenceGradient)
    def _(op):
        def gradient(mask, h0, U, states, kept, g, ended=None, added=None):
            g = g.astype(U.dtype)   # JAX sums in float64
            mixed = jnp.zeros(mask.shape, g.dtype) if ended is None else op.share * (ended >= 0).astype(g.dtype)

            def back(dh, step):
                m, h, saved, gradient, to_start = step
                r, u, candidate, share = jnp.split(saved, 4, axis=1)
                dh, m = dh + gradient, m[:, None]
                d_start = to_start[:, None] * dh
                dh = dh - d_start
                new = dh * m
                d_candidate = new * (1 - u) * (1 - candidate * candidate)
                d_u = new * (h - candidate) * u * (1 - u)
                d_r = d_candidate * share * r * (1 - r)
                d_recurrent = jnp.concatenate([d_r, d_u, d_candidate * r], axis=1)
                return (dh * (1 - m) + new * u + d_recurrent @ U.T,
                        (jnp.concatenate([d_r, d_u, d_candidate], axis=1), d_recurrent, d_start))

            before = jnp.concatenate([h0[None], states[:-1]])
            d_h0, (d_projected, d_recurrent, d_start) = jax.lax.scan(
                back, jnp.zeros_like(h0), (mask, before, kept, g, mixed), reverse=True)
            d_U = jnp.einsum("tni,tnj->ij", before, d_recurrent)
            if ended is not None:
                d_added = jnp.zeros_like(added).at[jnp.maximum(ended, 0)].add(d_start)
                return d_projected, d_U, d_h0 + d_start.sum(axis=0), d_added
            return (d_projected, d_U, d_h0) if op.to_start else (d_projected, d_U)
        return gradient

    @converts(operations._Join)
    def _(op):
        return lambda *arrays: jnp.concatenate(arrays, axis=op.axis)

    @converts(operations._Split)
    def _(op):
        def split(*inputs):
            ends = np.cumsum([x.shape[op.axis] for x in inputs[:-2]])
            parts = jnp.split(inputs[-1], [int(end) for end in ends], axis=op.axis)
            return tuple(parts) if op.count > 1 else parts[0]
        return split

    @converts(operations._Rows)
    def _(op):
        return lambda x: x.reshape(-1, x.shape[2])

    @converts(operations._Steps)
    def _(op):
        return lambda x, like: x.reshape(*like.shape[:2], -1)

    @converts(operations._Last)
    def _(op):
        return lambda x: x[-1]

    @converts(operations._LastGradient)
    def _(op):
        return lambda x, g: jnp.zeros_like(x).at[-1].set(g)

    @converts(operations._ZeroStates)
    def _(op):
        return lambda mask, U: jnp.zeros((mask.shape[1], U.shape[0]), U.dtype)

    @converts(operations._WordsBefore)
    def _(op):
        return lambda words: jnp.concatenate([jnp.full_like(words[:1], -1), words[:-1]]).reshape(-1)

    @converts(operations._SentencesEnded)
    def _(op):
        def sentences_ended(words):
            ended = jnp.isin(words[:-1], jnp.asarray(op.ends))
            ended = jnp.concatenate([jnp.zeros_like(words[:1], bool), ended])
            return jnp.where(ended, jnp.minimum(jnp.cumsum(ended, axis=0), op.count) - 1, -1)
        return sentences_ended

    @converts(operations._RankingLoss)
    def _(op):
        def loss(images, sentences, present):
            scores = images @ sentences.T
            own = jnp.diagonal(scores)
            both = sum(jnp.maximum(0, np.float32(op.margin) - reference + scores)
                       for reference in (own[:, None], own[None, :]))
            counted = jnp.outer(present, present) * (1 - jnp.eye(len(own), dtype=present.dtype))
            return jnp.sum(jnp.where(counted > 0, both, 0))

        def with_gradients(*inputs):
            value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*inputs)
            return value, *gradients
        return with_gradients

    def softmax_costs(logits, targets, weights, epsilon, smoothing):
        log_p = jax.nn.log_softmax(logits, axis=1)
        chosen = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
        if epsilon:
            chosen = jnp.log(jnp.exp(chosen) + np.float32(epsilon))
        return -jnp.sum(weights * ((1 - smoothing) * chosen + smoothing * log_p.mean(axis=1)))

    @converts(operations._SoftmaxCrossEntropy)
    def _(op):
        return jax.value_and_grad(
            lambda logits, targets, weights: softmax_costs(logits, targets, weights, op.epsilon, op.smoothing))

    @converts(operations._SoftmaxOutput)
    def _(op):
        def cost(x, W, b, targets, weights):
            return softmax_costs(x @ W + b, targets, weights, op.epsilon, op.smoothing)

        def with_gradients(*inputs):
            value, gradients = jax.value_and_grad(cost, argnums=(0, 1, 2))(*inputs)
            return value, *gradients
        return with_gradients if op.gradient else cost

    @converts(operations._LogSumExp)
    def _(op):
        def log_sum_exp(x):
            maxima = jnp.max(x, axis=1)
            return maxima + jnp.log(jnp.sum(jnp.exp(x - maxima[:, None]), axis=1))
        return log_sum_exp

    def first_ranks(x, where, k):
        if len(x) > 4096:
            values, where = jax.lax.sort((-x, where), num_keys=2)
            return -values[:k], where[:k]
        # Of a few numbers it is counted how many stand before each: two kernels on a GPU, where a sort takes more.
        before = (x > x[:, None]) | (x == x[:, None]) & (where < where[:, None])
        rank = jnp.sum(before, axis=1, dtype=jnp.int32)
        here = rank == jnp.arange(k, dtype=jnp.int32)[:, None]
        return tuple(jnp.sum(jnp.where(here, values, 0), axis=1, dtype=values.dtype) for values in (x, where))

    def of_largest_blocks(x, k, width=16):
        # The largest lie in the blocks with the largest maxima, which are found likewise.  Of equals the first come
        # first, of blocks as well, so equal numbers come out as they stand.
        if len(x) <= 2 * k * width:
            return first_ranks(x, jnp.arange(len(x), dtype=jnp.int32), k)
        blocks = jnp.pad(x, (0, -len(x) % width), constant_values=-jnp.inf).reshape(-1, width)
        chosen = of_largest_blocks(blocks.max(axis=1), k)[1]
        where = chosen[:, None] * width + jnp.arange(width, dtype=jnp.int32)
        return first_ranks(blocks[chosen].reshape(-1), where.reshape(-1), k)

    @converts(operations._Largest)
    def _(op):
        def largest(x):
            n = len(x)
            values, where = of_largest_blocks(x[::-1] if op.last_first else x, min(op.count, n))
            return values, (n - 1 - where if op.last_first else where).astype(jnp.int64)
        return largest

    @converts(operations._Scale)
    def _(op):
        def scale(factor, *arrays):
            scaled = tuple(factor * array for array in arrays)
            return scaled if len(scaled) > 1 else scaled[0]
        return scale

    @converts(operations._Embedding)
    def _(op):
        def take(table, index):
            rows = jnp.take(table if op.axis == 0 else table.T, jnp.maximum(index, 0), axis=0)
            return jnp.where(index[:, None] < 0, 0, rows)
        return take

    @converts(operations._EmbeddingGradient)
    def _(op):
        def scatter(table, index, g):
            g = jnp.where(index[:, None] < 0, 0, g)
            out = jnp.zeros((table.shape[op.axis], g.shape[1]), g.dtype)
            out = out.at[jnp.maximum(index, 0)].add(g)
            return out if op.axis == 0 else out.T
        return scatter

    def embedded_dense(table, index, W, b):
        rows = jnp.take(table, jnp.maximum(index, 0), axis=0)
        return jnp.where(index[:, None] < 0, 0, rows) @ W + b

    @converts(operations._EmbeddedDense)
    def _(op):
        return embedded_dense

    @converts(operations._EmbeddedDenseGradient)
    def _(op):
        def gradient(table, index, W, b, g):
            return jax.vjp(lambda table, W, b: embedded_dense(table, index, W, b), table, W, b)[1](g)
        return gradient

    @converts(operations._Dot)
    def _(op):
        return jnp.matmul

    @converts(operations._UnitRows)
    def _(op):
        def unit_rows(x):
            norms = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), operations.LEAST_SQUARES))
            return x / norms, norms
        return unit_rows

    @converts(operations._UnitRowsGradient)
    def _(op):
        return lambda unit, norms, g: (g - unit * jnp.sum(unit * g, axis=1, keepdims=True)) / norms

    @converts(operations._Copies)
    def _(op):
        return lambda x: (x,) * op.count

    @converts(operations._Sum)
    def _(op):
        return lambda *arrays: sum(arrays)

    @converts(operations._SumOfSquares)
    def _(op):
        return lambda *arrays: jnp.sum(jnp.stack([jnp.sum(array * array) for array in arrays]))

    @converts(operations._Adam)
    def _(op):
        def step(p, m, v, g, scale, rate, epsilon):
            g = g * scale
            m = op.b1 * g + (1 - op.b1) * m
            v = op.b2 * g * g + (1 - op.b2) * v
            return p - rate * m / (jnp.sqrt(v) + epsilon), m, v
        return step
