"""The straightforward algorithm, in plain NumPy: the original's steps written down as they are.

This is how an ordinary port would be written, in float32 and with matrix products wherever there
are any; not slowed down, and not made clever.  In contrast to storyteller:

- the convolution is one im2col and one matrix product per layer;
- sentences of equal length are encoded together, each word projected where it occurs;
- all caption scores are sorted to find the nearest;
- the beam search keeps lists of words, takes the logarithm of a softmax, sorts all candidates of a
  step, and goes on until nothing is live, ``width`` hypotheses have finished or ``maxlen`` is
  reached;
- the captions are all embedded at load (:meth:`Straightforward.embed_captions`).
"""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from storyteller.text import preprocess
from storyteller.vgg import BLOCKS, load_image

from .parts import Parts, Told

Params = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to unit norm."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def convolve(x: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """3x3 cross-correlation with padding 1, and ReLU: (c, h, w) -> (o, h, w)."""
    c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    patches = windows.transpose(0, 3, 4, 1, 2).reshape(c * 9, h * w)
    return np.maximum(W.reshape(len(W), -1) @ patches + b[:, None], 0).reshape(len(W), h, w)


def gru_step(x: np.ndarray, xc: np.ndarray, h: np.ndarray, p: Params, prefix: str) -> np.ndarray:
    """One step; x (n, 2d) and xc (n, d) are the projected inputs of gates and candidate."""
    gates = sigmoid(h @ p[f"{prefix}_U"] + x)
    reset, update = np.split(gates, 2, axis=1)
    candidate = np.tanh(reset * (h @ p[f"{prefix}_Ux"]) + xc)
    return update * h + (1 - update) * candidate


def last_states(table: np.ndarray, sequences: Sequence[np.ndarray], p: Params, prefix: str,
                batch_size: int = 128) -> np.ndarray:
    """Last states of a GRU over index sequences, those of equal length together."""
    by_length = defaultdict(list)
    for i, sequence in enumerate(sequences):
        by_length[len(sequence)].append(i)
    states = np.zeros((len(sequences), p[f"{prefix}_Ux"].shape[0]), dtype=np.float32)
    for members in by_length.values():
        for first in range(0, len(members), batch_size):
            batch = members[first:first + batch_size]
            words = table[np.stack([sequences[i] for i in batch])]      # (n, length, dim_word)
            x = words @ p[f"{prefix}_W"] + p[f"{prefix}_b"]
            xc = words @ p[f"{prefix}_Wx"] + p[f"{prefix}_bx"]
            h = np.zeros((len(batch), states.shape[1]), dtype=np.float32)
            for t in range(words.shape[1]):
                h = gru_step(x[:, t], xc[:, t], h, p, prefix)
            states[batch] = h
    return states


class Straightforward:
    """The whole pipeline.

    Parameters
    ----------
    parts : Parts
    """

    def __init__(self, parts: Parts):
        self.parts = parts

    def features(self, im: np.ndarray) -> np.ndarray:
        """fc7 of a prepared image (1, 3, 224, 224), scaled to unit norm: (1, 4096)."""
        x, weights = im[0], iter(self.parts.vgg)
        for _, convolutions in BLOCKS:
            for _ in range(convolutions):
                x = convolve(x, next(weights), next(weights))
            c, h, w = x.shape
            x = x.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))
        x = x.reshape(1, -1)
        for _ in ("fc6", "fc7"):
            x = np.maximum(x @ next(weights) + next(weights), 0)
        return unit(x)

    def embed_captions(self, captions: Sequence[str]) -> np.ndarray:
        """Joint embeddings of captions, as it is done at every start."""
        p, words = self.parts.joint, self.parts.joint_words
        n = len(p["Wemb"])
        sequences = []
        for caption in captions:
            indices = [words.get(word, 1) for word in caption.split()]
            sequences.append(np.array([i if i < n else 1 for i in indices] + [0]))
        return unit(last_states(p["Wemb"], sequences, p, "encoder"))

    def nearest(self, features: np.ndarray, k: int) -> list[str]:
        """The k captions that fit best, best first."""
        p = self.parts.joint
        query = unit(features @ p["ff_image_W"] + p["ff_image_b"])
        scores = (query @ self.parts.caption_vectors.T).flatten()
        return [self.parts.captions[i] for i in np.argsort(scores)[::-1][:k]]

    def thoughts(self, captions: Sequence[str]) -> np.ndarray:
        """Thought vectors of captions."""
        p, words = self.parts, self.parts.words
        sequences = [np.array([words.get(word, words["UNK"]) for word in preprocess(c).split()])
                     for c in captions]
        backwards = [sequence[::-1] for sequence in sequences]
        uni = last_states(p.utable, sequences, p.uni, "encoder")
        bi = np.concatenate([last_states(p.btable, sequences, p.bi, "encoder"),
                             last_states(p.btable, backwards, p.bi, "encoder_r")], axis=1)
        return np.concatenate([unit(uni), unit(bi)], axis=1)

    def passage(self, context: np.ndarray, width: int, maxlen: int = 1000) -> tuple[str, float]:
        """The passage for a context vector, and its cost."""
        samples, costs = self.search(context.reshape(1, -1), width, maxlen)
        passages = [" ".join(self.parts.vocabulary[w] for w in words[:-1]) for words in samples]
        if len(passages) > 1 and not passages[0]:
            passages, costs = passages[1:], costs[1:]
        best = int(np.argmin(costs))
        return passages[best], float(costs[best])

    def search(self, context: np.ndarray, width: int,
               maxlen: int) -> tuple[list[list[int]], list[float]]:
        """Beam search: words and cost of every hypothesis."""
        p = self.parts.decoder
        finished, finished_costs = [], []
        live: list[list[int]] = [[]]
        costs = np.zeros(1, dtype=np.float32)
        h = np.tanh(context @ p["ff_state_W"] + p["ff_state_b"])
        words = np.array([-1])
        for _ in range(maxlen):
            e = p["Wemb"][words] * (words >= 0)[:, None].astype(np.float32)
            h = gru_step(e @ p["decoder_W"] + p["decoder_b"], e @ p["decoder_Wx"] + p["decoder_bx"],
                         h, p, "decoder")
            top = np.tanh(h @ p["ff_hid_W"] + p["ff_hid_b"]) if "ff_hid_W" in p else h
            logits = top @ p["ff_logit_W"] + p["ff_logit_b"]
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            with np.errstate(divide="ignore"):
                candidates = -np.log(exp / exp.sum(axis=1, keepdims=True))
            candidates[:, 1] = 1e20
            candidates += costs[:, None]
            flat = candidates.ravel()
            chosen = np.argsort(flat)[:width - len(finished)]
            parents, next_words = np.divmod(chosen, candidates.shape[1])
            new_live, kept = [], []
            for parent, word, cost in zip(parents, next_words, flat[chosen], strict=True):
                hypothesis = live[parent] + [int(word)]
                if word == 0:
                    finished.append(hypothesis)
                    finished_costs.append(float(cost))
                else:
                    new_live.append(hypothesis)
                    kept.append((parent, word, cost))
            live = new_live
            costs = np.array([cost for _, _, cost in kept], dtype=np.float32)
            if not live or len(finished) >= width:
                break
            h = h[[parent for parent, _, _ in kept]]
            words = np.array([word for _, word, _ in kept])
        return finished + live, finished_costs + costs.tolist()

    def story(self, image: Any, k: int = 100, bw: int = 50) -> Told:
        """Tell a story, stage by stage.

        Parameters
        ----------
        image : path
            Prepared by :func:`storyteller.vgg.load_image`, as for all implementations.
        k, bw : int

        Returns
        -------
        Told
        """
        times = [time.perf_counter()]
        features = self.features(load_image(image)[1])
        times.append(time.perf_counter())
        captions = self.nearest(features, k)
        times.append(time.perf_counter())
        thought = self.thoughts(captions).mean(axis=0)
        shifted = thought - self.parts.caption_style + self.parts.book_style
        times.append(time.perf_counter())
        passage, cost = self.passage(shifted, bw)
        times.append(time.perf_counter())
        stages = ("features", "captions", "thoughts", "passage")
        timings = dict(zip(stages, np.diff(times).tolist(), strict=True))
        return Told(captions, passage, cost, timings)
