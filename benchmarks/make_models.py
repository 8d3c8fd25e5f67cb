"""Make random models of the original's sizes, in the original's file formats.

::

    python -m benchmarks.make_models DIR [--scale 1.0] [--seed 0]

They take the time and the memory of the real ones, and know nothing: their stories are rows of
words without sense.  What exists in DIR is kept, so an interrupted run goes on where it stopped
(by file: each is written under a temporary name and renamed when it is complete).
"""
from __future__ import annotations

import argparse
import json
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from storyteller import files

Progress = Callable[[int], object]

TABLE_ROWS = 930_911        # of the published word tables
CAPTIONS = 414_113          # of COCO's training set
BATCH = 1000                # items that cPickle appends to a list at a time

CONFIG = '''"""Settings of the benchmark's random models."""
FLAG_CPU_MODE = True
paths = dict()
paths['skmodels'] = './'
paths['sktables'] = './'
paths['decmodel'] = 'romance.npz'
paths['dictionary'] = 'romance_dictionary.pkl'
paths['vsemodel'] = 'coco_embedding.npz'
paths['vgg'] = 'vgg19.pkl'
paths['captions'] = 'coco_train_caps.txt'
paths['negbias'] = 'caption_style.npy'
paths['posbias'] = 'romance_style.npy'
'''

# The head of the vocabulary, so that what is written looks a little like a caption.
COMMON = """a on of the in with and is man to sitting two standing at people are next white woman
    street table holding person top group down large an field tennis small black plate dog cat train
    riding front room red near young some sign water has his by baseball playing while skateboard
    blue player wooden green laying walking cake kitchen pizza bathroom sits bus giraffe""".split()


@dataclass(frozen=True)
class Sizes:
    """Sizes of all models; the defaults are the published ones.

    Attributes
    ----------
    uni, bi, word : int
        Skip-thoughts: states of the uni encoder, of each bi encoder, length of word vectors.
    rows, trained : int
        Rows of the expanded tables; words of the archives' own, unused, ``Wemb``.
    joint, joint_word, joint_words : int
        Joint embedding: its space, its word vectors, its vocabulary.
    captions : int
    decoder, decoder_words : int
        Decoder: state and vocabulary; its word vectors are of length ``word``.
    """

    uni: int = 2400
    bi: int = 1200
    word: int = 620
    rows: int = TABLE_ROWS
    trained: int = 20_000
    joint: int = 1024
    joint_word: int = 300
    joint_words: int = 20_000
    captions: int = CAPTIONS
    decoder: int = 1600
    decoder_words: int = 40_000

    @property
    def thought(self) -> int:
        """Length of a thought vector."""
        return self.uni + 2 * self.bi

    @classmethod
    def scaled(cls, scale: float = 1.0, tiny: bool = False) -> Sizes:
        """Vocabularies, tables and captions times ``scale``; layers a tenth where ``tiny``."""
        def rows(n: int, least: int) -> int:
            return max(least, round(n * scale))

        layers = {}
        if tiny:
            layers = dict(uni=240, bi=120, word=64, joint=96, joint_word=32, decoder=160)
        joint_words = rows(cls.joint_words, 500)
        return cls(rows=max(rows(cls.rows, 0), joint_words + 500), trained=rows(cls.trained, 500),
                   joint_words=joint_words, captions=rows(cls.captions, 1000),
                   decoder_words=rows(cls.decoder_words, 1000), **layers)


# -- words and captions --------------------------------------------------------------------------

def made_up_words(random: np.random.Generator, taken: Iterable[str] = ()) -> Iterator[str]:
    """Pronounceable words without end, none twice and none of those taken."""
    seen = set(taken)
    onsets = "b bl br c ch d dr f fl g gr h j k l m n p pl qu r s sh st t th tr v w y z".split()
    vowels = "a e i o u ai ea ee ou".split()
    codas = ["", "", "", "n", "r", "s", "l", "m", "st", "ck", "nd"]
    syllables = np.array([o + v + c for o in onsets for v in vowels for c in codas])
    while True:
        drawn = random.integers(0, len(syllables), (4096, 4))
        counts = random.integers(2, 5, 4096)
        for row, count in zip(syllables[drawn], counts, strict=True):
            word = "".join(row[:count])
            if word not in seen:
                seen.add(word)
                yield word


