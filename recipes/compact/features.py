"""What the joint embedding of the compact models is trained on: pairs of features and captions.

Photos give features of many crops each.  The classifier that the convnet was published with knows a
thousand classes, of most of which there is one photo at hand and of some none: its rows make further
examples.  They lie along the rows, with some noise.
"""
from __future__ import annotations

import csv
import lzma
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from storyteller import embedding, files, vgg
from storyteller.efficientnet import EfficientNetLite0
from storyteller.files import write_atomically
from storyteller.progress import progress_bar

CROPS = 5           # of each photo
MADE = 40           # examples made for each class
# Of photos' features less their mean: length along the row of their class, 5th to 95th percentile of the photos
# that are trained on. Of the rest, which is 9.5 to 16 long, a part: in more noise the map learns less of what
# tells like classes apart.
STRENGTH, NOISE = (2.6, 5.6), (2.0, 4.0)
RIDGE = 0.5         # of solve_images, as a share of the mean eigenvalue


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


def solve_images(source: str, target: str, groups: Mapping[int, Sequence[str]], classifier: str, photos: np.ndarray,
                 ridge: float = RIDGE) -> None:
    """Give a trained joint embedding the image map whose scores of the classes' captions are the classifier's.

    The trainer's map (:func:`make_pairs`) orders classes that look alike less surely than the classifier does.
    With C the mean sentence vectors of the classes, U the classifier's rows (less their mean, of unit norm)
    and m the mean of photos' features, the map is M = U' (C C' + r I)^-1 C: then C M' (f - m) is about U (f - m).

    Parameters
    ----------
    source, target : paths
        Archives; the options and the dictionary of ``source`` go with it.
    groups : mapping of int to sequence of str
        Captions of every class.
    classifier : path
    photos : array (n, d) float32
        Features of photos that may be trained on.
    ridge : float
        r as a share of the mean eigenvalue of C C'.
    """
    model = embedding.load_model(source)
    labels = sorted(groups)
    texts = [text for label in labels for text in groups[label]]
    vectors = embedding.encode_sentences(model, texts, batch_size=512)
    ends = np.cumsum([0, *(len(groups[label]) for label in labels)])[:-1]
    C = np.add.reduceat(vectors, ends, axis=0).astype(np.float64)
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    U = np.load(classifier)["W"].astype(np.float64)
    U = U - U.mean(axis=0)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    kernel = C @ C.T
    kernel[np.diag_indices_from(kernel)] += ridge * np.trace(kernel) / len(kernel)
    M = np.linalg.solve(kernel, U).T @ C
    unit = photos / np.linalg.norm(photos, axis=1, keepdims=True)
    options = files.load_options(f"{source}.pkl")
    arrays = files.load_arrays(source, list(embedding.parameter_shapes(options, source)))
    arrays.update(ff_image_W=M.astype(np.float32), ff_image_b=(-unit.mean(axis=0) @ M).astype(np.float32))
    files.save_pickle(f"{target}.pkl", options)
    files.save_pickle(f"{target}.dictionary.pkl", files.load_dictionary(f"{source}.dictionary.pkl"))
    files.save_arrays(target, **arrays)


def held_out(photos: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Photos kept out of training: (class, path) of imagenet1k/ where the class ends in 3, every tenth of coco/."""
    return ([(label, path) for label, path in photos_of_classes(photos) if label % 10 == 3], coco_photos(photos)[::10])


def seen_photos(photos: str, folder: str) -> dict[int, np.ndarray]:
    """Features (CROPS, d) of the photo of every class, but for those held out, as :func:`make_pairs` left them."""
    labelled, kept = photos_of_classes(photos), {path for _, path in held_out(photos)[0]}
    of_classes = np.load(os.path.join(folder, "imagenet.npy"))
    return {label: of_classes[i] for i, (label, path) in enumerate(labelled) if path not in kept}


def examples(photos: str, folder: str, classifier: str, made: int = 12, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of every class: ``made`` from its row, and the crops of its photo twice.

    Returns
    -------
    features (n, d) float32, of unit norm
    labels (n,) int64
    """
    seen = seen_photos(photos, folder)
    W = np.load(classifier)["W"]
    of_rows = from_rows(W, np.concatenate(list(seen.values())).mean(axis=0), made, seed)
    parts = [np.concatenate([of_rows[label], *(2 * [seen[label]] if label in seen else [])]) for label in range(len(W))]
    rows = np.concatenate(parts)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True),
            np.repeat(np.arange(len(W)), [len(part) for part in parts]))


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
