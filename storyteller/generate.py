"""From a picture to a story: wires the parts together.

>>> from storyteller import generate
>>> z = generate.load_all()                                   # doctest: +SKIP
>>> story = generate.story(z, './images/ex1.jpg')             # doctest: +SKIP
"""
from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any, Callable, Union

import numpy as np
from numpy.linalg import norm

from . import cache, decoder, embedding, skipthoughts, telling, workers
from . import config as _config
from . import style as styles
from .decoder import Passage
from .errors import MOST_CANDIDATES, StorytellerError, check_count, check_flag, check_floats, check_number, shown
from .images import Image, Picture, build_convnet, compute_features, image_name, load_image, open_picture, short_name
from .progress import inform, progress_bar
from .search import check_sampling
from .stories import Caption, Story, print_story
from .style import shift

# Some are here because the original's generate had them: norm, shift, skipthoughts, decoder, embedding ...
__all__ = ["Models", "Story", "Caption", "load_all", "story", "stories", "each_story", "outcomes",
           "image_features", "nearest_captions", "shifted_thought", "write_passages", "retrieve_captions",
           "load_image", "build_convnet", "compute_features", "skipthoughts", "decoder", "embedding", "norm", "shift"]

_log = logging.getLogger(__name__)

Style = Union[None, str, "os.PathLike[str]", np.ndarray]

MOST_CAPTIONS = 10 ** 6     # to think of: the mean of so many says nothing about a picture
AHEAD = 64                  # pictures that an executor is given before the first story is told
VERSE = "verse"             # the style that is told in lines unless asked otherwise
# Keys of z whose parts are objects, which remember the settings that they were loaded by.
_MODELS = ("dec", "stv", "vse", "net")
# Key of z -> the setting that names its files.
_SETTINGS = {"stv": "skmodels", "dec": "decmodel", "vse": "vsemodel", "net": "vgg", "cap": "captions",
             "bneg": "negbias", "bpos": "posbias"}


