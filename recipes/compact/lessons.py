"""The decoder's training: prose at first, then more and more simple stories and our own with what pictures come to.

One run of the package's trainer.  What an update reads is drawn by how far the training is (:class:`Curriculum`); a
training that was stopped goes on from its checkpoint.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from storyteller import files, skipthoughts, style
from storyteller.training import tasks, trainer, vocabulary
from storyteller.training.batches import BucketedBatches
from storyteller.training.corpus import EncodedCorpus
from storyteller.training.prepare import count_indices

from . import captions, library, own, passages, texts

_log = logging.getLogger(__name__)

DICTIONARY = "dictionary.pkl"
# Passages that perplexity is measured on: of every so many one, and how many of these.
HELDOUT = {"tales_heldout": (3, 500), "romance_heldout": (6, 500)}
UPDATES = 6000
GROUPS = ("prose", "simple", "own", "told")     # own: our stories with their own vectors; told: with those of pictures
# How often an update reads of each group, up to this share of the updates.
COURSE = ((0.6, (0.86, 0.08, 0.01, 0.05)), (1.0, (0.40, 0.20, 0.04, 0.36)))
# Noise is a share of the whitened vectors.
DECODER = {"dim": 1024, "dim_word": 300, "n_words": library.N_WORDS, "batch_size": 512, "maxlen_w": 96,
           "put_back": 0.1, "n_sentences": 10, "tied": True, "average": 0.998, "noise": 0.1, "style_share": 0.125,
           "dropout": 0.2, "word_dropout": 0.03, "context": "sentences", "lrate": 0.002, "warmup": 150,
           "decay_updates": UPDATES, "max_epochs": 10 ** 6, "dispFreq": 25, "validFreq": 500, "saveFreq": 150,
           "sampleFreq": 500}
MINUTES = 100.0                         # of one call


class Curriculum:
    """Minibatches, each of one group of passages, for :class:`storyteller.training.trainer.Trainer`.

    Parameters
    ----------
    lengths : array (n,) int
        Words of the passages.
    group : array (n,) int
        The group of each, by its number in :data:`GROUPS`.
    batch_size, maxlen, updates, seed : int
    """

    epoch = 0

    def __init__(self, lengths: np.ndarray, group: np.ndarray, batch_size: int, maxlen: int, updates: int = UPDATES,
                 seed: int = 5):
        self.update, self.updates, self.seed = 0, updates, seed
        self.n_sentences = len(lengths)
        self._of_group = [BucketedBatches(lengths[rows], batch_size, maxlen, seed + number, rows=rows)
                          for number, rows in enumerate(np.flatnonzero(group == i) for i in range(len(GROUPS)))]

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            p = next(shares for end, shares in COURSE if self.update < end * self.updates or end == 1)
            batches = self._of_group[int(np.random.default_rng([self.seed, self.update]).choice(len(p), p=p))]
            self.update += 1
            rows = next(iter(batches), None)
            yield next(iter(batches)) if rows is None else rows     # the group's next epoch

    def get_state(self) -> dict[str, Any]:
        """Where the walk is, for a checkpoint."""
        return {"epoch": 0, "update": self.update, "groups": [batches.get_state() for batches in self._of_group]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`get_state` was called."""
        self.update = state["update"]
        for batches, of_group in zip(self._of_group, state["groups"]):
            batches.set_state(of_group)


