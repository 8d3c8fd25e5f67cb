"""The weights of VGG-19, in the four forms in which they are published.

Lasagne's vgg19.pkl, Caffe's VGG_ILSVRC_19_layers.caffemodel, torchvision's state dict and Keras'
.h5 hold the same network with other layouts, channel orders and input scales.  `load_vgg19` tells
them apart by content and returns one layout for all; none of the four frameworks is needed (Keras'
file needs h5py).

The network: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration E.
"""
from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import caffe, keras, lasagne, torch
from .io import check_readable, open_file, wrong_kind


def _vgg19_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), 1):
        for number in range(1, count + 1):
            shapes[f"conv{block}_{number}"] = (width, channels, 3, 3)
            channels = width
    shapes.update(fc6=(channels * 7 * 7, 4096), fc7=(4096, 4096), fc8=(4096, 1000))
    return shapes


#: Layer name -> shape of its W in network order; convolutions (out, in, 3, 3), dense (in, out).
VGG19_SHAPES: dict[str, tuple[int, ...]] = _vgg19_shapes()

# B, G, R: the mean that `im` has had subtracted (2014, the Caffe model's own).
_MEAN = np.array([103.939, 116.779, 123.68])
# B, G, R: what torchvision's weights expect, of values in 0..1 (torchvision, "transforms").
_TORCH_MEAN = np.array([0.406, 0.456, 0.485])
_TORCH_STD = np.array([0.225, 0.224, 0.229])

_WHAT = "the weights of VGG-19 (Lasagne .pkl, .caffemodel, PyTorch .pth or Keras .h5)"

TORCH_LAYERS = dict(zip(VGG19_SHAPES, [
    *(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
    *(f"classifier.{i}" for i in (0, 3, 6))]))
KERAS_LAYERS = {layer: f"block{layer[4]}_conv{layer[6]}" if layer.startswith("conv") else
                {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}[layer] for layer in VGG19_SHAPES}


def load_vgg19(path: str | os.PathLike, shapes: Mapping[str, Sequence[int]] | None = None
               ) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Read the weights of VGG-19 from any of the files they are published in.

    Parameters
    ----------
    path : Lasagne's vgg19.pkl, Caffe's VGG_ILSVRC_19_layers.caffemodel, torchvision's vgg19 state
        dict (either format of torch.save), or Keras' vgg19 .h5 with its dense layers.  Told apart
        by content.
    shapes : layer name -> shape of W, in place of `VGG19_SHAPES`, for networks of the same layers
        with other widths.

    Returns
    -------
    params : 38 float32 arrays W, b, W, b, ... in network order, C-contiguous, perhaps read-only.
        Convolutions W (out, in, 3, 3), to be cross-correlated, over channels B, G, R; dense W
        (in, out), the input of fc6 flattened in (channel, row, column) order.
    spec : source 'lasagne', 'caffe', 'torchvision' or 'keras'; scale, shift : (3,) float32.
        The network takes x = im * scale + shift, channel by channel, B, G, R, where im is in
        0..255 minus (103.939, 116.779, 123.68).  Do so before conv1_1 pads with zeros.

    Raises
    ------
    StorytellerError : the file is missing, something else, damaged, or of another network.
    """
    shapes = VGG19_SHAPES if shapes is None else shapes
    kind = check_readable(path, _WHAT)
    with open_file(path, _WHAT) as file:
        head = file.read(64)
        file.seek(0)
        if kind == "hdf5":
            source, read = "keras", keras.read_weights
        elif torch.is_torch(kind, head):
            source, read = "torchvision", torch.read_weights
        elif head[:1] in (b"\x0a", b"\x12") and kind in ("unknown", "text", "pickle"):
            source, read = "caffe", caffe.read_weights
        elif kind == "pickle":
            source, read = "lasagne", lasagne.read_weights
        else:
            raise wrong_kind(path, _WHAT)
        params = []
        for layer, array in zip([layer for layer in shapes for _ in "Wb"],
                                read(file, path, _wanted(source, shapes))):
            params.append(np.ascontiguousarray(_in_our_layout(source, layer, array, shapes), dtype=np.float32))
    scale, shift = np.ones(3), np.zeros(3)
    if source == "torchvision":
        scale = 1 / (255 * _TORCH_STD)
        shift = (_MEAN / 255 - _TORCH_MEAN) / _TORCH_STD
    return params, {"source": source, "scale": scale.astype(np.float32),
                    "shift": shift.astype(np.float32)}


def _wanted(source: str, shapes: Mapping[str, Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each parameter in a file, in network order."""
    wanted = []
    for layer, ours in shapes.items():
        shape = tuple(ours)
        bias = (shape[0] if len(shape) == 4 else shape[1],)
        if source == "keras" and len(shape) == 4:
            shape = (3, 3, shape[1], shape[0])
        elif source in ("caffe", "torchvision") and len(shape) == 2:
            shape = (shape[1], shape[0])
        name, W, b = {"torchvision": (TORCH_LAYERS[layer], "weight", "bias"),
                      "keras": (KERAS_LAYERS[layer], "W", "b")}.get(source, (layer, "W", "b"))
        wanted += [(f"{name}.{W}", shape), (f"{name}.{b}", bias)]
    return wanted


def _in_our_layout(source: str, layer: str, array: np.ndarray, shapes: Mapping[str, Sequence[int]]) -> np.ndarray:
    """A parameter as the network takes it (see `load_vgg19`)."""
    if array.ndim == 1:
        return array
    if source == "keras":
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if layer != "fc6":
            return array
        # (row, column, channel) to (channel, row, column)
        layers = list(shapes)
        channels = shapes[layers[layers.index("fc6") - 1]][0]
        side = math.isqrt(len(array) // channels)
        return array.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    if source != "lasagne" and array.ndim == 2:
        return array.T
    if source == "torchvision" and layer == "conv1_1":
        return array[:, ::-1]      # R, G, B to the B, G, R of `im`
    return array