class Models(MutableMapping):
    """The dict z: every part of the pipeline, each loaded when it is first looked up.

    Parameters
    ----------
    config : path, mapping, Config or None
        See :func:`storyteller.config.load`.
    verbose : bool
        Log each part as it loads, and show progress of long work.
    device : str, optional
        ``'cpu'`` or ``'gpu'``; by default what :func:`storyteller.backend.choose_device` says of the settings.

    Notes
    -----
    Keys: ``stv`` (skip-thoughts model), ``dec`` (decoder), ``vse`` (joint embedding), ``net``
    (convnet), ``cap`` (list of caption strings), ``cvec`` (their joint embeddings, n x dim),
    ``bneg`` (caption style c), ``bpos`` (book style b).

    A copy, and ``dict(z)``, hold the same parts and tell the same stories.  A pickle holds the settings and the
    parts that were set by hand; the others are loaded again when they are looked up.
    """

    def __init__(self, config: _config.ConfigLike = None, verbose: bool = True, device: str | None = None):
        self.config = _config.load(config)
        self._verbose = verbose
        self._parts: dict[str, Any] = {}
        self._given: set[str] = set()       # keys of parts that were set by hand
        self._loading = threading.RLock()
        self._device: str | None = None
        self._asked = device
        self._loaders: dict[str, tuple[str, Callable[[], Any]]] = {
            "stv": ("skip-thoughts", self._skipthoughts), "dec": ("decoder", self._decoder),
            "vse": ("image-sentence embedding", self._embedding), "net": ("ConvNet", self._convnet),
            "cap": ("captions", self._captions), "cvec": ("caption embeddings", self._caption_vectors),
            "bneg": ("caption style", lambda: self._style("negbias")),
            "bpos": ("book style", lambda: self._style("posbias"))}

    def __getitem__(self, key: str) -> Any:
        if key not in self._parts:
            with self._loading:     # threads wait for the first that asks
                if key not in self._parts:
                    what, load = self._loaders[key]
                    if self._verbose:
                        source = self.config.paths.get(_SETTINGS.get(key, ""))
                        inform(_log, "Loading %s...%s", what, f" {source}" if source else "")
                    part = load()
                    if key in _MODELS:
                        part.settings = self.config
                    self._parts[key] = part
        return self._parts[key]

    def __contains__(self, key: object) -> bool:    # without loading it
        return key in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __setitem__(self, key: str, part: Any) -> None:
        if key not in self._loaders and key not in PARTS:
            raise StorytellerError(f"key is {shown(key)}: expected one of {', '.join(PARTS)}")
        _check_part(key, part)
        with self._loading:
            self._loaders.setdefault(key, (key, lambda: part))
            self._parts[key] = part
            self._given.add(key)

    def __delitem__(self, key: str) -> None:
        with self._loading:
            del self._loaders[key]
            self._parts.pop(key, None)
            self._given.discard(key)

    # As of an object: of mappings, equality would load every part and compare arrays.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def copy(self) -> Models:
        """Another z with the same parts, those not loaded yet being its own."""
        other = Models(self.config, self._verbose, self._asked)
        with self._loading:
            for key in set(other._loaders) - set(self._loaders):
                del other._loaders[key]
            other._parts.update(self._parts)
            other._given.update(self._given)
            other._device = self._device
        return other

    __copy__ = copy

    def __reduce__(self) -> tuple:
        with self._loading:
            given = {key: self._parts[key] for key in sorted(self._given)}
            return _unpickled, (self.config, self._verbose, list(self._loaders), given, self._asked)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        parts = ", ".join(f"{key}: {'loaded' if key in self._parts else 'not loaded'}" for key in self)
        return f"<Models from {self.config.source}; {parts}>"

    @property
    def device(self) -> str:
        """Where the parts compute, chosen once."""
        if self._device is None:
            from . import backend
            self._device = (backend.choose_device(self.config.cpu_mode) if self._asked is None
                            else backend.device_of(self._asked))
            if backend.on_jax(self._device) and self._verbose:
                inform(_log, "The first story compiles its programs for the device, which takes a while; they are kept "
                       "in %s", cache.cache_dir())
        return self._device

    def _skipthoughts(self) -> skipthoughts.SkipThoughts:
        self.config.require(["skmodels", "sktables"])
        return skipthoughts.load_model(self.config.paths["skmodels"], self.config.paths["sktables"],
                                       self.device, self._verbose)

    def _decoder(self) -> decoder.Decoder:
        self.config.require(["decmodel", "dictionary"])
        return decoder.load_model(self.config.paths["decmodel"], self.config.paths["dictionary"],
                                  self.device)

    def _embedding(self) -> embedding.JointEmbedding:
        return embedding.load_model(self.config.path("vsemodel"), self.device)

    def _convnet(self) -> Any:
        return build_convnet(self.config.path("vgg"), self.device)

    def _captions(self) -> list[str]:
        from . import text
        return text.read_captions(self.config.path("captions"))

    def _caption_vectors(self) -> np.ndarray:
        return embedding.embed_captions(self["vse"], self["cap"], self.config.path("captions"),
                                        self._verbose)

    def _style(self, key: str) -> np.ndarray:
        return _NamedStyle.of(styles.load(self.config.path(key)), _style_name(self.config.paths[key]))


class _NamedStyle(np.ndarray):
    """A style vector that knows its name, also as a part of ``dict(z)``."""

    name: str | None = None

    @classmethod
    def of(cls, vector: np.ndarray, name: str | None) -> _NamedStyle:
        named = vector.view(cls)
        named.name = name
        return named

    def __reduce__(self) -> tuple:
        return _NamedStyle.of, (np.asarray(self), self.name)


