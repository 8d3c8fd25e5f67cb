"""Operations that the engines lack, or that are faster as one: convolution, recurrence, costs, Adam.

The NumPy behind them is in :mod:`.kernels`, their form for JAX in :mod:`.jax_operations`.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import threads
from ..errors import StorytellerError
from . import kernels
from .either import relu
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

LEAST_SQUARES = np.float32(1e-30)      # of a row's squares: nothing is divided by zero


class _Operation(Op):
    """What a NumPy function computes; its attributes are the values of ``__props__``, in their order.

    Attributes
    ----------
    kinds : str
        A letter an input, the last one for all that follow: f is float32, m float32 without a gradient (a mask),
        i int64.
    ndims : sequence of int
        Dimensions of each output, float32.
    """

    __props__: tuple[str, ...] = ()
    kinds, ndims = "f", (2,)

    def __init__(self, *values):
        self.__dict__.update(zip(self.__props__, values))

    def kind_of_each(self, inputs):
        return self.kinds.ljust(len(inputs), self.kinds[-1])[:len(inputs)]

    def make_node(self, *inputs):
        inputs = [as_int64(x) if kind == "i" else as_float32(x) for kind, x in zip(self.kind_of_each(inputs), inputs)]
        return Apply(self, inputs, self.results(*inputs))

    def results(self, *inputs):
        return [tensor_of(ndim) for ndim in self.ndims]

    def compute(self, *inputs):
        """An array, or a sequence of one for each output."""
        raise NotImplementedError

    def perform(self, node, inputs, outputs):
        found = self.compute(*inputs)
        for output, value in zip(outputs, found if isinstance(found, (list, tuple)) else [found]):
            output[0] = value


class _Differentiable(_Operation, GradientOp):
    """With the gradients of its first output by its inputs of kind f; the other outputs are what these need."""

    def connection_pattern(self, node):
        return [[kind == "f"] + [False] * (len(node.outputs) - 1) for kind in self.kind_of_each(node.inputs)]

    def gradients(self, inputs, outputs, g):
        """Of each input of kind f; g is the gradient of the first output."""
        raise NotImplementedError

    def pullback(self, inputs, outputs, output_grads):
        found = iter(self.gradients(inputs, outputs, output_grads[0]))
        return [next(found) if kind == "f" else DisconnectedType()() for kind in self.kind_of_each(inputs)]


class _ConvnetOperation(_Operation):
    def results(self, *inputs):
        return [T.tensor4(dtype="float32")]


class _Conv2d(_ConvnetOperation):
    __props__ = ("pad",)

    def compute(self, x, w):
        return kernels.conv2d(x, w, self.pad)


class _WinogradConv2d(_ConvnetOperation):
    def compute(self, x, filters, b):
        return kernels.winograd_conv2d(x, filters, b)


class _SameConv2d(_ConvnetOperation):
    __props__ = ("stride", "groups", "limit")

    def compute(self, x, w, b):
        return kernels.same_conv2d(x, w, b, self.stride, self.groups, self.limit)


class _MaxPool2d(_ConvnetOperation):
    def compute(self, x):
        return kernels.max_pool2d(x)


def conv2d(x: Variable, w: Variable, pad: int = 0) -> Variable:
    """Cross-correlate (filters not flipped) with stride 1 and ``pad`` zeros on every side.

    x (n, c, h, w), w (o, c, kh, kw), both float32 -> (n, o, h', w').
    """
    if theano_on_gpu():
        return T.nnet.conv2d(x, w, border_mode=pad, filter_flip=False)
    return _Conv2d(pad)(x, w)


def fixed_conv2d(x: Variable, filters: np.ndarray, b: Variable) -> Variable:
    """See :func:`.either.fixed_conv2d`."""
    if filters.ndim == 3:
        return _WinogradConv2d()(x, shared(filters), b)
    return relu(conv2d(x, shared(filters), pad=1) + b[:, None, None])


def same_conv2d(x: Variable, w: Variable, b: Variable, stride: int, groups: int, limit: float | None) -> Variable:
    """See :func:`.either.same_conv2d`."""
    return _SameConv2d(stride, groups, limit)(x, w, b)


def max_pool2d(x: Variable) -> Variable:
    """See :func:`.either.max_pool2d`."""
    if theano_on_gpu():
        return T.signal.pool.pool_2d(x, (2, 2), ignore_border=True)
    return _MaxPool2d()(x)


class _GRUSequence(_Differentiable):
    """With two inputs more, and a share, the first state is put back where sentences end."""

    __props__ = ("share",)
    kinds, ndims = "fmffif", (3, 3)

    def compute(self, *inputs):
        return kernels.gru_forward(*inputs, share=self.share)

    def gradients(self, inputs, outputs, g):
        _, mask, h0, U, *put_back = inputs
        # Zeros that nothing stands behind have no use for a gradient.
        to_start = bool(put_back) or h0.owner is None or not isinstance(h0.owner.op, _ZeroStates)
        d_projected, d_U, *others = _GRUSequenceGradient(to_start, self.share)(mask, h0, U, *outputs, g, *put_back)
        d_h0, *d_added = others or [T.zeros_like(h0)]
        return [d_projected, d_h0, d_U, *d_added]


class _GRUSequenceGradient(_Operation):
    """Gradients of the projected input, of U, of h0 where ``to_start``, and of what is added to the state that
    is put back."""

    __props__ = ("to_start", "share")
    kinds = "ffffffif"

    def results(self, mask, h0, U, states, kept, g, ended=None, *added):
        return [tensor_of(3), U.type(), *([h0.type()] if self.to_start else []), *(x.type() for x in added)]

    def compute(self, *inputs):
        found = kernels.gru_backward(*inputs[:6], self.to_start, *inputs[6:], share=self.share)
        return [gradient for gradient in found if gradient is not None]


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
        return _GRUSequence(0.0)(projected, mask, h0, U)[0]
    return _GRUSequence(float(share))(projected, mask, h0, U, ended, added)[0]


# Shapes.  The engines' own slices and reshapes by symbolic lengths are beyond PyTensor's JAX mode.

class _Join(_Differentiable):
    __props__ = ("axis",)

    def results(self, *inputs):
        return [tensor_of(inputs[0].ndim)]

    def compute(self, *inputs):
        return np.concatenate(inputs, axis=self.axis)

    def gradients(self, inputs, outputs, g):
        return split(g, inputs, self.axis)


class _Split(_Operation, GradientOp):
    __props__ = ("axis", "count")

    def __init__(self, axis: int, count: int):
        super().__init__(axis, count)
        self.view_map = {i: [count] for i in range(count)}

    def make_node(self, *inputs):
        *likes, x = [T.as_tensor_variable(x) for x in inputs]
        return Apply(self, [*likes, x], [like.type() if like.type.ndim == x.ndim and like.dtype == x.dtype
                                          else tensor_of(x.ndim) for like in likes])

    def compute(self, *inputs):
        ends = np.cumsum([x.shape[self.axis] for x in inputs[:-2]])
        return np.split(inputs[-1], ends, axis=self.axis)

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


class _Rows(_Differentiable):
    """(T, n, k) -> (T n, k)."""

    view_map = {0: [0]}

    def compute(self, x):
        return x.reshape(-1, x.shape[2])

    def gradients(self, inputs, outputs, g):
        return [_Steps()(g, inputs[0])]


class _Steps(_Differentiable):
    """(T n, k) -> (T, n, k), T and n being the first lengths of a second array."""

    kinds, ndims = "fm", (3,)
    view_map = {0: [0]}

    def compute(self, x, like):
        return x.reshape(*like.shape[:2], -1)

    def gradients(self, inputs, outputs, g):
        return [_Rows()(g)]


def as_rows(x: Variable) -> Variable:
    """All steps of all examples as the rows of a matrix: (T, n, k) -> (T n, k)."""
    return _Rows()(x)


def as_steps(x: Variable, mask: Variable) -> Variable:
    """The reverse of :func:`as_rows`, for a mask (T, n): (T n, k) -> (T, n, k)."""
    return _Steps()(x, mask)


class _Last(_Differentiable):
    def compute(self, x):
        return x[-1].copy()

    def gradients(self, inputs, outputs, g):
        return [_LastGradient()(inputs[0], g)]


class _LastGradient(_Operation):
    ndims = (3,)

    def compute(self, x, g):
        out = np.zeros(x.shape, dtype=np.float32)
        out[-1] = g
        return out


def last_step(x: Variable) -> Variable:
    """The last of T steps: (T, n, k) -> (n, k)."""
    return _Last()(x)


class _ZeroStates(_Differentiable):
    kinds = "m"

    def compute(self, mask, U):
        return np.zeros((mask.shape[1], len(U)), dtype=np.float32)


def zero_states(mask: Variable, U: Variable) -> Variable:
    """First states of zeros, for a mask (T, n) and recurrent weights (d, ...): (n, d)."""
    return _ZeroStates()(mask, U)


class _WordsBefore(_Operation):
    kinds = "i"

    def results(self, words):
        return [T.lvector()]

    def compute(self, words):
        before = np.full(words.size, -1, dtype=np.int64)
        before[words.shape[1]:] = words[:-1].reshape(-1)
        return before


def words_before(words: Variable) -> Variable:
    """What a decoder reads to write words (T, n): those of the step before, -1 first: (T n,) int64."""
    return _WordsBefore()(words)


class _SentencesEnded(_Operation):
    __props__ = ("ends", "count")
    kinds = "i"

    def results(self, words):
        return [T.lmatrix()]

    def compute(self, words):
        ended = np.zeros(words.shape, dtype=bool)
        ended[1:] = np.isin(words[:-1], self.ends)
        return np.where(ended, np.minimum(np.cumsum(ended, axis=0), self.count) - 1, -1)


def sentences_ended(words: Variable, ends: Sequence[int], count: int) -> Variable:
    """Where a decoder that writes words (T, n) has just read a word that ends a sentence: (T, n) int64.

    There it is the number of sentences that have ended before that one, count - 1 at most; elsewhere -1.
    """
    return _SentencesEnded(tuple(int(end) for end in ends), int(count))(words)


class _SoftmaxOutput(_Differentiable):
    __props__ = ("epsilon", "smoothing", "gradient")
    kinds = "fffim"

    def results(self, *inputs):
        return [tensor_of(ndim) for ndim in ((0, 2, 2, 1) if self.gradient else (0,))]

    def compute(self, x, W, b, targets, weights):
        return kernels.softmax_output(x, W, b, targets, weights, self.epsilon, self.smoothing, self.gradient)

    def gradients(self, inputs, outputs, g):
        if not self.gradient:
            raise StorytellerError("this cost was built with gradient=False, for evaluation only")
        return _scaled(outputs[1:], g)


class _Scale(_Operation):
    """Arrays times a number; untouched where it is 1, as it is for a cost that stands alone."""

    __props__ = ("count",)

    def __init__(self, count: int):
        super().__init__(count)
        self.view_map = {i: [i + 1] for i in range(count)}

    def results(self, factor, *arrays):
        return [tensor_of(x.ndim) for x in arrays]

    def compute(self, factor, *arrays):
        return [array if factor == 1 else array * factor for array in arrays]


def _scaled(arrays: Sequence[Variable], factor: Variable) -> list[Variable]:
    return _Scale(len(arrays)).make_node(factor, *arrays).outputs


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


class _SoftmaxCrossEntropy(_Differentiable):
    __props__ = ("epsilon", "smoothing")
    kinds, ndims = "fim", (0, 2)

    def compute(self, logits, targets, weights):
        logits = np.array(logits, order="C")
        cost, _ = kernels.softmax_costs(logits, None, targets, weights, self.epsilon, self.smoothing)
        return np.asarray(cost, dtype=np.float32), logits

    def gradients(self, inputs, outputs, g):
        return _scaled(outputs[1:], g)


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


class _LogSumExp(_Operation):
    ndims = (1,)

    def compute(self, x):
        maxima = x.max(axis=1)
        return maxima + np.log(np.exp(x - maxima[:, None]).sum(axis=1))


def log_sum_exp(x: Variable) -> Variable:
    """log sum exp of each row: (n, v) -> (n,)."""
    return _LogSumExp()(x)


class _Largest(_Operation):
    __props__ = ("count", "last_first")

    def results(self, x):
        return [tensor_of(1), T.lvector()]

    def compute(self, x):
        where = np.argsort(x, kind="stable")[::-1] if self.last_first else np.argsort(-x, kind="stable")
        where = np.ascontiguousarray(where[:self.count])
        return x[where], where


def largest(x: Variable, count: int, last_first: bool = False) -> list[Variable]:
    """The largest of x (n,), in falling order, and where they stand: (min(count, n),) float32 and int64.

    Of equal ones the first comes first, or, with `last_first`, the last.
    """
    return _Largest(int(count), bool(last_first)).make_node(x).outputs


class _RankingLoss(_Differentiable):
    __props__ = ("margin",)
    kinds, ndims = "ffm", (0, 2, 2)

    def compute(self, images, sentences, present):
        return kernels.ranking_loss(images, sentences, present, self.margin)

    def gradients(self, inputs, outputs, g):
        return _scaled(outputs[1:], g)


def pairwise_ranking_loss(images: Variable, sentences: Variable, margin: float, present: Variable = None) -> Variable:
    """Sum over i != j of max(0, margin - S_ii + S_ij) + max(0, margin - S_jj + S_ij), where
    S = images . sentences^T and both are (n, d), over the rows where `present` (n,) is not 0."""
    if present is None:
        present = T.ones_like(images[:, 0])
    return _RankingLoss(float(margin)).make_node(images, sentences, present).outputs[0]


class _Embedding(_Differentiable):
    __props__ = ("axis",)
    kinds = "fi"

    def compute(self, table, index):
        return kernels.take(table, index, self.axis)

    def gradients(self, inputs, outputs, g):
        return [_EmbeddingGradient(self.axis)(*inputs, g)]


class _EmbeddingGradient(_Operation):
    __props__ = ("axis",)
    kinds = "fif"

    def results(self, table, index, g):
        return [table.type()]

    def compute(self, table, index, g):
        return kernels.scatter(index, g, table.shape[self.axis], self.axis)


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


class _EmbeddedDense(_Differentiable):
    kinds = "fiff"

    def compute(self, table, index, W, b):
        unique, inverse = np.unique(np.maximum(index, -1), return_inverse=True)
        projected = threads.matmul(kernels.take(table, unique, 0), W)
        projected += b
        return np.take(projected, inverse.reshape(-1), axis=0)

    def gradients(self, inputs, outputs, g):
        return _EmbeddedDenseGradient()(*inputs, g)


class _EmbeddedDenseGradient(_Operation):
    kinds = "fifff"

    def results(self, table, index, W, b, g):
        return [table.type(), W.type(), b.type()]

    def compute(self, table, index, W, b, g):
        unique, adding = kernels.groups(np.maximum(index, -1))
        g = adding @ g
        return (kernels.place(unique, threads.matmul(g, W.T), len(table), 0),
                threads.matmul(kernels.take(table, unique, 0).T, g), g.sum(axis=0))


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


class _Dot(_Differentiable):
    def compute(self, x, y):
        return threads.matmul(x, y)

    def gradients(self, inputs, outputs, g):
        x, y = inputs
        return [dot(g, y.T), dot(x.T, g)]


def dot(x: Variable, y: Variable) -> Variable:
    """See :func:`.either.dot`."""
    return T.dot(x, y) if theano_on_gpu() else _Dot()(x, y)


class _UnitRows(_Differentiable):
    """The engines' own gradient of a norm has products of three arrays, Python loops where nothing is compiled."""

    ndims = (2, 2)

    def compute(self, x):
        norms = np.sqrt(np.maximum(np.sum(np.square(x), axis=1, keepdims=True), LEAST_SQUARES))
        return x / norms, norms

    def gradients(self, inputs, outputs, g):
        return [_UnitRowsGradient()(*outputs, g)]


