"""Held-out perplexity of a decoder beside trigrams, every word counted: ``python -m recipes.compact.perplexity``.

All read the same passages of romance_heldout, word by word, ends included, with the decoder's vocabulary.  The
decoder also knows the vector of the passage, which trigrams do not; so it is measured a second time with one
vector for all passages, the style b.
"""
from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator

import numpy as np

from storyteller import files
from storyteller.decoder import Decoder
from storyteller.evaluation import perplexity
from storyteller.training.corpus import EncodedCorpus

from . import kneser_ney


def closed(corpus: EncodedCorpus, n_words: int) -> Iterable[np.ndarray]:
    """Its texts, with UNK for words of an index of n_words or more."""
    return (np.where(text < n_words, text, 1) for text in corpus if len(text))


def measure(work: str, stage: str) -> Iterator[tuple[str, float, int]]:
    """What was measured, its perplexity, and over how many words and ends, of the decoder that a stage trained."""
    def corpus(name: str) -> EncodedCorpus:
        return EncodedCorpus(os.path.join(work, "passages", name))

    archive = os.path.join(work, stage, "romance.npz")
    settings = files.load_options(f"{archive}.pkl")
    n_words = settings["n_words"]
    with np.load(archive) as arrays:
        dec = Decoder(settings, dict(arrays), ["<eos>"] * n_words)
    heldout = list(closed(corpus("romance_heldout_part"), n_words))
    own, of_training = (np.load(os.path.join(work, "vectors", f"{name}_white.vectors.npy"), mmap_mode="r")
                        for name in ("romance_heldout_part", "romance_part"))
    b = np.broadcast_to(of_training.mean(axis=0, dtype=np.float64).astype(np.float32), own.shape)
    for name, vectors in (("decoder, given each passage's vector", own), ("decoder, given b alone", b)):
        yield name, *perplexity(dec, heldout, vectors, verbose=True)
    for name in ("romance_part", "romance"):
        log_p = kneser_ney.fit(closed(corpus(name), n_words), 3, n_words).log_probs(heldout)
        yield f"trigrams of {name}", float(np.exp(-log_p.mean())), len(log_p)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compact.perplexity", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="work folder of python -m recipes.compact")
    parser.add_argument("--stage", default="decoder", help="that trained the decoder (default: %(default)s)")
    options = parser.parse_args()
    for name, value, words in measure(options.work, options.stage):
        print(f"{name}: {value:.2f} over {words:,} words and ends", flush=True)


if __name__ == "__main__":
    main()
