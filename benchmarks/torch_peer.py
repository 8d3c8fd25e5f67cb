"""The same networks in PyTorch on the CPU, written as PyTorch programs are.

The only module that imports torch.  The beam search stops as early as storyteller's, so that the
comparison is one of implementations and not of algorithms.
"""
from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from storyteller.text import preprocess
from storyteller.vgg import BLOCKS, load_image

from .parts import Parts, Told

Params = dict[str, np.ndarray]


def _tensor(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # "not writable": it is only read
        return torch.from_numpy(np.ascontiguousarray(array))


def _gru_weights(p: Params, prefix: str) -> dict[str, torch.Tensor]:
    """PyTorch's gates are r, z, n; z is our u.  Its biases stand on either side, ours on one."""
    b = np.concatenate([p[f"{prefix}_b"], p[f"{prefix}_bx"]])
    return {"weight_ih": _tensor(np.concatenate([p[f"{prefix}_W"], p[f"{prefix}_Wx"]], axis=1).T),
            "weight_hh": _tensor(np.concatenate([p[f"{prefix}_U"], p[f"{prefix}_Ux"]], axis=1).T),
            "bias_ih": _tensor(b), "bias_hh": torch.zeros(len(b))}


def make_gru(p: Params, prefixes: Sequence[str]) -> nn.GRU:
    """An nn.GRU, bidirectional where two prefixes are given."""
    n_in, dim = p[f"{prefixes[0]}_Wx"].shape
    gru = nn.GRU(n_in, dim, batch_first=True, bidirectional=len(prefixes) == 2)
    gru.load_state_dict({f"{name}_l0{suffix}": value
                         for prefix, suffix in zip(prefixes, ("", "_reverse"), strict=False)
                         for name, value in _gru_weights(p, prefix).items()})
    return gru


def make_linear(W: np.ndarray, b: np.ndarray) -> nn.Linear:
    """An nn.Linear of weights (in, out)."""
    layer = nn.utils.skip_init(nn.Linear, *W.shape)
    layer.load_state_dict({"weight": _tensor(W.T), "bias": _tensor(b)}, assign=True)
    return layer


def make_vgg19(weights: Sequence[np.ndarray]) -> nn.Sequential:
    """VGG-19 up to fc7."""
    layers: list[nn.Module] = []
    arrays = iter(weights)
    for _, convolutions in BLOCKS:
        for _ in range(convolutions):
            W, b = next(arrays), next(arrays)
            layer = nn.utils.skip_init(nn.Conv2d, W.shape[1], W.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": _tensor(W), "bias": _tensor(b)}, assign=True)
            layers += [layer, nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for _ in ("fc6", "fc7"):
        layers += [make_linear(next(arrays), next(arrays)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers).eval()


class DecoderNet(nn.Module):
    """The conditioned language model, a step at a time."""

    def __init__(self, p: Params):
        super().__init__()
        n_in, dim = p["decoder_Wx"].shape
        self.embedding = nn.Embedding.from_pretrained(_tensor(p["Wemb"]))
        self.initial = make_linear(p["ff_state_W"], p["ff_state_b"])
        self.cell = nn.GRUCell(n_in, dim)
        self.cell.load_state_dict(_gru_weights(p, "decoder"))
        self.hidden = make_linear(p["ff_hid_W"], p["ff_hid_b"]) if "ff_hid_W" in p else None
        self.out = make_linear(p["ff_logit_W"], p["ff_logit_b"])

    def forward(self, words: torch.Tensor | None,
                h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Last words (n,) (None: none yet) and states -> log-probabilities and states."""
        x = h.new_zeros(len(h), self.cell.input_size) if words is None else self.embedding(words)
        h = self.cell(x, h)
        top = h if self.hidden is None else torch.tanh(self.hidden(h))
        return F.log_softmax(self.out(top), dim=1), h


class TorchPeer:
    """The whole pipeline.

    Parameters
    ----------
    parts : Parts
    """

    def __init__(self, parts: Parts):
        self.parts = parts
        with torch.inference_mode():
            self.vgg = make_vgg19(parts.vgg)
            self.image = make_linear(parts.joint["ff_image_W"], parts.joint["ff_image_b"])
            self.joint_words = nn.Embedding.from_pretrained(_tensor(parts.joint["Wemb"]))
            self.joint = make_gru(parts.joint, ["encoder"])
            self.uni = make_gru(parts.uni, ["encoder"])
            self.bi = make_gru(parts.bi, ["encoder", "encoder_r"])
            self.decoder = DecoderNet(parts.decoder)
        self.caption_vectors = _tensor(parts.caption_vectors)       # stays mapped

    def features(self, im: np.ndarray) -> torch.Tensor:
        """fc7 of a prepared image (1, 3, 224, 224), scaled to unit norm: (1, 4096)."""
        return F.normalize(self.vgg(torch.from_numpy(im)))

    @staticmethod
    def _last_states(gru: nn.GRU, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        last = gru(packed)[1]                       # (directions, n, dim)
        return last.transpose(0, 1).flatten(1)

    @torch.inference_mode()
    def embed_captions(self, captions: Sequence[str], batch_size: int = 512) -> np.ndarray:
        """Joint embeddings of captions."""
        known, n = self.parts.joint_words, self.joint_words.num_embeddings
        sequences = [torch.tensor([i if i < n else 1 for i in
                                   (known.get(word, 1) for word in caption.split())] + [0])
                     for caption in captions]
        # Of like lengths together, so that little is padding.
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        vectors = np.empty((len(sequences), self.joint.hidden_size), dtype=np.float32)
        for first in range(0, len(order), batch_size):
            batch = order[first:first + batch_size]
            words = pad_sequence([sequences[i] for i in batch], batch_first=True)
            lengths = torch.tensor([len(sequences[i]) for i in batch])
            states = self._last_states(self.joint, self.joint_words(words), lengths)
            vectors[batch] = F.normalize(states).numpy()
        return vectors

    def nearest(self, features: torch.Tensor, k: int) -> list[str]:
        """The k captions that fit best, best first."""
        query = F.normalize(self.image(features))
        scores = self.caption_vectors @ query[0]
        best = torch.topk(scores, min(k, len(scores))).indices
        return [self.parts.captions[i] for i in best.tolist()]

    def thoughts(self, captions: Sequence[str]) -> torch.Tensor:
        """Thought vectors of captions."""
        known = self.parts.words
        rows = [[known.get(word, known["UNK"]) for word in preprocess(caption).split()]
                for caption in captions]
        lengths = torch.tensor([len(r) for r in rows])
        padded = pad_sequence([torch.tensor(r) for r in rows], batch_first=True).numpy()
        uni = self._last_states(self.uni, torch.from_numpy(self.parts.utable[padded]), lengths)
        bi = self._last_states(self.bi, torch.from_numpy(self.parts.btable[padded]), lengths)
        return torch.cat([F.normalize(uni), F.normalize(bi)], dim=1)

    def passage(self, context: torch.Tensor, width: int, maxlen: int = 1000) -> tuple[str, float]:
        """The passage for a context vector, and its cost."""
        finished: list[tuple[float, list[int]]] = []
        backpointers: list[tuple[torch.Tensor, torch.Tensor]] = []

        def read(row: int) -> list[int]:
            found = []
            for parents, chosen in reversed(backpointers):
                found.append(int(chosen[row]))
                row = int(parents[row])
            return found[::-1]

        def candidates(hypotheses: list[tuple[float, list[int]]]) -> list[tuple[float, list[int]]]:
            # The first to finish does not count if it has no words.
            return hypotheses[1:] if hypotheses and len(hypotheses[0][1]) == 1 else hypotheses

        h = torch.tanh(self.decoder.initial(context.reshape(1, -1)))
        costs, words, live = torch.zeros(1), None, torch.zeros(1, dtype=torch.long)
        for _ in range(maxlen):
            log_p, h = self.decoder(words, h)
            log_p[:, 1] = -1e20
            flat = (costs[:, None] - log_p).flatten()
            costs, best = torch.topk(flat, min(width - len(finished), len(flat)), largest=False)
            parents = torch.div(best, log_p.shape[1], rounding_mode="floor")
            words = best % log_p.shape[1]
            backpointers.append((live[parents], words))
            ended = words == 0
            for row in ended.nonzero().flatten().tolist():
                finished.append((float(costs[row]), read(row)))
            live = (~ended).nonzero().flatten()
            costs, words, parents = costs[live], words[live], parents[live]
            if not len(live) or len(finished) >= width:
                break
            # Costs only grow: nothing live can win any more.
            known = candidates(finished)
            if known and min(known, key=lambda f: f[0])[0] <= float(costs[0]):
                live = live[:0]
                break
            h = h[parents]
        everything = finished + [(float(cost), read(int(row)))
                                 for row, cost in zip(live, costs, strict=False)]
        cost, found = min(candidates(everything) or everything, key=lambda f: f[0])
        return " ".join(self.parts.vocabulary[word] for word in found[:-1]), cost

    @torch.inference_mode()
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
        thought = self.thoughts(captions).mean(dim=0)
        shifted = thought - _tensor(self.parts.caption_style) + _tensor(self.parts.book_style)
        times.append(time.perf_counter())
        passage, cost = self.passage(shifted, bw)
        times.append(time.perf_counter())
        stages = ("features", "captions", "thoughts", "passage")
        timings = dict(zip(stages, np.diff(times).tolist(), strict=True))
        return Told(captions, passage, cost, timings)