# Key of z -> what its part is, and whether an object is one.
PARTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "stv": ("a skip-thoughts model", lambda part: isinstance(part, skipthoughts.SkipThoughts)),
    "dec": ("a decoder", lambda part: isinstance(part, decoder.Decoder)),
    "vse": ("a joint embedding", lambda part: isinstance(part, embedding.JointEmbedding)),
    "net": ("a convnet of build_convnet", lambda part: hasattr(part, "compute") and hasattr(part, "n_features")),
    "cap": ("a list of captions", lambda part: isinstance(part, Sequence) and not isinstance(part, str)),
    "cvec": ("their vectors, of embedding.embed_captions", lambda part: np.ndim(part) == 2),
    "bneg": ("a style vector", lambda part: np.ndim(part) == 1),
    "bpos": ("a style vector", lambda part: np.ndim(part) == 1)}


def _unpickled(config: _config.Config, verbose: bool, keys: list[str], given: dict[str, Any],
               device: str | None = None) -> Models:
    z = Models(config, verbose, device)
    for key in set(z) - set(keys):
        del z[key]
    z.update(given)
    return z


def load_all(config: _config.ConfigLike = None, verbose: bool = True, device: str | None = None) -> Models:
    """Load every part of the pipeline.

    Parameters
    ----------
    config : path, mapping, Config or None
        Settings; None finds them: the file named by STORYTELLER_CONFIG, else ./config.py, else the
        defaults.
    verbose : bool
        Log each part as it loads, and show progress of long work (on a terminal).
    device : str, optional
        ``'cpu'`` or ``'gpu'``; by default what the environment variable ``STORYTELLER_DEVICE`` or else the settings'
        ``FLAG_CPU_MODE`` says.

    Returns
    -------
    Models
        A mapping with the keys stv, dec, vse, net, cap, cvec, bneg, bpos.

    Raises
    ------
    StorytellerError
        If files are missing (all are listed), damaged, or do not fit each other.
    """
    z = Models(config, verbose, device)
    load_parts(z)
    return z


def load_parts(z: Models) -> None:
    """Load the parts of z that are not loaded yet, and check that they fit each other; errors as of load_all."""
    z.config.require()
    for key in z:
        z[key]
    _check_fit(z)


def _check_fit(z: Mapping[str, Any]) -> None:
    """One clear error where the parts are of different models."""
    dim = z["stv"].dim
    source = getattr(getattr(z, "config", None), "source", "z")
    for key, found in (("dec", z["dec"].dimctx), ("bneg", len(z["bneg"])), ("bpos", len(z["bpos"]))):
        if found != dim:
            name = {"dec": "decoder (paths['decmodel'])", "bneg": "caption style (paths['negbias'])",
                    "bpos": "book style (paths['posbias'])"}[key]
            raise StorytellerError(f"{source}: the {name} is made for {found}-dimensional thought vectors, "
                                   f"but the skip-thoughts model gives {dim}-dimensional ones; use files that belong "
                                   "together")
    if z["vse"].dim_image != z["net"].n_features:
        raise StorytellerError(f"{source}: the joint embedding (paths['vsemodel']) reads "
                               f"{z['vse'].dim_image}-dimensional image features, but the convnet gives "
                               f"{z['net'].n_features}-dimensional ones")


