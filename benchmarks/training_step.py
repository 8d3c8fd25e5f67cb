"""Words per second of one training step, beside the same network in PyTorch.

    python -m benchmarks.training_step [--models decoder skipthoughts embedding] [--steps 10]

Both make the same update on the same random minibatch from the same parameters: cost, gradients, clipping
by global norm, Adam.  They take turns, a step each, after a warm-up, so that other work on the machine
meets both; the medians are compared.  A pause before each turn lets the other's idle threads, which wait
in a loop for more work, go to sleep.  The first two costs must agree before anything is timed.  PyTorch's
program is written as PyTorch programs are: nn.GRU, which is the same function (its reset gate multiplies
after the product as well; its two gates for reset and update come in the same order), F.cross_entropy,
torch.optim.Adam, clip_grad_norm_.  Threads: what OPENBLAS_NUM_THREADS says, or all.
"""
from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from storyteller import backend
from storyteller.training import losses, optimise

RATE, CLIP = 2e-4, 5.0
PAUSE = 0.3     # seconds
SIZES = {"decoder": {"dimctx": 4800, "dim_word": 256, "dim": 512, "n_words": 8000},
         "skipthoughts": {"dim_word": 256, "dim": 512, "n_words": 8000},
         "embedding": {"dim_image": 4096, "dim_word": 300, "dim": 1024, "n_words": 8000}}

Params = dict[str, np.ndarray]


def minibatch(model: str, batch: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The inputs of a cost, in the order of its *_inputs(): sentences of one length, as the trainers'."""
    n_words = SIZES[model]["n_words"]

    def sentences() -> list[np.ndarray]:
        words = rng.integers(2, n_words, (length, batch))
        words[-1] = 0
        return [words, np.ones((length, batch), np.float32)]

    if model == "skipthoughts":
        return sentences() + sentences() + sentences()
    extra = rng.standard_normal((batch, SIZES[model].get("dimctx") or SIZES[model]["dim_image"]))
    extra /= np.linalg.norm(extra, axis=1, keepdims=True)
    return [*sentences(), extra.astype(np.float32)]


def ours(model: str, arrays: Params, device: str = "cpu") -> Callable[[list[np.ndarray]], float]:
    """One update with storyteller."""
    p = losses.parameters(arrays)
    inputs = getattr(losses, f"{model}_inputs")()
    options = {} if model == "embedding" else {"words": losses.WordCost(0.)}
    cost = getattr(losses, f"{model}_cost")(p, *inputs, **options)
    gradients = optimise.gradients(cost, p)
    scale, _ = optimise.clip_scale(gradients, CLIP)
    step = backend.train_function(inputs, [cost], optimise.adam(p, gradients, scale, RATE).updates,
                                  device)
    return lambda batch: float(step(*batch)[0])


class TorchModel(nn.Module):
    """The three networks, from the archives' arrays."""

    def __init__(self, model: str, p: Params):
        super().__init__()
        self.model = model
        self.Wemb = nn.Embedding.from_pretrained(torch.tensor(p["Wemb"]), freeze=False)
        self.grus = nn.ModuleDict({name[:-2]: self._gru(p, name[:-2]) for name in p
                                   if name.endswith("_U")})
        self.dense = nn.ModuleDict({name[:-2]: self._dense(p, name[:-2]) for name in p
                                    if name.startswith("ff_") and name.endswith("_W")})

    @staticmethod
    def _dense(p: Params, prefix: str) -> nn.Linear:
        layer = nn.Linear(*p[f"{prefix}_W"].shape)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(p[f"{prefix}_W"].T))
            layer.bias.copy_(torch.tensor(p[f"{prefix}_b"]))
        return layer

    @staticmethod
    def _gru(p: Params, prefix: str) -> nn.GRU:
        layer = nn.GRU(p[f"{prefix}_W"].shape[0], p[f"{prefix}_Ux"].shape[0])
        with torch.no_grad():
            layer.weight_ih_l0.copy_(torch.tensor(np.hstack([p[f"{prefix}_W"], p[f"{prefix}_Wx"]]).T))
            layer.weight_hh_l0.copy_(torch.tensor(np.hstack([p[f"{prefix}_U"], p[f"{prefix}_Ux"]]).T))
            layer.bias_ih_l0.copy_(torch.tensor(np.hstack([p[f"{prefix}_b"], p[f"{prefix}_bx"]])))
            layer.bias_hh_l0.zero_()
        return layer

    def passage(self, prefix: str, words: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        """Summed cost of writing words (T, n) from states (n, dim)."""
        read = torch.cat([torch.zeros_like(self.Wemb(words[:1])), self.Wemb(words[:-1])])
        top = self.grus[prefix](read, h0[None])[0]
        if "ff_hid" in self.dense:
            top = torch.tanh(self.dense["ff_hid"](top))
        logits = self.dense["ff_logit"](top)
        return F.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="sum")

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        if self.model == "decoder":
            words, _, ctx = batch
            return self.passage("decoder", words, torch.tanh(self.dense["ff_state"](ctx)))
        vector = self.grus["encoder"](self.Wemb(batch[0]))[0][-1]
        if self.model == "skipthoughts":
            return self.passage("decoder_f", batch[2], vector) + self.passage("decoder_b", batch[4], vector)
        scores = self.dense["ff_image"](batch[2]) @ F.normalize(vector).T
        own = scores.diagonal()
        both = F.relu(0.2 - own[:, None] + scores) + F.relu(0.2 - own[None] + scores)
        return both.masked_fill(torch.eye(len(own), dtype=torch.bool), 0).sum()


def theirs(model: str, arrays: Params, device: str = "cpu") -> Callable[[list[np.ndarray]], float]:
    """One update with PyTorch."""
    network = TorchModel(model, arrays).to(device)
    adam = torch.optim.Adam(network.parameters(), lr=RATE)

    def step(batch: list[np.ndarray]) -> float:
        cost = network(*[torch.from_numpy(array).to(device) for array in batch])
        adam.zero_grad()
        cost.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        adam.step()
        return cost.item()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, help="64; 128 for the embedding")
    parser.add_argument("--length", type=int, default=30, help="steps, <eos> included; 12 for the embedding")
    options = parser.parse_args()
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    for model in options.models:
        rng = np.random.default_rng(0)
        arrays = getattr(losses, f"init_{model}")(**SIZES[model], rng=rng)
        n = options.batch or (128 if model == "embedding" else 64)
        batch = minibatch(model, n, 12 if model == "embedding" else options.length, rng)
        words = sum(array.size for array in batch if array.dtype == np.int64)
        runners = {"storyteller": ours(model, arrays), "PyTorch": theirs(model, arrays)}
        costs = {name: [run(batch) for _ in range(2)] for name, run in runners.items()}
        np.testing.assert_allclose(costs["storyteller"], costs["PyTorch"], rtol=1e-3)
        times: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(options.steps):
            for name, run in runners.items():
                time.sleep(PAUSE)
                start = time.perf_counter()
                run(batch)
                times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        ratios = [b / a for a, b in zip(times["storyteller"], times["PyTorch"])]
        print(f"{model} ({backend.DIALECT}, {torch.get_num_threads()} threads, {words} words a step): "
              + ", ".join(f"{name} {words / seconds:.0f} words/s (best {words / min(times[name]):.0f})"
                          for name, seconds in medians.items())
              + f"; ratio {medians['PyTorch'] / medians['storyteller']:.2f} "
              f"(of neighbours {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f})",
              flush=True)


if __name__ == "__main__":
    main()
