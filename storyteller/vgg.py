"""VGG-19 (Simonyan & Zisserman 2015, arXiv:1409.1556): its preparation of pictures, and its layers.

The originals' ``load_image``, ``build_convnet``, ``compute_features`` and ``retrieve_captions`` are found here as
well; they stand in :mod:`storyteller.images` and :mod:`storyteller.generate`.
"""
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from . import cache, files
from .layers import ConvNetModel, dense

MEAN_BGR = np.array([103.939, 116.779, 123.68])  # of ImageNet's training images
SHORT_SIDE, CROP = 256, 224

# Convolutions of each block; a 2x2 pooling ends a block.
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAST_BLOCK = range(24, 32)      # of the parameters: filters on 14 x 14 pixels


def prepared(params: Iterable[np.ndarray], device: str) -> list[np.ndarray]:
    """Parameters as the network uses them, so that no array is held twice; those that are so already stay."""
    from . import backend as be
    if not _transforms(device):
        return list(params)
    return [be.fixed_filters(value, 2 if i in LAST_BLOCK else 4, device) if value.ndim == 4 else value
            for i, value in enumerate(params)]


def _transforms(device: str) -> bool:
    """Whether filters are transformed; Lasagne's layers take them as they are."""
    return device == "cpu" and not importlib.util.find_spec("lasagne")


