"""From a picture to a story: wires the parts together.

>>> from storyteller import generate
>>> z = generate.load_all()                                   # doctest: +SKIP
>>> story = generate.story(z, './images/ex1.jpg')             # doctest: +SKIP
"""
from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, Union

import numpy as np

from . import config as _config
from .errors import StorytellerError
from .stories import Caption, Story, print_story
from .vgg import Image, build_convnet, compute_features, load_image, open_image

__all__ = ["Models", "Story", "Caption", "load_all", "story", "stories",
           "load_image", "build_convnet", "compute_features"]

_log = logging.getLogger(__name__)

# Candidates: the beam's best, which are much alike and often what the decoder has learnt by heart, and passages drawn
# boldly, and every time the same.
OF_BEAM = 10
DRAWN = {"temperature": 0.7, "top_k": None, "top_p": 0.95, "seed": 0}

Style = Union[None, str, "os.PathLike[str]", np.ndarray]


class Models(Mapping):
    """The dict z: every part of the pipeline, each loaded when it is first looked up.

    Parameters
    ----------
    config : path, mapping, Config or None
        See :func:`storyteller.config.load`.
    verbose : bool
        Log each part as it loads, and show progress of long work.

    Notes
    -----
    Keys: ``stv`` (skip-thoughts model), ``dec`` (decoder), ``vse`` (joint embedding), ``net``
    (convnet), ``cap`` (list of caption strings), ``cvec`` (their joint embeddings, n x dim),
    ``bneg`` (caption style c), ``bpos`` (book style b).
    """

    def __init__(self, config: _config.ConfigLike = None, verbose: bool = True):
        self.config = _config.load(config)
        self._verbose = verbose
        self._parts: dict[str, Any] = {}
        self._device: str | None = None
        self._loaders: dict[str, tuple[str, Callable[[], Any]]] = {
            "stv": ("skip-thoughts", self._skipthoughts), "dec": ("decoder", self._decoder),
            "vse": ("image-sentence embedding", self._embedding), "net": ("ConvNet", self._convnet),
            "cap": ("captions", self._captions), "cvec": ("caption embeddings", self._caption_vectors),
            "bneg": ("caption style", lambda: self._style("negbias")),
            "bpos": ("book style", lambda: self._style("posbias"))}

    def __getitem__(self, key: str) -> Any:
        if key not in self._parts:
            what, load = self._loaders[key]
            if self._verbose:
                _log.info("Loading %s...", what)
            self._parts[key] = load()
        return self._parts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __setitem__(self, key: str, part: Any) -> None:
        if key not in self._loaders:
            raise StorytellerError(f"key is {key!r}: expected one of {', '.join(self._loaders)}")
        self._parts[key] = part

    def __repr__(self) -> str:
        parts = ", ".join(f"{key}: {'loaded' if key in self._parts else 'not loaded'}" for key in self)
        return f"<Models from {self.config.source}; {parts}>"

    @property
    def device(self) -> str:
        """Where the parts compute, chosen once."""
        if self._device is None:
            from . import backend
            self._device = backend.choose_device(self.config.cpu_mode)
        return self._device

    def _skipthoughts(self):
        from . import skipthoughts
        self.config.require(["skmodels", "sktables"])
        return skipthoughts.load_model(self.config.paths["skmodels"], self.config.paths["sktables"],
                                       self.device, self._verbose)

    def _decoder(self):
        from . import decoder
        self.config.require(["decmodel", "dictionary"])
        return decoder.load_model(self.config.paths["decmodel"], self.config.paths["dictionary"],
                                  self.device)

    def _embedding(self):
        from . import embedding
        return embedding.load_model(self.config.path("vsemodel"), self.device)

    def _convnet(self):
        return build_convnet(self.config.path("vgg"), self.device)

    def _captions(self) -> list[str]:
        from . import text
        return text.read_captions(self.config.path("captions"))

    def _caption_vectors(self) -> np.ndarray:
        from . import embedding
        return embedding.embed_captions(self["vse"], self["cap"], self.config.path("captions"),
                                        self._verbose)

    def _style(self, key: str) -> np.ndarray:
        from . import style
        return style.load(self.config.path(key))


