"""Ranking of captions for images, and of images for captions.

Recall and median rank as in Kiros, Salakhutdinov & Zemel (2014, arXiv:1411.2539, section 3.2).
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import StorytellerError

PER_IMAGE = 5           # captions of an image, in the data sets of the paper
_BLOCK = 1 << 24        # scores held at a time


def i2t(images: np.ndarray, captions: np.ndarray, npts: int | None = None,
        ) -> tuple[float, float, float, float]:
    """Rank the captions for each image; the best placed of its five counts.

    Parameters
    ----------
    images : array (5 n, dim) float32 or float64
        Joint vectors of images, each repeated for its five captions (one row in five is used).
    captions : array (5 n, dim)
        Joint vectors of captions, in the order of the images.
    npts : int, optional
        Use only the first so many images as queries; every caption stays a candidate.  By
        default all: rows // 5.

    Returns
    -------
    R@1, R@5, R@10 : float
        Share of queries whose rank is at most 1, 5, 10, in percent.
    median : float
        Median rank, floor(median) + 1 with ranks from 0.

    Raises
    ------
    StorytellerError
        If the shapes do not fit, or there are fewer than five rows or `npts` images.
    """
    images, captions, npts = _ranked(images, captions, npts)
    ranks = np.empty(npts, dtype=np.int64)
    targets = np.arange(npts * PER_IMAGE).reshape(npts, PER_IMAGE)
    for first, last in _blocks(npts, len(captions)):
        scores = images[first * PER_IMAGE:last * PER_IMAGE:PER_IMAGE] @ captions.T
        ranks[first:last] = np.min([_ranks(scores, targets[first:last, j]) for j in range(PER_IMAGE)], axis=0)
    return _recalls(ranks)


def t2i(images: np.ndarray, captions: np.ndarray, npts: int | None = None,
        ) -> tuple[float, float, float, float]:
    """Rank the images for each caption.

    Parameters, returns and errors are as for :func:`i2t`; the queries are the five captions of
    each of the first `npts` images, the candidates one row in five of all images.
    """
    images, captions, npts = _ranked(images, captions, npts)
    candidates = np.ascontiguousarray(images[::PER_IMAGE])
    queries = npts * PER_IMAGE
    ranks = np.empty(queries, dtype=np.int64)
    targets = np.arange(queries) // PER_IMAGE
    for first, last in _blocks(queries, len(candidates)):
        ranks[first:last] = _ranks(captions[first:last] @ candidates.T, targets[first:last])
    return _recalls(ranks)


def _ranked(images: np.ndarray, captions: np.ndarray, npts: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    images, captions = np.asarray(images), np.asarray(captions)
    if images.ndim != 2 or images.shape != captions.shape:
        raise StorytellerError(f"images have shape {images.shape} and captions {captions.shape}: expected one row "
                               "of images for each caption, of one length (repeat an image for its captions)")
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        raise StorytellerError("images or captions hold NaN or infinity: expected joint vectors; check the model")
    most = len(images) // PER_IMAGE
    npts = most if npts is None else npts
    if not 1 <= npts <= most:
        raise StorytellerError(f"npts is {npts} with {len(images)} rows: expected 1 to {most} images of "
                               f"{PER_IMAGE} captions each")
    return images, captions, int(npts)


def _blocks(queries: int, candidates: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, candidates))
    return ((first, min(queries, first + step)) for first in range(0, queries, step))


def _ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank from 0 of column targets[i] in row i; of equal scores the later column is first."""
    own = scores[np.arange(len(scores)), targets][:, None]
    later = np.arange(scores.shape[1]) > targets[:, None]
    return (scores > own).sum(axis=1) + ((scores == own) & later).sum(axis=1)


def _recalls(ranks: np.ndarray) -> tuple[float, float, float, float]:
    r1, r5, r10 = (100.0 * int((ranks < k).sum()) / len(ranks) for k in (1, 5, 10))
    return r1, r5, r10, float(np.floor(np.median(ranks)) + 1)
