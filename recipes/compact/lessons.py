"""The decoder's training: prose, then simple stories and our own with what pictures come to.

Rounds follow each other: each reads other parts of the prose and begins where the same
stage of the round before ended.  A stage that was stopped goes on from its checkpoint.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from storyteller import files, skipthoughts, style
from storyteller.training import tasks, trainer, vocabulary
from storyteller.training.corpus import EncodedCorpus
from storyteller.training.prepare import count_indices

from . import captions, library, own, passages, texts

_log = logging.getLogger(__name__)

DICTIONARY = "dictionary.pkl"
# Parts that the prose of a round is cut into: round r reads part r of each.
PARTS = {"tales": 4, "romance": 16, "adventure": 8, "verse": 1}
HELDOUT = {"tales_heldout": 500, "romance_heldout": 500}    # passages that perplexity is measured on
KEPT_PROSE = 15000          # passages of prose that the last stage reads, too
# Noise is a share of the whitened vectors.
DECODER = {"dim": 768, "dim_word": 300, "n_words": library.N_WORDS, "n_samples": 2000, "batch_size": 64,
           "maxlen_w": 121, "put_back": 0.1, "n_sentences": 10, "tied": True, "average": 0.998, "noise": 0.1,
           "style_share": 0.125, "context": "sentences", "max_epochs": 1000, "dispFreq": 25, "validFreq": 500,
           "saveFreq": 150, "sampleFreq": 500}
STAGES = {"prose": {"lrate": 0.0015, "warmup": 200, "decay_updates": 3000},
          "own": {"lrate": 0.001, "warmup": 50, "decay_updates": 2200, "dropout": 0.1, "word_dropout": 0.03}}
# Of the rounds after the first: the decoder has not learnt by heart what it has read once, and dropout holds it back.
LATER = {"prose": {"lrate": 0.001},
         "own": {"decay_updates": 3500, "dropout": 0.0, "word_dropout": 0.0}}
MINUTES = 100.0                         # of one call


class Lessons:
    """The stages.

    Parameters
    ----------
    corpora, photos : paths
    work : path
        Where everything is kept.
    number : int
        The round, from 0.
    """

    def __init__(self, corpora: str, photos: str, work: str, number: int = 0):
        self.corpora, self.photos, self.work, self.number = corpora, photos, work, number
        self.folder = os.path.join(work, "library")
        os.makedirs(self.folder, exist_ok=True)

    def archive(self, stage: str, number: int | None = None) -> str:
        """The decoder of a stage, of this round by default."""
        return os.path.join(self.work, f"{stage}_{self.number if number is None else number}", "romance.npz")

    def done(self, stage: str) -> bool:
        """Whether the stage's updates are all done."""
        return os.path.exists(os.path.join(os.path.dirname(self.archive(stage)), "done"))

    def run(self, stage: str) -> None:
        """One stage, as far as :data:`MINUTES` go."""
        if not self.done(stage):
            getattr(self, stage)()

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
            source, keep, of, first = self._part(name)
            if os.path.exists(os.path.join(self.folder, f"{name}.vectors.npy")):
                continue
            library.tokenise(self.corpora, works, self.folder, source)
            library.encode(self.folder, source, dictionary, library.thoughts_folder(self.work))
            if name != source:
                passages.part(self.folder, source, name, keep, of, first)
            model = model or skipthoughts.load_model(library.thoughts_folder(self.work))
            passages.vectors(model, self.folder, name)

    def _part(self, name: str) -> tuple[str, int, int, int]:
        """Source, and which passages of it: keep, of, first."""
        source, _, number = name.rpartition("_")
        if source in PARTS:
            return source, 1, PARTS[source], int(number)
        if name.endswith("_heldout_part"):
            return name[:-5], 1, {"tales_heldout": 3}.get(name[:-5], 6), 0
        return name, 1, 1, 0

    def _prose(self) -> list[str]:
        return [f"{name}_{self.number % parts}" if parts > 1 else name for name, parts in PARTS.items()]

    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        """m and P of all rounds, of prose and of what pictures come to alike."""
        path = os.path.join(self.folder, "whitening.npz")
        if not os.path.exists(path):
            x, c = own.pictures(self.photos, self.corpora, self.work).x, self.caption_style()
            shifted = np.concatenate([x - c + b for b in own.styles(self.folder).values()])
            prose = np.load(os.path.join(self.folder, "tales_0.vectors.npy"), mmap_mode="r")
            of_prose = prose[library.some(len(prose), len(shifted))].astype(np.float32)
            m, P = library.whitening(np.concatenate([of_prose, shifted]))
            with files.write_atomically(path) as file:
                np.savez(file, m=m, P=P)
        with np.load(path) as found:
            return found["m"], found["P"]

    def caption_style(self) -> np.ndarray:
        """c, the mean vector of our captions."""
        path = os.path.join(self.folder, "caption_style.npy")
        if not os.path.exists(path):
            model = skipthoughts.load_model(library.thoughts_folder(self.work))
            style.save(path, style.make(model, captions.captions(), 1))
        return np.load(path)

    # -- training ---------------------------------------------------------------------------------

    def _train(self, stage: str, source: str, heldout: Sequence[library.Share], init: str | None) -> None:
        saveto = self.archive(stage)
        os.makedirs(os.path.dirname(saveto), exist_ok=True)
        m, P = self._whitening()
        library.mix(self.folder, f"heldout_{stage}", heldout)

        def data(name: str) -> tuple[EncodedCorpus, Any]:
            return (EncodedCorpus(os.path.join(self.folder, name)),
                    library.Whitened(np.load(os.path.join(self.folder, f"{name}.vectors.npy"), mmap_mode="r"), m, P))
        train, vectors = data(source)
        words = files.load_dictionary(os.path.join(self.folder, DICTIONARY))
        counts = count_indices(train, library.N_WORDS)
        vocabulary.save_dictionary(tasks.decoder_dictionary(saveto), words,
                                   {word: int(counts[i]) for word, i in words.items()})
        with np.load(os.path.join(self.folder, f"{source}.styles.npz")) as found:
            styles = ((found["styles"] - m) @ P).astype(np.float32), found["which"]
        options = {**DECODER, **STAGES[stage], **(LATER.get(stage, {}) if self.number else {})}
        task = tasks.DecoderTask(train, vectors, saveto, heldout=data(f"heldout_{stage}"),
                                 vocabulary=["<eos>", "UNK", *words], counts=counts, init=init, styles=styles,
                                 **options)
        run = trainer.Trainer(task, saveto, resume=True)
        updates = options["decay_updates"]
        summary = run.run(max_updates=updates, max_seconds=60 * MINUTES)
        _log.info("%s, round %d: %d updates, best %s, %.0f words/s", stage, self.number, summary.updates, summary.best,
                  summary.words_per_second)
        if summary.updates >= updates:
            with files.write_atomically(os.path.join(os.path.dirname(saveto), "done")) as file:
                file.write(f"{summary.best}\n".encode())

    def prose(self) -> None:
        """How English is written: passages of old tales, novels and verse, each with its own vector."""
        self._train("prose", self._mixed_prose(), self._heldout(), self._before("prose"))

    def _mixed_prose(self) -> str:
        names, source = self._prose(), f"prose_{self.number}"
        self.read(["own", *(f"{name}_part" for name in HELDOUT), *names])
        library.mix(self.folder, source, [library.Share(name) for name in names])
        return source

    def _before(self, stage: str) -> str | None:
        """The decoder that a stage begins with: of the same stage in the newest round before, if there is one."""
        found = [path for number in range(self.number) if os.path.exists(path := self.archive(stage, number))]
        return found[-1] if found else None

    def _heldout(self) -> list[library.Share]:
        return [library.Share(f"{name}_part", np.arange(count)) for name, count in HELDOUT.items()]

    def own(self) -> None:
        """How a story is told of a picture: our own stories with x - c + b, a little of all else kept in."""
        self.read(["own", "own_heldout", *library.SIMPLE])
        told = f"told_{self.number}"     # in each round of other pictures
        for name, stories, heldout, times in ((told, "stories", False, own.TIMES),
                                              ("told_heldout", "stories_heldout", True, 3)):
            own.make(own.pictures(self.photos, self.corpora, self.work, heldout), self.caption_style(), self.folder,
                     name, stories, times, 0 if heldout else self.number)
        prose, source = self._mixed_prose(), f"own_{self.number}"
        tale = own.styles(self.folder)["tale"]
        count = len(EncodedCorpus(os.path.join(self.folder, prose)))
        library.mix(self.folder, source, [
            *own.shares(self.folder, told), *own.shares(self.folder, "own"),
            *(library.Share(name, style=tale) for name in library.SIMPLE),
            library.Share(prose, library.some(count, KEPT_PROSE, 1 + self.number))])
        self._train("own", source, [library.Share("told_heldout")],
                    self._before("own") or self.archive("prose"))