def load_all(config: _config.ConfigLike = None, verbose: bool = True) -> Models:
    """Load every part of the pipeline.

    Parameters
    ----------
    config : path, mapping, Config or None
        Settings; None finds them: the file named by STORYTELLER_CONFIG, else ./config.py, else the
        defaults.
    verbose : bool
        Log each part as it loads, and show progress of long work (on a terminal).

    Returns
    -------
    Models
        A mapping with the keys stv, dec, vse, net, cap, cvec, bneg, bpos.

    Raises
    ------
    StorytellerError
        If files are missing (all are listed), damaged, or do not fit each other.
    """
    z = Models(config, verbose)
    z.config.require()
    for key in z:
        z[key]
    _check_fit(z)
    return z


def _check_fit(z: Mapping[str, Any]) -> None:
    """One clear error where the parts are of different models."""
    dim = z["stv"].dim
    source = getattr(getattr(z, "config", None), "source", "z")
    for key, found in (("dec", z["dec"].dimctx), ("bneg", len(z["bneg"])), ("bpos", len(z["bpos"]))):
        if found != dim:
            name = {"dec": "decoder (paths['decmodel'])", "bneg": "caption style (paths['negbias'])",
                    "bpos": "book style (paths['posbias'])"}[key]
            raise StorytellerError(f"{source}: the {name} is made for thought vectors of {found} numbers, but "
                                   f"the skip-thoughts model gives {dim}; use files that belong together")
    if z["vse"].dim_image != z["net"].n_features:
        raise StorytellerError(f"{source}: the joint embedding (paths['vsemodel']) reads image features of "
                               f"{z['vse'].dim_image} numbers, but the convnet gives {z['net'].n_features}")


