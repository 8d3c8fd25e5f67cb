"""Our own stories, paired with what pictures of such things come to: x - c + b.

Pictures of a story's kind are those of classes whose names can stand for its noun, which then may stand there;
photos of COCO whose captions have its nouns; and what one of our captions of the kind would see.
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storyteller import embedding, files, skipthoughts
from storyteller.training.corpus import EncodedCorpus

from . import captions, features, library

NEAREST = 100           # captions that a picture comes to
TIMES = 6               # how often a story is told, each time of another picture
WEIGHTS = {"class": 3.0, "photo": 2.0, "caption": 2.0}      # how often each sort of pictures, where there are some
EXCHANGED = 0.6         # of the stories told of a class, those that name it by its own noun


@dataclass(frozen=True)
class Pictures:
    """What pictures come to.

    Attributes
    ----------
    x : array (n, dim) float32
        Mean thought vectors of the captions nearest to each.
    of_class, of_noun, of_kind : dict
        Rows of the pictures of a class, of the photos of COCO whose captions have a noun, and of our captions of
        a kind.
    """

    x: np.ndarray
    of_class: Mapping[int, np.ndarray]
    of_noun: Mapping[str, np.ndarray]
    of_kind: Mapping[str, np.ndarray]


def styles(folder: str) -> dict[str, np.ndarray]:
    """b of each style: the mean vector of our own stories in it."""
    names = np.array([style for _, style, _ in captions.read("stories")])
    vectors = np.load(os.path.join(folder, "own.vectors.npy"))
    if len(names) != len(vectors):
        raise ValueError(f"{folder}: own.vectors.npy has {len(vectors)} rows, but there are {len(names)} stories: "
                         "remove own.*")
    return {style: library.mean(vectors[names == style]) for style in library.STYLES}


def pictures(photos: str, corpora: str, work: str, heldout: bool = False) -> Pictures:
    """Pictures for our stories; of photos held out of all training, those alone.

    Parameters
    ----------
    photos, corpora : paths
    work : path
        With embedding.npz, classifier.npz and pairs/ of :mod:`recipes.compact.features`.
    heldout : bool
    """
    path = os.path.join(work, "library", "pictures_heldout.npz" if heldout else "pictures.npz")
    if not os.path.exists(path):
        texts = captions.captions()
        joint = embedding.load_model(os.path.join(work, "embedding.npz"))
        places = embedding.encode_sentences(joint, texts, batch_size=512)
        pairs = os.path.join(work, "pairs")
        of_classes, labels = features.examples(photos, pairs, os.path.join(work, "classifier.npz"), heldout=heldout)
        of_photos, images = features.coco_examples(photos, pairs, heldout)
        ours = [] if heldout else list(captions.read("captions"))
        queries = [embedding.encode_images(joint, np.concatenate([of_classes, of_photos]))]
        if ours:
            queries.append(embedding.encode_sentences(joint, [captions.plain(text) for _, text in ours], 512))
        thoughts = skipthoughts.encode(skipthoughts.load_model(library.thoughts_folder(work)), texts, batch_size=512)
        x = library.pictures(places, thoughts, np.concatenate(queries), NEAREST)
        with files.write_atomically(path) as file:
            np.savez(file, x=x, label=labels, image=np.array(images), kind=np.array([kind for kind, _ in ours], str))
    with np.load(path) as found:
        x, labels, images, kinds = (found[name] for name in ("x", "label", "image", "kind"))
    of_class = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    start = len(labels)
    of_noun: dict[str, list[int]] = {}
    said = features.coco_captions(corpora)
    for row, image in enumerate(images):
        for noun in features.photo_nouns(said[str(image)]):
            of_noun.setdefault(noun, []).append(start + row)
    start += len(images)
    of_kind = {str(kind): start + np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}
    return Pictures(x, of_class, {noun: np.array(rows) for noun, rows in of_noun.items()}, of_kind)


def told(stories: Sequence[Sequence[str]], found: Pictures, words: Mapping[str, int], times: int,
         seed: int = 0) -> Iterator[tuple[str, str, int]]:
    """(style, text, picture) of every story, so many times where there are pictures for it."""
    rng = np.random.default_rng(seed)
    known: dict[str, list[int]] = {}
    for kind, style, story in stories:
        nouns = captions.nouns(story)
        noun = nouns[0] if nouns else ""
        if noun not in known:
            known[noun] = [label for label in captions.of_classes(noun) if label in found.of_class]
        photos = [found.of_noun.get(other, np.zeros(0, np.int64)) for other in nouns[:2]]
        both = np.intersect1d(*photos) if len(photos) == 2 else photos[0] if photos else np.zeros(0, np.int64)
        sorts = {"class": known[noun], "photo": both, "caption": found.of_kind.get(kind, ())}
        names = [name for name, some in sorts.items() if len(some)]
        p = np.array([WEIGHTS[name] for name in names])
        for name in rng.choice(names, times, p=p / p.sum()) if names else ():
            one = int(sorts[name][int(rng.integers(len(sorts[name])))])
            if name == "class":
                other = captions.CLASSES[one].name
                fits = all(word in words for word in (*other.split(), *captions.plural(other).split()))
                if fits and captions.singular(other) == other and rng.random() < EXCHANGED:
                    story_told = captions.exchanged(story, noun, other)
                else:
                    story_told = story
                rows = found.of_class[one]
                yield style, story_told, int(rows[int(rng.integers(len(rows)))])
            else:
                yield style, story, one


def make(found: Pictures, c: np.ndarray, folder: str, target: str, source: str, times: int, seed: int = 0) -> None:
    """Write stories, their styles, and x - c + b of their pictures as ``folder/target``."""
    if os.path.exists(os.path.join(folder, f"{target}.vectors.npy")):
        return
    words, of_style = files.load_dictionary(os.path.join(folder, "dictionary.pkl")), styles(folder)
    lines, vectors, names = [], [], []
    for style, story, picture in told(list(captions.read(source)), found, words, times, seed):
        lines.append(" ".join(word for sentence in library.sentences_of(captions.plain(story)) for word in sentence))
        vectors.append(found.x[picture] - c + of_style[style])
        names.append(style)
    EncodedCorpus.build(os.path.join(folder, target), lines, words, library.N_WORDS)
    with files.write_atomically(os.path.join(folder, f"{target}.names.npy")) as file:
        np.save(file, np.array(names))
    with files.write_atomically(os.path.join(folder, f"{target}.vectors.npy")) as file:
        np.save(file, np.array(vectors, dtype=np.float16))


def shares(folder: str, name: str) -> Iterator[library.Share]:
    """Our own stories style by style, with b for the style alone: of ``own``, or of what :func:`make` wrote."""
    path = os.path.join(folder, f"{name}.names.npy")
    names = np.load(path) if os.path.exists(path) else np.array([style for _, style, _ in captions.read("stories")])
    for style, b in styles(folder).items():
        yield library.Share(name, np.flatnonzero(names == style), b)
