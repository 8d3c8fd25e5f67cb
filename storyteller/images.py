"""Pictures: opening them, preparing them for a convnet, and the features that it gives.

The only module that knows that there are two convnets, :mod:`storyteller.vgg` and :mod:`storyteller.efficientnet`.
"""
from __future__ import annotations

import io
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Union

import numpy as np

from . import efficientnet, files, vgg
from .efficientnet import EfficientNetLite0
from .errors import StorytellerError, shown
from .progress import without_warnings
from .vgg import CROP, ConvNet

_log = logging.getLogger(__name__)

Image = Union[str, "os.PathLike[str]", bytes, IO[bytes], np.ndarray, Any]
Net = Union[ConvNet, EfficientNetLite0]

NETS: tuple[type[ConvNet] | type[EfficientNetLite0], ...] = (ConvNet, EfficientNetLite0)
# By name, for Pillow reads some formats with other programs: an EPS, whatever it is called, starts Ghostscript.  JPEG
# includes MPO.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
EXPECTED = "a JPEG, PNG, GIF, WebP, TIFF or BMP file"
MAX_PIXELS = 178_956_970        # beyond it Pillow, too, speaks of a decompression bomb
MAX_JPEG_PIXELS = 2 * MAX_PIXELS    # a JPEG need not be decoded at its full size
LARGE = 1 << 26                 # pixels of a picture that is read at a reduced size,
REDUCED_SIDE = 1024             # whose shorter side is still at least this long
MAX_BYTES = 1 << 30             # of a stream
_ONE_COLOUR = 2                 # levels of 256 within which all pixels of a blank picture lie

TRUNCATED = "the picture's file is truncated: what is missing was read as grey or black"
BLANK = "the picture is of one colour: the story is about nothing that can be seen"

