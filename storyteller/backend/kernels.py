"""What the operations compute on the CPU, in NumPy: no graphs here."""
from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

# -- two-dimensional convolution and pooling ---------------------------------------------
# Theano's own need a C++ compiler to be usable and PyTensor has none with channels, so
# both dialects share these two operations.

CHUNK_BYTES = 4 << 20  # of the patch matrix at a time: it should stay in the cache


def conv2d(x: np.ndarray, w: np.ndarray, pad: int, channels_last: bool = False) -> np.ndarray:
    """Cross-correlation as one matrix product per block of rows (im2col in blocks).

    x (n, c, h, w), w (o, c, kh, kw) -> (n, o, h + 2 pad - kh + 1, w + 2 pad - kw + 1), with ``channels_last`` in the
    memory as (n, h', w', o).
    """
    n, c, height, width = x.shape
    o, _, kh, kw = w.shape
    out_h, out_w = height + 2 * pad - kh + 1, width + 2 * pad - kw + 1
    flat = np.ascontiguousarray(w).reshape(o, c * kh * kw)
    padded = np.zeros((c, height + 2 * pad, width + 2 * pad), dtype=x.dtype)
    out = (np.empty((n, out_h * out_w, o), dtype=x.dtype).transpose(0, 2, 1) if channels_last else
           np.empty((n, o, out_h * out_w), dtype=x.dtype))
    rows = max(1, min(out_h, CHUNK_BYTES // (c * kh * kw * out_w * x.itemsize)))
    for image, target in zip(x, out):
        padded[:, pad:pad + height, pad:pad + width] = image
        for top in range(0, out_h, rows):
            count = min(rows, out_h - top)
            patches = np.empty((c, kh, kw, count, out_w), dtype=x.dtype)
            for i in range(kh):
                for j in range(kw):
                    patches[:, i, j] = padded[:, top + i:top + i + count, j:j + out_w]
            np.matmul(flat, patches.reshape(c * kh * kw, count * out_w),
                      out=target[:, top * out_w:(top + count) * out_w])
    return out.reshape(n, o, out_h, out_w)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """TensorFlow's "SAME": (output size, zeros before, zeros behind), the odd zero behind."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, total // 2, total - total // 2


def same_conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, groups: int, limit: float | None
                ) -> np.ndarray:
    """Cross-correlation with "SAME" padding, biases, and values cut to 0 .. limit (None: not at all).

    x (n, c, h, w), w (o, c, k, k) with one group or (c, 1, k, k) with c groups, b (o,) -> (n, o, h', w').
    """
    n, c, height, width = x.shape
    o, _, k, _ = w.shape
    if groups == 1 and k == stride == 1:
        out = np.matmul(w.reshape(o, c), x.reshape(n, c, height * width)).reshape(n, o, height, width)
        return _finish(out, b, limit)
    out_h, above, below = same_padding(height, k, stride)
    out_w, left, right = same_padding(width, k, stride)
    out = np.empty((n, o, out_h, out_w), dtype=x.dtype)
    # A few channels at a time, which stay in the cache over all k x k shifts.
    block = c if groups == 1 else max(1, min(c, (CHUNK_BYTES // 8) // (height * width * x.itemsize)))
    padded = np.zeros((block, height + above + below, width + left + right), dtype=x.dtype)
    product = np.empty((block, out_h, out_w), dtype=x.dtype)

    def shifted(count: int, i: int, j: int) -> np.ndarray:
        return padded[:count, i:i + (out_h - 1) * stride + 1:stride, j:j + (out_w - 1) * stride + 1:stride]

    for image, target in zip(x, out):
        for first in range(0, c, block):
            count = min(block, c - first)
            padded[:count, above:above + height, left:left + width] = image[first:first + count]
            if groups == 1:
                patches = np.empty((c, k, k, out_h, out_w), dtype=x.dtype)
                for i in range(k):
                    for j in range(k):
                        patches[:, i, j] = shifted(c, i, j)
                np.matmul(w.reshape(o, -1), patches.reshape(c * k * k, -1), out=target.reshape(o, -1))
                continue
            part = target[first:first + count]
            factors = w[first:first + count, 0, :, :, None, None]
            for i in range(k):
                for j in range(k):
                    if i == j == 0:
                        np.multiply(shifted(count, i, j), factors[:, i, j], out=part)
                    else:
                        np.multiply(shifted(count, i, j), factors[:, i, j], out=product[:count])
                        part += product[:count]
    return _finish(out, b, limit)


def _finish(out: np.ndarray, b: np.ndarray, limit: float | None) -> np.ndarray:
    out += b[:, None, None]
    return out if limit is None else np.clip(out, 0, np.float32(limit), out=out)


TILES_BYTES = 8 << 20  # of the tiles that :func:`winograd_conv2d` works on at a time


@cache
def _winograd(tile: int) -> tuple[np.ndarray, ...]:
    """What transforms the rows and columns of input tiles, filters and products at once: B x B, G x G and A x A of
    F(2x2, 3x3) and F(4x4, 3x3) (Lavin & Gray 2016, arXiv:1509.09308, sections 4.1 and 4.2)."""
    matrices: dict[int, tuple[list, list, list]] = {
        2: ([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
            [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
            [[1, 1, 1, 0], [0, 1, -1, -1]]),
        4: ([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
             [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]],
            [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
             [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
            [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    }
    return tuple(np.kron(matrix, matrix).astype(np.float32) for matrix in matrices[tile])


def winograd_filters(w: np.ndarray, tile: int) -> np.ndarray:
    """Filters for :func:`winograd_conv2d`: (o, c, 3, 3) float32 -> ((tile + 2)^2, c, o) float32."""
    o, c = w.shape[:2]
    moved = np.matmul(_winograd(tile)[1], w.reshape(o * c, 9).T)
    return np.ascontiguousarray(moved.reshape(-1, o, c).transpose(0, 2, 1))


def winograd_conv2d(x: np.ndarray, filters: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max(0, cross-correlation with 3x3 filters and padding 1, plus biases) in Winograd's form.

    A tile of 2x2 outputs costs 16 products in place of 36, one of 4x4 36 in place of 144; the larger one rounds more
    (1e-5 of the largest value in place of 5e-7).  Both transforms are matrix products.

    Parameters
    ----------
    x : array (n, c, h, w) float32
        Fastest where the channels lie side by side in the memory, as in what this function gives.
    filters : array (16 or 36, c, o) float32
        From :func:`winograd_filters`.
    b : array (o,) float32

    Returns
    -------
    array (n, o, h, w) float32
        In the memory as (n, h, w, o).
    """
    n, c, height, width = x.shape
    squares, _, o = filters.shape
    side = math.isqrt(squares)
    tile = side - 2
    to_tiles, _, to_outputs = _winograd(tile)
    down, across = -(-height // tile), -(-width // tile)
    # Some rows of tiles at a time, or some images.
    rows = max(1, TILES_BYTES // (squares * across * max(c, o) * x.itemsize))
    images, rows = max(1, min(n, rows // down)), min(rows, down)
    out = np.empty((n, down, tile, across, tile, o), dtype=np.float32)
    padded = np.zeros((images, rows * tile + 2, across * tile + 2, c), dtype=np.float32)
    most = images * rows * across
    sizes = squares * c, squares * c, squares * o, tile ** 2 * o
    memory = [np.empty(size * most, dtype=np.float32) for size in sizes]
    for first, top in itertools.product(range(0, n, images), range(0, down, rows)):
        count, high = min(images, n - first), min(rows, down - top)
        k = count * high * across
        tiles, moved, products, results = (array[:size * k] for array, size in zip(memory, sizes))
        part, above = padded[:count, :high * tile + 2], top * tile - 1
        start, stop = max(above, 0), min(above + high * tile + 2, height)
        part[:, :start - above] = part[:, stop - above:] = 0
        part[:, start - above:stop - above, 1:width + 1] = x[first:first + count, :, start:stop].transpose(0, 2, 3, 1)
        image, row, column, channel = part.strides
        windows = as_strided(part, (side, side, count, high, across, c),
                             (row, column, image, tile * row, tile * column, channel))
        np.copyto(tiles.reshape(windows.shape), windows)
        np.matmul(to_tiles, tiles.reshape(squares, k * c), out=moved.reshape(squares, k * c))
        products = np.matmul(moved.reshape(squares, k, c), filters, out=products.reshape(squares, k, o))
        products[side + 1] += b     # the one that counts once in every output
        np.matmul(to_outputs, products.reshape(squares, k * o), out=results.reshape(tile ** 2, k * o))
        np.maximum(results.reshape(tile, tile, count, high, across, o), np.float32(0),
                   out=out[first:first + count, top:top + high].transpose(2, 4, 0, 1, 3, 5))
    return out.reshape(n, down * tile, across * tile, o)[:, :height, :width].transpose(0, 3, 1, 2)


def max_pool2d(x: np.ndarray) -> np.ndarray:
    """2x2 maxima with stride 2; an odd last row or column is dropped."""
    h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = np.maximum(x[:, :, 0:h:2, :w], x[:, :, 1:h:2, :w])
    return np.maximum(rows[..., 0::2], rows[..., 1::2])


def _thread_count() -> int:
    """Threads for elementwise work: what the user granted the BLAS, or all that there are."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        given = os.environ.get(variable, "")
        if given.isdigit() and int(given) > 0:
            return int(given)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


_pool: tuple[int, ThreadPoolExecutor] | None = None
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    """Threads do not survive a fork."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _threads(n: int) -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None or _pool[0] != n:
            _pool = n, ThreadPoolExecutor(n)
        return _pool[1]


def in_threads(work: Callable[[int, int], Any], n: int, block: int) -> list:
    """``[work(0, block), work(block, 2 block), ...]`` up to n; NumPy lets go of the GIL in each.

    The blocks do not depend on the number of threads, so that neither does any result.
    """
    starts = range(0, n, block)
    threads = min(_thread_count(), len(starts))
    if threads < 2:
        return [work(start, min(start + block, n)) for start in starts]
    return list(_threads(_thread_count()).map(lambda start: work(start, min(start + block, n)), starts))


# The recurrent layer.

COLUMNS = 64                   # of a matrix that are transposed at a time
GRU_BLOCK = 256 << 10          # numbers of a state that a thread works on at a time: with fewer it waits for the others


def _running(mask: np.ndarray) -> np.ndarray:
    """For each step of mask (T, n) the number of leading rows that hold every unmasked one."""
    n = mask.shape[1]
    last = n - np.argmax(mask[:, ::-1] != 0, axis=1)
    return np.where((mask != 0).any(axis=1), last, 0)


def _rows(d: int) -> int:
    """Rows of d numbers that are enough work for a thread."""
    return max(1, GRU_BLOCK // d)


def gru_forward(projected: np.ndarray, mask: np.ndarray, h0: np.ndarray, U: np.ndarray,
                 ended: np.ndarray | None = None, added: np.ndarray | None = None,
                 share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """States (T, n, d), and what the gradient needs (T, n, 4d): reset gate, update gate, candidate,
    and the candidate's recurrent share before the reset gate."""
    steps, n, d = len(projected), *h0.shape
    states = np.empty((steps, n, d), dtype=np.float32)
    kept = np.empty((steps, n, 4 * d), dtype=np.float32)
    recurrent, kept_share = (np.empty((n, width), dtype=np.float32) for width in (3 * d, d))
    half, previous = np.float32(0.5), h0

    def step(t: int, before: np.ndarray, masked: bool, start: int, stop: int) -> None:
        h, now, saved, product = before[start:stop], states[t, start:stop], kept[t, start:stop], recurrent[start:stop]
        gates, candidate = saved[:, :2 * d], saved[:, 2 * d:3 * d]
        np.add(product[:, :2 * d], projected[t, start:stop, :2 * d], out=gates)
        gates *= half
        np.tanh(gates, out=gates)
        gates *= half
        gates += half
        saved[:, 3 * d:] = product[:, 2 * d:]
        np.multiply(saved[:, :d], product[:, 2 * d:], out=candidate)
        candidate += projected[t, start:stop, 2 * d:]
        np.tanh(candidate, out=candidate)
        np.subtract(h, candidate, out=now)      # u h + (1 - u) h~ = u (h - h~) + h~
        now *= saved[:, d:2 * d]
        now += candidate
        if masked:
            m = mask[t, start:stop, None]
            np.multiply(h, 1 - m, out=kept_share[start:stop])
            now *= m
            now += kept_share[start:stop]

    for t, k in enumerate(_running(mask)):
        if t or h0.any():
            np.matmul(previous[:k], U, out=recurrent[:k])
        else:   # an encoder's first step
            recurrent[:k] = 0
        in_threads(partial(step, t, previous, not (mask[t, :k] == 1).all()), k, _rows(d))
        states[t, k:] = previous[k:]
        if ended is not None and added is not None:
            rows = np.flatnonzero(ended[t] >= 0)
            states[t, rows] *= np.float32(1 - share)
            states[t, rows] += np.float32(share) * (h0[rows] + added[ended[t, rows]])
        previous = states[t]
    return states, kept


def transposed(x: np.ndarray) -> np.ndarray:
    """x.T, contiguous.  Some columns at a time: rows a power of two apart share few places of the cache."""
    out = np.empty(x.shape[::-1], dtype=x.dtype)
    for start in range(0, len(out), COLUMNS):
        out[start:start + COLUMNS] = np.ascontiguousarray(x[:, start:start + COLUMNS]).T
    return out


def gru_backward(mask: np.ndarray, h0: np.ndarray, U: np.ndarray, states: np.ndarray, kept: np.ndarray,
                  g: np.ndarray, to_start: bool = True, ended: np.ndarray | None = None,
                  added: np.ndarray | None = None, share: float = 0.0
                  ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Gradients of the projected input (T, n, 3d), U (d, 3d), h0 (n, d), only where ``to_start``, and ``added``."""
    steps, n, d = states.shape
    # Of a step's four parts [r h.Ux's, r's, u's, candidate's] the first three are the gradient of
    # h . U and the last three that of the input: neither needs a copy.
    parts = np.empty((steps, n, 4 * d), dtype=np.float32)
    back = transposed(np.concatenate([U[:, 2 * d:], U[:, :2 * d]], axis=1))
    dh = np.zeros((n, d), dtype=np.float32)
    buffer, buffer2 = np.empty((2, n, d), dtype=np.float32)
    one = np.float32(1)
    running = _running(mask)
    d_start, d_added = np.zeros_like(h0), None if added is None else np.zeros_like(added)

    def step(t: int, before: np.ndarray, masked: bool, start: int, stop: int) -> None:
        h, saved, part, work, new, now = (before[start:stop], kept[t, start:stop], parts[t, start:stop],
                                          buffer[start:stop], buffer2[start:stop], dh[start:stop])
        r, u, candidate, share = (saved[:, i * d:(i + 1) * d] for i in range(4))
        d_share, d_r, d_u, d_candidate = (part[:, i * d:(i + 1) * d] for i in range(4))
        m = mask[t, start:stop, None]
        np.multiply(now, m if masked else one, out=new)
        if masked:
            now *= one - m
        np.multiply(candidate, candidate, out=work)         # d_candidate = new (1 - u) (1 - h~^2)
        np.subtract(one, work, out=work)
        work *= new
        np.subtract(one, u, out=d_u)
        np.multiply(work, d_u, out=d_candidate)
        d_u *= u                                            # d_u = new (h - h~) u (1 - u)
        d_u *= new
        np.subtract(h, candidate, out=work)
        d_u *= work
        np.multiply(d_candidate, r, out=d_share)            # d_share = d_candidate r
        np.subtract(one, r, out=work)                       # d_r = d_candidate share r (1 - r)
        work *= share
        np.multiply(work, d_share, out=d_r)
        new *= u
        if masked:
            now += new
        else:
            now[...] = new

    for t in range(steps - 1, -1, -1):
        k = running[t]
        dh += g[t]
        if ended is not None:
            rows = np.flatnonzero(ended[t] >= 0)
            put_back = np.float32(share) * dh[rows]
            dh[rows] -= put_back
            d_start[rows] += put_back
            np.add.at(d_added, ended[t, rows], put_back)
        parts[t, k:] = 0
        if not k:
            continue
        before = (states[t - 1] if t else h0)
        in_threads(partial(step, t, before, not (mask[t, :k] == 1).all()), k, _rows(d))
        if t or to_start:
            np.matmul(parts[t, :k, :3 * d], back, out=buffer[:k])
            dh[:k] += buffer[:k]
    before, after = np.concatenate([h0[None], states[:-1]]), parts
    if not h0.any():
        before, after = before[1:], after[1:]
    d_U = np.matmul(before.reshape(-1, d).T, after.reshape(-1, 4 * d)[:, :3 * d])
    if ended is not None:
        dh += d_start
    return parts[..., d:], np.concatenate([d_U[:, d:], d_U[:, :d]], axis=1), dh if to_start else None, d_added


# Softmax and its cost.

SOFTMAX_BLOCK = 128 << 10      # numbers of a block of rows: it stays in a core's cache
LOGITS_BLOCK = 16 << 20        # logits that exist at a time, unless a weight's gradient is larger


def softmax_costs(logits: np.ndarray, b: np.ndarray | None, targets: np.ndarray, weights: np.ndarray,
                   epsilon: float, smoothing: float) -> tuple[np.float64, Any]:
    """The cost of a block of rows, and its gradient by b; ``logits`` becomes the gradient by itself."""
    classes = logits.shape[1]

    def work(start: int, stop: int) -> tuple[np.float64, Any]:
        e, target, weight = logits[start:stop], targets[start:stop], weights[start:stop]
        rows = np.arange(stop - start)
        if b is not None:
            e += b
        e -= e.max(axis=1, keepdims=True)
        chosen = e[rows, target]
        mean = e.mean(axis=1) if smoothing else None
        np.exp(e, out=e)
        total = e.sum(axis=1)
        if epsilon:
            p = np.exp(chosen) / total
            costs = -np.log(p + np.float32(epsilon))
            slope = weight * (p / (p + np.float32(epsilon)))
        else:
            costs, slope = np.log(total) - np.float32(1 - smoothing) * chosen, weight
            if smoothing:
                costs -= np.float32(smoothing) * mean
        e *= (slope / total)[:, None]
        if smoothing:
            e -= (slope * np.float32(smoothing / classes))[:, None]
        e[rows, target] -= slope * np.float32(1 - smoothing)
        return np.sum(costs * weight, dtype=np.float64), e.sum(axis=0) if b is not None else None

    done = in_threads(work, len(logits), max(1, SOFTMAX_BLOCK // classes))
    cost = sum((part for part, _ in done), np.float64(0))
    return cost, sum(d_part for _, d_part in done) if b is not None else None


def softmax_output(x: np.ndarray, W: np.ndarray, b: np.ndarray, targets: np.ndarray, weights: np.ndarray,
                    epsilon: float, smoothing: float, gradient: bool) -> list[np.ndarray]:
    """Cost and, with ``gradient``, the gradients by x, W and b: one block of logits at a time."""
    (n, d), classes = x.shape, len(b)
    counted = np.flatnonzero(weights)
    if len(counted) < n:    # padding: not worth a product
        x, targets, weights = x[counted], targets[counted], weights[counted]
    # A block of at least 2d rows makes adding up W's gradient cheap beside the products.
    block = max(1, LOGITS_BLOCK // classes, 2 * d if gradient else 0)
    logits = np.empty((min(block, len(x)), classes), dtype=np.float32)
    cost, d_x, d_W, d_b = np.float64(0), np.empty_like(x), None, np.zeros_like(b)
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        part = logits[:len(x) - start]
        np.matmul(x[rows], W, out=part)
        part_cost, part_d_b = softmax_costs(part, b, targets[rows], weights[rows], epsilon, smoothing)
        cost += part_cost
        if gradient:
            d_b += part_d_b
            np.matmul(part, W.T, out=d_x[rows])
            if d_W is None:
                d_W = np.matmul(x[rows].T, part)
            else:
                d_W += np.matmul(x[rows].T, part)
    result = [np.asarray(cost, dtype=np.float32)]
    if gradient:
        if len(counted) < n:
            d_all = np.zeros((n, d), dtype=np.float32)
            d_all[counted] = d_x
            d_x = d_all
        result += [d_x, np.zeros_like(W) if d_W is None else d_W, d_b]
    return result


# Ranking.

def ranking_loss(images: np.ndarray, sentences: np.ndarray, present: np.ndarray,
                 margin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, and gradients by images and sentences."""
    scores = images @ sentences.T
    own = scores.diagonal().copy()
    total = np.float64(0)
    d_scores = np.zeros_like(scores)
    diagonal, pairs = np.arange(len(own)), np.logical_and.outer(present, present)
    for i, reference in enumerate((own[:, None], own[None, :])):
        hinge = np.float32(margin) - reference + scores
        hinge[diagonal, diagonal] = 0
        violated = pairs & (hinge > 0)
        total += np.sum(hinge, where=violated, dtype=np.float64)
        d_scores += violated
        d_scores[diagonal, diagonal] -= violated.sum(axis=1 - i)
    return np.asarray(total, dtype=np.float32), d_scores @ sentences, d_scores.T @ images


# Tables of vectors.

def take(table: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    found = np.take(table if axis == 0 else table.T, np.maximum(index, 0), axis=0)
    found[index < 0] = 0
    return found


def groups(index: np.ndarray) -> tuple[np.ndarray, Any]:
    """The different entries of index (m,) in order, and the sparse matrix (n_different, m) that adds up rows
    of equal entries.  Its product is ten times faster than np.add.reduceat, and that than np.add.at."""
    from scipy.sparse import csr_matrix
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.concatenate([[len(index) > 0], ordered[1:] != ordered[:-1]]))
    ones = np.ones(len(index), dtype=np.float32)
    adding = csr_matrix((ones, order, np.append(starts, len(index))), shape=(len(starts), len(index)))
    return ordered[starts], adding


def place(index: np.ndarray, rows: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Rows (m, d) at different places of zeros (length, d), or as columns of (d, length); none where
    negative."""
    d = rows.shape[1]
    out = np.zeros((length, d) if axis == 0 else (d, length), dtype=np.float32)
    found = index >= 0
    (out if axis == 0 else out.T)[index[found]] = rows[found]
    return out


def scatter(index: np.ndarray, g: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Add up the rows of g (m, d) that share an index, see :func:`place`."""
    unique, adding = groups(index)
    return place(unique, adding @ g, length, axis)


# Numbers: with much smaller blocks the threads wait for each other's turn at the interpreter, with larger ones the
# five arrays of a block do not stay in a core's cache.
ADAM_BLOCK = 128 << 10
