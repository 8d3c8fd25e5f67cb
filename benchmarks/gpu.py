"""Stages and trainers on a GPU, beside PyTorch on the same card, in one run.

    python -m benchmarks.gpu [--device gpu] [--runs 20] [--tiny] [--only NAME ...]

"story" is a photo's features, the nearest of all captions, a hundred thoughts and the passage, one after the other;
"all captions" embeds as many as COCO has, once.

Models are random, of the original's sizes (--tiny: small ones, to try this program), and made in memory.  Both
compute in float32 without TF32, from NumPy arrays to NumPy arrays; after two runs that are not timed they take turns,
and medians are printed, with the time to the first result (compiling included) and the largest memory of the device
that JAX tells of.  Without torch its column is left out.  ``--device jax`` is JAX on whatever it has.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from storyteller import backend, check, decoder, embedding, layers, skipthoughts, vgg
from storyteller.training import losses, optimise

# Of the published models, and of the training that issue and docs speak of.
ORIGINAL = {"photos": 64, "all_captions": 414113, "captions": 10000, "sentences": 100, "beam": 50, "words": 40,
            "n_words": 40000, "dim": 2400, "dim_word": 620, "joint": 1024,
            "train_words": 20000, "batch": 64, "length": 60}
TINY = {"photos": 1, "all_captions": 300, "captions": 40, "sentences": 10, "beam": 5, "words": 5, "n_words": 300,
        "dim": 16, "dim_word": 12, "joint": 24, "train_words": 200, "batch": 4, "length": 6}

Run = Callable[[], Any]


def sentences(n: int, n_words: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Word indices of n captions of 8 to 15 words."""
    return [rng.integers(2, n_words, length) for length in rng.integers(8, 16, n)]


