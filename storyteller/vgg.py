"""Image preparation and the VGG-19 features (Simonyan & Zisserman 2015, arXiv:1409.1556).

:func:`build_convnet` and :func:`compute_features` serve EfficientNet-Lite0 (:mod:`storyteller.efficientnet`) too.
"""
from __future__ import annotations

import io
import os
import threading
import warnings
from typing import IO, Any, Union

import numpy as np

from . import files
from .efficientnet import EfficientNetLite0, load_params
from .errors import StorytellerError
from .layers import dense

Image = Union[str, "os.PathLike[str]", bytes, IO[bytes], np.ndarray, Any]

MEAN_BGR = np.array([103.939, 116.779, 123.68])  # of ImageNet's training images
SHORT_SIDE, CROP = 256, 224
MAX_PIXELS = 178_956_970  # beyond it Pillow, too, speaks of a decompression bomb

# Convolutions of each block; a 2x2 pooling ends a block.
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))

_pillow_flag = threading.Lock()


def open_image(image: Image) -> np.ndarray:
    """Decode an image to RGB, whatever it came as.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image or array
        Arrays are (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): uint8, uint16, bool, or floats
        that are 0..1 throughout or else 0..255.

    Returns
    -------
    array (h, w, 3) uint8

    Raises
    ------
    StorytellerError
        If it is no image, holds no pixels, or is too large (more than 178 million pixels).

    Notes
    -----
    The EXIF orientation is honoured; of an animation the first frame is taken; transparent
    images are laid on white; 16-bit ones are scaled to 8 bits; truncated files are read as
    far as they go, the rest staying grey or black.
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    from PIL import Image as pil
    from PIL import ImageOps
    name, source = _name_and_source(image, pil)
    try:
        with warnings.catch_warnings():
            # Oversized images and odd metadata are dealt with below.
            warnings.simplefilter("ignore")
            picture = source if isinstance(source, pil.Image) else pil.open(source)
            if picture.width * picture.height > MAX_PIXELS:
                raise StorytellerError(f"{name}: {picture.width} x {picture.height} pixels are too "
                                       f"many: expected at most {MAX_PIXELS:,}; make it smaller first")
            with _pillow_flag:
                pixels = _decode(picture, ImageOps)
    except StorytellerError:
        raise
    except pil.DecompressionBombError as error:
        raise StorytellerError(f"{name}: too many pixels ({error}); make it smaller first") from error
    except pil.UnidentifiedImageError as error:
        found = files.describe(name) if isinstance(image, (str, os.PathLike)) else "something else"
        raise StorytellerError(f"{name}: not an image that Pillow can read (it looks like {found}); "
                               "give a JPEG, PNG, GIF, WebP, TIFF or BMP file") from error
    except FileNotFoundError as error:
        raise StorytellerError(f"{name}: no such image file; check the path") from error
    except MemoryError as error:
        raise StorytellerError(f"{name}: the image does not fit into memory") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise StorytellerError(f"{name}: the image cannot be decoded ({type(error).__name__}: {error}); "
                               "the file is damaged: fetch or save it again") from error
    return pixels


def _name_and_source(image: Image, pil) -> tuple[str, Any]:
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        if isinstance(name, str) and name.startswith(("http://", "https://")):
            raise StorytellerError(f"{name}: an address, not a file: save the picture first and "
                                   "give its path")
        if os.path.isdir(name):
            raise StorytellerError(f"{name}: a folder: expected an image file")
        return name, name
    if isinstance(image, (bytes, bytearray, memoryview)):
        return f"image of {len(image)} bytes", io.BytesIO(image)
    if isinstance(image, pil.Image):
        return "PIL image", image
    if hasattr(image, "read"):
        if not (hasattr(image, "seek") and hasattr(image, "tell")) or (
                hasattr(image, "seekable") and not image.seekable()):
            image = io.BytesIO(image.read())  # a pipe or a network stream
        return str(getattr(image, "name", "image file object")), image
    raise StorytellerError(f"image is a {type(image).__name__}: expected a path, a file object, bytes, "
                           "a PIL image or an array")


def _decode(picture, ImageOps) -> np.ndarray:
    from PIL import Image as pil
    from PIL import ImageFile
    before = ImageFile.LOAD_TRUNCATED_IMAGES  # Pillow's only way to read a truncated file
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        picture.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    try:
        picture = ImageOps.exif_transpose(picture) or picture
    except Exception:  # damaged EXIF data says nothing about the pixels
        pass
    if picture.mode.startswith("I") or picture.mode == "F":
        return _array_to_rgb(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = pil.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = pil.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise StorytellerError(f"image array has shape {shape}: expected (h, w), (h, w, 3) or (h, w, 4)")
    if array.dtype == np.uint8:
        scaled = array
    elif array.dtype == bool:
        scaled = array * np.uint8(255)
    elif array.dtype.kind in "iu":
        # 16-bit images come as uint16 or, from some files, as int32.
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise StorytellerError(f"image array holds values {low}..{high}: expected 0..255 or 0..65535")
        wide = array.dtype == np.uint16 or high > 255
        scaled = (array // 257 if wide else array).astype(np.uint8)
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise StorytellerError("image array holds NaN or infinite values: expected 0..1 or 0..255")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            raise StorytellerError(f"image array holds values {low:g}..{high:g}: expected 0..1 or 0..255")
        scaled = (array * 255 if high <= 1 else array).round().astype(np.uint8)
    else:
        raise StorytellerError(f"image array has dtype {array.dtype}: expected uint8, uint16 or float")
    if scaled.ndim == 2 or shape[2] == 1:
        return np.repeat(scaled.reshape(shape[0], shape[1], 1), 3, axis=2)
    if shape[2] == 4:
        alpha = scaled[..., 3:].astype(np.float64) / 255
        scaled = (scaled[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return scaled


def load_image(file_name: Image, net: ConvNet | EfficientNetLite0 | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Prepare an image for the network.

    For VGG-19 the smaller side is scaled to 256 pixels (bilinear, without anti-aliasing, zeros outside
    the image) and the middle 224 x 224 pixels are cut out.

    Parameters
    ----------
    file_name : path, bytes, file object, PIL image or array
        See :func:`open_image`.
    net : optional
        The network of :func:`build_convnet` that shall see it; VGG-19 by default.

    Returns
    -------
    rawim : array (224, 224, 3) uint8
        The crop, R, G, B.
    im : array (1, 3, 224, 224) float32
        For VGG-19 the crop, B, G, R, minus the channel means 103.939, 116.779, 123.68; for
        EfficientNet-Lite0 see its ``prepare``.

    Raises
    ------
    StorytellerError
        See :func:`open_image`.
    """
    return (ConvNet if net is None else net).prepare(open_image(file_name))


