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
import scipy.linalg
from PIL import Image, ImageEnhance

from storyteller import embedding, files, vgg
from storyteller.efficientnet import EfficientNetLite0
from storyteller.files import write_atomically
from storyteller.layers import unit_rows
from storyteller.progress import progress_bar

from . import captions

CROPS = {"imagenet": 5, "coco": 3}      # views of each photo
MADE = 40           # examples made for each class
# Of photos' features less their mean: length along the row of their class, 5th to 95th percentile of the photos
# that are trained on. Of the rest, which is 9.5 to 16 long, a part: in more noise the map learns less of what
# tells like classes apart.
STRENGTH, NOISE = (2.6, 5.6), (2.0, 4.0)
RIDGE, WEIGHT = 0.5, 0.1    # of solve_images
AGREED = 2          # captions of a photo that must have a noun, or all where there are fewer


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


def compute(net: EfficientNetLite0, paths: list[str], out: str, crops: int, seed: int = 0) -> np.ndarray:
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
    white, it learnt to weigh the rows' directions wrongly.

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
    rows = unit_rows(W - W.mean(axis=0))
    found = np.empty((len(W), count, W.shape[1]), dtype=np.float32)
    for row, examples in zip(rows, found):
        noise = rng.standard_normal(examples.shape, dtype=np.float32)
        noise *= (rng.uniform(*NOISE, size=(count, 1)) / np.sqrt(W.shape[1])).astype(np.float32)
        examples[:] = mean + rng.uniform(*STRENGTH, size=(count, 1)) * row + noise
    return found


def solve_images(source: str, target: str, groups: Mapping[int, Sequence[str]], classifier: str, photos: np.ndarray,
                 seen: tuple[np.ndarray, Sequence[Sequence[str]]], weight: float = WEIGHT, ridge: float = RIDGE,
                 ) -> None:
    """Give a trained joint embedding the image map that orders classes as the classifier does, scenes as people do.

    The trainer's map (:func:`make_pairs`) orders classes that look alike less surely than the classifier does.
    With C the mean sentence vectors of the classes, U the classifier's rows (less their mean, of unit norm), F the
    features of photos less their mean m and S the vectors of their captions less the classes' mean, the map M is that
    of least |C M' - U|^2 + r |M|^2 + w |F M - S|^2, the solution of w F'F M + M (C'C + r I) = U'C + w F'S.

    Parameters
    ----------
    source, target : paths
        Archives; the options and the dictionary of ``source`` go with it.
    groups : mapping of int to sequence of str
        Captions of every class.
    classifier : path
    photos : array (n, d) float32
        Features of photos of classes that may be trained on.
    seen : array (m, d) float32, and sequence of m sequences of str
        Features of photos of scenes, and what people said of each.
    weight : float
        w, for photos as many as classes.
    ridge : float
        r as a share of the mean eigenvalue of C'C.
    """
    model = embedding.load_model(source)
    labels = [label for label in sorted(groups) if groups[label]]
    C = _mean_vectors(model, [groups[label] for label in labels])
    U = np.load(classifier)["W"].astype(np.float64)
    U = unit_rows((U - U.mean(axis=0))[labels])
    mean = unit_rows(photos).mean(axis=0, dtype=np.float64)
    features, said = seen
    F = unit_rows(features) - mean
    S = _mean_vectors(model, said) - C.mean(axis=0)
    w = weight * len(C) / len(F)
    kernel = C.T @ C
    kernel[np.diag_indices_from(kernel)] += ridge * np.trace(kernel) / len(C)
    M = scipy.linalg.solve_sylvester(w * F.T @ F, kernel, U.T @ C + w * F.T @ S)
    options = files.load_options(f"{source}.pkl")
    arrays = files.load_arrays(source, list(embedding.parameter_shapes(options, source)))
    arrays.update(ff_image_W=M.astype(np.float32), ff_image_b=(-mean @ M).astype(np.float32))
    files.save_pickle(f"{target}.pkl", options)
    files.save_pickle(f"{target}.dictionary.pkl", files.load_dictionary(f"{source}.dictionary.pkl"))
    files.save_arrays(target, **arrays)


def _mean_vectors(model: embedding.JointEmbedding, groups: Sequence[Sequence[str]]) -> np.ndarray:
    """The mean vector of each group of sentences, of unit norm, float64."""
    vectors = embedding.encode_sentences(model, [text for group in groups for text in group], batch_size=512)
    ends = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    means = np.add.reduceat(vectors, ends, axis=0).astype(np.float64)
    return unit_rows(means)