def story(z: Mapping[str, Any], image: Image, k: int = 100, bw: int = 50, lyric: bool = False, *,
          style: Style = None, strength: float = 1.0, n_best: int = 1, sample: bool = False,
          temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
          seed: int | None = None, maxlen: int = 1000, use_unk: bool = False,
          candidates: int | None = None, prose: bool | None = None, show: bool = True) -> Story:
    """Tell a story about a picture.

    Parameters
    ----------
    z : mapping
        From :func:`load_all`.
    image : path, file object, bytes, PIL image or array
        See :func:`storyteller.vgg.open_image`.
    k : int
        How many of the nearest captions to think of.
    bw : int
        Beam width; a wider beam takes longer and finds likelier passages.
    lyric : bool
        Print the passage in lines, split at commas.
    style : str, path or array (dim,), optional
        A named style (``'romance'``), a style vector's file or the vector itself; the settings'
        posbias by default.
    strength : float
        Of the shift from caption style to book style; 1 is the original's.
    n_best : int
        Passages to find; the best is told, all are in ``Story.alternatives``.
    sample : bool
        Draw the passage at random instead of searching for the likeliest.
    temperature, top_k, top_p, seed
        For sampling, see :func:`storyteller.search.sample`.
    maxlen : int
        Words at most.
    use_unk : bool
        Allow the unknown word.
    candidates : int, optional
        So many passages are drawn at random beside the best of the beam, and the one that the joint
        embedding finds nearest to the picture is told, see :mod:`storyteller.candidates`; 0: the likeliest, as
        in the original.  The settings' ``telling['candidates']`` by default.
    prose : bool, optional
        Show the story as a reader expects it, with capitals and without blanks before punctuation;
        False: the decoder's own words, as the original does.  The settings' ``telling['prose']`` by
        default, which is True for the compact models alone.
    show : bool
        Print the story, as the original does.

    Returns
    -------
    Story

    Raises
    ------
    StorytellerError
        If the image cannot be read or an argument is out of range.
    """
    from . import candidates as choosing
    from . import decoder, embedding, skipthoughts
    from . import style as styles
    candidates = _told(z, "candidates", candidates, 0)
    if isinstance(candidates, bool) or not isinstance(candidates, (int, np.integer)) or candidates < 0:
        raise StorytellerError(f"candidates is {candidates!r}: expected a whole number; 0 tells the likeliest story")
    for name, value in (("k", k), ("bw", bw), ("n_best", n_best), ("maxlen", maxlen)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise StorytellerError(f"{name} is {value!r}: expected a whole number of at least 1")
    timings, watch = {}, time.perf_counter
    start = watch()
    b, style_name = _book_style(z, style)
    pixels = open_image(image)
    _, im = load_image(pixels, z["net"])
    features = compute_features(z["net"], im).reshape(1, -1)
    norm = np.linalg.norm(features)
    features = features / norm if norm else features
    timings["features"] = watch() - start

    start = watch()
    query = embedding.encode_images(z["vse"], features)
    best, scores = embedding.nearest(z["cvec"], query[0], k)
    captions = [Caption(z["cap"][i], float(score)) for i, score in zip(best, scores)]
    timings["captions"] = watch() - start

    start = watch()
    thoughts = skipthoughts.encode(z["stv"], [caption.text for caption in captions], verbose=False)
    shifted = styles.shift(thoughts.mean(axis=0), z["bneg"], b, strength)
    timings["thoughts"] = watch() - start

    start = watch()
    options = dict(use_unk=use_unk, maxlen=maxlen, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if candidates and not sample:
        found = decoder.passages(z["dec"], shifted, bw, max(n_best, OF_BEAM), **options)
        found += decoder.passages(z["dec"], shifted, n_best=candidates, stochastic=True, **{**options, **DRAWN})
    else:
        found = decoder.passages(z["dec"], shifted, bw, max(n_best, candidates), stochastic=sample, **options)
    if candidates:
        found = choosing.in_order(found, choosing.fits(z["vse"], found, query[0]))[:n_best]
    timings["passage"] = watch() - start

    told = Story(image=_image_name(image), captions=captions, passage=found[0].text, cost=found[0].cost,
                 style=style_name, timings=timings, lyric=lyric, prose=_told(z, "prose", prose, False),
                 alternatives=found, picture=pixels)
    if show:
        print_story(told)
    return told


def stories(z: Mapping[str, Any], images: Iterable[Image], k: int = 100, bw: int = 50,
            lyric: bool = False, show: bool = False, on_error: str = "raise", verbose: bool = True,
            **options) -> list[Story]:
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

    Returns
    -------
    list of Story
    """
    from .progress import progress_bar
    if on_error not in ("raise", "skip"):
        raise StorytellerError(f"on_error is {on_error!r}: expected 'raise' or 'skip'")
    if isinstance(images, (str, bytes, os.PathLike)):
        raise StorytellerError("images is a single path: expected a list; write [path]")
    images, told = list(images), []
    with progress_bar(len(images), "telling stories", "picture", verbose and not show) as bar:
        for image in images:
            try:
                told.append(story(z, image, k, bw, lyric, show=show, **options))
            except StorytellerError as error:
                if on_error == "raise":
                    raise
                _log.warning("skipped: %s", error)
            bar.update()
    return told


def _book_style(z: Mapping[str, Any], style: Style) -> tuple[np.ndarray, str]:
    from . import style as styles
    if style is None:
        path = z.config.paths.get("posbias", "") if isinstance(z, Models) else ""
        return z["bpos"], _style_name(path) if path else "default"
    if isinstance(style, np.ndarray):
        return style, "array"
    path = os.fspath(style)
    if not os.path.isfile(path):
        if not isinstance(z, Models):
            raise StorytellerError(f"style {path!r} is not a file: expected the path of an .npy file or an "
                                   "array (named styles need z from load_all)")
        path = z.config.style_path(path)
    return styles.load(path, z["stv"].dim), _style_name(path)


def _told(z: Mapping[str, Any], name: str, given: Any, otherwise: Any) -> Any:
    """An option of telling: as given, else the settings', else the original's."""
    settings = z.config.telling if isinstance(z, Models) else {}
    return settings.get(name, otherwise) if given is None else given


def _style_name(path: str) -> str:
    name = os.path.splitext(os.path.basename(path))[0]
    return name[:-len("_style")] if name.endswith("_style") else name


def _image_name(image: Image) -> str:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return str(getattr(image, "name", None) or getattr(image, "filename", None)
               or f"<{type(image).__name__}>")