def _prepared(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    crop = _resized_crop(pixels)
    im = crop.transpose(2, 0, 1)[::-1] - MEAN_BGR[:, None, None]
    return crop.astype(np.uint8), np.ascontiguousarray(im[None], dtype=np.float32)


def _resized_crop(pixels: np.ndarray) -> np.ndarray:
    """The middle of the resized image, (h, w, 3) uint8 -> (224, 224, 3) float64 of 0..255.

    Only the crop is computed: resizing an image of 1 x 5000 pixels as a whole would fill
    the memory.  Pixel i of N reads the image at (i + 0.5) n / N - 0.5.
    """
    from skimage.transform import warp
    h, w = pixels.shape[:2]
    new_h, new_w = (SHORT_SIDE, w * SHORT_SIDE // h) if h < w else (h * SHORT_SIDE // w, SHORT_SIDE)
    top, left = new_h // 2 - CROP // 2, new_w // 2 - CROP // 2
    scale_y, scale_x = h / new_h, w / new_w
    source = np.array([[scale_x, 0, (left + 0.5) * scale_x - 0.5],
                       [0, scale_y, (top + 0.5) * scale_y - 0.5],
                       [0, 0, 1]])
    return warp(pixels, source, output_shape=(CROP, CROP), order=1, mode="constant", cval=0,
                preserve_range=True)


class ConvNet:
    """VGG-19 with its weights; made by :func:`build_convnet`.

    Attributes
    ----------
    layers : dict
        Name -> output node, ``conv1_1`` ... ``pool5``, ``fc6``, ``fc7``, ``fc8``, ``prob``.
    """

    n_features, default_layer = 4096, "fc7"
    prepare = staticmethod(_prepared)

    def __init__(self, params: list[np.ndarray], spec: dict, device: str = "cpu"):
        from . import backend as be
        self._device = device
        self._input = be.tensor4("im")
        self._scale = np.asarray(spec["scale"], np.float32)[:, None, None]
        self._shift = np.asarray(spec["shift"], np.float32)[:, None, None]
        self.layers = (_lasagne_layers(self._input, params) if be.DIALECT == "theano"
                       else _plain_layers(self._input, params, device))
        self._functions: dict[str, Any] = {}

    def compute(self, im: np.ndarray, layer: str = "fc7") -> np.ndarray:
        """Outputs of a layer for a batch: (n, 3, 224, 224) float32 -> (n, ...) float32."""
        from . import backend as be
        if layer not in self.layers:
            raise StorytellerError(f"layer is {layer!r}: expected one of {', '.join(self.layers)}")
        if layer not in self._functions:
            self._functions[layer] = be.function([self._input], [self.layers[layer]], self._device)
        im = np.ascontiguousarray(im, dtype=np.float32)
        if (self._scale != 1).any() or (self._shift != 0).any():
            im = im * self._scale + self._shift
        return self._functions[layer](im)[0]


def _plain_layers(x, params: list[np.ndarray], device: str) -> dict:
    """The network from the backend's own convolution and pooling."""
    from . import backend as be
    layers, weights = {}, iter(params)
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            W, b = next(weights), be.shared(next(weights))
            x = be.relu(be.fixed_conv2d(x, W, device) + b.dimshuffle("x", 0, "x", "x"))
            layers[f"conv{block}_{i}"] = x
        x = layers[f"pool{block}"] = be.max_pool2d(x)
    x = x.reshape((x.shape[0], -1))
    for name, activation in (("fc6", be.relu), ("fc7", be.relu), ("fc8", None)):
        x = layers[name] = dense(x, be.shared(next(weights)), be.shared(next(weights)), activation)
    layers["prob"] = be.softmax(x)
    return layers


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

    class HalvingLayer(Layer):
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
        last = net[f"pool{block}"] = HalvingLayer(last)
    for name, activation in (("fc6", be.relu), ("fc7", be.relu), ("fc8", None)):
        W = next(weights)
        last = net[name] = DenseLayer(last, W.shape[1], W=be.shared(W), b=be.shared(next(weights)),
                                      nonlinearity=activation)
    net["prob"] = NonlinearityLayer(last, be.softmax)
    outputs = lasagne.layers.get_output(list(net.values()), deterministic=True)
    return dict(zip(net, outputs))


def build_convnet(path_to_vgg: str | os.PathLike, device: str = "cpu") -> ConvNet | EfficientNetLite0:
    """Load VGG-19 or EfficientNet-Lite0.

    Parameters
    ----------
    path_to_vgg : path
        Lasagne's ``vgg19.pkl``, the authors' ``VGG_ILSVRC_19_layers.caffemodel``, torchvision's
        ``vgg19-*.pth`` or Keras's ``vgg19_weights_tf_dim_ordering_tf_kernels.h5`` (needs the extra
        ``storyteller[keras]``), or EfficientNet-Lite0's ``.npz`` that comes with the package.  Told apart
        by content.
    device : str
        See :mod:`storyteller.backend`.

    Returns
    -------
    ConvNet or EfficientNetLite0

    Raises
    ------
    StorytellerError
        If the file is missing, damaged or holds another network.
    """
    if files.is_archive(path_to_vgg):
        return EfficientNetLite0(load_params(path_to_vgg), device)
    params, spec = files.load_vgg19(path_to_vgg)
    return ConvNet(params, spec, device)


def compute_features(net: ConvNet | EfficientNetLite0, im: np.ndarray, layer: str | None = None) -> np.ndarray:
    """Features of prepared images.

    Parameters
    ----------
    net : ConvNet or EfficientNetLite0
    im : array (n, 3, 224, 224) or (3, 224, 224) float32
        From :func:`load_image`; stack several for a batch.
    layer : str, optional
        By default VGG-19's fc7 after its rectifier, or EfficientNet-Lite0's pool.

    Returns
    -------
    array (n, 4096) or (n, 1280) float32
        Or the named layer's output.

    Raises
    ------
    StorytellerError
        If ``im`` has another shape or ``layer`` is unknown.
    """
    im = np.asarray(im, dtype=np.float32)
    layer = net.default_layer if layer is None else layer
    if im.ndim == 3:
        im = im[None]
    if im.ndim != 4 or im.shape[1:] != (3, CROP, CROP):
        raise StorytellerError(f"im has shape {im.shape}: expected (n, 3, {CROP}, {CROP}), as "
                               "load_image gives it")
    if len(im) == 1 or not len(im):
        return net.compute(im, layer) if len(im) else np.zeros((0, net.n_features), np.float32)
    # A few images at a time: the activations of the first layers are 25 MB an image.
    return np.concatenate([net.compute(im[i:i + 4], layer) for i in range(0, len(im), 4)])
