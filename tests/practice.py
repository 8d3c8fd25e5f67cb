"""The practice models: the small random models of the golden data with a full-size random VGG-19.

They exercise the whole pipeline in the original's formats, but know nothing: a "story" of theirs
is a row of words without sense.
"""
from __future__ import annotations

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
