"""Put trained models into the package, small: float16, and only what telling a story reads."""
from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from storyteller import decoder, embedding, files, skipthoughts
from storyteller.errors import StorytellerError
from storyteller.text import words_by_index

from . import library, measures

LIMIT = 78e6  # bytes, of all files; a wheel has them compressed
MANTISSA = 6    # bits kept of the decoder's numbers, of float16's 10: the other 4 are noise, and do not compress
FRAGMENTS = frozenset("ca wo sha ai gon wan na ta".split())    # of can't, won't, gonna ...: no line ends with them


def _half(array: np.ndarray, name: str) -> np.ndarray:
    half = np.asarray(array, dtype=np.float16)
    if not np.isfinite(half).all():
        raise StorytellerError(f"{name} holds numbers beyond float16's largest, 65504: train it again")
    return half


def rounded(half: np.ndarray, bits: int) -> np.ndarray:
    """Float16 numbers with so many bits of mantissa, rounded to the nearest; the others are 0, so that a wheel and a
    repository store two thirds of the bytes."""
    drop = 10 - bits
    whole = half.view(np.uint16).astype(np.uint32) + (1 << drop >> 1)
    return (whole >> drop << drop).astype(np.uint16).view(np.float16)


def _copy_arrays(source: str, target: str, names: Iterable[str]) -> None:
    arrays = files.load_arrays(source, list(names))
    files.save_arrays(target, **{name: _half(array, f"{source}: {name}") for name, array in arrays.items()})


def _copy_table(source: str, target: str) -> None:
    table = _half(files.load_matrix(source), source)
    with files.write_atomically(target) as file:
        np.save(file, table, allow_pickle=False)


def copy_skipthoughts(folders: Iterable[str], target: str) -> None:
    """Encoders and tables of the folders that hold them; dictionary.txt must be one for both."""
    texts = set()
    for folder in folders:
        for name, prefixes in skipthoughts.ENCODERS.items():
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                continue
            options = files.load_options(f"{path}.pkl")
            shapes = skipthoughts.parameter_shapes(options, f"{path}.pkl", prefixes)
            _copy_arrays(path, os.path.join(target, name), shapes)
            files.save_pickle(os.path.join(target, f"{name}.pkl"), options)
            table = "btable.npy" if name.startswith("bi") else "utable.npy"
            _copy_table(os.path.join(folder, table), os.path.join(target, table))
        with open(os.path.join(folder, "dictionary.txt"), "rb") as file:
            texts.add(file.read())
    if len(texts) != 1:
        raise StorytellerError("the two skip-thoughts models have different dictionaries: train both with one")
    with files.write_atomically(os.path.join(target, "dictionary.txt")) as file:
        file.write(texts.pop())


def rhymes(vocabulary: Sequence[str], sounds: Mapping[str, Sequence[Sequence[str]]]) -> list[int]:
    """A number for every word: the same for those that rhyme, said as is commonest; 0 where none rhymes with it.

    Parameters
    ----------
    vocabulary : sequence of str
    sounds : mapping
        A pronouncing dictionary, see :func:`recipes.compact.measures.rhymes`.
    """
    tails = [next(iter(measures.tails_of(word, sounds)), None)
             if len(word) > 1 and word.isalpha() and word not in FRAGMENTS else None for word in vocabulary]
    counts = Counter(tail for tail in tails if tail)
    numbers = {tail: i for i, tail in enumerate((tail for tail, count in counts.items() if count > 1), 1)}
    return [numbers.get(tail, 0) for tail in tails]


def copy_decoder(source: str, whitening: str, dictionary: str, target: str, styles: Sequence[np.ndarray],
                 sounds: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """``source`` is an archive of the trainer that reads whitened vectors; written as romance.npz."""
    options = files.load_options(f"{source}.pkl")
    arrays = files.load_arrays(source, list(decoder.parameter_shapes(options, f"{source}.pkl")))
    with np.load(whitening) as given:
        arrays = library.folded(arrays, given["m"], given["P"])
    files.save_arrays(os.path.join(target, "romance.npz"),
                      **{name: rounded(_half(array, f"{source}: {name}"), MANTISSA) for name, array in arrays.items()})
    words = {word: i for word, i in files.load_dictionary(dictionary).items() if i < options["n_words"]}
    files.save_pickle(os.path.join(target, "romance_dictionary.pkl"), words)
    options["plain"] = np.mean(styles, axis=0, dtype=np.float64).reshape(-1).tolist()
    options["rhymes"] = rhymes([word or "" for word in words_by_index(words, options["n_words"])], sounds)
    files.save_pickle(os.path.join(target, "romance.npz.pkl"), options)


def copy_embedding(source: str, target: str) -> None:
    """``source`` is an archive of the trainer; written as embedding.npz."""
    options = files.load_options(f"{source}.pkl")
    _copy_arrays(source, os.path.join(target, "embedding.npz"), embedding.parameter_shapes(options, f"{source}.pkl"))
    files.save_pickle(os.path.join(target, "embedding.npz.pkl"), options)
    files.save_pickle(os.path.join(target, "embedding.npz.dictionary.pkl"),
                        files.load_dictionary(f"{source}.dictionary.pkl"))


def copy_files(sources: Iterable[str], target: str) -> None:
    """Files that are small already."""
    for source in sources:
        shutil.copyfile(source, os.path.join(target, os.path.basename(source)))


def check_size(target: str) -> int:
    """Bytes of all files in the folder.

    Raises
    ------
    StorytellerError
        If they are more than the wheel may have.
    """
    size = sum(entry.stat().st_size for entry in os.scandir(target) if entry.is_file())
    if size > LIMIT:
        raise StorytellerError(f"{target}: {size / 1e6:.1f} MB, but at most {LIMIT / 1e6:.0f} MB may be shipped: "
                               "train with fewer words or units")
    return size
