"""What a training is made from: words, encoded texts and thought vectors, captions and features.

What is read again and again (tokenised texts, word indices, thought vectors) is made once, in a work
folder beside the model, and used again as long as what it was made from is the same.
"""
from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend, cache, files, skipthoughts, style, text
from .. import config as configs
from ..errors import StorytellerError
from ..progress import counted, progress_bar
from . import vocabulary
from .corpus import EncodedCorpus, named

_log = logging.getLogger(__name__)

_CHUNK = 1024           # passages that are encoded at a time; an interruption loses at most one chunk
_UNIT = 1e-3            # how far the norm of an image's features may be from 1


def number_words(dictionary: str | None, n_words: int, texts: Iterable[str], verbose: bool = True,
                 ) -> tuple[dict[str, int], dict[str, int]]:
    """The words of a model, of a dictionary or else of its training texts.

    Parameters
    ----------
    dictionary : path or None
        Of ``storyteller vocab``; None: number the words of `texts`.
    n_words : int
        Words of the model, <eos> and UNK included.
    texts : iterable of str
        Tokenised.
    verbose : bool
        Show progress.

    Returns
    -------
    words : dict
        Word -> index, from 2 to below `n_words`.
    counts : dict
        Word -> how often it occurs; empty for a dictionary without counts.

    Raises
    ------
    StorytellerError
        If `n_words` is too small, or the dictionary cannot be read or its numbers have gaps.
    """
    if n_words < 3:
        raise StorytellerError(f"option 'n_words' is {n_words}: expected at least 3, <eos>, UNK and a word")
    words: dict[str, int]
    counts: dict[str, int]
    if dictionary is None:
        words, counts = vocabulary.build(texts, None, 1, verbose)
    else:
        words = files.load_dictionary(dictionary)
        try:
            counts = vocabulary.load_counts(dictionary)
        except StorytellerError as error:
            _log.warning("%s", error)
            counts = {}
    words = {word: i for word, i in words.items() if 2 <= i < n_words}
    if sorted(words.values()) != list(range(2, len(words) + 2)) or not words:
        raise StorytellerError(f"{dictionary}: its words are not numbered 2, 3, ... without gaps; make the "
                               "dictionary with `storyteller vocab`")
    # A text may hold the word UNK itself, which has its index already.
    names = [word for word in word_list(words)[2:] if word not in (text.END, text.UNK)]
    words = {word: i for i, word in enumerate(names, start=2)}
    if counts:
        _log.info("%s, %.2f %% of the running ones", counted(len(words), "word"),
                  100 * vocabulary.coverage(words, counts))
    return words, counts


def dictionary_of(init: str, where: Callable[[str], str]) -> str:
    """The dictionary of the model that a training starts from.

    Parameters
    ----------
    init : path
        The model.
    where : callable
        From it to the place of its dictionary, such as :func:`.tasks.decoder_dictionary`.

    Raises
    ------
    StorytellerError
        If there is no such model, or no dictionary beside it.
    """
    found = where(init)
    if found.endswith(".txt") or not os.path.exists(found):
        if not os.path.exists(init):
            raise StorytellerError(f"{init}: no such file or folder; expected the model to start from")
        raise StorytellerError(f"{init}: the dictionary that it was trained with does not stand with it "
                               f"({re.sub('[.]txt$', '.pkl', found)}); name it as --vocab")
    _log.info("using %s, the dictionary of the model to start from", found)
    return found


def word_list(words: Mapping[str, int]) -> list[str]:
    """The words of a model in the order of their indices, ``<eos>`` and ``UNK`` first."""
    return [text.END, text.UNK, *sorted(words, key=words.__getitem__)]


