"""The practice models: the small random models of the golden data with a full-size random VGG-19.

They exercise the whole pipeline in the original's formats, but know nothing: a "story" of theirs
is a row of words without sense.
"""
from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

STORY = Path(__file__).parent / "goldens" / "story"
SEED = 20150904
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256) + (512,) * 8
DENSE = ((25088, 4096), (4096, 4096), (4096, 1000))


def vgg19_weights() -> list[np.ndarray]:
    """The 38 arrays that the golden features were recorded with (goldens/vgg/README.md)."""
    random = np.random.RandomState(SEED)
    params, n_in = [], 3
    for n_out in CHANNELS:
        W = random.randn(n_out, n_in, 3, 3) * np.sqrt(2 / (9 * n_in))
        params += [W.astype(np.float32), (random.randn(n_out) * 0.05).astype(np.float32)]
        n_in = n_out
    for rows, columns in DENSE:
        W = random.randn(rows, columns)
        W *= np.sqrt(2 / rows)
        params += [W.astype(np.float32), (random.randn(columns) * 0.05).astype(np.float32)]
    return params


def save_vgg19_pickle(path: Path, params: list[np.ndarray]) -> None:
    """Write weights in the form of Lasagne's vgg19.pkl, as Python 2 wrote it.

    Python 3's pickle would turn array data into text for a protocol that Python 2 reads, which
    doubles the 575 MB; so the opcodes are written here.
    """
    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    with open(path, "wb") as file:
        file.write(b"\x80\x02}(" + string(b"model name") + string(b"VGG19")
                   + string(b"param values") + b"](")
        for i, array in enumerate(params):
            array = np.ascontiguousarray(array, dtype="<f4")
            if i == 0:
                file.write(b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02")
            else:
                file.write(b"h\x01h\x02")
            file.write(b"K\x00\x85" + string(b"b") + b"\x87R(K\x01("
                       + b"".join(map(integer, array.shape)) + b"t")
            if i == 0:
                file.write(b"cnumpy\ndtype\n" + string(b"f4") + b"K\x00K\x01\x87Rq\x03(K\x03"
                           + string(b"<") + b"NNN" + integer(-1) + integer(-1) + b"K\x00tb")
            else:
                file.write(b"h\x03")
            file.write(b"\x89T" + struct.pack("<i", array.nbytes))
            file.write(array.reshape(-1).view(np.uint8).data)
            file.write(b"tb")
        file.write(b"eu.")


def write_settings(path: Path, vgg_file: Path) -> Path:
    """A settings file that names the practice models."""
    files = {"skmodels": STORY / "models", "sktables": STORY / "models",
             "decmodel": STORY / "decoder.npz", "dictionary": STORY / "decoder_dictionary.pkl",
             "vsemodel": STORY / "coco_embedding.npz", "vgg": vgg_file,
             "captions": STORY / "captions.txt", "negbias": STORY / "caption_style.npy",
             "posbias": STORY / "romance_style.npy"}
    path.write_text("FLAG_CPU_MODE = True\npaths = dict()\n" + "".join(
        f"paths[{key!r}] = {str(file)!r}\n" for key, file in files.items()), encoding="utf-8")
    return path