# What people take for a picture, by the first bytes; of HEIC and AVIF see _container.
_NOT_READ = ((rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS or PostScript drawing: export it as PNG"),
             (rb"%PDF", "a PDF: export the page as PNG"),
             (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg", "an SVG drawing: export it as PNG"),
             (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture: save it as JPEG"),
             (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL picture: save it as JPEG"),
             (rb"8BPS", "a Photoshop file: export it as PNG"),
             (rb"\x89HDF\r\n", "an HDF5 file: give the array that it holds"),
             (rb"....ftyp(qt|isom|iso2|mp4|M4V|avc1|3gp)|RIFF....AVI |\x1aE\xdf\xa3", "a film: give one of its frames"))


class Picture(NamedTuple):
    """An opened picture.

    Attributes
    ----------
    pixels : array (h, w, 3) uint8
        R, G, B.
    name : str
        Its path, or what it was given as: ``'<bytes>'``.
    warnings : tuple of str
        What is wrong with it: it is truncated, or blank.
    """

    pixels: np.ndarray
    name: str
    warnings: tuple[str, ...] = ()

    def log_warnings(self) -> None:
        """Log what is wrong with the picture."""
        for warning in self.warnings:
            _log.warning("%s: %s", short_name(self.name), warning)


def open_image(image: Image) -> np.ndarray:
    """Decode an image to RGB, whatever it came as.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image or array
        Arrays are (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): uint8, uint16, other integers of 0..255 or
        0..65535, bool, or floats of 0..1 or 0..255.  A uint16 array of which no value is above 255 is taken
        for 8 bits.

    Returns
    -------
    array (h, w, 3) uint8

    Raises
    ------
    StorytellerError
        If it is no image, holds no pixels, or is too large (more than 178 million pixels, a JPEG
        more than 357 million).

    Notes
    -----
    The EXIF orientation is honoured; of an animation the first frame is taken; transparent
    images are laid on white; 16-bit ones are scaled to 8 bits; truncated files are read as
    far as they go, the rest staying grey or black, with a logged warning.  Pictures of more than 67
    million pixels come reduced.  HEIC and AVIF need the extra ``storyteller[heif]``.
    """
    picture = open_picture(image)
    picture.log_warnings()
    return picture.pixels


def open_picture(image: Image | Picture) -> Picture:
    """:func:`open_image` with the picture's name and warnings, which are not logged."""
    if isinstance(image, Picture):
        return image
    name = image_name(image)
    if isinstance(image, np.ndarray):
        pixels, truncated = _array_to_rgb(image, short_name(name)), False
    else:
        pixels, truncated = _read(image, short_name(name))
    return Picture(pixels, name, ((TRUNCATED,) if truncated else ()) + ((BLANK,) if _is_blank(pixels) else ()))


def image_name(image: Image) -> str:
    """What an image is called: its path, or the kind of object that it is."""
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    if image is getattr(sys.stdin, "buffer", sys):
        return "standard input"
    name = getattr(image, "name", None) or getattr(image, "filename", None)
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else f"<{type(image).__name__}>"


def short_name(name: str, most: int = 300) -> str:
    """A name as messages show it: a picture given as base64 is not told once more."""
    return name if len(name) <= most else f"{name[:most // 2]}...{name[-most // 4:]} ({len(name)} characters)"


def check_path(path: str | os.PathLike) -> None:
    """StorytellerError where a path names no file that could be a picture's; nothing is decoded."""
    path = os.fsdecode(path)
    if re.match(r"(?i)https?://|ftp://", path):
        raise StorytellerError(f"{short_name(path)}: an address, not a file: save the picture first and give its path")
    if re.match(r"(?i)data:", path) or (len(path) > 255 and re.fullmatch(r"[\w+/\s-]+=*\s*", path)):
        raise StorytellerError(f"{short_name(path)}: this is a picture in base64, not a path: decode it and give the "
                               "bytes (base64.b64decode)")
    files.check_readable(path, EXPECTED)


def _is_blank(pixels: np.ndarray) -> bool:
    step = max(1, min(pixels.shape[:2]) // 64)
    some = pixels[::step, ::step].reshape(-1, 3)[:4096]     # they tell nearly every picture
    return all((_range(values) <= _ONE_COLOUR).all() for values in (some, pixels))


def _range(pixels: np.ndarray) -> np.ndarray:
    """Largest less smallest value of each channel."""
    flat = pixels.reshape(-1)
    # In long rows: NumPy takes seconds for the extremes of millions of rows of three.
    body = flat[:len(flat) // 3072 * 3072].reshape(-1, 3072)
    rows = np.concatenate([extreme.reshape(-1, 3) for extreme in (
        *((body.min(axis=0), body.max(axis=0)) if len(body) else ()), flat[body.size:])])
    return np.ptp(rows, axis=0)


def _read(image: Image, name: str) -> tuple[np.ndarray, bool]:
    """Pixels (h, w, 3) uint8, and whether the file is truncated."""
    from PIL import Image as pil
    try:
        if isinstance(image, pil.Image):
            if getattr(image, "tile", None) and image.format in ("EPS", "WMF"):
                raise StorytellerError(f"{name}: an EPS or WMF drawing would be drawn by another program: call the "
                                       "picture's load() first")
            return _decode(lambda: image, name)
        with _binary(image, name) as file:
            return _decode(lambda: _identify(file, name), name, draft=True)
    except StorytellerError:
        raise
    except pil.DecompressionBombError as error:
        raise StorytellerError(f"{name}: too many pixels ({error}); make it smaller first") from error
    except MemoryError as error:
        raise StorytellerError(f"{name}: the picture does not fit into memory; make it smaller first") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        if "closed" in str(error):
            raise StorytellerError(f"{name}: the picture was closed before it was given; open it again") from error
        raise StorytellerError(f"{name}: the picture cannot be decoded ({type(error).__name__}: {str(error)[:200]}); "
                               "if other programs cannot show it either, fetch or save it again") from error


@contextmanager
def _binary(image: Any, name: str) -> Iterator[IO[bytes]]:
    """The file that holds a picture, at any position, seekable."""
    if isinstance(image, (str, os.PathLike)):
        check_path(image)
        with files.open_file(image, EXPECTED) as file:
            yield file
    elif isinstance(image, (bytes, bytearray, memoryview)):
        yield io.BytesIO(image)
    elif callable(getattr(image, "read", None)):
        if getattr(image, "closed", False) is True:
            raise StorytellerError(f"{name}: the file was closed before it was given; open it again")
        if isinstance(image, io.TextIOBase) or not isinstance(image.read(0), (bytes, bytearray)):
            raise StorytellerError(f"{name}: the file was opened as text; open it with mode 'rb'")
        seekable = getattr(image, "seekable", lambda: hasattr(image, "seek") and hasattr(image, "tell"))
        if seekable():
            yield image
        else:   # a pipe or a network stream
            data = image.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise StorytellerError(f"{name}: more than {MAX_BYTES:,} bytes; expected {EXPECTED}")
            yield io.BytesIO(data)
    else:
        raise StorytellerError(f"image is a {type(image).__name__}: expected a path, a file object, bytes, a PIL image "
                               "or an array")


def _identify(file: IO[bytes], name: str) -> Any:
    """The PIL image of a file, not decoded yet."""
    from PIL import Image as pil
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise StorytellerError(f"{name}: is empty; expected {EXPECTED}")
    container = _container(head)
    if container:
        return _open_heif(file, name, container)
    for magic, what in _NOT_READ:
        if re.match(magic, head, re.DOTALL | re.IGNORECASE):
            raise StorytellerError(f"{name}: this is {what}")
    if head.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile
        return JpegImageFile(file)      # pil.open would refuse what can be read at a reduced size
    try:
        return pil.open(file, formats=FORMATS)
    except pil.UnidentifiedImageError as error:
        found = files.identify(head)[1]
        if found.split()[1].upper() in FORMATS:     # "a PNG image"
            raise StorytellerError(f"{name}: begins like {found}, but is damaged; fetch or save it again") from error
        raise StorytellerError(f"{name}: not a picture that can be read (it looks like {found}); give {EXPECTED}"
                               ) from error


def _container(head: bytes) -> str | None:
    """'HEIC' or 'AVIF' where the brands of an ISO container (ISO/IEC 14496-12) say so."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[i:i + 4] for i in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"} else None


def _open_heif(file: IO[bytes], name: str, kind: str) -> Any:
    from PIL import Image as pil
    if kind == "AVIF":      # newer releases of Pillow read it themselves
        pil.init()
        if "AVIF" in pil.OPEN:
            return pil.open(file, formats=("AVIF",))
    try:
        import pillow_heif
    except ImportError as error:
        raise StorytellerError(f"{name}: this is a picture in {kind} (HEIF), whatever its name: "
                               "pip install pillow-heif to read such pictures, or save it as JPEG") from error
    heif = pillow_heif.open_heif(file)      # not its opener, which would be Pillow's from then on
    _check_size(heif.size, name)
    return heif.to_pillow()


def _check_size(size: tuple[int, int], name: str, most: int = MAX_PIXELS) -> None:
    if size[0] * size[1] > most:
        raise StorytellerError(f"{name}: {size[0]} x {size[1]} pixels are too many: expected at most {most:,}; "
                               "make the picture smaller first")


def _decode(opened: Callable[[], Any], name: str, draft: bool = False) -> tuple[np.ndarray, bool]:
    from PIL import Image as pil
    from PIL import ImageFile, ImageOps
    with without_warnings():    # of odd metadata and large pictures; one thread at a time, as what follows is global
        before = ImageFile.LOAD_TRUNCATED_IMAGES    # Pillow's only way to read a truncated file
        try:
            truncated = False
            while True:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                picture = opened()
                jpeg = draft and picture.format == "JPEG"
                _check_size(picture.size, name, MAX_JPEG_PIXELS if jpeg else MAX_PIXELS)
                factor = _reduction(picture.size)
                if jpeg and factor > 1:
                    picture.draft(picture.mode, (picture.width // factor, picture.height // factor))
                ImageFile.LOAD_TRUNCATED_IMAGES = truncated
                try:
                    picture.load()
                    break
                except MemoryError:
                    raise
                except Exception:
                    if truncated:
                        raise
                    truncated = True
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
        sixteen = picture.mode.startswith("I;16")
        picture = _reduced(picture)
        try:
            picture = ImageOps.exif_transpose(picture) or picture
        except Exception:  # damaged EXIF data says nothing about the pixels
            pass
    if picture.mode.startswith("I") or picture.mode == "F":
        return _array_to_rgb(np.asarray(picture), name, sixteen), truncated
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = pil.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = pil.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB")), truncated


def _reduction(size: tuple[int, int]) -> int:
    """How many times smaller a picture of this size is read."""
    return max(1, min(size) // REDUCED_SIDE) if size[0] * size[1] > LARGE else 1


def _reduced(picture: Any) -> Any:
    """A large picture as means over squares of pixels, before anything makes copies of it."""
    factor = _reduction(picture.size)
    if factor == 1:
        return picture
    orientation = picture.getexif().get(_ORIENTATION)
    if picture.mode.startswith("I;16"):
        picture = picture.convert("I")
    elif picture.mode in ("P", "PA", "1"):
        picture = picture.convert("RGBA" if picture.mode == "PA" or "transparency" in picture.info else "RGB")
    picture = picture.reduce(factor)
    if orientation is not None:
        picture.getexif()[_ORIENTATION] = orientation
    return picture


_ORIENTATION = 0x0112   # of EXIF


def _array_to_rgb(array: np.ndarray, name: str, sixteen: bool | None = None) -> np.ndarray:
    """An array as (h, w, 3) uint8; ``sixteen`` says whether its integers are 16-bit, None guesses it."""
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise StorytellerError(f"{name}: the array has shape {shape}: expected (h, w), (h, w, 3) or (h, w, 4)")
    _check_size((shape[1], shape[0]), name)
    if array.dtype == np.uint8:
        scaled = array
    elif array.dtype == bool:
        scaled = array * np.uint8(255)
    elif array.dtype.kind in "iu":
        # 16-bit images come as uint16 or, from some files, as int32; uint16 of 0..255 from arithmetic.
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise StorytellerError(f"{name}: the picture holds values {low}..{high}: expected 0..255 or 0..65535")
        scaled = (array // 257 if sixteen or high > 255 else array).astype(np.uint8)
    elif array.dtype.kind == "f":
        scaled = _float_to_uint8(array, name)
    else:
        raise StorytellerError(f"{name}: the array has dtype {array.dtype}: expected uint8, uint16 or float")
    if scaled.ndim == 2 or shape[2] == 1:
        return np.repeat(scaled.reshape(shape[0], shape[1], 1), 3, axis=2)
    if shape[2] == 4:
        alpha = scaled[..., 3:].astype(np.float64) / 255
        scaled = (scaled[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return scaled


def _float_to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StorytellerError(f"{name}: the picture holds NaN or infinite values: expected 0..1 or 0..255")
    # Values of 0..1 may be a rounding error off; whether a little more is meant for 1 or for 255 nobody can say.
    unit = high <= 1.01
    slack = 0.01 if unit else 0.5
    if low < -slack or high > 255 + slack or 1.01 < high < 2:
        raise StorytellerError(f"{name}: the picture holds values {low:g}..{high:g}: expected 0..1 or 0..255")
    return (array * 255 if unit else array).round().clip(0, 255).astype(np.uint8)


class PreparedImage(np.ndarray):
    """A picture prepared for a convnet: ``im`` of :func:`load_image`.

    An array that knows its network, and, where :func:`load_image` was not told of one, holds what the
    others read as well.  What is made from it (slices, batches) is an array that knows nothing.

    Attributes
    ----------
    prepared : dict of str to array, or None
        A network's name -> what it reads.
    """

    prepared: dict[str, np.ndarray] | None = None
    net: str | None = None
    _checksum: int = 0

    @classmethod
    def of(cls, net: Any, prepared: dict[str, np.ndarray]) -> PreparedImage:
        """The array of ``net`` among those prepared."""
        im = prepared[net.name].view(cls)
        im.net, im.prepared, im._checksum = net.name, prepared, zlib.crc32(im)
        return im

    def read_by(self, net: Net) -> np.ndarray | None:
        """What ``net`` reads; None where that is not known."""
        if self.net == net.name:
            return self.view(np.ndarray)
        # Whoever changed the pixels changed those of one network alone.
        known = (self.prepared or {}).get(net.name)
        return known if self._checksum == zlib.crc32(np.ascontiguousarray(self)) else None


def load_image(file_name: Image | Picture, net: Net | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Prepare an image for the network.

    Parameters
    ----------
    file_name : path, bytes, file object, PIL image or array
        See :func:`open_image`.
    net : optional
        The network of :func:`build_convnet` that shall see it.  Without it ``im`` is VGG-19's, and
        :func:`compute_features` gives the features of the picture with any network.

    Returns
    -------
    rawim : array (224, 224, 3) uint8
        The crop, R, G, B.
    im : array (1, 3, 224, 224) float32
        See ``prepare`` of :class:`~storyteller.vgg.ConvNet` and
        :class:`~storyteller.efficientnet.EfficientNetLite0`.

    Raises
    ------
    StorytellerError
        See :func:`open_image`.
    """
    if net is not None:
        _check_net(net)
    pixels = file_name.pixels if isinstance(file_name, Picture) else open_image(file_name)
    chosen: Any = ConvNet if net is None else net
    rawim, im = chosen.prepare(pixels)
    prepared = {chosen.name: im}
    if net is None:
        prepared.update({other.name: other.prepare(pixels)[1] for other in NETS if other is not chosen})
    return rawim, PreparedImage.of(chosen, prepared)


def build_convnet(path_to_vgg: str | os.PathLike | None = None, device: str | None = None) -> Net:
    """Load VGG-19 or EfficientNet-Lite0.

    Parameters
    ----------
    path_to_vgg : path, optional
        Lasagne's ``vgg19.pkl``, the authors' ``VGG_ILSVRC_19_layers.caffemodel``, torchvision's
        ``vgg19-*.pth`` or Keras's ``vgg19_weights_tf_dim_ordering_tf_kernels.h5`` (needs the extra
        ``storyteller[keras]``), or EfficientNet-Lite0's ``.npz`` that comes with the package.  Told apart
        by content.  By default the settings' ``paths['vgg']``.
    device : str, optional
        See :func:`storyteller.backend.device_of`.

    Returns
    -------
    ConvNet or EfficientNetLite0

    Raises
    ------
    StorytellerError
        If the file is missing, damaged or holds another network.
    """
    if path_to_vgg is None:
        from . import config
        path_to_vgg = config.load().path("vgg")
    if not isinstance(path_to_vgg, (str, os.PathLike)):
        raise StorytellerError(f"path_to_vgg is {shown(path_to_vgg)}: expected the path of the convnet's weights")
    net: Net
    if files.is_archive(path_to_vgg):
        net = EfficientNetLite0(efficientnet.load_params(path_to_vgg), device)
    else:
        net = ConvNet(*vgg.load_params(path_to_vgg, device), device)
    return net


def compute_features(net: Net, im: np.ndarray, layer: str | None = None) -> np.ndarray:
    """Features of prepared images.

    Parameters
    ----------
    net : ConvNet or EfficientNetLite0
    im : array (n, 3, 224, 224) or (3, 224, 224) float32
        From :func:`load_image`; concatenate several for a batch.
    layer : str, optional
        By default VGG-19's fc7 after its rectifier, or EfficientNet-Lite0's pool.

    Returns
    -------
    array (n, 4096) or (n, 1280) float32
        Or the named layer's output.

    Raises
    ------
    StorytellerError
        If ``im`` has another shape, was prepared for another network, or ``layer`` is unknown.
    """
    _check_net(net)
    im = _batch(net, im)
    layer = net.default_layer if layer is None else layer
    if not isinstance(layer, str) or layer not in net.layer_names:
        raise StorytellerError(f"layer is {shown(layer)}: expected one of {', '.join(net.layer_names)}")
    if len(im) == 1 or not len(im):
        return net.compute(im, layer) if len(im) else np.zeros((0, net.n_features), np.float32)
    # A few images at a time: the activations of the first layers are 25 MB an image.
    return np.concatenate([net.compute(im[i:i + 4], layer) for i in range(0, len(im), 4)])


def _check_net(net: Any) -> None:
    if not isinstance(net, NETS):
        raise StorytellerError(f"net is {shown(net)}: expected a network of build_convnet, such as z['net']")


def _batch(net: Net, im: Any) -> np.ndarray:
    """What ``net`` reads of prepared images, (n, 3, 224, 224) float32."""
    if isinstance(im, tuple) and len(im) == 2 and np.shape(im[0]) == (CROP, CROP, 3):
        im = im[1]      # rawim and im together: in the joint embedding's original load_image gives im alone
    if isinstance(im, PreparedImage) and im.net is not None:
        known = im.read_by(net)
        if known is None:
            raise _prepared_for_another(net)
        im, bare = known, False
    else:
        bare = True
    shape = f"(n, 3, {CROP}, {CROP}), as load_image gives it"
    try:
        im = np.asarray(im)
        if im.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise StorytellerError(f"im is {shown(im)}: expected an array {shape}") from None
    im = im[None] if im.ndim == 3 else im
    if im.ndim != 4 or im.shape[1:] != (3, CROP, CROP):
        raise StorytellerError(f"im has shape {im.shape}: expected {shape}")
    im = im.astype(np.float32, copy=False)
    if bare and len(im):
        _check_values(net, im)
    return im


def _check_values(net: Net, im: np.ndarray) -> None:
    """An error where the values of bare arrays tell that they were prepared for another network, or not at all."""
    low, high = im.min(axis=(1, 2, 3)), im.max(axis=(1, 2, 3))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise StorytellerError("im holds NaN or infinite values; expected what load_image gives")
    inside = {one.name: (low >= one.value_range[0] - 1e-3) & (high <= one.value_range[1] + 1e-3) for one in NETS}
    if not inside[net.name].all():
        raise _prepared_for_another(net)
    for other in NETS:
        # A picture of one network's wide range never lies within the narrow one of another, unless it is all zeros.
        if other.value_range[1] < net.value_range[1] and (inside[other.name] & (low < high)).any():
            raise _prepared_for_another(net)


def _prepared_for_another(net: Net) -> StorytellerError:
    return StorytellerError(f"im was not prepared for this network, {net.name}: prepare the picture with "
                            "load_image(picture, net)")