class WorkFolder:
    """What a training reads, made once: NAME.txt, NAME.tokens.npy, NAME.offsets.npy, NAME.vectors.npy.

    Parameters
    ----------
    path : path
        Made where it is missing.
    verbose : bool
        Show progress (on a terminal only).

    Notes
    -----
    ``made.json`` says what each file was made from (a checksum of files and settings); a file
    that is missing or was made from something else is made again.  Everything is written under a
    temporary name first.
    """

    def __init__(self, path: str | os.PathLike, verbose: bool = True):
        self.path, self._verbose = os.fspath(path), verbose
        try:
            os.makedirs(self.path, exist_ok=True)
        except FileExistsError as error:
            raise StorytellerError(f"{self.path}: is a file, where the training's work folder is to be; remove it, or "
                                   "give the model another name") from error
        except OSError as error:
            raise StorytellerError(f"{self.path}: the work folder cannot be made ({error.strerror}); choose "
                                   "another place for the model") from error
        files.remove_parts(self.path)
        try:
            found = json.loads(Path(self._file("made.json")).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self._made: dict[str, str] = found if isinstance(found, dict) else {}
        self._sources: dict[str, str] = {}

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _note(self, name: str, key: str) -> None:
        self._made[name] = key
        with files.write_atomically(self._file("made.json")) as file:
            file.write(json.dumps(self._made, indent=1).encode())

    def texts(self, name: str, kind: str, sources: Sequence[str], make: Callable[[], Iterable[str]]) -> None:
        """Write tokenised texts, one a line.

        Parameters
        ----------
        name : str
            ``'train'`` or ``'heldout'``.
        kind : str
            Everything but the files that the texts depend on.
        sources : sequence of str
        make : callable
            Gives the texts.
        """
        target, key = f"{name}.txt", f"{kind} {cache.fingerprint(*sources)}"
        self._sources[name] = named(sources)
        if self._made.get(target) == key and os.path.exists(self._file(target)):
            return
        with files.write_atomically(self._file(target)) as file, \
                progress_bar(None, f"reading {name} texts", "text", self._verbose) as bar:
            for text in make():
                file.write(f"{text}\n".encode())
                bar.update()
        self._note(target, key)

    def lines(self, name: str) -> Iterator[str]:
        """Texts that :meth:`texts` wrote."""
        with open(self._file(f"{name}.txt"), encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line[:-1]

    def corpus(self, name: str, words: Mapping[str, int]) -> Any:
        """The texts as word indices: an EncodedCorpus."""
        key, source = f"{self._made[f'{name}.txt']} {cache.fingerprint(word_list(words))}", self._sources.get(name)
        if self._made.get(f"{name}.tokens.npy") == key:
            try:
                return EncodedCorpus(self._file(name), source)
            except StorytellerError as error:
                _log.info("%s", error)
        encoded = EncodedCorpus.build(self._file(name), self.lines(name), words, verbose=self._verbose, source=source)
        self._note(f"{name}.tokens.npy", key)
        return encoded

    def vectors(self, name: str, model: Any, model_key: str, count: int, context: str = "passage") -> np.ndarray:
        """The texts as thought vectors (count, dim) float32, memory-mapped.

        An interrupted encoding goes on where it stopped.  `context` 'sentences': the mean of the vectors of
        a text's sentences, which stand apart by tabs.
        """
        target, key = f"{name}.vectors.npy", f"{self._made[f'{name}.txt']} {model_key}"
        if context != "passage":
            key += f" {context}"
        path, part, shape = self._file(target), self._file(f"{target}.part"), (count, model.dim)
        if self._made.get(target) == key:
            try:
                found = files.load_matrix(path, mmap=True)
                if found.shape == shape:
                    return found
            except StorytellerError as error:
                _log.info("%s", error)
        try:
            same = self._made.get(f"{target}.part") == key and os.path.exists(part)
            if not same:
                self._note(f"{target}.part", key)
            with open(part, "r+b" if same else "w+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                files.save_npy_header(file, shape)
                header = file.tell()
                # Whole chunks only: the same texts are encoded side by side as without an interruption.
                start = min(count, max(0, size - header) // (4 * model.dim)) // _CHUNK * _CHUNK
                file.seek(header + start * 4 * model.dim)
                file.truncate()
                _log.info("encoding %d %s passages%s", count, name, f" from {start} on" if start else "")
                lines = itertools.islice(self.lines(name), start, None)
                with progress_bar(count, f"encoding {name} passages", "passage", self._verbose, start) as bar:
                    while chunk := list(itertools.islice(lines, _CHUNK)):
                        file.write(encode_passages(model, chunk, context).tobytes())
                        file.flush()
                        bar.update(len(chunk))
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise StorytellerError(f"{part}: cannot be written ({error.strerror}); what is encoded so far is "
                                   "kept, so make room and start again") from error
        self._note(target, key)
        return files.load_matrix(path, mmap=True)


def encode_passages(model: Any, passages: Sequence[str], context: str = "passage", verbose: bool = False) -> np.ndarray:
    """Thought vectors (n, dim) float32 of passages whose sentences are separated by tabs.

    `context` 'sentences': the mean of the sentences' vectors, else the vector of the passage read as one sentence.
    """
    if context == "sentences":
        return style.sentence_means(model, [passage.split("\t") for passage in passages], verbose=False)
    return skipthoughts.encode(model, [passage.replace("\t", " ") for passage in passages], verbose=verbose)


def count_indices(corpus: EncodedCorpus, n_words: int) -> np.ndarray:
    """How often each index occurs: (n_words,) int64; 0 is one for each text, 1 what is no word of the model."""
    counts = np.zeros(n_words, dtype=np.int64)
    for first in range(0, len(corpus.tokens), 1 << 22):
        tokens = corpus.tokens[first:first + (1 << 22)]
        counts += np.bincount(np.where(tokens < n_words, tokens, 1), minlength=n_words)
    counts[0] += int((corpus.lengths > 0).sum())
    return counts


def check_shared(path: str, other: str, names: Sequence[str]) -> None:
    """uni_skip and bi_skip read one dictionary.txt."""
    if not (os.path.exists(other) and os.path.exists(path)):
        return
    if text.read_lines(path) != list(names):
        raise StorytellerError(f"{path}: was written by the training of {other} and lists other words than this "
                               f"training has ({len(names)}); the two share one list, so train them with one "
                               "--vocab and --n-words, or into different folders")


def load_encoder(folder: str | None = None, settings: configs.ConfigLike = None, verbose: bool = True,
                 device: str | None = None) -> tuple[skipthoughts.SkipThoughts, str]:
    """A skip-thoughts model, and a checksum of its files.

    Parameters
    ----------
    folder : path, optional
        Of all its files; by default the model of the settings.
    settings : path, mapping, Config or None
        See :func:`storyteller.config.load`.
    verbose : bool
        Show progress.
    device : str, optional
        See :func:`storyteller.backend.function`; by default what the settings say.

    Raises
    ------
    StorytellerError
        If a file is missing or damaged.
    """
    if device is None:
        device = backend.choose_device(configs.load(settings).cpu_mode)
    if folder:
        models = tables = folder
        for name, flag in (("uni_skip.npz", ""), ("bi_skip.npz", " --bidirectional")):
            path = os.path.join(models, name)
            if not os.path.isfile(path):
                raise StorytellerError(f"{path}: no such file; thought vectors are made of both uni_skip and "
                                       "bi_skip, so train it: storyteller train skipthoughts TEXTS -o "
                                       f"{models}{flag}")
    else:
        config = configs.load(settings)
        config.require(["skmodels", "sktables"])
        models, tables = config.paths["skmodels"], config.paths["sktables"]
    model = skipthoughts.load_model(models, tables, device, verbose)
    files = [os.path.join(models, name) for name in skipthoughts.ENCODERS]
    files += [os.path.join(tables, name) for name in ("dictionary.txt", "utable.npy", "btable.npy")]
    return model, cache.fingerprint(*files)


def read_features(path: str, captions: Sequence[str], caption_file: str, shared: bool = False) -> np.ndarray:
    """Image features (len(captions), dim), memory-mapped, with their number and norms checked.

    `shared`: there may also be one row for equally many captions in a row.
    """
    features = files.load_matrix(path, mmap=True)
    if len(features) != len(captions) and not (shared and len(features) and len(captions) % len(features) == 0):
        hint = ("repeat each image's row for its five captions: numpy.repeat(features, 5, axis=0)"
                if 5 * len(features) == len(captions) else "check whether files were swapped")
        raise StorytellerError(f"{path}: has {len(features)} rows, but {caption_file} has {len(captions)} "
                               f"captions; expected one row of image features for each caption, so {hint}")
    for first in range(0, len(features), 4096):
        norms = np.linalg.norm(np.asarray(features[first:first + 4096], dtype=np.float32), axis=1)
        wrong = np.flatnonzero(~(abs(norms - 1) < _UNIT))
        if len(wrong):
            raise StorytellerError(f"{path}: row {first + wrong[0]} has norm {norms[wrong[0]]:.4g}; expected rows "
                                   "of unit norm: features / numpy.linalg.norm(features, axis=1, keepdims=True)")
    return features
