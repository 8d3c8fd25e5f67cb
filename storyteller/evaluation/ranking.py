"""Ranking of images and sentences (Kiros, Salakhutdinov & Zemel 2014, arXiv:1411.2539, section 3.2)."""
from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError

_BLOCK = 1 << 24        # scores held at a time
_SAME = 1e-4            # by how much two vectors of one image may differ, as a share of the largest entry

Recalls = tuple[float, float, float, float]


def i2t(images: np.ndarray, captions: np.ndarray, npts: int | None = None, *,
        per_image: int | None = None) -> Recalls:
    """Rank the captions for each image; the best placed of its captions counts.

    Parameters
    ----------
    images : array (rows, dim) float32 or float64
        Joint vectors of images: one row for each caption, an image being repeated for its
        captions as in the original's data sets, or one row for each image.
    captions : array (n, dim)
        Joint vectors of captions, in the order of the images.
    npts : int, optional
        Use only the first so many images as queries; every caption stays a candidate.  By
        default all: n // per_image.
    per_image : int, optional
        Captions of an image, five in the data sets of the paper.  By default it is found by
        :func:`captions_per_image`.

    Returns
    -------
    R@1, R@5, R@10 : float
        Share of queries whose rank is at most 1, 5, 10, in percent.
    median : float
        Median rank, floor(median) + 1 with ranks from 0.

    Raises
    ------
    StorytellerError
        If the shapes do not fit, or there are fewer than `npts` images.
    """
    images, captions, npts, per_image = _ranked(images, captions, npts, per_image)
    ranks = np.empty(npts, dtype=np.int64)
    targets = np.arange(npts * per_image).reshape(npts, per_image)
    for first, last in _blocks(npts, len(captions)):
        scores = images[first:last] @ captions.T
        ranks[first:last] = np.min([_ranks(scores, targets[first:last, j]) for j in range(per_image)], axis=0)
    return _recalls(ranks)


def t2i(images: np.ndarray, captions: np.ndarray, npts: int | None = None, *,
        per_image: int | None = None) -> Recalls:
    """Rank the images for each caption.

    Parameters, returns and errors are as for :func:`i2t`; the queries are the captions of the
    first `npts` images, the candidates all images.
    """
    images, captions, npts, per_image = _ranked(images, captions, npts, per_image)
    candidates = np.ascontiguousarray(images)
    queries = npts * per_image
    ranks = np.empty(queries, dtype=np.int64)
    targets = np.arange(queries) // per_image
    for first, last in _blocks(queries, len(candidates)):
        ranks[first:last] = _ranks(captions[first:last] @ candidates.T, targets[first:last])
    return _recalls(ranks)


def captions_per_image(images: np.ndarray, captions: int) -> int:
    """How many captions each image has.

    Parameters
    ----------
    images : array (rows, dim)
        One row for each image, or one for each caption, in which rows of one image stand
        together.
    captions : int
        Number of captions.

    Returns
    -------
    int
        captions / rows, where there are fewer rows; else how many rows in a row are the same.
        Behind the last image that has all of its captions one may follow that has fewer.

    Raises
    ------
    StorytellerError
        If images have unequally many captions.
    """
    if not 0 < len(images) <= captions or (len(images) < captions and captions % len(images)):
        raise StorytellerError(f"{len(images)} rows of images for {captions} captions: expected one row for each "
                               "caption, or one for each image with equally many captions an image")
    if len(images) < captions:
        return captions // len(images)
    near = _SAME * float(np.abs(images).max())
    differ = [np.abs(np.diff(images[first:first + 4097], axis=0)).max(axis=1, initial=0) > near
              for first in range(0, len(images), 4096)]  # images may be memory-mapped
    runs = np.diff(np.flatnonzero(np.concatenate([[True], *differ, [True]])))
    whole = runs[:-1] if len(runs) > 1 else runs
    each = int(np.argmax(np.bincount(whole)))
    if (whole % each).any():  # two images in a row may be the same
        raise StorytellerError(f"images have unequally many captions ({int(whole.min())} to {int(whole.max())}, by "
                               "the rows in a row that are the same): expected the same number for each; give "
                               "per_image, or leave captions out")
    return each