def story(z: Mapping[str, Any], image_loc: Image = None, k: int = 100, bw: int = 50, lyric: bool | None = None, *,
          image: Image = None, style: Style = None, strength: float = 1.0, n_best: int = 1, sample: bool = False,
          temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
          seed: int | None = None, maxlen: int = 1000, use_unk: bool = False,
          candidates: int | None = None, guidance: float | None = None, prose: bool | None = None, strict: bool = False,
          show: bool = True, whole_sentences: bool = False) -> Story:
    """Tell a story about a picture.

    Parameters
    ----------
    z : mapping
        From :func:`load_all`, or a dict with the same keys.
    image_loc : path, file object, bytes, PIL image or array
        See :func:`storyteller.images.open_image`; ``image`` is another name for it.
    k : int
        How many of the nearest captions to think of.
    bw : int
        Beam width, where the likeliest passage is searched for; a wider beam takes longer and finds likelier ones.
    lyric : bool, optional
        Print the passage in lines, split at commas; by default where the style is ``verse``.  With candidates and a
        decoder that knows what rhymes, as the compact one does, it is also written so: in pairs of lines that rhyme.
    style : str, path or array (dim,), optional
        A named style (``'romance'``), a style vector's file or the vector itself; the settings'
        posbias by default.
    strength : float
        Of the shift from caption style to book style; 1 is the original's.
    n_best : int
        Passages to find; the best is told, all are in ``Story.alternatives``.  A beam finds at most `bw`.
    sample : bool
        Draw the passage at random instead of searching for the likeliest.
    temperature, top_k, top_p, seed
        For sampling and for candidates, see :func:`storyteller.search.sample`.  With another seed the same picture
        has another story.
    maxlen : int
        Words at most.
    use_unk : bool
        Allow the unknown word.
    candidates : int, optional
        Tell sentence by sentence: so many candidates (up to 1,000) of every sentence are drawn at random, and the
        best is taken, see :func:`storyteller.telling.tell`; 0: the likeliest passage of a beam search, as in the
        original.  The settings' ``telling['candidates']`` by default.
    guidance : float, optional
        With candidates, how much the picture counts beside the style: 1 as the decoder was trained, more
        exaggerates.  The settings' ``telling['guidance']`` by default.
    prose : bool, optional
        Show the story as a reader expects it, with capitals and without blanks before punctuation;
        False: the decoder's own words, as the original does.  The settings' ``telling['prose']`` by
        default, which is True for the compact models alone.
    strict : bool
        Refuse a picture that is truncated or blank.  By default its story has warnings, which are logged.
    show : bool
        Print the story, as the original does.
    whole_sentences : bool
        A story that ``maxlen`` cuts off ends with its last whole sentence, where it has one.

    Returns
    -------
    Story

    Raises
    ------
    StorytellerError
        If the image cannot be read or an argument is out of range.
    """
    if (image is None) == (image_loc is None):
        raise StorytellerError("story needs one picture: image_loc, of which image is another name")
    image = image_loc if image is None else image
    _check_parts(z)
    asked = {name for name, value in (("candidates", candidates), ("guidance", guidance)) if value is not None}
    prose, candidates = _told(z, "prose", prose, False), _told(z, "candidates", candidates, 0)
    guidance = _told(z, "guidance", guidance, 1.0)
    k, bw, n_best = check_count("k", k, 1, MOST_CAPTIONS), check_count("bw", bw), check_count("n_best", n_best)
    flags = {"prose": prose, "strict": strict, "show": show}
    prose, strict, show = (check_flag(name, flag) for name, flag in flags.items())
    options = _writing_options(sample, candidates, guidance, maxlen, use_unk, temperature, top_k, top_p, seed)
    if sample and candidates and "candidates" in asked:
        raise StorytellerError(f"sample is True and candidates is {shown(candidates)}: a story is drawn at random or "
                               "the best of candidates; leave one of the two out")
    if "guidance" in asked and (sample or not candidates):
        raise StorytellerError(f"guidance is {shown(guidance)}, but without candidates nothing is guided: give "
                               "candidates, such as 12, or leave guidance out")
    strength = check_number("strength", strength)
    b, style_name = _book_style(z, style)
    lyric = style_name == VERSE if lyric is None else check_flag("lyric", lyric)

    timings, watch = {}, time.perf_counter
    start = watch()
    picture = open_picture(image)
    if picture.warnings and strict:
        raise StorytellerError(f"{short_name(picture.name)}: {picture.warnings[0]}; give another picture, or allow "
                               "such pictures (without strict)")
    picture.log_warnings()
    features = image_features(z, picture)
    timings["features"] = watch() - start

    start = watch()
    captions = nearest_captions(z, features, k)
    timings["captions"] = watch() - start

    start = watch()
    thought = shifted_thought(z, captions, b, strength)
    timings["thoughts"] = watch() - start

    start = watch()
    passages = write_passages(z, thought, features, bw, n_best, style=b, captions=captions,
                              whole_sentences=whole_sentences, lyric=lyric, **options)
    timings["passage"] = watch() - start

    told = Story(image=picture.name, captions=captions, passage=passages[0].text, cost=passages[0].cost,
                 style=style_name, timings=timings, lyric=lyric, prose=prose, alternatives=passages,
                 warnings=list(picture.warnings), picture=picture.pixels)
    if show:
        print_story(told)
    return told


