"""``storyteller check``: is every configured file there, whole, and of the right shape?"""
from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable

from . import config as _config
from . import decoder, embedding, files, skipthoughts, style, text, threads
from .efficientnet import EfficientNetLite0, load_params
from .errors import StorytellerError
from .progress import progress_bar
from .vgg import ConvNet

FOUND, MISSING, DAMAGED, SHAPE = "found", "missing", "damaged", "wrong shape"

# MD5 of the published skip-thoughts files (the project's README).  Models of one's own have
# the same names and other sums, so a sum says something only about a file that has the size
# or the dimensions of the published one.
PUBLISHED = {
    "dictionary.txt": "26d8a3e6458500013723b380a4b4b55e",
    "uni_skip.npz": "8eb7c6948001740c3111d71a2fa446c1",
    "uni_skip.npz.pkl": "e1a0ead377877ff3ea5388bb11cfe8d7",
    "bi_skip.npz": "9a15429d694a0e035f9ee1efcb1406f3",
    "bi_skip.npz.pkl": "c9b86840e1dedb05837735d8bf94cee2",
    "btable.npy": "022b5b15f53a84c785e3153a2c383df6",
}
PUBLISHED_ROWS = 930_911
PUBLISHED_DIMS = {"uni_skip.npz": 2400, "bi_skip.npz": 1200}


# What a report of a fault should name; those that are not installed are left out.
LIBRARIES = ("numpy", "scipy", "pytensor", "Theano", "Lasagne", "jax", "pillow", "pillow-heif", "nltk", "h5py",
             "gensim", "scikit-learn", "pyarrow", "distributed", "threadpoolctl")


def versions() -> dict[str, str]:
    """What storyteller runs on: versions, platform, processors and linear algebra."""
    from importlib import metadata

    from . import __version__
    libraries = []
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            libraries.append(f"{name} {metadata.version(name)}")
    blas = set()
    with suppress(ImportError):     # what is missing shows among the libraries
        from threadpoolctl import threadpool_info
        blas = {f"{found['internal_api']} {found['version']}, {found['num_threads']} threads"
                for found in threadpool_info() if found["user_api"] == "blas"}
    return {"storyteller": __version__, "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "platform": f"{platform.platform()}, {threads.cores()} processors", "libraries": ", ".join(libraries),
            "linear algebra": "; ".join(sorted(blas)) or "unknown"}


def devices(cpu_mode: bool = True) -> dict[str, str]:
    """What there is to compute on, and what the parts would use with this ``FLAG_CPU_MODE``, or why they cannot."""
    from . import backend
    there = f"{backend.DIALECT} on the CPU"
    with suppress(ImportError):
        there = f"{there}; {backend.jax_device.found()}" if backend.DIALECT == "pytensor" else there
    try:
        used = backend.choose_device(cpu_mode)
    except StorytellerError as error:
        used = f"nothing: {error}"
    return {"devices": there, "parts compute on": used}


@dataclass(frozen=True)
class Finding:
    """What was found out about one file: its status and what to do."""

    file: _config.NeededFile
    status: str
    message: str


class _Wrong(Exception):
    """A file that can be read but has the wrong shape."""


def check(config: _config.ConfigLike = None, verbose: bool = True) -> list[Finding]:
    """Look at every configured file.

    Parameters
    ----------
    config : path, mapping, Config or None
        See :func:`storyteller.config.load`.
    verbose : bool
        Show progress while large files are read (on a terminal only).

    Returns
    -------
    list of Finding
        One for each file that the settings call for, with status ``'found'``, ``'missing'``,
        ``'damaged'`` or ``'wrong shape'``.
    """
    config = _config.load(config)
    known: dict[str, Any] = {}  # what one file says about others: dimensions, numbers of rows
    findings = []
    # Options stand behind their archives in the list but must be read first.
    order = sorted(config.needed(), key=lambda file: not (file.path or "").endswith((".pkl", ".txt")))
    with progress_bar(len(order), "checking", "file", verbose) as bar:
        for file in order:
            findings.append(_look(file, known))
            bar.update()
    place = {file: i for i, file in enumerate(config.needed())}
    return sorted(findings, key=lambda finding: place[finding.file])


def _look(file: _config.NeededFile, known: dict[str, Any]) -> Finding:
    if file.path is None or not file.found:
        return Finding(file, MISSING, f"{file.what}: {file.advice}")
    try:
        said = _CHECKS[file.key](file.path, known)
    except _Wrong as error:
        return Finding(file, SHAPE, str(error))
    except StorytellerError as error:
        return Finding(file, DAMAGED, f"{error}")
    except (OSError, MemoryError) as error:
        return Finding(file, DAMAGED, f"{file.path}: cannot be read ({error or 'not enough memory'})")
    return Finding(file, FOUND, said)