class _UnitRowsGradient(_Operation):
    def compute(self, unit, norms, g):
        return (g - unit * np.sum(unit * g, axis=1, keepdims=True)) / norms


def unit_rows(x: Variable) -> Variable:
    """Rows (n, d) scaled to unit L2 norm; one of zeros, as padding is, stays zeros."""
    return _UnitRows().make_node(x).outputs[0]


class _Copies(_Operation, GradientOp):
    __props__ = ("count",)

    def __init__(self, count: int):
        super().__init__(count)
        self.view_map = {i: [0] for i in range(count)}

    def results(self, x):
        return [x.type() for _ in range(self.count)]

    def compute(self, x):
        return [x] * self.count

    def pullback(self, inputs, outputs, output_grads):
        return [_Sum()(*output_grads)]


class _Sum(_Operation):
    """The engines' own sum of more than two arrays is a Python loop over numbers where nothing is compiled."""

    def results(self, *inputs):
        return [inputs[0].type()]

    def compute(self, first, *others):
        total = first.copy()
        for array in others:
            total += array
        return total


def copies(x: Variable, count: int) -> list[Variable]:
    """``count`` times the same parameter, for parts of a graph whose gradients by it are to be added up."""
    return _Copies(count).make_node(x).outputs


# Optimisation.