def image_features(z: Mapping[str, Any], image: Image | Picture) -> np.ndarray:
    """The first stage: what the convnet sees in a picture.

    Parameters
    ----------
    z : mapping
        With ``net``.
    image : path, file object, bytes, PIL image or array
        See :func:`storyteller.images.open_image`.

    Returns
    -------
    array (n_features,) float32
        Of unit norm; all zeros where the convnet gives these.
    """
    _, im = load_image(image, z["net"])
    features = compute_features(z["net"], im)[0]
    length = norm(features)
    return features / length if length else features


def nearest_captions(z: Mapping[str, Any], features: np.ndarray, k: int = 100) -> list[Caption]:
    """The second stage: the captions that lie nearest to a picture in the joint space.

    Parameters
    ----------
    z : mapping
        With ``vse``, ``cap`` and ``cvec``.
    features : array (n_features,) float32
        From :func:`image_features`.
    k : int
        How many.

    Returns
    -------
    list of Caption
        Best first; all captions where there are fewer than k.
    """
    if len(z["cap"]) != len(z["cvec"]):
        raise StorytellerError(f"z['cap'] has {len(z['cap'])} captions, z['cvec'] {len(z['cvec'])} vectors: expected "
                               "one for each; make them anew with embedding.embed_captions(z['vse'], z['cap'])")
    if not len(z["cap"]):
        raise StorytellerError("z['cap'] is empty: expected at least one caption to think of")
    query = embedding.encode_images(z["vse"], np.reshape(features, (1, -1)))[0]
    best, scores = z["vse"].nearest(z["cvec"], query, k)
    return [Caption(z["cap"][i], float(score)) for i, score in zip(best, scores)]


def shifted_thought(z: Mapping[str, Any], captions: Sequence[Caption | str], style: Style = None,
                    strength: float = 1.0) -> np.ndarray:
    """The third stage: the mean thought of captions, moved from caption style to book style.

    Parameters
    ----------
    z : mapping
        With ``stv``, ``bneg`` and, where no other style is given, ``bpos``.
    captions : sequence of Caption or str
        From :func:`nearest_captions`.
    style, strength
        See :func:`story`.

    Returns
    -------
    array (dim,) float32
        F(x) = x - c + b.

    Raises
    ------
    StorytellerError
        If there are no captions, or something else among them.
    """
    texts = _texts(captions)
    if not texts:
        raise StorytellerError("captions is empty: expected at least one caption to think of")
    thoughts = skipthoughts.encode(z["stv"], texts, verbose=False)
    return shift(thoughts.mean(axis=0), z["bneg"], _book_style(z, style)[0], strength)


def _texts(captions: Sequence[Caption | str]) -> list[str]:
    """Captions as texts."""
    if isinstance(captions, str) or not isinstance(captions, Iterable):
        raise StorytellerError(f"captions is {shown(captions)}: expected a list of captions, as nearest_captions gives "
                               "them, or of texts")
    texts = [caption.text if isinstance(caption, Caption) else caption for caption in captions]
    for text in texts:
        if not isinstance(text, str):
            raise StorytellerError(f"captions has {shown(text)} in it: expected captions, as nearest_captions gives "
                                   "them, or texts")
    return texts