def held_out(photos: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Photos kept out of training: (class, path) of imagenet1k/ where the class ends in 3, every tenth of coco/."""
    return ([(label, path) for label, path in photos_of_classes(photos) if label % 10 == 3], coco_photos(photos)[::10])


def seen_photos(photos: str, folder: str) -> dict[int, np.ndarray]:
    """Features (views, d) of the photo of every class, but for those held out, as :func:`make_pairs` left them."""
    labelled, kept = photos_of_classes(photos), {path for _, path in held_out(photos)[0]}
    of_classes = np.load(os.path.join(folder, "imagenet.npy"))
    return {label: of_classes[i] for i, (label, path) in enumerate(labelled) if path not in kept}


def examples(photos: str, folder: str, classifier: str, made: int = 12, seed: int = 5, heldout: bool = False,
             ) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of every class: ``made`` from its row, and the crops of its photo twice; of photos held out, as they
    are.

    Returns
    -------
    features (n, d) float32, of unit norm
    labels (n,) int64
    """
    if heldout:
        kept = held_out(photos)[0]
        rows = [row for row, photo in enumerate(photos_of_classes(photos)) if photo in kept]
        return unit_rows(np.load(os.path.join(folder, "imagenet.npy"))[rows, 0]), np.array([label for label, _ in kept])
    seen = seen_photos(photos, folder)
    W = np.load(classifier)["W"]
    of_rows = from_rows(W, np.concatenate(list(seen.values())).mean(axis=0), made, seed)
    parts = [np.concatenate([of_rows[label], *(2 * [seen[label]] if label in seen else [])]) for label in range(len(W))]
    return unit_rows(np.concatenate(parts)), np.repeat(np.arange(len(W)), [len(part) for part in parts])


def coco_examples(photos: str, folder: str, heldout: bool = False) -> tuple[np.ndarray, list[str]]:
    """Photos of COCO, each view of those trained on or the photos held out as they are: features (n, d) float32 of
    unit norm, and their numbers."""
    views = np.load(os.path.join(folder, "coco.npy"))
    kept = set(held_out(photos)[1])
    paths = coco_photos(photos)
    rows = [i for i, path in enumerate(paths) if (path in kept) == heldout]
    views = views[rows, :1] if heldout else views[rows]
    numbers = [os.path.splitext(os.path.basename(paths[i]))[0] for i in rows]
    return unit_rows(views.reshape(-1, views.shape[2])), [number for number in numbers for _ in range(views.shape[1])]


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


def photo_nouns(said: Sequence[str]) -> set[str]:
    """Words, in the singular, that so many of a photo's captions have."""
    found = [{captions.singular(word) for word in caption.split()} for caption in said]
    return {word for word in set().union(*found)
            if sum(word in words for words in found) >= min(AGREED, len(found))}


def make_pairs(net: EfficientNetLite0, classifier: str, photos: str, corpora: str, groups: Mapping[int, Sequence[str]],
               folder: str, each: int = 2, seed: int = 0) -> None:
    """Write captions.txt with features.npy and heldout.txt with heldout.npy, as the trainer reads them.

    Parameters
    ----------
    net : EfficientNetLite0
    classifier : path
        W and b of :mod:`recipes.compact.convnet`.
    photos, corpora : paths
    groups : mapping of int to sequence of str
        Captions of each class.
    folder : path
    each : int
        Images that each caption is paired with.
    """
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(seed)
    labelled, coco = photos_of_classes(photos), coco_photos(photos)
    of_classes = compute(net, [path for _, path in labelled], os.path.join(folder, "imagenet.npy"), CROPS["imagenet"])
    compute(net, coco, os.path.join(folder, "coco.npy"), CROPS["coco"])
    kept = {path for _, path in held_out(photos)[0]}
    seen = seen_photos(photos, folder)
    of_photos, numbers = coco_examples(photos, folder)
    made = from_rows(np.load(classifier)["W"], np.concatenate(list(seen.values())).mean(axis=0), MADE, seed)
    texts, rows = [], []
    for label, own in groups.items():
        images = np.concatenate([made[label], *([seen[label]] if label in seen else [])])
        for caption in own:
            texts += [caption] * each
            rows += list(images[rng.integers(len(images), size=each)])
    said, with_noun = coco_captions(corpora), {}
    for row, number in enumerate(numbers):
        texts += said[number]
        rows += [of_photos[row]] * len(said[number])
        for noun in photo_nouns(said[number]):
            with_noun.setdefault(noun, set()).add(row)
    # Ours of people and scenes, with photos of the same things.
    for _, caption in captions.read("captions"):
        nouns = captions.nouns(caption)[:2]
        both = sorted(set.intersection(*(with_noun.get(noun, set()) for noun in nouns))) if nouns else []
        for row in rng.permutation(both)[:each]:
            texts.append(captions.plain(caption))
            rows.append(of_photos[row])
    _write(folder, "captions.txt", "features.npy", texts, np.stack(rows))
    texts, rows = [], []
    for i, (label, path) in enumerate(labelled):
        if path in kept and groups[label]:
            texts += [str(text) for text in rng.choice(groups[label], size=5)]
            rows += [of_classes[i, 0]] * 5
    _write(folder, "heldout.txt", "heldout.npy", texts, np.stack(rows))


def _write(folder: str, text_file: str, array_file: str, texts: Sequence[str], rows: np.ndarray) -> None:
    with write_atomically(os.path.join(folder, text_file)) as file:
        file.write("".join(f"{text}\n" for text in texts).encode("utf-8"))
    with write_atomically(os.path.join(folder, array_file)) as file:
        np.save(file, unit_rows(rows).astype(np.float32))
