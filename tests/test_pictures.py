"""Opening pictures, and preparing them for the two convnets."""
from __future__ import annotations

import base64
import io
import os
import resource
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, compact, generate, images, vgg
from storyteller.efficientnet import EfficientNetLite0


def gradient(width=400, height=300):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8)


def encoded(format="JPEG", pixels=None, **save):
    data = io.BytesIO()
    Image.fromarray(gradient() if pixels is None else pixels).save(data, format, **save)
    return data.getvalue()


@pytest.fixture(scope="module")
def lite():
    return images.build_convnet(os.path.join(compact.FOLDER, "efficientnet_lite0.npz"))


class OtherNet(vgg.ConvNet):
    """VGG-19's preparation without its weights: what it reads is what it gives."""

    layers = {"fc7": None}

    def __init__(self):
        pass

    def compute(self, im, layer="fc7"):
        return im.reshape(len(im), -1)


# -- kinds of files ---------------------------------------------------------------------------------

@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_formats_that_are_read(format):
    assert np.abs(images.open_image(encoded(format)).astype(int) - gradient()).mean() < 12


@pytest.mark.parametrize("name, data, says", [
    ("drawing.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "EPS"), ("a.jpg", b"%PDF-1.4\n", "PDF"),
    ("b.jpg", b"<?xml version='1.0'?>\n<svg xmlns='x'></svg>", "SVG"),
    ("c.png", b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    ("d.jpg", b"\0\0\0\x20ftypisom" + bytes(40), "film"), ("e.jpg", b"8BPS" + bytes(40), "Photoshop"),
    ("f.jpg", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
    ("g.jpg", b"P6 2 2 255\n" + bytes(12), "JPEG, PNG")])
def test_formats_that_are_not_read(name, data, says, tmp_path, monkeypatch):
    """Each is named, with its file, and no other program is started for it."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("another program was started"))
    (tmp_path / name).write_bytes(data)
    for image in (tmp_path / name, data, io.BytesIO(data), open(tmp_path / name, "rb")):
        with pytest.raises(StorytellerError, match=says):
            images.open_image(image)
    with pytest.raises(StorytellerError, match=name) as caught:
        images.open_image(tmp_path / name)
    assert "damaged" not in str(caught.value)


def test_an_eps_opened_by_pillow_is_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("another program was started"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("another program was started"))
    Image.fromarray(gradient()).save(tmp_path / "a.eps")
    with pytest.raises(StorytellerError, match="a.eps"):
        images.open_image(Image.open(tmp_path / "a.eps"))


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "IMG_0001.jpg"])
def test_heic_without_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(StorytellerError, match=r"HEIC.*pillow-heif"):
        images.open_image(tmp_path / name)


def test_heic_with_the_extra():
    heif = pytest.importorskip("pillow_heif")
    data = io.BytesIO()
    heif.from_pillow(Image.fromarray(gradient())).save(data, quality=90)
    assert np.abs(images.open_image(data.getvalue()).astype(int) - gradient()).mean() < 3
    assert "HEIF" not in Image.OPEN     # Pillow is left as it was
    with pytest.raises(StorytellerError):
        images.open_image(data.getvalue()[:500])


def test_avif():
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    assert np.abs(images.open_image(encoded("AVIF")).astype(int) - gradient()).mean() < 3


# -- things that are no files -------------------------------------------------------------------------

@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: os.symlink("/dev/zero", path)],
                         ids=["pipe", "device"])
def test_pipes_and_devices_do_not_hang(make, tmp_path):
    make(tmp_path / "a.jpg")
    with pytest.raises(StorytellerError, match="a.jpg"):
        images.open_image(tmp_path / "a.jpg")


def test_an_endless_stream_is_given_up(monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def read(self, size=-1):
            assert 0 <= size < 2 << 20, "asked for all of it"
            return bytes(size)
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    with pytest.raises(StorytellerError, match="bytes"):
        images.open_image(Endless())


def test_a_stream_that_cannot_be_wound_back():
    class Stream(io.BytesIO):
        def seekable(self):
            return False
    np.testing.assert_array_equal(images.open_image(Stream(encoded("PNG"))), gradient())


@pytest.mark.parametrize("number", [0, 1, 2, np.int64(3), True, 2.5, 10 ** 30])
def test_numbers_are_no_paths(number):
    with pytest.raises(StorytellerError):
        images.open_image(number)
    os.fstat(0)     # still open


def test_what_is_whole_is_not_called_damaged(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded())
    closed = Image.open(path)
    closed.load()
    closed.close()
    unloaded = Image.open(path)
    unloaded.close()
    handle = open(path, "rb")
    handle.close()
    for image, says in ((open(path), "text"), (io.StringIO("a"), "text"), (handle, "closed"), (closed, "closed"),
                        (unloaded, "closed")):
        with pytest.raises(StorytellerError, match=says) as caught:
            images.open_image(image)
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,", "https://example.org/", "file-"])
def test_messages_are_of_bounded_length(prefix):
    with pytest.raises(StorytellerError) as caught:
        images.open_image(prefix + base64.b64encode(os.urandom(30_000)).decode())
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["a\0b.jpg", "\ud800.jpg", "", " ", "x" * 5000])
def test_odd_paths(path):
    with pytest.raises(StorytellerError):
        images.open_image(path)


@pytest.mark.parametrize("pixels", [np.linspace(0, 1920, 1600, dtype=np.float32).reshape(40, 40),
                                    np.full((9, 9), np.nan, np.float32), np.full((9, 9), -5, np.int32)])
def test_every_message_names_the_file(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "terrain.tif")
    with pytest.raises(StorytellerError, match="terrain.tif"):
        images.open_image(tmp_path / "terrain.tif")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_files(format):
    """Bytes changed, cut out and doubled: a picture or one error, and nothing else."""
    rng = np.random.default_rng(0)
    whole = encoded(format, gradient(40, 30))
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data)))
            data[at:at + int(rng.integers(0, 4))] = rng.bytes(int(rng.integers(0, 4)))
        try:
            assert images.load_image(bytes(data))[1].shape == (1, 3, 224, 224)
        except StorytellerError:
            pass


# -- arrays ----------------------------------------------------------------------------------------------

def test_arrays_are_not_black():
    pixels = gradient()
    for array in (pixels.astype(np.uint16), pixels.astype(np.int64), pixels / 255 * (1 + 1e-7), pixels / 255 - 1e-9,
                  (pixels / 255).astype(np.float32) * np.float32(1.000001), pixels.astype(np.uint16) * 257):
        assert np.abs(images.open_image(array).astype(int) - pixels).max() <= 1
    dark = io.BytesIO()     # a file that says that it has 16 bits has them
    Image.fromarray(np.full((9, 9), 200, np.uint16)).save(dark, "PNG")
    assert (images.open_image(dark.getvalue()) == 0).all()


@pytest.mark.parametrize("array", [
    np.full((9, 9), np.nan), np.full((9, 9), np.inf), np.linspace(0, 1.5, 81).reshape(9, 9), np.full((9, 9), -1.0),
    np.broadcast_to(np.uint8(0), (10 ** 6, 10 ** 6, 3)), np.full((9, 9), 70000)], ids=lambda array: str(array.shape))
def test_arrays_that_are_refused(array):
    with pytest.raises(StorytellerError):
        images.open_image(array)


# -- large, truncated and blank pictures --------------------------------------------------------------------

def test_a_jpeg_of_200_megapixels(tmp_path):
    Image.new("L", (16320, 12240), 128).save(tmp_path / "phone.jpg", quality=5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = images.open_image(tmp_path / "phone.jpg")
    assert pixels.shape == (1530, 2040, 3) and (pixels == 128).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000     # kB


@pytest.mark.parametrize("mode, format", [("L", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGB", "JPEG"), ("1", "TIFF"),
                                          ("LA", "PNG"), ("F", "TIFF")])
def test_large_pictures_are_reduced(mode, format, monkeypatch):
    """The same picture in the same orientation, each pixel a mean."""
    monkeypatch.setattr(images, "LARGE", 100_000)
    monkeypatch.setattr(images, "REDUCED_SIDE", 100)
    grey = np.zeros((400, 600), np.uint8)
    grey[:200, :300] = 255
    picture = (Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else
               Image.fromarray(grey.astype(np.float32)) if mode == "F" else Image.fromarray(grey).convert(mode))
    exif = Image.Exif()
    exif[0x0112] = 3
    data = io.BytesIO()
    picture.save(data, format, **({} if format == "TIFF" else {"exif": exif}))
    pixels = images.open_image(data.getvalue())
    if format != "TIFF":
        pixels = pixels[::-1, ::-1]
    assert pixels.shape == (100, 150, 3)
    assert pixels[10, 10].min() > 250 and pixels[90, 140].max() < 5
    np.testing.assert_array_equal(images.open_image(picture), pixels)   # and one opened by Pillow


def test_pictures_below_the_limit_are_read_as_they_are():
    np.testing.assert_array_equal(images.open_image(encoded("PNG")), gradient())
    assert images._reduction((8192, 8192)) == 1 and images._reduction((13370, 13370)) == 13


def test_too_large_to_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 200)
    for format in ("PNG", "JPEG", "GIF"):
        (tmp_path / "large.img").write_bytes(encoded(format))
        with pytest.raises(StorytellerError, match="large.img.*400 x 300"):
            images.open_image(tmp_path / "large.img")


def test_no_memory_is_told(monkeypatch):
    def full(self):
        raise MemoryError
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(StorytellerError, match="memory"):
        images.open_image(encoded("BMP"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_truncated_pictures_have_a_warning(format, tmp_path, caplog):
    data = encoded(format)
    assert images.open_picture(data).warnings == ()
    path = tmp_path / "half.img"
    path.write_bytes(data[:len(data) * 6 // 10])
    for image in (path, path.read_bytes(), Image.open(path)):
        picture = images.open_picture(image)
        assert picture.warnings == (images.TRUNCATED,)
        assert (picture.pixels == images.open_image(data)).mean() > 0.4      # rows come in several orders
    images.load_image(path)
    assert "half.img" in caplog.text


@pytest.mark.parametrize("data, says", [
    (b"\x89PNG\r\n\x1a\n" + bytes(200), "begins like a PNG image, but is damaged"),
    (b"II*\0" + bytes(200), "begins like a TIFF image, but is damaged"), (b"", "is empty"),
    (b"a dog", "looks like a text file")])
def test_what_cannot_be_identified(data, says, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    for image in (data, *([tmp_path / "a.png"] if data else [])):
        with pytest.raises(StorytellerError, match=says):
            images.open_image(image)


def test_a_setting_of_pillow_hides_no_truncation(monkeypatch):
    """The original set it."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    assert images.open_picture(encoded()[:3000]).warnings == (images.TRUNCATED,)
    from PIL import ImageFile
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("pixels, blank", [
    (np.full((50, 60, 3), 7, np.uint8), True), (np.full((1, 1, 3), 7, np.uint8), True), (gradient(), False),
    (np.pad(np.full((1, 1, 3), 200, np.uint8), ((99, 200), (201, 98), (0, 0))), False)])
def test_blank_pictures_have_a_warning(pixels, blank):
    assert (images.BLANK in images.open_picture(pixels).warnings) is blank


def test_threads_know_their_own_truncation():
    good, bad = encoded(), encoded()[:4000]
    wrong = []

    def read(data, warnings):
        for _ in range(20):
            if images.open_picture(data).warnings != warnings:
                wrong.append(data)
    threads = [threading.Thread(target=read, args=args) for args in ((good, ()), (bad, (images.TRUNCATED,))) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- the two convnets ---------------------------------------------------------------------------------------

def test_the_originals_two_calls_with_either_net(lite):
    for net in (lite, OtherNet()):
        right = images.compute_features(net, vgg.load_image(gradient(), net)[1])
        _, im = vgg.load_image(gradient())
        np.testing.assert_array_equal(images.compute_features(net, im), right)
        np.testing.assert_array_equal(images.compute_features(net, vgg.load_image(gradient())), right)


def test_prepared_for_one_and_read_by_the_other(lite):
    other = OtherNet()
    for mine, yours in ((lite, other), (other, lite)):
        _, im = vgg.load_image(gradient(), mine)
        for wrong in (im, np.asarray(im), im[0], np.concatenate([im, im]), np.concatenate([im * 0, im]), im.copy()):
            with pytest.raises(StorytellerError, match="prepare"):
                images.compute_features(yours, wrong)
        for right in (im, np.array(im), im[0], np.concatenate([im, im * 0]), im.astype(np.float64)):
            assert len(images.compute_features(mine, right)) in (1, 2)


def test_a_prepared_picture_that_was_changed(lite):
    _, im = vgg.load_image(gradient())
    im[..., :9] = 0
    images.compute_features(OtherNet(), im)
    with pytest.raises(StorytellerError, match="prepare"):
        images.compute_features(lite, im)


@pytest.mark.parametrize("im", [None, "photo.jpg", [], 3, np.array("a"), np.zeros((2, 2)), {}, [None],
                                np.full((1, 3, 224, 224), np.nan), np.full((1, 3, 224, 224), 200.0), (1, 2)], ids=str)
def test_what_is_no_prepared_picture(im, lite):
    for net in (lite, OtherNet()):
        with pytest.raises(StorytellerError):
            images.compute_features(net, im)


@pytest.mark.parametrize("net", [None, "net", {}, np.zeros(3)], ids=str)
def test_what_is_no_net(net):
    with pytest.raises(StorytellerError):
        images.compute_features(net, np.zeros((1, 3, 224, 224), np.float32))
    if net is not None:
        with pytest.raises(StorytellerError):
            images.load_image(gradient(), net)


def test_old_names_stand_in_vgg(lite, monkeypatch, tmp_path):
    assert vgg.load_image is images.load_image and vgg.open_image is images.open_image
    assert vgg.compute_features is images.compute_features and vgg.build_convnet is images.build_convnet
    with pytest.raises(AttributeError):
        getattr(vgg, "nonsense")  # noqa: B009
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STORYTELLER_CONFIG", raising=False)
    assert isinstance(vgg.build_convnet(), EfficientNetLite0)
    for wrong in (3, b"x", object()):
        with pytest.raises(StorytellerError):
            vgg.build_convnet(wrong)


def test_retrieve_captions(lite):
    z = {"vse": generate.embedding.load_model(os.path.join(compact.FOLDER, "embedding.npz"))}
    captions = ["a cat on a sofa .", "a ship at sea .", "a red bus ."]
    vectors = generate.embedding.encode_sentences(z["vse"], captions)
    found = vgg.retrieve_captions(z["vse"], lite, captions, vectors, gradient(), k=2)
    assert len(found) == 2 and set(found) < set(captions)
    with pytest.raises(StorytellerError, match="cvec"):
        vgg.retrieve_captions(z["vse"], lite, captions[:2], vectors, gradient())


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 7), (7, 9), (300, 200), (201, 333), (512, 512)])
def test_the_crop_is_scikit_images(size):
    """The recorded values hold it for a few sizes; the border of zeros shows in tiny pictures alone."""
    warp = pytest.importorskip("skimage.transform").warp
    h, w = size
    pixels = np.random.default_rng(0).integers(90, 256, (h, w, 3), dtype=np.uint8)
    new_h, new_w = (256, w * 256 // h) if h < w else (h * 256 // w, 256)
    place = np.array([[w / new_w, 0, (new_w // 2 - 112 + 0.5) * w / new_w - 0.5],
                      [0, h / new_h, (new_h // 2 - 112 + 0.5) * h / new_h - 0.5], [0, 0, 1]])
    expected = warp(pixels, place, output_shape=(224, 224), order=1, mode="constant", cval=0, preserve_range=True)
    np.testing.assert_allclose(vgg.resized_crop(pixels), expected, atol=1e-9)


def test_extremes_of_channels():
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 3), (7, 9, 3), (1, 1024, 3), (3, 1025, 3), (5000, 2, 3)):
        pixels = rng.integers(5, 250, shape, dtype=np.uint8)
        np.testing.assert_array_equal(images._range(pixels), np.ptp(pixels.reshape(-1, 3), axis=0))