def write_passages(z: Mapping[str, Any], thought: np.ndarray, features: np.ndarray | None = None, bw: int = 50,
                   n_best: int = 1, *, style: Style = None, sample: bool = False, candidates: int = 0,
                   guidance: float = 1.0, captions: Sequence[Caption | str] = (), whole_sentences: bool = False,
                   lyric: bool | None = None, **options: Any) -> list[Passage]:
    """The fourth stage: passages about a thought, the one to be told first.

    Parameters
    ----------
    z : mapping
        With ``dec``; for candidates with ``vse`` and, where no style is given, ``bpos``, too.
    thought : array (dim,) float32
        From :func:`shifted_thought`.
    features : array (n_features,) float32, optional
        From :func:`image_features`: candidates are compared with them; without, by the rest alone.
    bw, n_best, style, sample, candidates, guidance, whole_sentences, lyric
        See :func:`story`; but for the defaults, which are the original's.  The style has to be that of the thought.
    captions : sequence of Caption or str, optional
        From :func:`nearest_captions`: with candidates, what they name and the picture shows is told of.
    **options
        ``maxlen``, ``use_unk``, ``temperature``, ``top_k``, ``top_p`` and ``seed`` of :func:`story`.

    Returns
    -------
    list of Passage
        At most n_best.
    """
    n_best, lyric = check_count("n_best", n_best), None if lyric is None else check_flag("lyric", lyric)
    if not candidates or sample:
        return decoder.passages(z["dec"], thought, bw, n_best, stochastic=sample, whole_sentences=whole_sentences,
                                **options)
    similarity = None
    if features is not None:
        query = embedding.encode_images(z["vse"], np.reshape(features, (1, -1)))[0]
        similarity = partial(telling.image_similarity, z["vse"], query)
    first = options.pop("seed", None) or 0
    chosen = {name: value for name, value in options.items() if value is not None}
    named = telling.named_by(_texts(captions), similarity)
    b, style_name = _book_style(z, style)
    lyric = style_name == VERSE if lyric is None else lyric
    return [telling.tell(z["dec"], thought, b, candidates, guidance, seed=first + i, similarity=similarity,
                         named=named, lyric=lyric, **chosen) for i in range(n_best)]


def retrieve_captions(model: embedding.JointEmbedding, net: Any, captions: Sequence[str], cvec: np.ndarray,
                      file_name: Image, k: int = 5) -> list[str]:
    """The captions nearest to a picture: the joint embedding's original ``retrieve_captions``.

    Parameters
    ----------
    model : JointEmbedding
    net : ConvNet or EfficientNetLite0
    captions : sequence of str
    cvec : array (len(captions), dim) float32
        From :func:`storyteller.embedding.encode_sentences`.
    file_name : path, file object, bytes, PIL image or array
    k : int

    Returns
    -------
    list of str
        Best first.
    """
    parts = {"vse": model, "net": net, "cap": captions, "cvec": cvec}
    return [caption.text for caption in nearest_captions(parts, image_features(parts, file_name), k)]


def stories(z: Mapping[str, Any], images: Iterable[Image], k: int = 100, bw: int = 50,
            lyric: bool | None = None, show: bool = False, on_error: str = "raise", verbose: bool = True,
            executor: Executor | None = None, ahead: int = AHEAD, **options: Any) -> list[Story]:
    """Tell stories about many pictures.

    Parameters
    ----------
    z, k, bw, lyric, **options
        See :func:`story`.
    images : iterable
        Of what :func:`story` takes.
    show : bool
        Print every story.
    on_error : str
        'raise' stops at the first picture that fails; 'skip' logs it and goes on.
    verbose : bool
        Show a progress bar (on a terminal only).
    executor : concurrent.futures.Executor, optional
        Tells them, see :func:`outcomes`.
    ahead : int
        Pictures that it is given before the first story is told; at least twice as many as it has workers.

    Returns
    -------
    list of Story
        In the order of the pictures, each with a picture of at most 480 pixels a side; :func:`each_story` keeps none.
    """
    return list(each_story(z, images, k, bw, lyric, show, on_error, verbose, executor, ahead, **options))


def each_story(z: Mapping[str, Any], images: Iterable[Image], k: int = 100, bw: int = 50,
               lyric: bool | None = None, show: bool = False, on_error: str = "raise", verbose: bool = True,
               executor: Executor | None = None, ahead: int = AHEAD, **options: Any) -> Iterator[Story]:
    """:func:`stories` one by one, as they are told: for more pictures than fit into memory, or any iterator of them."""
    if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
        raise StorytellerError(f"on_error is {shown(on_error)}: expected 'raise' or 'skip'")
    show = check_flag("show", show)
    told = outcomes(z, images, executor, ahead, k=k, bw=bw, lyric=lyric, **options)
    return _each_story(told, len(images) if isinstance(images, Sequence) else None, on_error, show, verbose)


