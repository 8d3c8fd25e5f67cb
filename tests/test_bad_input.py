"""What users really hand in: odd and broken pictures, files and settings.

Each case gives a result or one clear error; none hangs, crashes or writes anything.  Broken
model files have their own list in tests/test_formats.py.
"""
from __future__ import annotations

import io
import pickle
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, decoder, embedding, generate, skipthoughts, style, text, vgg
from tests.conftest import GOLDENS

IMAGES, STORY = GOLDENS / "images", GOLDENS / "story"


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch, request):
    """No case leaves a file behind in the current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert not list(folder.iterdir())


def picture(mode="RGB", size=(60, 40), **save):
    """Encoded bytes of a gradient."""
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)
    data = io.BytesIO()
    image.save(data, **{"format": "PNG", **save})
    return data.getvalue()


def truncated(data, keep=0.6):
    return data[:int(len(data) * keep)]


def bomb():
    """A PNG of a few hundred bytes that declares 60,000 x 60,000 pixels."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10 ** 5)))
            + chunk(b"IEND", b""))


def gif():
    frames = [Image.new("P", (30, 20), i) for i in range(3)]
    data = io.BytesIO()
    frames[0].save(data, format="GIF", save_all=True, append_images=frames[1:])
    return data.getvalue()


def sixteen_bit():
    data = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)).save(data, format="PNG")
    return data.getvalue()


GOOD = {
    "rgba": picture("RGBA"), "palette": picture("P"), "grey": picture("L"), "grey with alpha": picture("LA"),
    "one bit": picture("1"), "16-bit": sixteen_bit(), "CMYK": picture("CMYK", format="JPEG"),
    "float TIFF": picture("F", format="TIFF"), "progressive JPEG": picture(format="JPEG", progressive=True),
    "1x1": picture(size=(1, 1)), "1x5000": picture(size=(1, 5000)), "5000x1": picture(size=(5000, 1)),
    "2x3": picture(size=(2, 3)), "animated GIF": gif(), "WebP": picture(format="WEBP"),
    "BMP": picture(format="BMP"), "truncated JPEG": truncated(picture(format="JPEG", size=(300, 200))),
    "truncated PNG": truncated((IMAGES / "03_square.png").read_bytes()),
    "JPEG with rubbish behind": picture(format="JPEG") + b"rubbish" * 100,
}
BAD = {
    "empty": b"", "text": b"this is no picture\n" * 20, "html": b"<!DOCTYPE html><html>404</html>",
    "only a PNG signature": b"\x89PNG\r\n\x1a\n", "half a PNG header": picture()[:20],
    "only a JPEG signature": b"\xff\xd8\xff", "zeros": bytes(5000), "bomb": bomb(),
    "a pickle": pickle.dumps({"a": 1}), "PDF": b"%PDF-1.4\n", "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures(name, tmp_path):
    rawim, im = vgg.load_image(GOOD[name])
    assert rawim.shape == (224, 224, 3) and im.shape == (1, 3, 224, 224) and np.isfinite(im).all()
    path = tmp_path / "odd"
    path.write_bytes(GOOD[name])
    np.testing.assert_array_equal(vgg.load_image(path)[0], rawim)


@pytest.mark.parametrize("name", BAD)
def test_no_pictures(name, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(BAD[name])
    with pytest.raises(StorytellerError, match="bad.jpg"):
        vgg.load_image(path)
    with pytest.raises(StorytellerError):
        vgg.load_image(BAD[name])


@pytest.mark.parametrize("wrong, says", [
    ("missing.jpg", "missing.jpg"), ("", "path|image"), (".", "folder"), ("https://example.org/a.jpg", "address"),
    (None, "NoneType"), (42, "int"), (np.zeros((5,)), "shape"), (np.zeros((4, 4, 2)), "shape"),
    (np.zeros((0, 4, 3), np.uint8), "shape"), (np.full((4, 4), np.nan), "NaN"), (np.full((4, 4), -1), "-1"),
    (np.full((4, 4), 1e6), "1e"), (np.zeros((4, 4), complex), "complex"), (np.array([["a"]]), "dtype"),
], ids=str)
def test_wrong_sources(wrong, says):
    with pytest.raises(StorytellerError, match=says):
        vgg.load_image(wrong)


def test_colours_survive():
    """Palette and transparent images become what a viewer shows, not indices."""
    red = Image.new("RGB", (40, 40), (250, 10, 20))
    for image in (red, red.convert("P", palette=Image.Palette.ADAPTIVE), red.convert("RGBA")):
        np.testing.assert_allclose(vgg.load_image(image)[0][112, 112], (250, 10, 20), atol=3)
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert (vgg.load_image(clear)[0] == 255).all()
    palette = vgg.open_image(IMAGES / "x2_palette.png")
    np.testing.assert_array_equal(palette, Image.open(IMAGES / "x2_palette.png").convert("RGB"))
    opaque = vgg.open_image(IMAGES / "x4_rgba.png")
    assert opaque.shape == (50, 60, 3)


def test_sixteen_bits_are_scaled():
    half = np.full((30, 40), 32896, np.uint16)
    assert (vgg.load_image(half)[0] == 128).all()
    data = io.BytesIO()
    Image.fromarray(half).save(data, format="PNG")
    assert (vgg.load_image(data.getvalue())[0] == 128).all()


def test_arrays():
    grey = np.linspace(0, 1, 2500).reshape(50, 50)
    np.testing.assert_array_equal(vgg.load_image(grey)[0], vgg.load_image((grey * 255).round())[0])
    rgb = np.repeat(np.uint8(grey * 255)[..., None], 3, axis=2)
    np.testing.assert_array_equal(vgg.load_image(rgb)[0], vgg.load_image(rgb[..., 0])[0])
    assert (vgg.load_image(np.ones((9, 9), bool))[0] == 255).all()


@pytest.mark.parametrize("orientation, turned", [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]),
                                                 (6, lambda a: np.rot90(a, -1)), (8, np.rot90)])