class Lessons:
    """What the decoder reads, and its training.

    Parameters
    ----------
    corpora, photos : paths
    work : path
        Where everything is kept.
    device : str, optional
        See :func:`storyteller.backend.device_of`; on a GPU products are in bfloat16.
    """

    def __init__(self, corpora: str, photos: str, work: str, device: str | None = None):
        self.corpora, self.photos, self.work, self.device = corpora, photos, work, device
        self.folder = os.path.join(work, "library")
        self.archive = os.path.join(work, "decoder", "romance.npz")
        os.makedirs(self.folder, exist_ok=True)

    # -- texts and vectors ------------------------------------------------------------------------

    def read(self, names: Sequence[str]) -> None:
        """Sources as word indices and vectors."""
        works = os.path.join(self.work, "texts")
        texts.cut_works(self.corpora, works)
        dictionary = os.path.join(self.folder, DICTIONARY)
        if not os.path.exists(dictionary):
            for name in (*library.PROSE, *library.SIMPLE, "own", "own_heldout"):
                library.tokenise(self.corpora, works, self.folder, name)
            library.make_dictionary(self.corpora, self.folder, dictionary)
        model = None
        for name in names:
            source = name.removesuffix("_part")
            if os.path.exists(os.path.join(self.folder, f"{name}.vectors.npy")):
                continue
            library.tokenise(self.corpora, works, self.folder, source)
            library.encode(self.folder, source, dictionary, library.thoughts_folder(self.work))
            if name != source:
                passages.part(self.folder, source, name, 1, HELDOUT[source][0])
            model = model or skipthoughts.load_model(library.thoughts_folder(self.work))
            passages.vectors(model, self.folder, name)

    def caption_style(self) -> np.ndarray:
        """c, the mean vector of our captions."""
        path = os.path.join(self.folder, "caption_style.npy")
        if not os.path.exists(path):
            model = skipthoughts.load_model(library.thoughts_folder(self.work))
            style.save(path, style.make(model, captions.captions(), 1))
        return np.load(path)

    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        """m and P, of prose and of what pictures come to alike."""
        path = os.path.join(self.folder, "whitening.npz")
        if not os.path.exists(path):
            x, c = own.pictures(self.photos, self.corpora, self.work).x, self.caption_style()
            shifted = np.concatenate([x - c + b for b in own.styles(self.folder).values()])
            prose = np.load(os.path.join(self.folder, "tales.vectors.npy"), mmap_mode="r")
            count = min(len(prose), len(shifted), 20000)
            of_prose = prose[library.some(len(prose), count)].astype(np.float32)
            m, P = library.whitening(np.concatenate([of_prose, shifted[library.some(len(shifted), count)]]))
            with files.write_atomically(path) as file:
                np.savez(file, m=m, P=P)
        with np.load(path) as found:
            return found["m"], found["P"]

    def _shares(self) -> list[tuple[str, library.Share]]:
        """What is read, each with its group."""
        self.read(["own", "own_heldout", *library.SIMPLE, *library.PROSE, *(f"{name}_part" for name in HELDOUT)])
        for name, stories, heldout, times in (("told", "stories", False, own.TIMES),
                                              ("told_heldout", "stories_heldout", True, 3)):
            own.make(own.pictures(self.photos, self.corpora, self.work, heldout), self.caption_style(), self.folder,
                     name, stories, times)
        tale = own.styles(self.folder)["tale"]
        return [*(("prose", library.Share(name)) for name in library.PROSE),
                *(("simple", library.Share(name, style=tale)) for name in library.SIMPLE),
                *(("own", share) for share in own.shares(self.folder, "own")),
                *(("told", share) for share in own.shares(self.folder, "told"))]

    def _count(self, share: library.Share) -> int:
        return len(EncodedCorpus(os.path.join(self.folder, share.name)) if share.rows is None else share.rows)

    # -- training ---------------------------------------------------------------------------------

    def decoder(self) -> None:
        """The training, as far as :data:`MINUTES` go."""
        os.makedirs(os.path.dirname(self.archive), exist_ok=True)
        found = self._shares()
        library.mix(self.folder, "course", [share for _, share in found])
        library.mix(self.folder, "heldout_prose",
                    [library.Share(f"{name}_part", np.arange(count)) for name, (_, count) in HELDOUT.items()])
        group = np.repeat([GROUPS.index(name) for name, _ in found], [self._count(share) for _, share in found])
        m, P = self._whitening()

        def data(name: str) -> tuple[EncodedCorpus, Any]:
            return (EncodedCorpus(os.path.join(self.folder, name)),
                    library.Whitened(np.load(os.path.join(self.folder, f"{name}.vectors.npy"), mmap_mode="r"), m, P))
        train, vectors = data("course")
        words = files.load_dictionary(os.path.join(self.folder, DICTIONARY))
        counts = count_indices(train, library.N_WORDS)
        vocabulary.save_dictionary(tasks.decoder_dictionary(self.archive), words,
                                   {word: int(counts[i]) for word, i in words.items()})
        with np.load(os.path.join(self.folder, "course.styles.npz")) as styles:
            of_styles = ((styles["styles"] - m) @ P).astype(np.float32), styles["which"]
        task = tasks.DecoderTask(train, vectors, self.archive, heldout=data("told_heldout"),
                                 vocabulary=["<eos>", "UNK", *words], counts=counts, styles=of_styles,
                                 device=self.device, **DECODER,
                                 precision="float32" if self.device in (None, "cpu") else "bfloat16")
        task.batches = Curriculum(train.lengths, group, DECODER["batch_size"], DECODER["maxlen_w"])
        summary = trainer.Trainer(task, self.archive, resume=True).run(max_updates=UPDATES, max_seconds=60 * MINUTES)
        _log.info("decoder: %d of %d updates, best %s, %.0f words/s", summary.updates, UPDATES, summary.best,
                  summary.words_per_second)