def _each_story(told: Iterator[tuple[Image, Story | StorytellerError]], total: int | None, on_error: str, show: bool,
                verbose: bool) -> Iterator[Story]:
    with progress_bar(total, "telling stories", "picture", verbose and not show) as bar:
        for number, (image, outcome) in enumerate(told, 1):
            if isinstance(outcome, Story):
                if show:
                    print_story(outcome)
                yield outcome
            else:
                name = short_name(image_name(image))
                named = f"{outcome}" if name in str(outcome) else f"{name} (picture {number}): {outcome}"
                if on_error == "raise":
                    raise StorytellerError(named) from outcome
                _log.warning("skipped: %s", named)
            bar.update()


def outcomes(z: Mapping[str, Any], images: Iterable[Image], executor: Executor | None = None, ahead: int = AHEAD,
             **options: Any) -> Iterator[tuple[Image, Story | StorytellerError]]:
    """What becomes of each of many pictures, in their order: its story, or the error that tells why there is none.

    Parameters
    ----------
    z, **options
        See :func:`story`; nothing is shown.
    images : iterable
        Of what :func:`story` takes.
    executor : concurrent.futures.Executor, optional
        Tells them: threads, processes (``ProcessPoolExecutor``, :func:`storyteller.workers.processes`), or a
        cluster (``get_executor()`` of Dask's ``Client``, ``MPIPoolExecutor``).  Other processes load z by its
        settings, once each, and read the pictures themselves: paths must mean the same there.  Parts of z that were
        set by hand travel with every picture.
    ahead : int
        Pictures that the executor is given before the first story is told.

    Yields
    ------
    (image, Story or StorytellerError)

    Raises
    ------
    StorytellerError
        If ``images`` is no collection, or the executor fails.
    """
    if isinstance(images, (str, bytes, os.PathLike, np.ndarray, Mapping)) or not isinstance(images, Iterable):
        raise StorytellerError(f"images is {shown(images)}: expected a list of pictures; for one write [picture]")
    ahead = check_count("ahead", ahead)
    if executor is None:
        return _told_here(z, images, options)
    if not callable(getattr(executor, "submit", None)):
        raise StorytellerError(f"executor is {shown(executor)}: expected a concurrent.futures.Executor")
    return _told_by(executor, workers.Shared(z), iter(images), ahead, options)


def _told_here(z: Mapping[str, Any], images: Iterable[Image],
               options: dict[str, Any]) -> Iterator[tuple[Image, Story | StorytellerError]]:
    for image in images:
        outcome: Story | StorytellerError
        try:
            outcome = story(z, image, show=False, **options)
        except StorytellerError as error:
            outcome = error
        yield image, outcome


def _told_by(executor: Executor, shared: workers.Shared, images: Iterator[Image], ahead: int,
             options: dict[str, Any]) -> Iterator[tuple[Image, Story | StorytellerError]]:
    waiting: deque[tuple[Image, Future]] = deque()
    try:
        while True:
            for image in itertools.islice(images, ahead - len(waiting)):
                waiting.append((image, _submitted(executor, shared, image, options)))
            if not waiting:
                return
            image, future = waiting.popleft()
            outcome: Story | StorytellerError
            try:
                told, process = future.result()
                if process != os.getpid():      # which has logged them elsewhere, if at all
                    for warning in told.warnings:
                        _log.warning("%s: %s", short_name(told.image), warning)
                outcome = told
            except StorytellerError as error:
                outcome = error
            except Exception as error:
                if isinstance(error, BrokenExecutor):
                    waiting.clear()     # it all fails; to cancel it meanwhile stops the executor before Python 3.12
                raise workers.lost(error) or error from error
            yield image, outcome
    finally:
        for _, future in waiting:
            future.cancel()


