"""What the joint embedding of the compact models is trained on: pairs of features and captions.

Photos give features of many crops each.  The classifier that the convnet was published with knows a
thousand classes, of most of which there is one photo at hand and of some none: its rows make further
examples.  They lie along the rows, with noise as large as what else is in a photo's features.
"""
from __future__ import annotations

import csv
import lzma
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from storyteller import vgg
from storyteller.efficientnet import EfficientNetLite0
from storyteller.formats import write_atomically
from storyteller.progress import progress_bar

CROPS = 5           # of each photo
MADE = 40           # examples made for each class
# Of photos' features less their mean: length along the row of their class, and of all the rest; 5th to 95th
# percentile of the photos that are trained on.
STRENGTH, NOISE = (2.6, 5.6), (9.5, 16.0)


def read_classes(photos: str) -> list[dict[str, str]]:
    """Rows of concepts.tsv: class_index, wnid, name, concept."""
    with open(os.path.join(photos, "concepts.tsv"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def photos_of_classes(photos: str) -> list[tuple[int, str]]:
    """(class, path) of every photo of imagenet1k/."""
    folder = os.path.join(photos, "imagenet1k")
    with open(os.path.join(folder, "classes.tsv"), encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(int(row["class_index"]), os.path.join(folder, row["file"])) for row in rows]


def views(picture: Image.Image, count: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The picture itself, then random crops of 35 to 100 % of it, flipped and in other light."""
    yield picture
    width, height = picture.size
    for _ in range(count - 1):
        area, ratio = rng.uniform(0.35, 1.0) * width * height, np.exp(rng.uniform(-0.25, 0.25))
        w = int(min(width, round(np.sqrt(area * ratio))))
        h = int(min(height, round(np.sqrt(area / ratio))))
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        view = picture.crop((left, top, left + w, top + h))
        if rng.random() < 0.5:
            view = view.transpose(Image.FLIP_LEFT_RIGHT)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = change(view).enhance(rng.uniform(0.7, 1.3))
        yield view


def compute(net: EfficientNetLite0, paths: list[str], out: str, crops: int = CROPS, seed: int = 0) -> np.ndarray:
    """Features of ``crops`` views of every photo: (len(paths), crops, n_features) float32, kept in ``out``."""
    if os.path.exists(out):
        return np.load(out)
    rng = np.random.default_rng(seed)
    found = np.zeros((len(paths), crops, net.n_features), dtype=np.float32)
    with progress_bar(len(paths) * crops, "features", "view", True) as bar:
        for row, path in zip(found, paths):
            with Image.open(path) as picture:
                for i, view in enumerate(views(picture.convert("RGB"), crops, rng)):
                    _, im = vgg.load_image(np.asarray(view), net)
                    row[i] = vgg.compute_features(net, im)[0]
                    bar.update()
    with write_atomically(out) as file:
        np.save(file, found)
    return found


def from_rows(W: np.ndarray, mean: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Features such as the classifier's rows ask for, in white noise.

    A linear classifier's row is the matched filter of its class in white noise, so a map that is trained on
    these examples compares a photo with the rows.  With residuals of real photos as noise, which are not
    white, it learnt to weigh the rows' directions wrongly: see docs/compact.md.

    Parameters
    ----------
    W : array (classes, d) float32
        The classifier.
    mean : array (d,) float32
        Mean features of photos.
    count : int
        Examples of each class.

    Returns
    -------
    array (classes, count, d) float32
    """
    rng = np.random.default_rng(seed)
    rows = W - W.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = np.empty((len(W), count, W.shape[1]), dtype=np.float32)
    for row, examples in zip(rows, found):
        noise = rng.standard_normal(examples.shape, dtype=np.float32)
        noise *= (rng.uniform(*NOISE, size=(count, 1)) / np.sqrt(W.shape[1])).astype(np.float32)
        examples[:] = mean + rng.uniform(*STRENGTH, size=(count, 1)) * row + noise
    return found


def held_out(photos: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Photos kept out of training: (class, path) of imagenet1k/ where the class ends in 3, every tenth of coco/."""
    return ([(label, path) for label, path in photos_of_classes(photos) if label % 10 == 3], coco_photos(photos)[::10])


def coco_photos(photos: str) -> list[str]:
    """Paths of coco/, sorted by name."""
    folder = os.path.join(photos, "coco")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".jpg")]


def coco_captions(corpora: str) -> dict[str, list[str]]:
    """Captions of every COCO image by its number, lower case without punctuation."""
    found: dict[str, list[str]] = {}
    with lzma.open(os.path.join(corpora, "coco_captions.tsv.xz"), "rt", encoding="utf-8") as file:
        for line in file:
            image, caption = line.rstrip("\n").split("\t")
            found.setdefault(image, []).append(" ".join(re.findall(r"[a-z']+", caption.lower())))
    return found


def make_pairs(net: EfficientNetLite0, classifier: str, photos: str, corpora: str,
               captions: Mapping[int, Sequence[str]], folder: str, each: int = 2, seed: int = 0) -> None:
    """Write captions.txt with features.npy and heldout.txt with heldout.npy, as the trainer reads them.

    Parameters
    ----------
    net : EfficientNetLite0
    classifier : path
        W and b of :mod:`recipes.compact.convnet`.
    photos, corpora : paths
    captions : mapping of int to sequence of str
        Those of each class.
    folder : path
    each : int
        Images that each caption is paired with.
    """
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(seed)
    labelled, coco = photos_of_classes(photos), coco_photos(photos)
    of_classes = compute(net, [path for _, path in labelled], os.path.join(folder, "imagenet.npy"))
    of_coco = compute(net, coco, os.path.join(folder, "coco.npy"))
    kept_labels, kept_coco = held_out(photos)
    kept = {path for _, path in kept_labels} | set(kept_coco)
    seen = {label: of_classes[i] for i, (label, path) in enumerate(labelled) if path not in kept}
    sources = np.concatenate([*seen.values(), *(rows for path, rows in zip(coco, of_coco) if path not in kept)])
    made = from_rows(np.load(classifier)["W"], sources.mean(axis=0), MADE, seed)
    texts, rows = [], []
    for label, own in captions.items():
        images = np.concatenate([made[label], *([seen[label]] if label in seen else [])])
        for caption in own:
            texts += [caption] * each
            rows += list(images[rng.integers(len(images), size=each)])
    of_image = coco_captions(corpora)
    for path, views in zip(coco, of_coco):
        if path not in kept:
            for caption in of_image[os.path.splitext(os.path.basename(path))[0]]:
                texts += [caption] * len(views)
                rows += list(views)
    _write(folder, "captions.txt", "features.npy", texts, np.stack(rows))
    texts, rows = [], []
    for i, (label, path) in enumerate(labelled):
        if path in kept:
            texts += list(rng.choice(captions[label], size=5, replace=False))
            rows += [of_classes[i, 0]] * 5
    _write(folder, "heldout.txt", "heldout.npy", texts, np.stack(rows))


def _write(folder: str, text_file: str, array_file: str, texts: Sequence[str], rows: np.ndarray) -> None:
    with write_atomically(os.path.join(folder, text_file)) as file:
        file.write("".join(f"{text}\n" for text in texts).encode("utf-8"))
    with write_atomically(os.path.join(folder, array_file)) as file:
        np.save(file, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