def caption_words(sizes: Sizes, seed: int) -> list[str]:
    """The captions' vocabulary, most frequent first; ``<eos>`` and UNK have no place in it."""
    words = list(OrderedDict.fromkeys(COMMON))
    fresh = made_up_words(_random(seed, "words"), words)
    while len(words) < sizes.joint_words - 2:
        words.append(next(fresh))
    return words[:sizes.joint_words - 2]


def captions(words: list[str], count: int, random: np.random.Generator) -> Iterator[str]:
    """Captions of 8-16 words, drawn from a Zipf distribution."""
    share = np.cumsum(1 / np.arange(1, len(words) + 1))
    share /= share[-1]
    for first in range(0, count, 8192):
        lengths = random.integers(8, 17, min(8192, count - first))
        drawn = np.searchsorted(share, random.random(lengths.sum()))
        for row in np.split(drawn, np.cumsum(lengths)[:-1]):
            yield " ".join([words[i] for i in row])


# -- object tables -------------------------------------------------------------------------------

def write_object_table(file: BinaryIO, count: int, dim: int, rows: Iterable[np.ndarray],
                       two_dimensional: bool, progress: Progress | None = None) -> None:
    """Write a word table as NumPy under Python 2 does: an array of so many small arrays, pickled.

    Parameters
    ----------
    file : binary file
    count, dim : int
        Rows, and numbers in a row.
    rows : iterable of (dim,) float32
        As many as announced; only one is held at a time.
    two_dimensional : bool
        Pickle each as an array (1, dim), as in the published btable.npy; else (dim,).
    progress : callable, optional
        Called with the number of rows written since the last call.

    Notes
    -----
    The opcodes are those of ``cPickle.dump(table, file, 2)``, byte for byte: shared names go
    through the memo, which gets a new entry for every row, and items are appended to the
    list in thousands.
    """
    def number(n: int) -> bytes:
        if n < 1 << 8:
            return b"K" + bytes([n])
        return b"M" + struct.pack("<H", n) if n < 1 << 16 else b"J" + struct.pack("<i", n)

    def put(n: int) -> bytes:
        return b"q" + bytes([n]) if n < 1 << 8 else b"r" + struct.pack("<I", n)

    def dtype(name: bytes, order: bytes, flags: bytes, memo: bytes) -> bytes:
        return (b"U\x02" + name + b"K\x00K\x01\x87R" + memo + b"(K\x03U\x01" + order
                + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + flags + b"tb\x89")

    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({count},), }}"
    file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117).encode() + b"\n")
    file.write(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
               b"q\x03(K\x01" + number(count) + b"\x85cnumpy\ndtype\nq\x04"
               + dtype(b"O8", b"|", b"\x3f", b"q\x05") + b"]q\x06")
    size = dim * 4
    shape = b"(K\x01" + (b"K\x01" + number(dim) + b"\x86" if two_dimensional
                        else number(dim) + b"\x85")
    string = b"U" + bytes([size]) if size < 1 << 8 else b"T" + struct.pack("<i", size)
    first = shape + b"h\x04" + dtype(b"f4", b"<", b"\x00", b"q\x08") + string
    later = shape + b"h\x08\x89" + string
    iterator, memo, left = iter(rows), 7, count
    while left:
        n = min(BATCH, left)
        parts = [b"("] if n > 1 else []
        for _ in range(n):
            row = np.asarray(next(iterator), dtype="<f4")
            if row.shape != (dim,):
                raise ValueError(f"a row has shape {row.shape}: expected ({dim},)")
            parts += [b"h\x01h\x02K\x00\x85U\x01b\x87R", put(memo), first if memo == 7 else later,
                      row.tobytes(), b"tb"]
            memo += 2 if memo == 7 else 1  # the first row's dtype takes an entry as well
        parts.append(b"e" if n > 1 else b"a")
        file.write(b"".join(parts))
        left -= n
        if progress is not None:
            progress(n)
    file.write(b"tb.")


# -- parameters ----------------------------------------------------------------------------------

