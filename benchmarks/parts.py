"""What the peers share: the models' plain arrays, and the form of a result."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from storyteller import files
from storyteller.layers import gru_shapes


@dataclass
class Told:
    """A story by one of the implementations.

    Attributes
    ----------
    captions : list of str
        The nearest, best first.
    passage : str
    cost : float
        Negative log-likelihood of the passage in nats.
    timings : dict of str to float
        Seconds of each stage: features, captions, thoughts, passage.
    """

    captions: list[str]
    passage: str
    cost: float
    timings: dict[str, float] = field(default_factory=dict)


@dataclass
class Parts:
    """Parameters as the files hold them, and what is computed at load.

    Attributes
    ----------
    vgg : list of arrays
        The 38 arrays of VGG-19.
    uni, bi, joint, decoder : dict of str to float32 arrays
    words : dict of str to int
        Word -> row of the tables.
    utable, btable : arrays (rows, dim_word) float32
        Memory-mapped.
    joint_words : dict of str to int
    captions : list of str
    caption_vectors : array (captions, dim) float32
        Memory-mapped.
    vocabulary : list of str
        The decoder's.
    caption_style, book_style : arrays (dim,) float32
    """

    vgg: list[np.ndarray]
    uni: dict[str, np.ndarray]
    bi: dict[str, np.ndarray]
    joint: dict[str, np.ndarray]
    decoder: dict[str, np.ndarray]
    words: dict[str, int]
    utable: np.ndarray
    btable: np.ndarray
    joint_words: dict[str, int]
    captions: list[str]
    caption_vectors: np.ndarray
    vocabulary: list[str]
    caption_style: np.ndarray
    book_style: np.ndarray


def read_parts(z: Mapping) -> Parts:
    """Read the arrays of all models a second time, for the peers.

    Parameters
    ----------
    z : storyteller.generate.Models
        Gives the paths, and what is best shared: the memory-mapped tables and caption vectors, so
        that all implementations read the same pages.

    Returns
    -------
    Parts
    """
    paths = z.config.paths
    gru = [name.removeprefix("encoder_") for name in gru_shapes("encoder", 1, 1)]
    forwards, backwards = ([f"{prefix}_{name}" for name in gru]
                           for prefix in ("encoder", "encoder_r"))
    decoder = files.array_names(paths["decmodel"])
    weights, spec = files.load_vgg19(paths["vgg"])
    if np.any(np.asarray(spec["scale"]) != 1) or np.any(np.asarray(spec["shift"]) != 0):
        raise ValueError(f"{paths['vgg']}: the peers read weights for BGR inputs of 0..255 only")
    return Parts(
        vgg=weights,
        uni=files.load_arrays(f"{paths['skmodels']}/uni_skip.npz", forwards),
        bi=files.load_arrays(f"{paths['skmodels']}/bi_skip.npz", forwards + backwards),
        joint=files.load_arrays(paths["vsemodel"],
                                  ["Wemb", "ff_image_W", "ff_image_b", *forwards]),
        decoder=files.load_arrays(paths["decmodel"],
                                    [name for name in decoder if name != "history_errs"]),
        words=z["stv"].words, utable=z["stv"].utable, btable=z["stv"].btable,
        joint_words=z["vse"].worddict, captions=z["cap"], caption_vectors=z["cvec"],
        vocabulary=z["dec"].vocabulary, caption_style=z["bneg"], book_style=z["bpos"])