def _submitted(executor: Executor, shared: workers.Shared, image: Image, options: dict[str, Any]) -> Future:
    try:
        # A stream cannot go to another process.
        picture = open_picture(image) if hasattr(image, "read") else image
        return executor.submit(_tell, shared, picture, options)
    except StorytellerError as error:
        failed: Future = Future()
        failed.set_exception(error)
        return failed
    except Exception as error:
        raise workers.lost(error) or error from error


def _tell(shared: workers.Shared, image: Image, options: dict[str, Any]) -> tuple[Story, int]:
    return story(shared.z, image, show=False, **options), os.getpid()


def _check_parts(z: Any) -> None:
    """One clear error where z is not what load_all gives."""
    if not isinstance(z, Mapping):
        raise StorytellerError(f"z is {shown(z)}: expected what load_all() gives, or a dict with its parts")
    missing = [key for key in PARTS if key not in z]
    if missing:
        raise StorytellerError(f"z lacks {', '.join(missing)}: expected the keys {', '.join(PARTS)}, as load_all() "
                               "gives them")
    if isinstance(z, Models):       # its parts are checked as they are loaded or set
        return
    for key in PARTS:
        _check_part(key, z[key])


def _check_part(key: str, part: Any) -> None:
    """One clear error where a part of z is of another kind."""
    what, fits = PARTS[key]
    if not fits(part):
        raise StorytellerError(f"z[{key!r}] is {shown(part)}: expected {what}")


def _writing_options(sample: Any, candidates: Any, guidance: Any, maxlen: Any, use_unk: Any, temperature: Any,
                     top_k: Any, top_p: Any, seed: Any) -> dict[str, Any]:
    """The options of write_passages, checked before anything is computed."""
    options = {"sample": check_flag("sample", sample),
               "candidates": check_count("candidates", candidates, 0, MOST_CANDIDATES),
               "guidance": check_number("guidance", guidance), "maxlen": check_count("maxlen", maxlen),
               "use_unk": check_flag("use_unk", use_unk)}
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in drawing.items() if value is not None}
    if sample or candidates:
        check_sampling(**given)
    else:
        decoder.check_not_sampling(**given)
    return {**options, **given}


def _settings(z: Mapping[str, Any]) -> _config.Config | None:
    """The settings that z was loaded by, also where it is a dict of parts."""
    if isinstance(z, Models):
        return z.config
    return next((found for found in (getattr(z[key], "settings", None) for key in _MODELS) if found is not None), None)


def _book_style(z: Mapping[str, Any], style: Style) -> tuple[np.ndarray, str]:
    if style is None:
        style, otherwise = z["bpos"], "default"
    else:
        otherwise = "array"
    if isinstance(style, np.ndarray):
        vector = check_floats("style", style, (z["stv"].dim,), "make it with the skip-thoughts model in use")
        return vector, getattr(style, "name", None) or otherwise
    if not isinstance(style, (str, os.PathLike)):
        raise StorytellerError(f"style is {shown(style)}: expected a style's name, an .npy file or an array")
    path = os.fsdecode(style)
    if not os.path.isfile(path):
        settings = _settings(z)
        if settings is None:
            raise StorytellerError(f"style {shown(path)} is not a file: expected the path of an .npy file or an "
                                   "array (named styles need z from load_all)")
        path = settings.style_path(path)
    return styles.load(path, z["stv"].dim), _style_name(path)


def __dir__() -> list[str]:
    return sorted(__all__)


def _told(z: Mapping[str, Any], name: str, given: Any, otherwise: Any) -> Any:
    """An option of telling: as given, else the settings', else the original's."""
    if given is not None:
        return given
    settings = _settings(z)
    return otherwise if settings is None else settings.telling.get(name, otherwise)


def _style_name(path: str) -> str:
    name = os.path.splitext(os.path.basename(path))[0]
    return name[:-len("_style")] if name.endswith("_style") else name
