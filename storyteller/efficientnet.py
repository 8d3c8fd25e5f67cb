"""EfficientNet-Lite0, the convnet of the compact models.

Tan & Le 2019, "EfficientNet" (arXiv:1905.11946), in the Lite form published with TensorFlow's TPU models
(Apache-2.0): no squeeze-and-excitation, ReLU6 in place of swish.  Weights are those of one archive with batch
norm folded into the convolutions (``recipes/compact/convnet.py`` makes it).
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import layers
from .layers import ConvNetModel

SHORT_SIDE, CROP = 256, 224
CENTRE, SPREAD = 127.0, 128.0   # pixels become (x - 127) / 128
STEM, HEAD = 32, 1280
# Repeats, kernel, stride of the first, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


def blocks() -> list[tuple[int, int, int, int, int]]:
    """Kernel, stride, channels in, expanded channels and channels out of each of the 16 blocks."""
    found, last = [], STEM
    for repeats, kernel, stride, expansion, channels in STAGES:
        for i in range(repeats):
            found.append((kernel, stride if i == 0 else 1, last, last * expansion, channels))
            last = channels
    return found


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of an archive; W are (out, in / groups, k, k)."""
    shapes: dict[str, tuple[int, ...]] = {"stem_W": (STEM, 3, 3, 3), "stem_b": (STEM,)}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}_W"], shapes[f"{name}_b"] = shape, (shape[0],)

    for i, (kernel, _, n_in, wide, n_out) in enumerate(blocks(), 1):
        if wide != n_in:
            layer(f"block{i}_expand", wide, n_in, 1, 1)
        layer(f"block{i}_depthwise", wide, 1, kernel, kernel)
        layer(f"block{i}_project", n_out, wide, 1, 1)
    layer("head", HEAD, blocks()[-1][-1], 1, 1)
    return shapes


def load_params(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read an archive's arrays as float32.

    Raises
    ------
    StorytellerError
        If the file is missing, damaged or lacks an array.
    """
    shapes = parameter_shapes()
    return layers.load_params("convnet", path, shapes)


class EfficientNetLite0(ConvNetModel):
    """The network with its weights; made by :func:`storyteller.images.build_convnet`.

    Attributes
    ----------
    value_range : tuple of float
        Of what :meth:`prepare` gives.
    layer_names : tuple of str
        ``stem``, ``block1`` ... ``block16``, ``head``, ``pool``.
    """

    name, n_features, default_layer = "EfficientNet-Lite0", HEAD, "pool"
    value_range = ((0 - CENTRE) / SPREAD, (255 - CENTRE) / SPREAD)

    layer_names = ("stem", *(f"block{i}" for i in range(1, len(blocks()) + 1)), "head", "pool")

    def __init__(self, params: dict[str, np.ndarray], device: str | None = None):
        from . import backend as be
        self._params, self._device = params, be.device_of(device)
        self._compile()

    def _summary(self) -> str:
        return f"{self.n_features} features of a picture, its layer {self.default_layer}"

    def _outputs(self, x: Any) -> Iterator[tuple[str, Any]]:
        from . import backend as be
        p = be.parameters(self._params, not isinstance(x, np.ndarray))

        def layer(x: Any, name: str, stride: int = 1, groups: int = 1, limit: float | None = 6.0) -> Any:
            return be.same_conv2d(x, p[f"{name}_W"], p[f"{name}_b"], stride, groups, limit)

        x = layer(x, "stem", stride=2)
        yield "stem", x
        for i, (_, stride, n_in, wide, n_out) in enumerate(blocks(), 1):
            before = x
            if wide != n_in:
                x = layer(x, f"block{i}_expand")
            x = layer(x, f"block{i}_depthwise", stride, wide)
            x = layer(x, f"block{i}_project", limit=None)
            if stride == 1 and n_in == n_out:
                x = x + before
            yield f"block{i}", x
        x = layer(x, "head")
        yield "head", x
        yield "pool", x.mean(axis=(2, 3))

    @staticmethod
    def prepare(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale the shorter side to 256 pixels (bicubic) and cut out the middle 224 x 224.

        Parameters
        ----------
        pixels : array (h, w, 3) uint8
            R, G, B.

        Returns
        -------
        rawim : array (224, 224, 3) uint8
        im : array (1, 3, 224, 224) float32
            (R, G, B) as (x - 127) / 128.
        """
        from PIL import Image
        height, width = pixels.shape[:2]
        side = min(height, width) * CROP / SHORT_SIDE
        left, top = (width - side) / 2, (height - side) / 2
        # Only the crop is computed: an image of 1 x 5000 pixels as a whole would fill the memory.
        box = (left, top, left + side, top + side)
        crop = Image.fromarray(pixels).resize((CROP, CROP), Image.Resampling.BICUBIC, box=box)
        rawim = np.asarray(crop)
        im = (rawim.astype(np.float32).transpose(2, 0, 1) - np.float32(CENTRE)) / np.float32(SPREAD)
        return rawim, np.ascontiguousarray(im[None])