def test_exif_orientation(orientation, turned):
    upright = np.zeros((30, 50, 3), np.uint8)
    upright[:10, :20] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(upright).save(data, format="PNG", exif=exif)
    np.testing.assert_array_equal(vgg.open_image(data.getvalue()), turned(upright))


def test_pillow_is_left_as_it_was():
    from PIL import ImageFile
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    vgg.load_image(GOOD["truncated JPEG"])
    assert ImageFile.LOAD_TRUNCATED_IMAGES == before


# -- captions ------------------------------------------------------------------------------

@pytest.mark.parametrize("data, lines", [
    (b"a cat\r\na dog\r\n", ["a cat", "a dog"]), (b"\xef\xbb\xbfa cat\n", ["a cat"]),
    (b"a cat\n\n  \na dog", ["a cat", "a dog"]), (b"caf\xe9 au lait\n", ["caf\ufffd au lait"]),
    ("a\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc"])])
def test_odd_caption_files(data, lines, tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(data)
    assert text.read_captions(path) == lines


@pytest.mark.parametrize("data", [b"", b"\n\n \n", bytes(100)])
def test_no_caption_files(data, tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(data)
    with pytest.raises(StorytellerError, match="captions.txt"):
        text.read_captions(path)


# -- models ----------------------------------------------------------------------------------

@pytest.fixture
def models(tmp_path):
    """A private copy of the story family's models."""
    folder = tmp_path / "models"
    shutil.copytree(STORY, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def load_decoder(folder):
    return decoder.load_model(folder / "decoder.npz", folder / "decoder_dictionary.pkl")


def load_skipthoughts(folder):
    return skipthoughts.load_model(folder / "models")


def load_embedding(folder):
    return embedding.load_model(folder / "coco_embedding.npz")


FILES = ([(load_decoder, name) for name in ("decoder.npz", "decoder.npz.pkl", "decoder_dictionary.pkl")]
         + [(load_skipthoughts, f"models/{name}") for name in (
             "uni_skip.npz", "uni_skip.npz.pkl", "bi_skip.npz", "bi_skip.npz.pkl", "utable.npy", "btable.npy",
             "dictionary.txt")]
         + [(load_embedding, f"coco_embedding.npz{end}") for end in ("", ".pkl", ".dictionary.pkl")])


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "html", "swapped", "folder"])
@pytest.mark.parametrize("load, name", FILES, ids=[name for _, name in FILES])
def test_damaged_models(models, load, name, damage):
    path = models / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(data[:len(data) // 2])
    elif damage == "html":
        path.write_bytes(b"<!DOCTYPE html><html><body>Not Found</body></html>")
    elif damage == "swapped":
        other = {".npz": "decoder_dictionary.pkl", ".pkl": "decoder.npz", ".npy": "models/uni_skip.npz",
                 ".txt": "models/utable.npy"}[path.suffix]
        shutil.copy(models / other, path)
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(StorytellerError) as error:
        load(models)
    assert path.name in str(error.value)


def set_option(path, **changes):
    from storyteller import files
    options = {**files.load_options(path), **changes}
    files.save_pickle(path, {key: value for key, value in options.items() if value is not ...})


@pytest.mark.parametrize("load, name, changes, says", [
    (load_decoder, "decoder.npz.pkl", {"dim": 64}, "shape"),
    (load_decoder, "decoder.npz.pkl", {"dimctx": 4800}, "shape"),
    (load_decoder, "decoder.npz.pkl", {"dim": ...}, "'dim'"),
    (load_decoder, "decoder.npz.pkl", {"dim": "large"}, "'dim'"),
    (load_decoder, "decoder.npz.pkl", {"dim": -1}, "'dim'"),
    (load_decoder, "decoder.npz.pkl", {"dim": float("nan")}, "'dim'"),
    (load_decoder, "decoder.npz.pkl", {"decoder": "lstm"}, "lstm"),
    (load_decoder, "decoder.npz.pkl", {"n_words": 10 ** 9}, "shape"),
    (load_decoder, "decoder.npz.pkl", {"doutput": False}, "shape"),
    (load_skipthoughts, "models/uni_skip.npz.pkl", {"dim": 2400}, "shape"),
    (load_skipthoughts, "models/bi_skip.npz.pkl", {"dim_word": 7}, "shape"),
    (load_embedding, "coco_embedding.npz.pkl", {"encoder": "transformer"}, "transformer"),
    (load_embedding, "coco_embedding.npz.pkl", {"encoder": "bow"}, "Wemb"),
    (load_embedding, "coco_embedding.npz.pkl", {"dim_image": 1280}, "ff_image_W"),
])
def test_options_that_do_not_fit(models, load, name, changes, says):
    set_option(models / name, **changes)
    with pytest.raises(StorytellerError, match=says):
        load(models)


def test_dictionary_without_unknown_word(models):
    path = models / "models" / "dictionary.txt"
    path.write_bytes(path.read_bytes().replace(b"UNK\n", b"unk\n"))
    with pytest.raises(StorytellerError, match="UNK.*26d8a3e6458500013723b380a4b4b55e|26d8a3e6.*UNK"):
        load_skipthoughts(models)


def test_dictionary_of_another_download(models):
    path = models / "models" / "dictionary.txt"
    path.write_bytes(path.read_bytes() + b"extra\n")
    with pytest.raises(StorytellerError, match="utable.npy.*dictionary.txt"):
        load_skipthoughts(models)


def test_parts_of_different_models(models, story_settings):
    z = generate.Models(story_settings, verbose=False)
    z["bneg"] = np.zeros(7, np.float32)
    with pytest.raises(StorytellerError, match="negbias.*7"):
        generate._check_fit(z)


@pytest.mark.parametrize("array, says", [
    (np.zeros((3, 4), np.float32), "shape|dim"), (np.full(48, np.nan, np.float32), "NaN|finite"),
    (np.array(["a"] * 48), "dtype|float"), (np.zeros(47, np.float32), "47")])
def test_style_vectors(array, says, tmp_path):
    np.save(tmp_path / "style.npy", array)
    with pytest.raises(StorytellerError, match=f"style.npy.*({says})"):
        style.load(tmp_path / "style.npy", 48)


@pytest.mark.parametrize("texts", ["one long string", [], ["too short"]])
def test_style_making(texts):
    model = skipthoughts.load_model(STORY / "models")
    with pytest.raises(StorytellerError):
        style.make(model, texts)