def _random(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def normal(random: np.random.Generator, *shape: int, std: float = 1.0) -> np.ndarray:
    """Normally distributed float32."""
    return random.standard_normal(shape, dtype=np.float32) * np.float32(std)


def gru(random: np.random.Generator, prefix: str, n_in: int, dim: int,
        gain: float = 1.0) -> dict[str, np.ndarray]:
    """A GRU whose activations do not depend on its size, for inputs of standard deviation 1."""
    W, U = gain / np.sqrt(n_in), 1 / np.sqrt(dim)
    return {f"{prefix}_W": normal(random, n_in, 2 * dim, std=W),
            f"{prefix}_b": normal(random, 2 * dim, std=0.1),
            f"{prefix}_U": normal(random, dim, 2 * dim, std=U),
            f"{prefix}_Wx": normal(random, n_in, dim, std=W),
            f"{prefix}_Ux": normal(random, dim, dim, std=U),
            f"{prefix}_bx": normal(random, dim, std=0.1)}


def decoder_parameters(sizes: Sizes, random: np.random.Generator, logit_std: float = 2.5,
                       words: float = 70.0) -> dict[str, np.ndarray]:
    """A decoder whose search is not degenerate.

    Parameters
    ----------
    sizes : Sizes
    random : numpy Generator
    logit_std : float
        Of a word's logit about its (Zipf-like) mean.
    words : float
        About where passages end.

    Returns
    -------
    dict of str to float32 arrays

    Notes
    -----
    Weights are scaled by the square roots of layer sizes, and the mean logits are the logarithms of
    a distribution, so that neither layer sizes nor vocabulary change the behaviour much.

    State unit 0 is a slow clock: its update gate stands near one, its candidate too, so that it
    climbs from -0.83 towards 0.96, a little faster or slower as the words say.  Hidden unit 0
    turns that into a switch, and feeds the logit of ``<eos>`` alone.  Without length
    normalisation every word costs and the shortest passage would always be the cheapest; so
    the switch has to make an early end dearer than any passage (``gain``), and then to leave
    ``<eos>`` a word among others (``plateau`` nats below the sum of all), at which some
    hypotheses end soon and others late.
    """
    n_in, dim, vocabulary = sizes.word, sizes.decoder, sizes.decoder_words
    p = {"Wemb": normal(random, vocabulary, n_in),
         "ff_state_W": normal(random, sizes.thought, dim, std=0.8),
         "ff_state_b": normal(random, dim, std=0.1),
         **gru(random, "decoder", n_in, dim),
         "ff_hid_W": normal(random, dim, n_in, std=1.5 / np.sqrt(dim)),
         "ff_hid_b": normal(random, n_in, std=0.1)}
    top = 0.55                                        # about the deviation of a hidden unit
    p["ff_logit_W"] = normal(random, n_in, vocabulary, std=logit_std / (top * np.sqrt(n_in)))
    share = 1 / np.arange(3, vocabulary + 3)
    p["ff_logit_b"] = np.log(share / share.sum()).astype(np.float32)

    # The clock.
    gain, plateau = 90, 3
    pace = words / 3                                  # its time constant, in words
    gate = np.log(pace - 1)                           # sigmoid(gate) = 1 - 1 / pace
    p["ff_state_W"][:, 0] *= 0.02
    p["ff_state_b"][0] = -1.2
    for name, column in (("W", 0), ("W", dim), ("U", 0), ("U", dim), ("Wx", 0), ("Ux", 0)):
        p[f"decoder_{name}"][:, column] *= 0.3
    p["decoder_b"][dim] = gate
    p["decoder_bx"][0] = 2.0
    p["ff_hid_W"][:, 0] = 0
    p["ff_hid_W"][0, 0] = 3
    p["ff_hid_b"][0] = -0.3
    p["ff_logit_W"][0, :] = 0
    p["ff_logit_W"][0, 0] = gain
    p["ff_logit_b"][0] = logit_std ** 2 / 2 - plateau - gain
    return p



# -- files ---------------------------------------------------------------------------------------

class Maker:
    """Makes the files of a folder, each once.

    Parameters
    ----------
    folder : path
    sizes : Sizes
    seed : int
    """

    def __init__(self, folder: Path, sizes: Sizes, seed: int):
        self.folder, self.sizes, self.seed = folder, sizes, seed
        self._words: list[str] | None = None

    @property
    def words(self) -> list[str]:
        """The captions' vocabulary."""
        if self._words is None:
            self._words = caption_words(self.sizes, self.seed)
        return self._words

    def files(self) -> dict[str, tuple[int, Callable[[Path, Progress], None]]]:
        """Name -> (about so many bytes, how it is made), in an order in which each can be made."""
        s = self.sizes
        gru_numbers = [3 * d * (s.word + d) for d in (s.uni, s.bi)]
        wemb = s.trained * s.word
        decoder = (s.decoder_words * 2 * s.word + s.thought * s.decoder
                   + 3 * s.decoder * (s.word + s.decoder) + s.decoder * s.word)
        joint = (s.joint_words * s.joint_word + 3 * s.joint * (s.joint_word + s.joint)
                 + 4096 * s.joint)
        table = s.rows * (s.word * 4 + 32)
        return {
            "vgg19.pkl": (574_700_000, self._vgg),
            "uni_skip.npz": (4 * (gru_numbers[0] + wemb), self._uni),
            "bi_skip.npz": (4 * (2 * gru_numbers[1] + wemb), self._bi),
            "dictionary.txt": (s.rows * 10, self._dictionary),
            "utable.npy": (table, self._utable),
            "btable.npy": (table, self._btable),
            "coco_embedding.npz": (4 * joint, self._embedding),
            "coco_train_caps.txt": (s.captions * 75, self._captions),
            "romance.npz": (4 * decoder, self._decoder),
            "romance_dictionary.pkl": (s.decoder_words * 30, self._decoder_dictionary),
            "caption_style.npy": (s.thought * 4, self._style),
            "romance_style.npy": (s.thought * 4, self._style),
            "config.py": (len(CONFIG), lambda path, progress: _write_text(path, [CONFIG])),
        }

    def make(self) -> None:
        """Make what is missing.

        Raises
        ------
        SystemExit
            If the folder holds files of other sizes or another seed.
        """
        from tqdm import tqdm
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / "made.json"
        wanted = {"seed": self.seed, **vars(self.sizes)}
        if made.exists() and json.loads(made.read_text(encoding="utf-8")) != wanted:
            sys.exit(f"{self.folder} holds models of other sizes or another seed: give another "
                     "folder, or delete it")
        _write_text(made, [json.dumps(wanted, indent=1) + "\n"])
        for left_over in self.folder.glob("*.part"):
            left_over.unlink()
        files = self.files()
        with tqdm(total=sum(size for size, _ in files.values()), unit="B", unit_scale=True,
                  smoothing=0.05) as bar:
            done = 0
            for name, (size, write) in files.items():
                bar.set_description(name)
                path = self.folder / name
                if not path.exists():
                    write(path, bar.update)
                done += size
                bar.update(done - bar.n)

    def _vgg(self, path: Path, progress: Progress) -> None:
        from tests.practice import save_vgg19_pickle, vgg19_weights
        save_vgg19_pickle(path, vgg19_weights())

    def _encoder(self, path: Path, dim: int, prefixes: Iterable[str], **options: object) -> None:
        random = _random(self.seed, path.name)
        arrays = {"Wemb": normal(random, self.sizes.trained, self.sizes.word)}
        for prefix in prefixes:
            arrays.update(gru(random, prefix, self.sizes.word, dim))
        # Options first: once the archive stands there, both do.
        files.save_pickle(f"{path}.pkl", {
            "dim": dim, "dim_word": self.sizes.word, "decoder": "gru",
            "n_words": self.sizes.trained, "use_dropout": False, **options})
        files.save_arrays(path, **arrays)

    def _uni(self, path: Path, progress: Progress) -> None:
        self._encoder(path, self.sizes.uni, ["encoder"], encoder="gru")

    def _bi(self, path: Path, progress: Progress) -> None:
        self._encoder(path, self.sizes.bi, ["encoder", "encoder_r"], encoder="bidirectional")

    def _dictionary(self, path: Path, progress: Progress) -> None:
        def lines() -> Iterator[str]:
            words = ["<eos>", "UNK", *self.words]
            fresh = made_up_words(_random(self.seed, path.name), words)
            words += [next(fresh) for _ in range(self.sizes.rows - len(words))]
            for word in words:
                progress(len(word) + 1)
                yield word + "\n"
        _write_text(path, lines())

    def _table(self, path: Path, two_dimensional: bool, progress: Progress) -> None:
        random, size = _random(self.seed, path.name), self.sizes.word

        def rows() -> Iterator[np.ndarray]:
            while True:
                yield from normal(random, 4096, size)

        with files.write_atomically(path) as file:
            write_object_table(file, self.sizes.rows, size, rows(), two_dimensional,
                               lambda n: progress(n * (size * 4 + 32)))

    def _utable(self, path: Path, progress: Progress) -> None:
        self._table(path, False, progress)

    def _btable(self, path: Path, progress: Progress) -> None:
        self._table(path, True, progress)

    def _embedding(self, path: Path, progress: Progress) -> None:
        s, random = self.sizes, _random(self.seed, path.name)
        W = normal(random, 4096, s.joint, std=0.1)
        # Features of a random VGG-19 are much alike; what they have in common is taken away, or
        # every picture would get the same captions.
        b = -(self._mean_features() @ W)
        arrays = {"Wemb": normal(random, s.joint_words, s.joint_word),
                  **gru(random, "encoder", s.joint_word, s.joint),
                  "ff_image_W": W, "ff_image_b": b}
        files.save_pickle(f"{path}.pkl", {
            "encoder": "gru", "dim": s.joint, "dim_word": s.joint_word, "dim_image": 4096,
            "n_words": s.joint_words, "margin": 0.2})
        words = OrderedDict([("<eos>", 0), ("UNK", 1)])
        words.update((word, i) for i, word in enumerate(self.words, 2))
        files.save_pickle(f"{path}.dictionary.pkl", words)
        files.save_arrays(path, **arrays)

    def _mean_features(self) -> np.ndarray:
        from storyteller.vgg import build_convnet, compute_features, load_image
        folder = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "images"
        net = build_convnet(self.folder / "vgg19.pkl")
        features = [compute_features(net, load_image(path)[1])[0]
                    for path in sorted(folder.glob("0?_*"))]
        return np.mean([f / np.linalg.norm(f) for f in features], axis=0)

    def _captions(self, path: Path, progress: Progress) -> None:
        def lines() -> Iterator[str]:
            random = _random(self.seed, path.name)
            for caption in captions(self.words, self.sizes.captions, random):
                progress(len(caption) + 1)
                yield caption + "\n"
        _write_text(path, lines())

    def _decoder(self, path: Path, progress: Progress) -> None:
        s = self.sizes
        files.save_pickle(f"{path}.pkl", {
            "dimctx": s.thought, "dim_word": s.word, "dim": s.decoder, "n_words": s.decoder_words,
            "decoder": "gru", "doutput": True})
        files.save_arrays(path, **decoder_parameters(s, _random(self.seed, path.name)))

    def _decoder_dictionary(self, path: Path, progress: Progress) -> None:
        words = list(OrderedDict.fromkeys("the , . her she i you `` ''".split() + COMMON))
        fresh = made_up_words(_random(self.seed, path.name), words)
        words += [next(fresh) for _ in range(self.sizes.decoder_words - 2 - len(words))]
        index = OrderedDict((word, i) for i, word in enumerate(words, 2))
        counts = OrderedDict((word, 10 ** 7 // i) for i, word in enumerate(words, 1))
        files.save_pickle(path, index, counts)

    def _style(self, path: Path, progress: Progress) -> None:
        # Norm 0.7: about that of a mean of many thought vectors, whose norm is the root of 2.
        n = self.sizes.thought
        with files.write_atomically(path) as file:
            np.save(file, normal(_random(self.seed, path.name), n, std=0.7 / np.sqrt(n)))


def _write_text(path: Path, parts: Iterable[str]) -> None:
    with files.write_atomically(path) as file:
        for part in parts:
            file.write(part.encode("utf-8"))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_models", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--scale", type=float, default=1.0,
                        help="of tables, vocabularies and captions (1: the published sizes)")
    parser.add_argument("--tiny", action="store_true", help="layers a tenth as wide, for trials")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    Maker(options.folder, Sizes.scaled(options.scale, options.tiny), options.seed).make()


if __name__ == "__main__":
    main()