class _SumOfSquares(_Operation):
    ndims = (0,)

    def compute(self, *arrays):
        parts = []
        for array in arrays:
            flat = array.ravel(order="K")
            parts += threads.in_threads(lambda start, stop, x=flat: np.dot(x[start:stop], x[start:stop]), len(flat),
                                        8 * kernels.ADAM_BLOCK)
        return np.asarray(sum(parts, np.float64(0)), dtype=np.float32)


def sum_of_squares(*arrays: Variable) -> Variable:
    """The sum of the squares of all entries of all arrays, without a gradient."""
    return _SumOfSquares()(*arrays)


class _Adam(_Operation):
    """One parameter's step, in place (on p, m and v)."""

    __props__ = ("b1", "b2")
    destroy_map = {0: [0], 1: [1], 2: [2]}

    def results(self, p, m, v, *others):
        return [x.type() for x in (p, m, v)]

    def compute(self, p, m, v, g, scale, rate, epsilon):
        # A shared variable that the user set to an array of another order is replaced.
        found = [x if x.flags.c_contiguous else np.ascontiguousarray(x) for x in (p, m, v)]
        p, m, v = (x.reshape(-1) for x in found)
        g = np.ascontiguousarray(g).reshape(-1)
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

        threads.in_threads(work, len(p), 8 * kernels.ADAM_BLOCK)
        return found


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