def load_params(path: str | os.PathLike, device: str | None = None) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Read a file's weights of VGG-19 as the network uses them, memory-mapped from the cache.

    Parameters
    ----------
    path : path
        See :func:`storyteller.files.load_vgg19`.
    device : str, optional
        See :func:`storyteller.backend.device_of`.

    Returns
    -------
    params : list of float32 arrays
        See :func:`prepared`.
    spec : dict
        ``scale`` and ``shift``, (3,) float32.

    Raises
    ------
    StorytellerError
        If the file is missing, damaged or holds another network.
    """
    from . import backend
    device = backend.device_of(device)

    def make() -> dict[str, np.ndarray]:
        params, spec = files.load_vgg19(path)
        return {**{str(i): value for i, value in enumerate(prepared(params, device))},
                "scale": spec["scale"], "shift": spec["shift"]}

    form = "F(4x4) (36, c, o), last F(2x2) (16, c, o)" if _transforms(device) else "(o, c, 3, 3)"
    arrays = cache.cached_arrays("convnet", path, [form], make)
    spec = {name: arrays.pop(name) for name in ("scale", "shift")}
    return list(arrays.values()), spec


def resized_crop(pixels: np.ndarray) -> np.ndarray:
    """The middle of the resized image, (h, w, 3) uint8 -> (224, 224, 3) float64 of 0..255.

    The smaller side is scaled to 256 pixels, bilinearly, without anti-aliasing; outside the image all is 0, and
    the result is clipped to the image's range: what scikit-image's ``resize`` of 2015 did.  Only the crop is
    computed, from the pixels that it reads: neither a picture of 1 x 5000 nor one of 13,000 x 13,000 fills the
    memory.  Pixel i of N reads the image at (i + 0.5) n / N - 0.5.
    """
    h, w = pixels.shape[:2]
    new_h, new_w = (SHORT_SIDE, w * SHORT_SIDE // h) if h < w else (h * SHORT_SIDE // w, SHORT_SIDE)
    rows, y = _neighbours(h, new_h)
    columns, x = _neighbours(w, new_w)
    corners = pixels[np.clip(rows, 0, h - 1)[:, None], np.clip(columns, 0, w - 1)].astype(np.float64)
    above, beside = (rows < 0) | (rows >= h), (columns < 0) | (columns >= w)
    corners[above] = 0
    corners[:, beside] = 0
    corners = corners[:CROP] * (1 - y)[:, None, None] + corners[CROP:] * y[:, None, None]
    crop = corners[:, :CROP] * (1 - x)[:, None] + corners[:, CROP:] * x[:, None]
    return np.clip(crop, pixels.min(), pixels.max()) if above.any() or beside.any() else crop


def _neighbours(n: int, resized: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one side of n pixels: the two pixels between which each of the crop's lies, the first ones and then the
    second ones, (448,) int64, and how near it is to the second, (224,) float64."""
    at = (np.arange(CROP) + resized // 2 - CROP // 2 + 0.5) * n / resized - 0.5
    first = np.floor(at).astype(np.int64)
    return np.concatenate([first, first + 1]), at - first


class ConvNet(ConvNetModel):
    """VGG-19 with its weights; made by :func:`storyteller.images.build_convnet`.

    Attributes
    ----------
    value_range : tuple of float
        Of what :meth:`prepare` gives.
    layer_names : tuple of str
        ``conv1_1`` ... ``pool5``, ``fc6``, ``fc7``, ``fc8``, ``prob``.
    """

    name, n_features, default_layer = "VGG-19", 4096, "fc7"
    value_range = (0 - MEAN_BGR.max(), 255 - MEAN_BGR.min())

    layer_names = (*(name for block, (_, n) in enumerate(BLOCKS, 1)
                     for name in (*(f"conv{block}_{i}" for i in range(1, n + 1)), f"pool{block}")),
                   "fc6", "fc7", "fc8", "prob")

    def __init__(self, params: list[np.ndarray], spec: dict, device: str | None = None):
        from . import backend as be
        self._device = be.device_of(device)
        self._params = prepared(params, self._device)
        self._scale = np.asarray(spec["scale"], np.float32)[:, None, None]
        self._shift = np.asarray(spec["shift"], np.float32)[:, None, None]
        self._compile()

    def _summary(self) -> str:
        return f"{self.n_features} features of a picture, its layer {self.default_layer}"

    def _outputs(self, x: Any) -> Iterator[tuple[str, Any]]:
        from . import backend as be
        weights, graph = iter(self._params), not isinstance(x, np.ndarray)

        def parameter() -> Any:
            return be.parameters({"": next(weights)}, graph)[""]

        for block, (_, convolutions) in enumerate(BLOCKS, 1):
            for i in range(1, convolutions + 1):
                x = be.fixed_conv2d(x, next(weights), parameter())
                yield f"conv{block}_{i}", x
            x = be.max_pool2d(x)
            yield f"pool{block}", x
        x = x.reshape((x.shape[0], -1))
        for name, activation in (("fc6", be.relu), ("fc7", be.relu), ("fc8", None)):
            x = dense(x, parameter(), parameter(), activation)
            yield name, x
        yield "prob", be.softmax(x)

    def _build(self, x: Any) -> dict[str, Any]:
        from . import backend as be
        return _lasagne_layers(x, self._params) if be.DIALECT == "theano" else super()._build(x)

    @staticmethod
    def prepare(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale the shorter side to 256 pixels and cut out the middle 224 x 224, see :func:`resized_crop`.

        Parameters
        ----------
        pixels : array (h, w, 3) uint8
            R, G, B.

        Returns
        -------
        rawim : array (224, 224, 3) uint8
        im : array (1, 3, 224, 224) float32
            B, G, R, minus the channel means 103.939, 116.779, 123.68.
        """
        crop = resized_crop(pixels)
        im = crop.transpose(2, 0, 1)[::-1] - MEAN_BGR[:, None, None]
        return crop.astype(np.uint8), np.ascontiguousarray(im[None], dtype=np.float32)

    def compute(self, im: np.ndarray, layer: str = default_layer) -> np.ndarray:
        """Outputs of a layer for a batch: (n, 3, 224, 224) float32 -> (n, ...) float32."""
        if (self._scale != 1).any() or (self._shift != 0).any():
            im = im * self._scale + self._shift
        return super().compute(im, layer)


def _lasagne_layers(x, params: list[np.ndarray]) -> dict:
    """The same network as Lasagne layers, whose weights Lasagne users can reach.

    Lasagne's own convolution flips filters and needs a C++ compiler, so its place is taken
    by a layer over the backend's.
    """
    from . import backend as be
    lasagne = be.import_lasagne()
    from lasagne.layers import DenseLayer, InputLayer, Layer, NonlinearityLayer

    class CorrelationLayer(Layer):
        def __init__(self, incoming, W, b, **kwargs):
            super().__init__(incoming, **kwargs)
            self.filters = W.shape[0]
            self.W = self.add_param(be.shared(W), W.shape, name="W")
            self.b = self.add_param(be.shared(b), b.shape, name="b", regularizable=False)

        def get_output_shape_for(self, input_shape):
            return (input_shape[0], self.filters) + tuple(input_shape[2:])

        def get_output_for(self, input, **kwargs):
            return be.relu(be.conv2d(input, self.W, pad=1) + self.b.dimshuffle("x", 0, "x", "x"))

    class MaxPool2DLayer(Layer):
        def get_output_shape_for(self, input_shape):
            return tuple(input_shape[:2]) + tuple(n // 2 for n in input_shape[2:])

        def get_output_for(self, input, **kwargs):
            return be.max_pool2d(input)

    weights = iter(params)
    net = {}
    last = InputLayer((None, 3, CROP, CROP), input_var=x)
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            last = net[f"conv{block}_{i}"] = CorrelationLayer(last, next(weights), next(weights))
        last = net[f"pool{block}"] = MaxPool2DLayer(last)
    for name, activation in (("fc6", be.relu), ("fc7", be.relu), ("fc8", None)):
        W = next(weights)
        last = net[name] = DenseLayer(last, W.shape[1], W=be.shared(W), b=be.shared(next(weights)),
                                      nonlinearity=activation)
    net["prob"] = NonlinearityLayer(last, be.softmax)
    outputs = lasagne.layers.get_output(list(net.values()), deterministic=True)
    return dict(zip(net, outputs))


def __getattr__(name: str) -> Any:
    """The originals' names for what is common to both convnets."""
    if name in ("open_image", "load_image", "build_convnet", "compute_features"):
        from . import images
        return getattr(images, name)
    if name == "retrieve_captions":
        from . import generate
        return generate.retrieve_captions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