def _ranked(images: np.ndarray, captions: np.ndarray, npts: int | None, per_image: int | None,
            ) -> tuple[np.ndarray, np.ndarray, int, int]:
    """One row for each image, captions, npts and per_image."""
    images, captions = np.asarray(images), np.asarray(captions)
    for name, rows in (("images", images), ("captions", captions)):
        if rows.ndim != 2 or rows.dtype.kind not in "fiu":
            raise StorytellerError(f"{name} has shape {rows.shape} and dtype {rows.dtype}: expected joint vectors, "
                                   "(rows, dim) float32")
    if not len(captions) or images.shape[1] != captions.shape[1]:
        raise StorytellerError(f"images have shape {images.shape} and captions {captions.shape}: expected vectors "
                               "of one length")
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        raise StorytellerError("images or captions hold NaN or infinity: expected joint vectors; check the model")
    if per_image is None:
        per_image = captions_per_image(images, len(captions))
    elif isinstance(per_image, bool) or not isinstance(per_image, (int, np.integer)) or per_image < 1:
        raise StorytellerError(f"per_image is {per_image!r}: expected a whole number of at least 1")
    elif len(images) not in (len(captions), len(captions) // per_image):
        raise StorytellerError(f"images have shape {images.shape} and captions {captions.shape}: expected one row "
                               f"of images for each caption, or one for each {per_image} captions")
    most = len(captions) // per_image
    npts = most if npts is None else npts
    if isinstance(npts, bool) or not isinstance(npts, (int, np.integer)) or not 1 <= npts <= most:
        raise StorytellerError(f"npts is {npts!r} with {len(captions)} captions: expected 1 to {most} images of "
                               f"{per_image} captions each")
    return images[::per_image] if len(images) == len(captions) else images, captions, int(npts), int(per_image)


def _blocks(queries: int, candidates: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, candidates))
    return ((first, min(queries, first + step)) for first in range(0, queries, step))


def _ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank from 0 of column targets[i] in row i; of equal scores the later column is first."""
    own = scores[np.arange(len(scores)), targets][:, None]
    later = np.arange(scores.shape[1]) > targets[:, None]
    return (scores > own).sum(axis=1) + ((scores == own) & later).sum(axis=1)


def _recalls(ranks: np.ndarray) -> Recalls:
    r1, r5, r10 = (100.0 * int((ranks < k).sum()) / len(ranks) for k in (1, 5, 10))
    return r1, r5, r10, float(np.floor(np.median(ranks)) + 1)


def evalrank(model: Any, data: str | os.PathLike | tuple[Sequence[str], np.ndarray], split: str = "dev",
             ) -> tuple[Recalls, Recalls]:
    """Rank a data set's images and captions by a joint embedding, as ``evalrank`` of
    visual-semantic-embedding does.

    Parameters
    ----------
    model : storyteller.embedding.JointEmbedding
    data : path, or pair of captions and image features
        A folder with one data set's ``NAME_dev_caps.txt`` and ``NAME_dev_ims.npy``; or tokenised
        captions, and features (rows, dim_image) of unit norm as in :func:`i2t`.
    split : str
        ``'dev'`` or ``'test'``, where `data` is a folder.

    Returns
    -------
    i2t, t2i : tuples of R@1, R@5, R@10 and median rank
        The original prints them.

    Raises
    ------
    StorytellerError
        If a file cannot be read, or captions and features do not fit.
    """
    from .. import embedding, files, text
    if isinstance(data, (str, os.PathLike)):
        end = f"_{split}_caps.txt"
        found = glob.glob(os.path.join(glob.escape(os.fspath(data)), f"*{end}"))
        if len(found) != 1:
            raise StorytellerError(f"{os.fspath(data)}: has {len(found)} files of the name NAME{end}: expected one, "
                                   f"with NAME_{split}_ims.npy beside it")
        features = files.load_matrix(f"{found[0][:-len(end)]}_{split}_ims.npy")
        data = text.read_captions(found[0], aligned=True), features
    captions, features = data
    per_image = captions_per_image(features, len(captions))
    images = embedding.encode_images(model, features)
    sentences = embedding.encode_sentences(model, captions)
    return i2t(images, sentences, per_image=per_image), t2i(images, sentences, per_image=per_image)
