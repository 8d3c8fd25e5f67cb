"""Operations that the engines lack, or that are faster as one: convolution, recurrence, costs, Adam.

The NumPy behind them is in :mod:`.kernels`, their form for JAX in :mod:`.jax_operations`.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import StorytellerError
from . import kernels
from .engine import (
    Apply,
    DisconnectedType,
    GradientOp,
    Op,
    T,
    Variable,
    as_float32,
    as_int64,
    shared,
    tensor_of,
    theano_on_gpu,
)


class _Conv2d(Op):
    __props__ = ("pad",)

    def __init__(self, pad: int):
        self.pad = pad

    def make_node(self, x, w):
        return Apply(self, [x, w], [T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = kernels.conv2d(inputs[0], inputs[1], self.pad)


class _WinogradConv2d(Op):
    __props__ = ()

    def make_node(self, x, filters):
        return Apply(self, [x, filters], [T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = kernels.winograd_conv2d(*inputs)


class _SameConv2d(Op):
    __props__ = ("stride", "groups", "limit")

    def __init__(self, stride: int, groups: int, limit: float | None):
        self.stride, self.groups, self.limit = stride, groups, limit

    def make_node(self, x, w, b):
        return Apply(self, [x, w, b], [T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        x, w, b = inputs
        outputs[0][0] = kernels.same_conv2d(x, w, b, self.stride, self.groups, self.limit)


class _MaxPool2d(Op):
    __props__ = ()

    def make_node(self, x):
        return Apply(self, [x], [T.tensor4(dtype="float32")])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = kernels.max_pool2d(inputs[0])


def conv2d(x: Variable, w: Variable, pad: int = 0) -> Variable:
    """Cross-correlate (filters not flipped) with stride 1 and ``pad`` zeros on every side.

    x (n, c, h, w), w (o, c, kh, kw), both float32 -> (n, o, h', w').
    """
    if theano_on_gpu():
        return T.nnet.conv2d(x, w, border_mode=pad, filter_flip=False)
    return _Conv2d(pad)(x, w)


def fixed_filters(w: np.ndarray, device: str = "cpu") -> np.ndarray:
    """3x3 filters (o, c, 3, 3) float32 that never change, in the form in which :func:`fixed_conv2d` is fastest."""
    # Measured on VGG-19's layers: with fewer channels the transforms cost more than they save.
    if device == "cpu" and min(w.shape[:2]) >= 256 and not theano_on_gpu():
        return kernels.winograd_filters(w)
    return w


def fixed_conv2d(x: Variable, filters: np.ndarray) -> Variable:
    """:func:`conv2d` with padding 1 and filters of :func:`fixed_filters`.

    x (n, c, h, w) with even h and w -> (n, o, h, w) float32.
    """
    if filters.ndim == 3:
        return _WinogradConv2d()(x, shared(filters))
    return conv2d(x, shared(filters), pad=1)


def same_conv2d(x: Variable, w: Variable, b: Variable, stride: int = 1, groups: int = 1,
                limit: float | None = None) -> Variable:
    """Cross-correlate as TensorFlow's "SAME" convolutions do, add biases, and cut to 0 .. ``limit``.

    Parameters
    ----------
    x : variable (n, c, h, w) float32
    w : variable (o, c / groups, k, k) float32
    b : variable (o,) float32
    stride : int
        The output has ceil(h / stride) rows; of an odd number of padding zeros the odd one is behind.
    groups : int
        1, or c for a depthwise convolution (o = c).
    limit : float, optional
        6 for ReLU6; None leaves the values alone.

    Returns
    -------
    variable (n, o, h', w') float32
    """
    return _SameConv2d(stride, groups, limit)(x, w, b)


def max_pool2d(x: Variable) -> Variable:
    """2x2 max pooling with stride 2, incomplete windows dropped: (n, c, h, w) ->
    (n, c, h // 2, w // 2)."""
    if theano_on_gpu():
        return T.signal.pool.pool_2d(x, (2, 2), ignore_border=True)
    return _MaxPool2d()(x)


class _GRUSequence(GradientOp):
    """With two inputs more, and a share, the first state is put back where sentences end."""

    __props__ = ("share",)

    def __init__(self, share: float = 0.0):
        self.share = share

    def make_node(self, projected, mask, h0, U, *put_back):
        inputs = [as_float32(x) for x in (projected, mask, h0, U)]
        if put_back:
            inputs += [as_int64(put_back[0]), as_float32(put_back[1])]
        return Apply(self, inputs, [tensor_of(3), tensor_of(3)])

    def perform(self, node, inputs, outputs):
        outputs[0][0], outputs[1][0] = kernels.gru_forward(*inputs, share=self.share)

    def connection_pattern(self, node):
        return [[connected, False] for connected in (True, False, True, True, False, True)[:len(node.inputs)]]

    def pullback(self, inputs, outputs, output_grads):
        _, mask, h0, U, *put_back = inputs
        # Zeros that nothing stands behind have no use for a gradient.
        to_start = h0.owner is None or not isinstance(h0.owner.op, _ZeroStates)
        if put_back:
            d_projected, d_U, d_h0, d_added = _GRUSequenceGradient(True, self.share)(
                mask, h0, U, *outputs, output_grads[0], *put_back)
            return [d_projected, DisconnectedType()(), d_h0, d_U, DisconnectedType()(), d_added]
        d_projected, d_U, *d_h0 = _GRUSequenceGradient(to_start)(mask, h0, U, *outputs, output_grads[0])
        return [d_projected, DisconnectedType()(), d_h0[0] if to_start else T.zeros_like(h0), d_U]


class _GRUSequenceGradient(Op):
    """Gradients of the projected input, of U, of h0 where ``to_start``, and of what is added to the state that
    is put back."""

    __props__ = ("to_start", "share")

    def __init__(self, to_start: bool, share: float = 0.0):
        self.to_start, self.share = to_start, share

    def make_node(self, *inputs):
        inputs = [*(as_float32(x) for x in inputs[:6]), *(as_int64(x) for x in inputs[6:7]),
                  *(as_float32(x) for x in inputs[7:])]
        return Apply(self, inputs, [tensor_of(3), inputs[2].type(), *([inputs[1].type()] if self.to_start else []),
                                    *(x.type() for x in inputs[7:])])

    def perform(self, node, inputs, outputs):
        outputs[0][0], d_h0, outputs[1][0], d_added = kernels.gru_backward(*inputs[:6], self.to_start, *inputs[6:],
                                                                           share=self.share)
        if self.to_start:
            outputs[2][0] = d_h0
        if d_added is not None:
            outputs[3][0] = d_added


def gru_sequence(projected: Variable, mask: Variable, h0: Variable, U: Variable, ended: Variable = None,
                 added: Variable = None, share: float = 0.0) -> Variable:
    """A gated recurrent unit over a whole sequence; the step is :func:`storyteller.layers.gru_step`'s.

    Parameters
    ----------
    projected : variable (T, n, 3d)
        The input's share of every step: x . [W, Wx] + [b, bx].
    mask : variable (T, n)
        Where it is 0 an example keeps its state: h' <- m h' + (1 - m) h.  It has no gradient.
        Rows after the last example that still runs cost nothing: sort by falling length.
    h0 : variable (n, d)
        The states before the first step.
    U : variable (d, 3d)
        [U, Ux].
    ended : variable (T, n) int64, optional
        Where it is k >= 0 the state after the step is mixed with the first one:
        h' <- (1 - share) h' + share (h0 + added[k]).  See :func:`sentences_ended`.
    added : variable (m, d), with ``ended``
    share : float

    Returns
    -------
    variable (T, n, d)
        The state after every step.
    """
    if ended is None:
        return _GRUSequence()(projected, mask, h0, U)[0]
    return _GRUSequence(float(share))(projected, mask, h0, U, ended, added)[0]


# Shapes.  The engines' own slices and reshapes by symbolic lengths are beyond PyTensor's JAX mode.

class _Join(GradientOp):
    __props__ = ("axis",)

    def __init__(self, axis: int):
        self.axis = axis

    def make_node(self, *arrays):
        inputs = [as_float32(x) for x in arrays]
        return Apply(self, inputs, [tensor_of(inputs[0].ndim)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.concatenate(inputs, axis=self.axis)

    def pullback(self, inputs, outputs, output_grads):
        return split(output_grads[0], inputs, self.axis)


class _Split(GradientOp):
    __props__ = ("axis", "count")

    def __init__(self, axis: int, count: int):
        self.axis, self.count = axis, count
        self.view_map = {i: [count] for i in range(count)}

    def make_node(self, *inputs):
        *likes, x = [T.as_tensor_variable(x) for x in inputs]
        return Apply(self, [*likes, x], [like.type() if like.type.ndim == x.ndim and like.dtype == x.dtype
                                          else tensor_of(x.ndim) for like in likes])

    def perform(self, node, inputs, outputs):
        ends = np.cumsum([x.shape[self.axis] for x in inputs[:-2]])
        for output, part in zip(outputs, np.split(inputs[-1], ends, axis=self.axis)):
            output[0] = part

    def connection_pattern(self, node):
        return [[False] * self.count] * self.count + [[True] * self.count]

    def pullback(self, inputs, outputs, output_grads):
        return [*[DisconnectedType()() for _ in output_grads], join(output_grads, self.axis)]


def join(arrays: Sequence[Variable], axis: int = 0) -> Variable:
    """Concatenate float32 arrays."""
    return _Join(axis)(*arrays)


def split(x: Variable, likes: Sequence[Variable], axis: int = 0) -> list[Variable]:
    """The reverse of :func:`join`: parts of x as long, along the axis, as each of ``likes``."""
    return _Split(axis, len(likes)).make_node(*likes, x).outputs


class _Rows(GradientOp):
    """(T, n, k) -> (T n, k)."""

    __props__ = ()
    view_map = {0: [0]}

    def make_node(self, x):
        return Apply(self, [as_float32(x)], [tensor_of(2)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0].reshape(-1, inputs[0].shape[2])

    def pullback(self, inputs, outputs, output_grads):
        return [_Steps()(output_grads[0], inputs[0])]


class _Steps(GradientOp):
    """(T n, k) -> (T, n, k), T and n being the first lengths of a second array."""

    __props__ = ()
    view_map = {0: [0]}

    def make_node(self, x, like):
        return Apply(self, [as_float32(x), as_float32(like)], [tensor_of(3)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0].reshape(*inputs[1].shape[:2], -1)

    def connection_pattern(self, node):
        return [[True], [False]]

    def pullback(self, inputs, outputs, output_grads):
        return [_Rows()(output_grads[0]), DisconnectedType()()]


def as_rows(x: Variable) -> Variable:
    """All steps of all examples as the rows of a matrix: (T, n, k) -> (T n, k)."""
    return _Rows()(x)


def as_steps(x: Variable, mask: Variable) -> Variable:
    """The reverse of :func:`as_rows`, for a mask (T, n): (T n, k) -> (T, n, k)."""
    return _Steps()(x, mask)


class _Last(GradientOp):
    __props__ = ()

    def make_node(self, x):
        return Apply(self, [as_float32(x)], [tensor_of(2)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0][-1].copy()

    def pullback(self, inputs, outputs, output_grads):
        return [_LastGradient()(inputs[0], output_grads[0])]


class _LastGradient(Op):
    __props__ = ()

    def make_node(self, x, g):
        return Apply(self, [as_float32(x), as_float32(g)], [tensor_of(3)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.zeros(inputs[0].shape, dtype=np.float32)
        outputs[0][0][-1] = inputs[1]


def last_step(x: Variable) -> Variable:
    """The last of T steps: (T, n, k) -> (n, k)."""
    return _Last()(x)


class _ZeroStates(Op):
    __props__ = ()

    def make_node(self, mask, U):
        return Apply(self, [as_float32(mask), as_float32(U)], [tensor_of(2)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.zeros((inputs[0].shape[1], len(inputs[1])), dtype=np.float32)

    def connection_pattern(self, node):
        return [[False], [False]]


def zero_states(mask: Variable, U: Variable) -> Variable:
    """First states of zeros, for a mask (T, n) and recurrent weights (d, ...): (n, d)."""
    return _ZeroStates()(mask, U)


class _WordsBefore(Op):
    __props__ = ()

    def make_node(self, words):
        return Apply(self, [as_int64(words)], [T.lvector()])

    def perform(self, node, inputs, outputs):
        words = inputs[0]
        before = np.full(words.size, -1, dtype=np.int64)
        before[words.shape[1]:] = words[:-1].reshape(-1)
        outputs[0][0] = before


def words_before(words: Variable) -> Variable:
    """What a decoder reads to write words (T, n): those of the step before, -1 first: (T n,) int64."""
    return _WordsBefore()(words)


class _SentencesEnded(Op):
    __props__ = ("ends", "count")

    def __init__(self, ends: tuple[int, ...], count: int):
        self.ends, self.count = ends, count

    def make_node(self, words):
        return Apply(self, [as_int64(words)], [T.lmatrix()])

    def perform(self, node, inputs, outputs):
        words = inputs[0]
        ended = np.zeros(words.shape, dtype=bool)
        ended[1:] = np.isin(words[:-1], self.ends)
        outputs[0][0] = np.where(ended, np.minimum(np.cumsum(ended, axis=0), self.count) - 1, -1)


def sentences_ended(words: Variable, ends: Sequence[int], count: int) -> Variable:
    """Where a decoder that writes words (T, n) has just read a word that ends a sentence: (T, n) int64.

    There it is the number of sentences that have ended before that one, count - 1 at most; elsewhere -1.
    """
    return _SentencesEnded(tuple(int(end) for end in ends), int(count))(words)


class _SoftmaxOutput(GradientOp):
    __props__ = ("epsilon", "smoothing", "gradient")

    def __init__(self, epsilon: float, smoothing: float, gradient: bool):
        self.epsilon, self.smoothing, self.gradient = epsilon, smoothing, gradient

    def make_node(self, x, W, b, targets, weights):
        inputs = [as_float32(x), as_float32(W), as_float32(b), as_int64(targets), as_float32(weights)]
        return Apply(self, inputs, [tensor_of(ndim) for ndim in ((0, 2, 2, 1) if self.gradient else (0,))])

    def perform(self, node, inputs, outputs):
        x, W, b, targets, weights = inputs
        found = kernels.softmax_output(x, W, b, targets, weights, self.epsilon, self.smoothing, self.gradient)
        for output, value in zip(outputs, found):
            output[0] = value

    def connection_pattern(self, node):
        return [[connected] + [False] * (len(node.outputs) - 1)
                for connected in (True, True, True, False, False)]

    def pullback(self, inputs, outputs, output_grads):
        if not self.gradient:
            raise StorytellerError("this cost was built with gradient=False, for evaluation only")
        return [*_Scale(3)(output_grads[0], *outputs[1:]), DisconnectedType()(), DisconnectedType()()]


class _Scale(Op):
    """Arrays times a number; untouched where it is 1, as it is for a cost that stands alone."""

    __props__ = ("count",)

    def __init__(self, count: int):
        self.count = count
        self.view_map = {i: [i + 1] for i in range(count)}

    def make_node(self, factor, *arrays):
        inputs = [as_float32(x) for x in arrays]
        return Apply(self, [as_float32(factor), *inputs], [tensor_of(x.ndim) for x in inputs])

    def perform(self, node, inputs, outputs):
        for output, array in zip(outputs, inputs[1:]):
            output[0] = array if inputs[0] == 1 else array * inputs[0]


def softmax_output_cost(x: Variable, W: Variable, b: Variable, targets: Variable, weights: Variable,
                        epsilon: float = 0.0, smoothing: float = 0.0, gradient: bool = True) -> Variable:
    """An output layer and its cost: :func:`softmax_cross_entropy` of x . W + b.

    The logits exist for a block of rows at a time and never as a whole; rows of weight 0 are not
    computed.  All gradients are made on the way, while a block is at hand.

    Parameters
    ----------
    x : variable (N, d)
    W : variable (d, V)
    b : variable (V,)
    targets : variable (N,) int64
    weights : variable (N,)
        Without a gradient.
    epsilon, smoothing : float
        See :func:`softmax_cross_entropy`.
    gradient : bool
        False: for evaluation, which then costs a third.

    Returns
    -------
    variable ()
    """
    return _SoftmaxOutput(epsilon, smoothing, gradient).make_node(x, W, b, targets, weights).outputs[0]


class _SoftmaxCrossEntropy(GradientOp):
    __props__ = ("epsilon", "smoothing")

    def __init__(self, epsilon: float, smoothing: float):
        self.epsilon, self.smoothing = epsilon, smoothing

    def make_node(self, logits, targets, weights):
        return Apply(self, [as_float32(logits), as_int64(targets), as_float32(weights)], [tensor_of(0), tensor_of(2)])

    def perform(self, node, inputs, outputs):
        logits = np.array(inputs[0], order="C")
        cost, _ = kernels.softmax_costs(logits, None, inputs[1], inputs[2], self.epsilon, self.smoothing)
        outputs[0][0], outputs[1][0] = np.asarray(cost, dtype=np.float32), logits

    def connection_pattern(self, node):
        return [[True, False], [False, False], [False, False]]

    def pullback(self, inputs, outputs, output_grads):
        return [_Scale(1)(output_grads[0], outputs[1]),
                DisconnectedType()(), DisconnectedType()()]


def softmax_cross_entropy(logits: Variable, targets: Variable, weights: Variable, epsilon: float = 0.0,
                          smoothing: float = 0.0) -> Variable:
    """Sum over rows of weight * -log(p + epsilon), p the softmax probability of the row's target.

    Parameters
    ----------
    logits : variable (N, V)
    targets : variable (N,) int64
    weights : variable (N,)
        A mask, for instance.  Without a gradient.
    epsilon : float
        1e-8 is the original's.  0: the exact log-softmax.
    smoothing : float
        Label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7): this share of the target's
        weight is spread over all classes.  Not together with epsilon.

    Returns
    -------
    variable ()
    """
    if epsilon and smoothing:
        raise StorytellerError("label smoothing works on the exact log-softmax: use it with epsilon=0")
    return _SoftmaxCrossEntropy(epsilon, smoothing).make_node(logits, targets, weights).outputs[0]


class _RankingLoss(GradientOp):
    __props__ = ("margin",)

    def __init__(self, margin: float):
        self.margin = margin

    def make_node(self, images, sentences):
        inputs = [as_float32(images), as_float32(sentences)]
        return Apply(self, inputs, [tensor_of(0), *[x.type() for x in inputs]])

    def perform(self, node, inputs, outputs):
        images, sentences = inputs
        for output, value in zip(outputs, kernels.ranking_loss(images, sentences, self.margin)):
            output[0] = value

    def connection_pattern(self, node):
        return [[True, False, False]] * 2

    def pullback(self, inputs, outputs, output_grads):
        return _Scale(2)(output_grads[0], *outputs[1:])


def pairwise_ranking_loss(images: Variable, sentences: Variable, margin: float) -> Variable:
    """Sum over i != j of max(0, margin - S_ii + S_ij) + max(0, margin - S_jj + S_ij), where
    S = images . sentences^T and both are (n, d)."""
    return _RankingLoss(float(margin)).make_node(images, sentences).outputs[0]


class _Embedding(GradientOp):
    __props__ = ("axis",)

    def __init__(self, axis: int):
        self.axis = axis

    def make_node(self, table, index):
        return Apply(self, [as_float32(table), as_int64(index)], [tensor_of(2)])

    def perform(self, node, inputs, outputs):
        table, index = inputs
        outputs[0][0] = kernels.take(table, index, self.axis)

    def connection_pattern(self, node):
        return [[True], [False]]

    def pullback(self, inputs, outputs, output_grads):
        table, index = inputs
        return [_EmbeddingGradient(self.axis)(table, index, output_grads[0]), DisconnectedType()()]


class _EmbeddingGradient(Op):
    __props__ = ("axis",)

    def __init__(self, axis: int):
        self.axis = axis

    def make_node(self, table, index, g):
        return Apply(self, [as_float32(table), as_int64(index), as_float32(g)], [table.type()])

    def perform(self, node, inputs, outputs):
        table, index, g = inputs
        outputs[0][0] = kernels.scatter(index, g, table.shape[self.axis], self.axis)


def embedding(table: Variable, index: Variable, axis: int = 0) -> Variable:
    """Rows of a table, with a gradient; zeros where the index is negative.

    Parameters
    ----------
    table : variable (n, d), or (d, n) with axis 1
    index : variable (m,) int64
    axis : int
        1: take columns (of an output layer's weights), which are given as rows all the same.

    Returns
    -------
    variable (m, d)
    """
    return _Embedding(axis)(table, index)


class _EmbeddedDense(GradientOp):
    __props__ = ()

    def make_node(self, table, index, W, b):
        return Apply(self, [as_float32(table), as_int64(index), as_float32(W), as_float32(b)], [tensor_of(2)])

    def perform(self, node, inputs, outputs):
        table, index, W, b = inputs
        unique, inverse = np.unique(np.maximum(index, -1), return_inverse=True)
        projected = kernels.take(table, unique, 0) @ W
        projected += b
        outputs[0][0] = np.take(projected, inverse.reshape(-1), axis=0)

    def connection_pattern(self, node):
        return [[True], [False], [True], [True]]

    def pullback(self, inputs, outputs, output_grads):
        table, index, W, b = inputs
        d_table, d_W, d_b = _EmbeddedDenseGradient()(table, index, W, b, output_grads[0])
        return [d_table, DisconnectedType()(), d_W, d_b]


class _EmbeddedDenseGradient(Op):
    __props__ = ()

    def make_node(self, table, index, W, b, g):
        inputs = [as_float32(table), as_int64(index), *[as_float32(x) for x in (W, b, g)]]
        return Apply(self, inputs, [inputs[0].type(), inputs[2].type(), inputs[3].type()])

    def perform(self, node, inputs, outputs):
        table, index, W, _, g = inputs
        unique, adding = kernels.groups(np.maximum(index, -1))
        g = adding @ g
        outputs[0][0] = kernels.place(unique, g @ W.T, len(table), 0)
        outputs[1][0] = kernels.take(table, unique, 0).T @ g
        outputs[2][0] = g.sum(axis=0)


def embedded_dense(table: Variable, index: Variable, W: Variable, b: Variable) -> Variable:
    """embedding(table, index) . W + b, with one product a *different* word: in running text a third.

    Parameters
    ----------
    table : variable (n, d)
    index : variable (m,) int64
        Negative: a vector of zeros.
    W : variable (d, k)
    b : variable (k,)

    Returns
    -------
    variable (m, k)
    """
    return _EmbeddedDense()(table, index, W, b)


class _Copies(GradientOp):
    __props__ = ("count",)

    def __init__(self, count: int):
        self.count = count
        self.view_map = {i: [0] for i in range(count)}

    def make_node(self, x):
        x = as_float32(x)
        return Apply(self, [x], [x.type() for _ in range(self.count)])

    def perform(self, node, inputs, outputs):
        for output in outputs:
            output[0] = inputs[0]

    def pullback(self, inputs, outputs, output_grads):
        return [_Sum()(*output_grads)]


class _Sum(Op):
    """The engines' own sum of more than two arrays is a Python loop over numbers where nothing is compiled."""

    __props__ = ()

    def make_node(self, *arrays):
        inputs = [as_float32(x) for x in arrays]
        return Apply(self, inputs, [inputs[0].type()])

    def perform(self, node, inputs, outputs):
        total = inputs[0].copy()
        for array in inputs[1:]:
            total += array
        outputs[0][0] = total


def copies(x: Variable, count: int) -> list[Variable]:
    """``count`` times the same parameter, for parts of a graph whose gradients by it are to be added up."""
    return _Copies(count).make_node(x).outputs


# Optimisation.

class _SumOfSquares(Op):
    __props__ = ()

    def make_node(self, *arrays):
        return Apply(self, [as_float32(x) for x in arrays], [tensor_of(0)])

    def perform(self, node, inputs, outputs):
        total = np.float64(0)
        for array in inputs:
            flat = array.ravel(order="K")
            total += np.dot(flat, flat)
        outputs[0][0] = np.asarray(total, dtype=np.float32)


def sum_of_squares(*arrays: Variable) -> Variable:
    """The sum of the squares of all entries of all arrays, without a gradient."""
    return _SumOfSquares()(*arrays)


class _Adam(Op):
    """One parameter's step, in place (on p, m and v)."""

    __props__ = ("b1", "b2")
    destroy_map = {0: [0], 1: [1], 2: [2]}

    def __init__(self, b1: float, b2: float):
        self.b1, self.b2 = b1, b2

    def make_node(self, p, m, v, g, scale, rate, epsilon):
        inputs = [as_float32(x) for x in (p, m, v, g, scale, rate, epsilon)]
        return Apply(self, inputs, [x.type() for x in inputs[:3]])

    def perform(self, node, inputs, outputs):
        arrays, (scale, rate, epsilon) = inputs[:4], inputs[4:]
        for array, output in zip(arrays[:3], outputs):
            # A shared variable that the user set to an array of another order is replaced.
            output[0] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        p, m, v = (output[0].reshape(-1) for output in outputs)
        g = np.ascontiguousarray(arrays[3]).reshape(-1)
        b1, b2, one = np.float32(self.b1), np.float32(self.b2), np.float32(1)

        def work(start: int, stop: int) -> None:
            new = np.empty((2, min(kernels.ADAM_BLOCK, stop - start)), dtype=np.float32)
            for low in range(start, stop, kernels.ADAM_BLOCK):
                block = slice(low, min(low + kernels.ADAM_BLOCK, stop))
                now, root = new[:, :block.stop - low]
                np.multiply(g[block], scale, out=now)
                np.multiply(now, now, out=root)
                root *= b2
                v[block] *= one - b2
                v[block] += root
                now *= b1
                m[block] *= one - b1
                m[block] += now
                np.sqrt(v[block], out=root)
                root += epsilon
                np.divide(m[block], root, out=root)
                root *= rate
                p[block] -= root

        kernels.in_threads(work, len(p), 8 * kernels.ADAM_BLOCK)


def adam_step(p: Variable, m: Variable, v: Variable, g: Variable, scale: Variable, rate: Variable,
              epsilon: Variable, b1: float, b2: float) -> list[Variable]:
    """The new p, m and v, in place, of one parameter under Adam.

    g <- scale g;  m <- b1 g + (1 - b1) m;  v <- b2 g^2 + (1 - b2) v;
    p <- p - rate m / (sqrt(v) + epsilon).  b1 and b2 weigh the *new* gradient.

    Parameters
    ----------
    p, m, v : shared variables of one shape
    g : variable of that shape
    scale, rate, epsilon : variables ()
    b1, b2 : float
    """
    return _Adam(b1, b2)(p, m, v, g, scale, rate, epsilon)
