"""What the operations compute on the CPU, in NumPy: no graphs here."""
from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .. import threads
from ..threads import in_threads, matmul, scratch

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
    out = (np.empty((n, out_h * out_w, o), dtype=x.dtype).transpose(0, 2, 1) if channels_last else
           np.empty((n, o, out_h * out_w), dtype=x.dtype))
    rows = max(1, min(out_h, CHUNK_BYTES // (c * kh * kw * out_w * x.itemsize)))
    for image, target in zip(x, out):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))

        def work(top: int, bottom: int, padded=padded, target=target) -> None:
            patches = np.empty((c, kh, kw, bottom - top, out_w), dtype=x.dtype)
            for i, j in np.ndindex(kh, kw):
                patches[:, i, j] = padded[:, top + i:bottom + i, j:j + out_w]
            matmul(flat, patches.reshape(c * kh * kw, -1), out=target[:, top * out_w:bottom * out_w])

        in_threads(work, out_h, rows)
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
    out_h, above, below = same_padding(height, k, stride)
    out_w, left, right = same_padding(width, k, stride)
    out = np.empty((n, o, out_h, out_w), dtype=x.dtype)
    if groups == 1:
        for image, target in zip(x, out):
            patches = image
            if k > 1 or stride > 1:
                padded = np.pad(image, ((0, 0), (above, below), (left, right)))
                patches = np.empty((c, k, k, out_h, out_w), dtype=x.dtype)
                for i, j in np.ndindex(k, k):
                    patches[:, i, j] = _shifted(padded, i, j, stride, out_h, out_w)
            matmul(w.reshape(o, -1), patches.reshape(c * k * k, -1), out=target.reshape(o, -1))
            _finish(target, b, limit)
        return out

    def work(start: int, stop: int) -> None:
        padded = np.zeros((stop - start, height + above + below, width + left + right), dtype=x.dtype)
        product = np.empty((stop - start, out_h, out_w), dtype=x.dtype)
        factors = w[start:stop, 0, :, :, None, None]
        for image, target in zip(x, out[:, start:stop]):
            padded[:, above:above + height, left:left + width] = image[start:stop]
            for i, j in np.ndindex(k, k):
                here = _shifted(padded, i, j, stride, out_h, out_w)
                np.multiply(here, factors[:, i, j], out=product if i or j else target)
                if i or j:
                    target += product
            _finish(target, b[start:stop], limit)

    # A few channels at a time, which stay in the cache over all k x k shifts.
    in_threads(work, c, max(1, min(c, (CHUNK_BYTES // 8) // (height * width * x.itemsize))))
    return out


def _shifted(padded: np.ndarray, i: int, j: int, stride: int, out_h: int, out_w: int) -> np.ndarray:
    return padded[:, i:i + (out_h - 1) * stride + 1:stride, j:j + (out_w - 1) * stride + 1:stride]


def _finish(out: np.ndarray, b: np.ndarray, limit: float | None) -> None:
    out += b[:, None, None]
    if limit is not None:
        np.clip(out, 0, np.float32(limit), out=out)


TILES_BYTES = 4 << 20  # of the tiles that a thread works on at a time in :func:`winograd_conv2d`


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
    most = images * rows * across
    sizes = (images * (rows * tile + 2) * (across * tile + 2) * c, max(squares * c, tile ** 2 * o) * most,
             squares * c * most, squares * o * most)
    blocks = list(itertools.product(range(0, n, images), range(0, down, rows)))

    def work(block: int, _: int) -> None:
        first, top = blocks[block]
        count, high = min(images, n - first), min(rows, down - top)
        k = count * high * across
        with scratch(sum(sizes)) as memory:
            padded, tiles, moved, products = np.split(memory, np.cumsum(sizes[:-1]))
            results = tiles     # which are not needed by then
            part = padded[:count * (high * tile + 2) * (across * tile + 2) * c].reshape(count, -1, across * tile + 2, c)
            above = top * tile - 1
            start, stop = max(above, 0), min(above + high * tile + 2, height)
            part[:, :start - above] = part[:, stop - above:] = 0
            part[:, :, 0] = part[:, :, width + 1:] = 0
            part[:, start - above:stop - above, 1:width + 1] = (
                x[first:first + count, :, start:stop].transpose(0, 2, 3, 1))
            image, row, column, channel = part.strides
            windows = as_strided(part, (side, side, count, high, across, c),
                                 (row, column, image, tile * row, tile * column, channel))
            np.copyto(tiles[:windows.size].reshape(windows.shape), windows)
            moved = moved[:windows.size].reshape(squares, k * c)
            matmul(to_tiles, tiles[:windows.size].reshape(squares, k * c), out=moved)
            products = products[:squares * k * o].reshape(squares, k, o)
            matmul(moved.reshape(squares, k, c), filters, out=products)
            products[side + 1] += b     # the one that counts once in every output
            results = results[:tile ** 2 * k * o].reshape(tile ** 2, k * o)
            matmul(to_outputs, products.reshape(squares, k * o), out=results)
            np.maximum(results.reshape(tile, tile, count, high, across, o), np.float32(0),
                       out=out[first:first + count, top:top + high].transpose(2, 4, 0, 1, 3, 5))

    in_threads(work, len(blocks), 1)
    return out.reshape(n, down * tile, across * tile, o)[:, :height, :width].transpose(0, 3, 1, 2)


def max_pool2d(x: np.ndarray) -> np.ndarray:
    """2x2 maxima with stride 2; an odd last row or column is dropped."""
    h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = np.maximum(x[:, :, 0:h:2, :w], x[:, :, 1:h:2, :w])
    return np.maximum(rows[..., 0::2], rows[..., 1::2])


# The recurrent layer.

COLUMNS = 64                   # of a matrix that are transposed at a time


def _running(mask: np.ndarray) -> np.ndarray:
    """For each step of mask (T, n) the number of leading rows that hold every unmasked one."""
    n = mask.shape[1]
    last = n - np.argmax(mask[:, ::-1] != 0, axis=1)
    return np.where((mask != 0).any(axis=1), last, 0)


def _share(n: int) -> int:
    """Rows of n, of each of which a thread takes all steps.  Small products of few rows cost more each."""
    return max(8, -(-n // threads.count()))


def gru_forward(projected: np.ndarray, mask: np.ndarray, h0: np.ndarray, U: np.ndarray,
                 ended: np.ndarray | None = None, added: np.ndarray | None = None,
                 share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """States (T, n, d), and what the gradient needs (T, n, 4d): reset gate, update gate, candidate,
    and the candidate's recurrent share before the reset gate."""
    steps, n, d = len(projected), *h0.shape
    states = np.empty((steps, n, d), dtype=np.float32)
    kept = np.empty((steps, n, 4 * d), dtype=np.float32)
    half, one = np.float32(0.5), np.float32(1)
    running = _running(mask)

    def work(start: int, stop: int) -> None:
        zeros = not h0[start:stop].any()        # an encoder's first step needs no product
        recurrent, kept_share = (np.empty((stop - start, width), dtype=np.float32) for width in (3 * d, d))
        previous = h0[start:stop]
        for t, k in enumerate(np.clip(running - start, 0, stop - start)):
            here = slice(start, start + k)
            h, now, saved = previous[:k], states[t, here], kept[t, here]
            product, given = recurrent[:k], projected[t, here]
            if t or not zeros:
                np.matmul(h, U, out=product)
            else:
                product[:] = 0
            gates, candidate = saved[:, :2 * d], saved[:, 2 * d:3 * d]
            np.add(product[:, :2 * d], given[:, :2 * d], out=gates)
            gates *= half
            np.tanh(gates, out=gates)
            gates *= half
            gates += half
            saved[:, 3 * d:] = product[:, 2 * d:]
            np.multiply(saved[:, :d], product[:, 2 * d:], out=candidate)
            candidate += given[:, 2 * d:]
            np.tanh(candidate, out=candidate)
            np.subtract(h, candidate, out=now)      # u h + (1 - u) h~ = u (h - h~) + h~
            now *= saved[:, d:2 * d]
            now += candidate
            m = mask[t, here, None]
            if not (m == 1).all():
                np.multiply(h, one - m, out=kept_share[:k])
                now *= m
                now += kept_share[:k]
            states[t, start + k:stop] = previous[k:]
            previous = states[t, start:stop]
            if ended is not None and added is not None:
                rows = np.flatnonzero(ended[t, start:stop] >= 0)
                previous[rows] *= one - np.float32(share)
                previous[rows] += np.float32(share) * (h0[start + rows] + added[ended[t, start + rows]])

    in_threads(work, n, _share(n))
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
    one, put_share = np.float32(1), np.float32(share)
    running = _running(mask)

    def work(start: int, stop: int) -> np.ndarray | None:
        d_start = np.zeros((stop - start, d), dtype=np.float32)
        d_added = None if added is None else np.zeros_like(added)
        buffer, buffer2 = np.empty((2, stop - start, d), dtype=np.float32)
        mine = dh[start:stop]
        for t in range(steps - 1, -1, -1):
            mine += g[t, start:stop]
            if ended is not None:
                rows = np.flatnonzero(ended[t, start:stop] >= 0)
                put_back = put_share * mine[rows]
                mine[rows] -= put_back
                d_start[rows] += put_back
                np.add.at(d_added, ended[t, start + rows], put_back)
            k = min(max(running[t] - start, 0), stop - start)
            parts[t, start + k:stop] = 0
            if not k:
                continue
            here = slice(start, start + k)
            h, saved, part = (states[t - 1] if t else h0)[here], kept[t, here], parts[t, here]
            work, new, now = buffer[:k], buffer2[:k], mine[:k]
            r, u, candidate, recurrent = (saved[:, i * d:(i + 1) * d] for i in range(4))
            d_recurrent, d_r, d_u, d_candidate = (part[:, i * d:(i + 1) * d] for i in range(4))
            m = mask[t, here, None]
            masked = not (m == 1).all()
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
            np.multiply(d_candidate, r, out=d_recurrent)        # by h . Ux: d_candidate r
            np.subtract(one, r, out=work)                       # d_r = d_candidate (h . Ux) r (1 - r)
            work *= recurrent
            np.multiply(work, d_recurrent, out=d_r)
            new *= u
            if masked:
                now += new
            else:
                now[...] = new
            if t or to_start:
                np.matmul(part[:, :3 * d], back, out=work)
                now += work
        if ended is not None:
            mine += d_start
        return d_added

    d_added = in_threads(work, n, _share(n))
    before, after = np.concatenate([h0[None], states[:-1]]), parts
    if not h0.any():
        before, after = before[1:], after[1:]
    d_U = matmul(before.reshape(-1, d).T, after.reshape(-1, 4 * d)[:, :3 * d])
    return (parts[..., d:], np.concatenate([d_U[:, d:], d_U[:, :d]], axis=1), dh if to_start else None,
            None if added is None else sum(d_added[1:], d_added[0]))


# Softmax and its cost.

SOFTMAX_BLOCK = 512 << 10      # numbers of a block of rows: it stays in a core's cache
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
    cost, d_x, d_W, d_b = np.float64(0), np.empty_like(x), None, np.zeros_like(b)
    with scratch(min(block, len(x)) * classes) as logits:
        for start in range(0, len(x), block):
            rows = slice(start, start + block)
            part = logits[:len(x[rows]) * classes].reshape(-1, classes)
            matmul(x[rows], W, out=part)
            part_cost, part_d_b = softmax_costs(part, b, targets[rows], weights[rows], epsilon, smoothing)
            cost += part_cost
            if gradient:
                d_b += part_d_b
                matmul(part, W.T, out=d_x[rows])
                if d_W is None:
                    d_W = matmul(x[rows].T, part)
                else:
                    d_W += matmul(x[rows].T, part)
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
    scores = matmul(images, sentences.T)
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
    return np.asarray(total, dtype=np.float32), matmul(d_scores, sentences), matmul(d_scores.T, images)


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
