"""Sentences -> thought vectors (Kiros et al. 2015, "Skip-Thought Vectors", arXiv:1506.06726).

A vector is the last hidden state of a one-directional encoder ("uni") beside those of a
forward and a backward encoder ("bi"): 2400 + 2 x 1200 numbers in the published models.

>>> from storyteller import skipthoughts
>>> model = skipthoughts.load_model('models/', 'models/')            # doctest: +SKIP
>>> vectors = skipthoughts.encode(model, ['He sat by the window .'])  # doctest: +SKIP

:class:`Encoder`, :func:`nn`, :func:`nn_words`, :func:`word_features` and :func:`preprocess` are names of the original.
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, Callable

import numpy as np

from . import cache, files, text
from .errors import StorytellerError, check_count, check_flag, check_floats, shown
from .layers import GRUEncoder, Model, distinct_words, gru_shapes, load_params, unit_rows
from .progress import progress_bar
from .text import END, UNK, as_sentences, open_vocabulary

#: Where :func:`load_model` looks when it is given nothing; None: where the settings say.
path_to_models: str | os.PathLike | None = None
path_to_tables: str | os.PathLike | None = None


class SkipThoughts(Model):
    """A loaded skip-thoughts model; made by :func:`load_model`.

    Attributes
    ----------
    words : mapping
        Word -> row of both tables; of a large dictionary looked up in the cache.
    utable, btable : array (n_words, dim_word) float32
        Word vectors of the two models, memory-mapped; None for a model that is not there.  On a device a small table
        stays: assign another one rather than change it.
    uoptions, boptions : dict
        Options of the two models, as saved with them; None likewise.
    dim : int
        Length of a thought vector.
    normalize : bool
        Whether texts are read as :func:`storyteller.text.normalize` makes them, as this model's training read them.
        The published models', whose options do not say so, are read as they are.

    Notes
    -----
    The original's model was a dict, of which ``model['utable']`` and ``['btable']`` (word -> vector), ``['uoptions']``
    and ``['boptions']`` are answered, and ``['options']``, the first of these.
    """

    _compiled = ("_there",)

    def __init__(self, words: Mapping[str, int], utable: np.ndarray | None, btable: np.ndarray | None,
                 uni: dict[str, np.ndarray] | None, bi: dict[str, np.ndarray] | None, device: str | None = None,
                 uoptions: dict[str, Any] | None = None, boptions: dict[str, Any] | None = None):
        from . import backend
        self.words, self.utable, self.btable = words, utable, btable
        self.uoptions, self.boptions = uoptions, boptions
        self.normalize = any(bool(options and options.get("normalize")) for options in (uoptions, boptions))
        self._device = backend.device_of(device)
        self._uni = None if uni is None else GRUEncoder(uni, "encoder", device)
        self._bi = [] if bi is None else [GRUEncoder(bi, prefix, device) for prefix in ENCODERS["bi_skip.npz"]]
        self.dim = sum(encoder.dim for group in self.groups for _, encoder, _ in group)
        self._compile()

    def _compile(self) -> None:
        self._there: list[tuple[np.ndarray, Any]] = []      # tables, and those on the device

    @property
    def groups(self) -> list[list[tuple[np.ndarray, GRUEncoder, bool]]]:
        """Table, encoder and whether it reads backwards, of the uni part and of the bi part."""
        groups = []
        if self.utable is not None and self._uni is not None:
            groups.append([(self.utable, self._uni, False)])
        if self.btable is not None and self._bi:
            groups.append([(self.btable, self._bi[0], False), (self.btable, self._bi[1], True)])
        return groups

    def _on_device(self, table: np.ndarray) -> Any:
        """:func:`storyteller.backend.kept` of a table (n_words, dim_word), copied at its first use."""
        from . import backend
        for here, there in self._there:
            if here is table:
                return there
        there = backend.kept(table, self._device)
        # Another thread may have put it there meanwhile.
        used = [each for each in (self.utable, self.btable) if each is not table]
        self._there = [*(pair for pair in self._there if any(pair[0] is each for each in used)), (table, there)]
        return there

    def _summary(self) -> str:
        parts = [name for name, part in (("uni-skip", self._uni), ("bi-skip", self._bi)) if part]
        return f"{' and '.join(parts)}, {len(self.words):,} words, thought vectors of {self.dim} numbers"

    def _items(self) -> dict[str, Callable[[], Any]]:
        tables = {"utable": self.utable, "btable": self.btable}
        options = {"uoptions": self.uoptions, "boptions": self.boptions, "options": self.uoptions or self.boptions}
        return {**{key: partial(WordTable, self.words, table) for key, table in tables.items() if table is not None},
                **{key: partial(dict, found) for key, found in options.items() if found is not None}}

    def rows(self, sentence: str, use_eos: bool) -> np.ndarray:
        """Table rows of a preprocessed sentence; words outside the dictionary are UNK."""
        unknown = self.words[UNK]
        rows = [self.words.get(word, unknown) for word in sentence.split()]
        if use_eos:
            rows.append(self.words.get(END, unknown))
        return np.array(rows, dtype=np.int64)

    def vectors(self, sequences: Sequence[np.ndarray], use_norm: bool = True, batch_size: int = 128,
                progress: Callable[[int], object] | None = None) -> np.ndarray:
        """Thought vectors of sentences that are given as table rows.

        Parameters
        ----------
        sequences : sequence of arrays (n_words,) int64
            From :meth:`rows`; at least one.
        use_norm, batch_size
            See :func:`encode`.
        progress : callable, optional
            Called now and then with the number of sentences that an encoder has read since.

        Returns
        -------
        array (len(sequences), dim) float32
        """
        from . import backend
        # Each different word is looked up and projected once.
        used, forwards = distinct_words(sequences)
        backwards = [sequence[::-1] for sequence in forwards]
        parts = [np.zeros((len(sequences), 0), np.float32)]
        for group in self.groups:
            read = backend.rows(self._on_device(group[0][0]), used, self._device)
            part = np.concatenate([encoder.final_states(encoder.project(read), backwards if reverse else forwards,
                                                        batch_size, progress)
                                   for _, encoder, reverse in group], axis=1)
            parts.append(unit_rows(part) if use_norm else part)
        return np.concatenate(parts, axis=1)

    def encode(self, X: Sequence[str], use_norm: bool = True, verbose: bool = True, batch_size: int = 128,
               use_eos: bool = False) -> np.ndarray:
        """:func:`encode` as a method."""
        return encode(self, X, use_norm, verbose, batch_size, use_eos)


class WordTable(Mapping):
    """Word -> vector (dim_word,) float32, in the order of the dictionary."""

    def __init__(self, words: Mapping[str, int], table: np.ndarray):
        self._words, self._table = words, table

    def __getitem__(self, word: str) -> np.ndarray:
        return np.asarray(self._table[self._words[word]], dtype=np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    __eq__, __hash__ = object.__eq__, object.__hash__   # a mapping's would compare arrays


class Encoder:
    """The original's class: a model's :func:`encode` as a method.

    Parameters
    ----------
    model : SkipThoughts
    """

    def __init__(self, model: SkipThoughts):
        self._model = _checked(model)

    def encode(self, X: Sequence[str], use_norm: bool = True, verbose: bool = True, batch_size: int = 128,
               use_eos: bool = False) -> np.ndarray:
        """See :func:`encode`."""
        return encode(self._model, X, use_norm, verbose, batch_size, use_eos)


def _checked(model: Any) -> SkipThoughts:
    if not isinstance(model, SkipThoughts):
        raise StorytellerError(f"model is {shown(model)}: expected what skipthoughts.load_model gives, z['stv']")
    return model


def load_model(path_to_models: str | os.PathLike | None = None, path_to_tables: str | os.PathLike | None = None,
               device: str | None = None, verbose: bool = True) -> SkipThoughts:
    """Load the uni-skip and bi-skip encoders and their word tables.

    Parameters
    ----------
    path_to_models : path, optional
        The folder of ``uni_skip.npz``, ``bi_skip.npz`` and their ``.pkl``.  By default the settings' models, see
        :func:`storyteller.config.load`.
    path_to_tables : path, optional
        The folder of ``dictionary.txt``, ``utable.npy`` and ``btable.npy``; that of the models by
        default.
    device : str, optional
        See :func:`storyteller.backend.device_of`.
    verbose : bool
        Show progress while tables are converted.

    Returns
    -------
    SkipThoughts

    Raises
    ------
    StorytellerError
        If a file is missing, damaged, or does not fit the others.

    Notes
    -----
    Where the files of one encoder are all missing, its table too, as its trainer leaves the folder of the other, that
    other encoder is loaded alone, and thought vectors have its part only.

    The published tables are Python 2 pickles of 930,911 small arrays each.  They are converted
    once, in bounded memory, to plain float32 matrices in the cache (see
    :mod:`storyteller.cache`), and memory-mapped from then on.
    """
    models, tables = _folders(path_to_models, path_to_tables)
    dictionary = os.path.join(tables, "dictionary.txt")
    options: dict[str, dict[str, Any] | None] = dict.fromkeys(ENCODERS)
    params: dict[str, dict[str, np.ndarray] | None] = dict.fromkeys(ENCODERS)
    names = _encoders(models, tables)
    for name in names:
        options[name], params[name] = _load_encoder(models, name)
    words, n_rows = open_vocabulary(dictionary)
    utable, btable = (None if found is None else _load_table(os.path.join(tables, TABLES[name]), n_rows,
                                                             len(found["encoder_W"]), dictionary, verbose)
                      for name, found in params.items())
    uni, bi = params.values()
    return SkipThoughts(words, utable, btable, uni, bi, device, *options.values())


def _folders(models: str | os.PathLike | None, tables: str | os.PathLike | None) -> tuple[str, str]:
    if models is None:
        models, tables = globals()["path_to_models"], globals()["path_to_tables"] if tables is None else tables
    if models is None:
        from . import config
        settings = config.load()
        settings.require(["skmodels"] if tables is not None else ["skmodels", "sktables"])
        models, tables = settings.paths["skmodels"], settings.paths["sktables"] if tables is None else tables
    models = os.fsdecode(models)
    return models, models if tables is None else os.fsdecode(tables)


def _encoders(models: str, tables: str) -> list[str]:
    """Those whose files are there: both, unless all the files of one are missing."""
    def there(name: str) -> bool:
        paths = [os.path.join(models, name), os.path.join(models, f"{name}.pkl"), os.path.join(tables, TABLES[name])]
        return any(map(os.path.lexists, paths))
    return [name for name in ENCODERS if there(name)] or list(ENCODERS)


ENCODERS = {"uni_skip.npz": ("encoder",), "bi_skip.npz": ("encoder", "encoder_r")}
TABLES = {"uni_skip.npz": "utable.npy", "bi_skip.npz": "btable.npy"}


def parameter_shapes(options: dict, path: str | os.PathLike,
                     prefixes: Sequence[str]) -> dict[str, tuple]:
    """Names and shapes of the parameters that an encoder's options call for.

    Raises
    ------
    StorytellerError
        If the options (of the file ``path``) are not an encoder's.
    """
    dim_word, dim = (files.int_option(options, name, path) for name in ("dim_word", "dim"))
    shapes: dict[str, tuple] = {}
    for prefix in prefixes:
        shapes.update(gru_shapes(prefix, dim_word, dim))
    return shapes


def _load_encoder(folder: str, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = os.path.join(folder, name)
    options = files.load_options(f"{path}.pkl")
    shapes = parameter_shapes(options, f"{path}.pkl", ENCODERS[name])
    return options, load_params("skipthoughts", path, shapes, *ENCODERS[name])


def _load_table(path: str, n_rows: int, dim: int, dictionary: str, verbose: bool) -> np.ndarray:
    if files.is_object_table(path):
        key = cache.fingerprint(path)
        rows = files.table_shape(path)[0]
        _check_table(path, (rows, dim), (n_rows, dim), dictionary)

        def write(file: BinaryIO, start: int) -> None:
            with progress_bar(n_rows, f"converting {os.path.basename(path)} (once)", "word",
                              verbose) as bar:
                _, found = files.convert_object_table(path, file, lambda n: bar.update(n - bar.n))
            _check_table(path, (rows, found), (n_rows, dim), dictionary)
            if cache.fingerprint(path) != key:
                raise StorytellerError(f"{path}: was replaced or changed while it was read: start again")

        return cache.cached_rows("table", path, key, (n_rows, dim), write)
    table = files.load_matrix(path, mmap=True)
    _check_table(path, table.shape, (n_rows, dim), dictionary)
    return table


def _check_table(path: str, found: tuple, expected: tuple, dictionary: str) -> None:
    if tuple(found) != expected:
        raise StorytellerError(
            f"{path}: holds {found[0]} {found[1]}-dimensional word vectors: expected {expected[0]} (the "
            f"lines of {dictionary}), {expected[1]}-dimensional (the model's dim_word); use the files of one download")


def encode(model: SkipThoughts, X: Sequence[str], use_norm: bool = True, verbose: bool = True,
           batch_size: int = 128, use_eos: bool = False) -> np.ndarray:
    """Encode texts as thought vectors.

    Parameters
    ----------
    model : SkipThoughts
    X : sequence of str
        Raw text, tokenised here (Punkt sentences, Treebank words); UTF-8 bytes are decoded.  Case
        matters.
    use_norm : bool
        Scale the uni part and the bi part to unit L2 norm each.
    verbose : bool
        Show a progress bar (on a terminal only).
    batch_size : int
        Texts that are encoded side by side.  Does not change results.
    use_eos : bool
        Read an ``<eos>`` after the last word.

    Returns
    -------
    array (len(X), dim) float32
        The uni part, then the bi part.  A text without words gives zeros (unless use_eos).

    Raises
    ------
    StorytellerError
        If X is a single string or holds something that is no text, or an argument is out of range.
    """
    model, texts = _checked(model), as_sentences(X)
    use_norm, use_eos = check_flag("use_norm", use_norm), check_flag("use_eos", use_eos)
    batch_size = check_count("batch_size", batch_size)
    if not texts:
        return np.zeros((0, model.dim), dtype=np.float32)
    if model.normalize:
        texts = list(map(text.normalize, texts))
    sequences = [model.rows(text.preprocess(sentence), False) for sentence in texts]
    flat = np.concatenate(sequences)
    text.warn_unknown(int(np.count_nonzero(flat == model.words[UNK])), len(flat), "skip-thoughts model")
    if use_eos:
        sequences = [np.append(sequence, model.rows("", True)) for sequence in sequences]
    passes = len(texts) * sum(map(len, model.groups))
    with progress_bar(passes, "encoding sentences", "pass", verbose and len(texts) > 1000) as bar:
        return model.vectors(sequences, use_norm, batch_size, bar.update)


# Names of the original.

def preprocess(text_or_texts: str | Sequence[str]) -> str | list[str]:
    """Texts as the encoder sees them: words joined by single blanks, see :func:`storyteller.text.preprocess`."""
    if isinstance(text_or_texts, (str, bytes)):
        return text.preprocess(text_or_texts)
    return [text.preprocess(each) for each in as_sentences(text_or_texts)]


def nn(model: SkipThoughts, text: Sequence[str], vectors: np.ndarray, query: str, k: int = 5,
       show: bool = True) -> list[tuple[str, int]]:
    """The sentences nearest to a query.

    Parameters
    ----------
    model : SkipThoughts
    text : sequence of str
        The sentences.
    vectors : array (len(text), dim) float32
        Theirs, from :func:`encode`.
    query : str
    k : int
        How many.
    show : bool
        Print them, as the original does.

    Returns
    -------
    list of (str, int)
        Sentence and its place in ``text``, that with the largest dot product first.

    Raises
    ------
    StorytellerError
        If the arguments do not fit each other.
    """
    sentences = as_sentences(text, "text")
    vectors = check_floats("vectors", vectors, (len(sentences), _checked(model).dim), "give what encode made of text")
    scores = vectors @ unit_rows(encode(model, [query], verbose=False))[0]
    best = np.argsort(scores)[::-1][:check_count("k", k)]
    found = [(sentences[i], int(i)) for i in best]
    if show:
        print(f"QUERY: {query}\nNEAREST: ")
        for sentence, i in found:
            print(sentence, i)
    return found


def word_features(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """The vectors of a table, ``model['utable']``, scaled to unit norm: (len(table), dim_word) float32."""
    return unit_rows(np.array(list(_checked_table(table).values()), dtype=np.float32))


def nn_words(table: Mapping[str, np.ndarray], wordvecs: np.ndarray, query: str, k: int = 10,
             show: bool = True) -> list[str]:
    """The words nearest to a word, the nearest first.

    Parameters
    ----------
    table : mapping of str to array (dim_word,) float32
        ``model['utable']`` or ``model['btable']``.
    wordvecs : array (len(table), dim_word) float32
        From :func:`word_features`.
    query : str
        A word of the table.
    k : int
        How many.
    show : bool
        Print them, as the original does.

    Raises
    ------
    StorytellerError
        If the query is no word of the table, or the arguments do not fit each other.
    """
    words = list(_checked_table(table))
    if not isinstance(query, str) or query not in table:
        raise StorytellerError(f"query is {shown(query)}: expected a word of the table; case matters")
    wordvecs = check_floats("wordvecs", wordvecs, (len(words), len(table[query])), "give word_features(table)")
    found = [words[i] for i in np.argsort(wordvecs @ table[query])[::-1][:check_count("k", k)]]
    if show:
        print(f"QUERY: {query}\nNEAREST: ")
        print(*found, sep="\n")
    return found


def _checked_table(table: Any) -> Mapping[str, np.ndarray]:
    if not isinstance(table, Mapping) or not len(table):
        raise StorytellerError(f"table is {shown(table)}: expected model['utable'] or model['btable']")
    return table