def features(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    params, n_in = [], 3
    for n_out, count in vgg.BLOCKS:
        for _ in range(count):
            params += [rng.standard_normal((n_out, n_in, 3, 3), dtype=np.float32) * np.float32((2 / (9 * n_in)) ** .5),
                       np.zeros(n_out, np.float32)]
            n_in = n_out
    for rows, columns in ((25088, 4096), (4096, 4096), (4096, 1000)):
        params += [rng.standard_normal((rows, columns), dtype=np.float32) * np.float32((2 / rows) ** .5),
                   np.zeros(columns, np.float32)]
    im = rng.standard_normal((sizes["photos"], 3, 224, 224), dtype=np.float32) * 50
    net = vgg.ConvNet(list(params), {"scale": np.ones(3), "shift": np.zeros(3)}, device)
    yield "storyteller", lambda: net.compute(im)
    if has_torch():
        import torch

        from .torch_peer import make_vgg19
        peer = make_vgg19(params).to(torch_device())

        @torch.inference_mode()
        def theirs() -> np.ndarray:
            return peer(torch.from_numpy(im).to(torch_device())).cpu().numpy()
        yield "PyTorch", theirs


def captions(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    params = losses.init_embedding(4096, 300, sizes["joint"], sizes["train_words"], rng)
    model = embedding.JointEmbedding({}, params, {}, (), device)
    found = sentences(sizes["captions"], sizes["train_words"], rng)
    yield "storyteller", lambda: model.sentence_vectors(found, 512)
    if has_torch():
        yield "PyTorch", torch_states(params, ["encoder"], params["Wemb"], found)


def thoughts(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    table = rng.standard_normal((sizes["n_words"], sizes["dim_word"]), dtype=np.float32)
    uni = layers.init_gru("encoder", sizes["dim_word"], sizes["dim"], rng)
    bi = {name: value for prefix in ("encoder", "encoder_r")
          for name, value in layers.init_gru(prefix, sizes["dim_word"], sizes["dim"] // 2, rng).items()}
    model = skipthoughts.SkipThoughts({"UNK": 1}, table, table, uni, bi, device)
    found = sentences(sizes["sentences"], sizes["n_words"], rng)
    yield "storyteller", lambda: model.vectors(found)
    if has_torch():
        parts = [torch_states(uni, ["encoder"], table, found), torch_states(bi, ["encoder", "encoder_r"], table, found)]
        yield "PyTorch", lambda: np.concatenate([part() for part in parts], axis=1)


def passage(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    params = losses.init_decoder(2 * sizes["dim"], sizes["dim_word"], sizes["dim"], sizes["n_words"], rng)
    params["ff_logit_b"][0] = -100      # no passage ends before its last word
    dec = decoder.Decoder({}, params, [f"w{i}" for i in range(sizes["n_words"])], device)
    context = rng.standard_normal((1, 2 * sizes["dim"]), dtype=np.float32)

    def ours() -> np.ndarray:
        return np.array([decoder.passages(dec, context, sizes["beam"], maxlen=sizes["words"])[0].cost])
    yield "storyteller", ours
    if has_torch():
        import torch

        from .torch_peer import DecoderNet
        net = DecoderNet(params).to(torch_device())

        @torch.inference_mode()
        def peer() -> np.ndarray:
            h, words = torch.tanh(net.initial(torch.from_numpy(context).to(torch_device()))), None
            costs = torch.zeros(1, device=torch_device())
            for _ in range(sizes["words"]):
                log_p, h = net(words, h)
                log_p[:, 1] = -1e20
                costs, best = torch.topk((costs[:, None] - log_p).flatten(), sizes["beam"], largest=False)
                h, words = h[best // log_p.shape[1]], best % log_p.shape[1]
            return costs[:1].cpu().numpy()
        yield "PyTorch", peer


def nearest(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    """The hundred captions nearest to a picture; the vectors stay on the device."""
    model = embedding.JointEmbedding({}, losses.init_embedding(8, 8, sizes["joint"], 8, rng), {}, (), device)
    vectors = layers.unit_rows(rng.standard_normal((sizes["all_captions"], sizes["joint"]), dtype=np.float32))
    query = vectors[7:8] + np.float32(0.01) * rng.standard_normal((1, sizes["joint"]), dtype=np.float32)
    yield "storyteller", lambda: model.nearest(vectors, query, 100)[1]
    if has_torch():
        import torch
        kept = torch.from_numpy(vectors).to(torch_device())

        @torch.inference_mode()
        def peer() -> np.ndarray:
            scores = kept @ torch.from_numpy(query[0]).to(torch_device())
            return torch.topk(scores, 100)[0].cpu().numpy()
        yield "PyTorch", peer


def story(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    stages = [dict(make({**sizes, "photos": 1}, device, rng)) for make in (features, nearest, thoughts, passage)]
    for whose in stages[0]:
        runs = [stage[whose] for stage in stages]
        yield whose, lambda runs=runs: [run() for run in runs][-1]


def all_captions(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    found = dict(captions({**sizes, "captions": sizes["all_captions"]}, device, rng))
    yield "storyteller", found["storyteller"]


def training(sizes: dict[str, int], device: str, rng: np.random.Generator) -> Iterator[tuple[str, Run]]:
    shape = {"dimctx": 2 * sizes["dim"], "dim_word": sizes["dim_word"], "dim": sizes["dim"],
             "n_words": sizes["train_words"]}
    arrays = losses.init_decoder(**shape, rng=rng)
    words = rng.integers(2, shape["n_words"], (sizes["length"], sizes["batch"]))
    batch = [words, np.ones(words.shape, np.float32), rng.standard_normal((sizes["batch"], shape["dimctx"]),
                                                                         dtype=np.float32) / 100]
    p, inputs = losses.parameters(arrays), losses.decoder_inputs()
    cost = losses.decoder_cost(p, *inputs, words=losses.WordCost(0.))
    gradients = optimise.gradients(cost, p)
    updates = optimise.adam(p, gradients, optimise.clip_scale(gradients, 5.)[0], 2e-4).updates
    step = backend.train_function(inputs, [cost], updates, device)
    yield "storyteller", lambda: step(*batch)[0]
    if has_torch():
        from . import training_step
        peer = training_step.theirs("decoder", arrays, torch_device())
        yield "PyTorch", lambda: np.array(peer(batch))


def torch_states(params: dict[str, np.ndarray], prefixes: list[str], table: np.ndarray,
                 found: list[np.ndarray]) -> Run:
    """Last states of sentences, of unit length, with nn.GRU over packed batches of 512."""
    import torch
    from torch.nn import functional as F
    from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

    from .torch_peer import make_gru
    net, known = make_gru(params, prefixes).to(torch_device()), torch.from_numpy(table).to(torch_device())

    @torch.inference_mode()
    def run() -> np.ndarray:
        vectors = np.empty((len(found), net.hidden_size * len(prefixes)), np.float32)
        order = sorted(range(len(found)), key=lambda i: len(found[i]))
        for batch in (order[first:first + 512] for first in range(0, len(order), 512)):
            words = pad_sequence([torch.from_numpy(found[i]) for i in batch], batch_first=True).to(torch_device())
            packed = pack_padded_sequence(known[words], torch.tensor([len(found[i]) for i in batch]), batch_first=True,
                                          enforce_sorted=False)
            vectors[batch] = F.normalize(net(packed)[1].transpose(0, 1).flatten(1)).cpu().numpy()
        return vectors
    return run


def has_torch() -> bool:
    return find_spec("torch") is not None


def torch_device() -> str:
    import torch
    return "cuda" if torch.cuda.is_available() else "cpu"


MEASURED = {"features": features, "captions": captions, "nearest": nearest, "thoughts": thoughts, "passage": passage,
            "story": story, "training": training, "all captions": all_captions}
ONCE = ("all captions",)    # takes too long to be repeated


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "jax", "cpu"), default="gpu")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED))
    options = parser.parse_args(arguments)
    device, sizes = backend.device_of(options.device), TINY if options.tiny else ORIGINAL
    print(f"device {device}; {check.devices()['devices']}")
    if has_torch():
        import torch
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        print(f"PyTorch {torch.__version__} on {torch_device()}")
    print(f"sizes: {sizes}", f"| what | whose | first | median of {options.runs} | ratio |",
          "| --- | --- | --- | --- | --- |", sep="\n")
    for name in options.only:
        runs = dict(MEASURED[name](sizes, device, np.random.default_rng(0)))
        first: dict[str, float] = {}
        results: dict[str, np.ndarray] = {}
        times: dict[str, list[float]] = {whose: [] for whose in runs}
        for turn in range(2 if name in ONCE else options.runs + 2):
            for whose, run in runs.items():
                start = time.perf_counter()
                result = run()
                seconds = time.perf_counter() - start
                if not turn:
                    first[whose], results[whose] = seconds, result
                if turn > 1 or name in ONCE and turn:
                    times[whose].append(seconds)
        medians = {whose: statistics.median(found) for whose, found in times.items()}
        for whose, median in medians.items():
            ratio = f"{median / medians['storyteller']:.2f}"
            print(f"| {name} | {whose} | {first[whose]:.2f} s | {median * 1000:.2f} ms | {ratio} |", flush=True)
        if name == "training":
            print(f"  ({sizes['length'] * sizes['batch'] / medians['storyteller']:,.0f} words a second)")
        if "PyTorch" in results:
            scale = np.abs(results["PyTorch"]).max()
            np.testing.assert_allclose(results["storyteller"], results["PyTorch"], atol=1e-3 * scale)
    if device == "cpu":
        return
    import jax
    stats = jax.devices()[0].memory_stats() or {}
    print(f"most memory of the device that JAX used: {stats.get('peak_bytes_in_use', 0) / 1e9:.2f} GB"
          if stats else "JAX tells no memory of this device")


if __name__ == "__main__":
    main()