def _md5(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _published(path: str, looks_published: bool) -> str:
    """Compare with the published checksum where there is one."""
    name = os.path.basename(path)
    if name not in PUBLISHED or not looks_published:
        return ""
    if _md5(path) == PUBLISHED[name]:
        return ", the published file (checksum right)"
    raise StorytellerError(f"{path}: has the dimensions of the published file but not its checksum (md5 "
                           f"{PUBLISHED[name]}): download it again, unless it is a model of your own")


def _archive(path: str, shapes: dict[str, tuple]) -> None:
    found = files.array_names(path)
    for name, shape in shapes.items():
        if name in found and tuple(found[name]) != tuple(shape):
            raise _Wrong(f"{path}: parameter {name!r} has shape {tuple(found[name])}, its options call for "
                         f"{tuple(shape)}; take archive and options of one model")
    files.load_arrays(path, list(shapes), shapes)  # also finds what is missing or damaged


def _encoder(path: str, known: dict[str, Any]) -> str:
    name = os.path.basename(path)
    options_name = name if name.endswith(".pkl") else f"{name}.pkl"
    archive = options_name[:-len(".pkl")]
    if name == options_name:
        options = files.load_options(path)
        shapes = skipthoughts.parameter_shapes(options, path, skipthoughts.ENCODERS[archive])
        dim_word, dim = shapes["encoder_W"][0], shapes["encoder_U"][0]
        known[archive] = (shapes, dim_word, dim)
        return f"dim {dim}, dim_word {dim_word}" + _published(path, dim == PUBLISHED_DIMS[archive])
    if archive not in known:
        raise StorytellerError(f"{path}: cannot be checked without its options {path}.pkl; mend those first")
    shapes, _, dim = known[archive]
    _archive(path, shapes)
    return f"dim {dim}" + _published(path, dim == PUBLISHED_DIMS[archive])


def _table(path: str, known: dict[str, Any]) -> str:
    name = os.path.basename(path)
    if name == "dictionary.txt":
        words, rows = text.load_vocabulary(path)
        known["rows"] = rows
        return f"{len(words):,} words" + _published(path, rows == PUBLISHED_ROWS)
    pickled = files.is_object_table(path)
    shape = files.table_shape(path) if pickled else files.load_matrix(path, mmap=True).shape
    if "rows" in known and shape[0] != known["rows"]:
        raise _Wrong(f"{path}: holds {shape[0]:,} word vectors, dictionary.txt names {known['rows']:,}; take "
                     "both from one download")
    encoder = known.get("uni_skip.npz" if name == "utable.npy" else "bi_skip.npz")
    if encoder and len(shape) > 1 and shape[1] != encoder[1]:
        raise _Wrong(f"{path}: word vectors are {shape[1]}-dimensional, those of the encoder "
                     f"{encoder[1]}-dimensional; take both from one download")
    kind = "pickled, will be converted once" if pickled else f"{shape[1]}-dimensional"
    return f"{shape[0]:,} word vectors, {kind}" + _published(path, pickled and shape[0] == PUBLISHED_ROWS)


def _model(part: str, shapes_of: Callable[[dict, str], dict[str, tuple]]) -> Callable[[str, dict], str]:
    def look(path: str, known: dict[str, Any]) -> str:
        if path.endswith(".dictionary.pkl"):
            return _dictionary(path, known, part)
        if path.endswith(".pkl"):
            known[part] = shapes_of(files.load_options(path), path)
            if part == "decoder":
                _fits(path, "the vectors that it reads are", known[part]["ff_state_W"][0], known)
            return f"vocabulary of {known[part]['Wemb'][0]:,}"
        if part not in known:
            raise StorytellerError(f"{path}: cannot be checked without its options {path}.pkl; mend those "
                                   "first")
        _archive(path, known[part])
        return f"{len(known[part])} parameters"
    return look


def _dictionary(path: str, known: dict[str, Any], part: str = "decoder") -> str:
    words = files.load_dictionary(path)
    if part in known:
        try:
            text.check_dictionary(words, known[part]["Wemb"][0], path)
        except StorytellerError as error:
            raise _Wrong(str(error)) from error
    return f"{len(words):,} words"


def _fits(path: str, verb: str, dim: int, known: dict[str, Any]) -> None:
    if all(name in known for name in skipthoughts.ENCODERS):
        thought = known["uni_skip.npz"][2] + 2 * known["bi_skip.npz"][2]
        if dim != thought:
            raise _Wrong(f"{path}: {verb} {dim}-dimensional, the vectors of the skip-thoughts models "
                         f"{thought}-dimensional; use files that belong together")


def _style(path: str, known: dict[str, Any]) -> str:
    dim = len(style.load(path))
    _fits(path, "is", dim, known)
    return f"{dim}-dimensional"


def _convnet(path: str, known: dict[str, Any]) -> str:
    net: Any
    if files.is_archive(path):
        net, said = EfficientNetLite0, f"EfficientNet-Lite0, {len(load_params(path))} parameters"
    else:
        net, said = ConvNet, f"VGG-19 ({files.load_vgg19(path)[1]['source']})"
    read = known["joint embedding"]["ff_image_W"][0] if "joint embedding" in known else net.n_features
    if read != net.n_features:
        raise _Wrong(f"{path}: gives {net.n_features} features, the joint embedding reads {read}; use files that "
                     "belong together")
    return said


_CHECKS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "skmodels": _encoder,
    "sktables": _table,
    "decmodel": _model("decoder", decoder.parameter_shapes),
    "dictionary": _dictionary,
    "vsemodel": _model("joint embedding", embedding.parameter_shapes),
    "vgg": _convnet,
    "captions": lambda path, known: f"{len(text.read_captions(path)):,} captions",
    "negbias": _style,
    "posbias": _style,
}
