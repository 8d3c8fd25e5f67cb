"""How time and memory grow with the captions, the photos, the vocabulary and the beam.

    python -m benchmarks.growth [--quick] [--only captions photos vocabulary beam approximate] [--gb 3]

One thread; seconds are processor time, so that other work on the machine counts little, and medians.  Memory is what
the call itself allocates at its peak (tracemalloc), beside what it is given.  The slope is that of the line, in a
double logarithmic plot, to the row above: 0 where the cost stays, 1 where it grows in proportion.

captions     the 100 nearest captions of one photo; vectors of 1,024 numbers as far as --gb holds them, then of 64
photos       the same for many photos, one after the other
vocabulary   20 steps of beam search, width 50, decoder of 1,000 units
beam         20 steps, 40,000 words
approximate  what FAISS would give (``pip install faiss-cpu``): HNSW graphs, their time and recall beside exact search,
             for the package's captions and photos, and for clustered vectors
"""
from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from storyteller import embedding, generate, search  # noqa: E402
from storyteller.decoder import Decoder  # noqa: E402
from storyteller.training import losses  # noqa: E402

K = 100
STEPS = 20
UNITS = {"dimctx": 4800, "dim_word": 620, "dim": 1000}
QUICK = {"captions": [10**4, 10**5], "photos": [1, 10, 100], "vocabulary": [8000, 16000], "beam": [1, 10, 50],
         "approximate": [10**4]}
FULL = {"captions": [10**4, 10**5, 10**6, 10**7], "photos": [1, 10, 100, 1000, 10**4],
        "vocabulary": [8000, 20000, 40000, 80000], "beam": [1, 5, 10, 50, 100, 200], "approximate": [10**5, 10**6]}
Row = tuple[str, int, Callable[[], Any], int]       # what grows, how large, the call, bytes that it is given


def clustered(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (n, dim) float32 that lie about n / 100 centres, as captions lie about what they tell of."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 100), dim), dtype=np.float32)
    out = np.empty((n, dim), np.float32)
    for start in range(0, n, 10**5):
        part = out[start:start + 10**5]
        rng.standard_normal(out=part, dtype=np.float32)
        part += centres[rng.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of processor time of a call, and the MB that it allocates at its peak.

    The first of up to 25 calls does not count, unless it is so long that it is the only one.
    """
    seconds: list[float] = []
    while len(seconds) < 4 or (sum(seconds) < 1 and len(seconds) < 25):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
        if seconds[0] > 10:
            break
    seconds = seconds[1:] or seconds
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return statistics.median(seconds), peak / 1e6


def captions(sizes: Iterable[int], limit: float) -> Iterator[Row]:
    for dim in (1024, 64):
        for n in sizes:
            if 4e-9 * n * dim <= limit:
                vectors = clustered(n, dim)
                query = vectors[n // 2].copy()
                yield (f"captions of {dim} numbers", n, lambda v=vectors, q=query: embedding.nearest(v, q, K),
                       vectors.nbytes)


def photos(sizes: Iterable[int], limit: float) -> Iterator[Row]:
    vectors, queries = clustered(10**4, 1024), clustered(10**4, 1024, 1)

    def call(n: int) -> None:
        for query in queries[:n]:
            embedding.nearest(vectors, query, K)

    for n in sizes:
        yield "photos, 10,000 captions of 1,024 numbers", n, lambda n=n: call(n), vectors.nbytes + queries[:n].nbytes


def _beam(n_words: int) -> tuple[Callable[[int], Any], int]:
    arrays = losses.init_decoder(**UNITS, n_words=n_words, rng=np.random.default_rng(0))
    dec = Decoder({}, arrays, [str(i) for i in range(n_words)])
    state = dec.f_init(np.random.default_rng(1).standard_normal((1, UNITS["dimctx"])).astype(np.float32))
    return (lambda width: search.beam_search(dec.step, state, width, STEPS),
            sum(array.nbytes for array in arrays.values()))


def vocabulary(sizes: Iterable[int], limit: float) -> Iterator[Row]:
    for n in sizes:
        call, held = _beam(n)
        yield "words, beam of 50", n, lambda call=call: call(50), held


def beam(sizes: Iterable[int], limit: float) -> Iterator[Row]:
    call, held = _beam(40000)
    for n in sizes:
        yield "width of the beam, 40,000 words", n, lambda n=n: call(n), held


def growth(rows: Iterable[Row]) -> None:
    before: tuple[str, int, float] | None = None
    for name, n, call, held in rows:
        seconds, peak = timed(call)
        slope = ""
        if before is not None and before[0] == name:
            slope = f"{np.log(seconds / before[2]) / np.log(n / before[1]):.2f}"
        else:
            print(f"\n| {name} | seconds | slope | MB of the call | MB given |\n| --- | --- | --- | --- | --- |")
        print(f"| {n:,} | {seconds:.4g} | {slope} | {peak:,.1f} | {held / 1e6:,.0f} |", flush=True)
        before = name, n, seconds


def approximate(sizes: Iterable[int], limit: float) -> None:
    """HNSW graphs (Malkov & Yashunin 2018, arXiv:1603.09320) of FAISS."""
    import faiss
    faiss.omp_set_num_threads(1)
    print("\n| vectors | exact s | build s | breadth of the search | s | recall of 100 |")
    print("| --- | --- | --- | --- | --- | --- |")
    z = generate.load_all({}, verbose=False)
    photos = sorted((Path(__file__).parent.parent / "images").glob("*.jpg"))
    features = np.stack([generate.image_features(z, photo) for photo in photos])
    vectors = np.asarray(z["cvec"])
    _compare("the package's captions, its photos", vectors, embedding.encode_images(z["vse"], features), faiss)
    for n in sizes:
        vectors = clustered(n, 64)
        queries = vectors[::n // 50] + np.random.default_rng(1).normal(0, 0.05, (50, 64)).astype(np.float32)
        _compare("clustered", vectors, queries, faiss)


def _compare(name: str, vectors: np.ndarray, queries: np.ndarray, faiss: Any) -> None:
    name = f"{name}, {len(vectors):,} of {vectors.shape[1]:,} numbers"
    exact = [set(embedding.nearest(vectors, query, K)[0].tolist()) for query in queries]
    seconds, _ = timed(lambda: embedding.nearest(vectors, queries[0], K))
    start = time.process_time()
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    built = time.process_time() - start
    for breadth in (K, 4 * K):
        index.hnsw.efSearch = breadth
        found = index.search(queries, K)[1]
        recall = np.mean([len(one & set(row.tolist())) / K for one, row in zip(exact, found)])
        spent, _ = timed(lambda: [index.search(query[None], K) for query in queries])
        print(f"| {name} | {seconds:.4g} | {built:.3g} | {breadth} | {spent / len(queries):.4g} | {recall:.3f} |",
              flush=True)


PARTS = {part.__name__: part for part in (captions, photos, vocabulary, beam)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "approximate"], default=list(PARTS))
    parser.add_argument("--gb", type=float, default=3, help="of caption vectors at most (default: %(default)s)")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    for name in options.only:
        if name == "approximate":
            approximate(sizes[name], options.gb)
        else:
            growth(PARTS[name](sizes[name], options.gb))


if __name__ == "__main__":
    main()
