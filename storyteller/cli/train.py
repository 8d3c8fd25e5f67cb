"""``storyteller train``: train skip-thoughts, a decoder or a joint embedding."""
from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import StorytellerError
from ..progress import counted
from . import UsageError
from .arguments import (
    TEXTS,
    add_bounds,
    add_device,
    add_skipthoughts,
    bounds,
    check_output,
    device_of,
    new_parser,
    real,
    subcommands,
    whole,
)
from .terminal import say

_log = logging.getLogger(__name__)

# What each option means: (metavar, help).
OPTIONS = {
    "optimizer": ("NAME", "adam, or adam_2015: the original's, whose decay rates stand for their complements"),
    "lrate": ("X", "learning rate"),
    "warmup": ("N", "updates over which the learning rate rises to lrate; 0: none"),
    "decay_updates": ("N", "updates at which the learning rate, having fallen along half a cosine, reaches a fiftieth "
                      "of lrate, where it stays; 0: it does not fall"),
    "decay_c": ("X", "weight decay: X times the sum of squares is added to the cost; 0: none"),
    "grad_clip": ("X", "gradients of a larger global norm are scaled down to it; 0: never"),
    "seed": ("N", "of initial weights, the order of batches and everything drawn at random"),
    "max_epochs": ("N", "passes over the training data"),
    "dispFreq": ("N", "updates between two lines of the log"),
    "validFreq": ("N", "updates between two measurements on held-out data; the model is written when the measure "
                  "is the best so far (or there is no held-out data)"),
    "saveFreq": ("N", "updates between two checkpoints; there is one every ten minutes, too"),
    "sampleFreq": ("N", "updates between two samples (decoder, with held-out texts)"),
    "n_samples": ("N", "sampled softmax: words drawn for a minibatch, 0: the full softmax"),
    "sample_power": ("X", "words are drawn for it as often as they occur to this power; at 1 rare words are hardly "
                     "ever drawn and the model comes to overrate them"),
    "label_smoothing": ("X", "share of the target's probability that is spread over all words"),
    "epsilon": ("X", "added to probabilities before the logarithm; the original's is 1e-8"),
    "dim_word": ("N", "length of a word vector"),
    "dim": ("N", "hidden units"),
    "n_words": ("N", "words of the model, <eos> and UNK included; fewer when the texts have fewer"),
    "maxlen_w": ("N", "texts of so many words or more are left out"),
    "batch_size": ("N", "texts in a minibatch"),
    "batches": ("NAME", "bucketed: minibatches of texts of about equal length, in a random order; or homogeneous: of "
                "equal length, in the original's order"),
    "bidirectional": (None, "train bi_skip.npz, which reads sentences forwards and backwards, instead of "
                      "uni_skip.npz; --dim is that of each direction"),
    "doutput": (None, "a layer of dim_word units between hidden state and output"),
    "context": ("NAME", "what a passage is written from: passage, the vector of the passage read as one sentence, or "
                "sentences, the mean of its sentences' vectors, as a story is written from a mean of captions'"),
    "noise": ("X", "norm of the normal noise on thought vectors, as a share of each vector's own"),
    "put_back": ("X", "where a sentence has ended, this share of the state is replaced by the passage's first one, so "
                 "that its vector is remembered to the end; 0: never, as in the original"),
    "n_sentences": ("N", "with put_back: a learnt vector tells which of the first N sentences has ended"),
    "tied": (None, "the output layer's weights are the word vectors in training; the model's file has both"),
    "average": ("X", "measure and write exponential averages of the parameters, the old average having weight X, "
                "such as 0.999; 0: the last parameters"),
    "dropout": ("X", "share of the hidden units that the output does not see, others for each passage"),
    "word_dropout": ("X", "share of the words that are read as zeros"),
    "style_share": ("X", "share of the passages that are written from the mean of all vectors, the style, alone"),
    "margin": ("X", "by which a pair that belongs together is to score above one that does not"),
    "precision": ("NAME", "of products on a GPU: float32, or bfloat16 with sums in float32, faster and less exact"),
    "encoder": ("NAME", "gru{}"),
    "decoder": ("NAME", "gru"),
}
_CHOICES = {"optimizer": ("adam", "adam_2015"), "encoder": ("gru",), "decoder": ("gru",)}
_BI_DIM = 1200          # of each direction, as published


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..training import tasks
    made = new_parser("storyteller train", "Train a model.  `storyteller train MODEL --help` lists its options.")
    add = subcommands(made, "MODEL")
    epilog = ("Every option is also known by the original's spelling (--dim_word, --validFreq).  A training that "
              "was interrupted goes on with the same command line and --resume.")
    skip = add("skipthoughts", "Train skip-thoughts: sentences -> vectors.  Train uni_skip and bi_skip (with "
               "--bidirectional) into one folder; they share its dictionary.", _train_skipthoughts, epilog)
    skip.add_argument("texts", metavar="TEXT", nargs="+", help=TEXTS)
    skip.add_argument("-o", "--output", "--saveto", required=True, metavar="FOLDER",
                      help="of uni_skip.npz, bi_skip.npz, utable.npy, btable.npy and dictionary.txt")
    _add_training(skip, tasks.SKIPTHOUGHTS, ("FOLDER", "the uni_skip.npz (or bi_skip.npz) in a folder"))

    decoder = add("decoder", "Train a decoder: thought vector -> passage.  Passages of the texts are encoded with "
                  "a skip-thoughts model once.", _train_decoder, epilog)
    decoder.add_argument("texts", metavar="TEXT", nargs="+", help=TEXTS)
    decoder.add_argument("-o", "--output", "--saveto", required=True, metavar="NAME.npz",
                         help="such as romance.npz; romance_dictionary.pkl is written beside it")
    add_skipthoughts(decoder)
    add_bounds(decoder)
    decoder.add_argument("--embeddings", metavar="VECTORS", help="start from these word vectors, of dim_word numbers: "
                         "a file of word2vec, GloVe or fastText (needs storyteller[word2vec])")
    _add_training(decoder, tasks.DECODER, ("NAME.npz", "a decoder"))

    embedding = add("embedding", "Train a joint embedding of images and sentences.", _train_embedding, epilog)
    embedding.add_argument("-o", "--output", "--saveto", required=True, metavar="NAME.npz",
                           help="such as coco_embedding.npz")
    embedding.add_argument("--captions", metavar="FILE", help="captions, one a line, words apart by blanks")
    embedding.add_argument("--features", metavar="FILE.npy", help="image features: one row of unit norm for each "
                           "caption, in the captions' order")
    embedding.add_argument("--heldout-captions", metavar="FILE", help="captions of other images, those of "
                           "an image in a row; equally many for each image")
    embedding.add_argument("--heldout-features", metavar="FILE.npy", help="their image features")
    embedding.add_argument("--data", metavar="FOLDER", help="instead of these: the folder of "
                           "NAME_{train,dev}_caps.txt and NAME_{train,dev}_ims.npy")
    embedding.add_argument("--name", metavar="NAME", default="coco", help="of the data set in --data (default: "
                           "%(default)s)")
    _add_training(embedding, tasks.EMBEDDING, ("NAME.npz", "a joint embedding"), heldout=False)
    return made


def _add_training(parser: argparse.ArgumentParser, defaults: Mapping[str, Any], init: tuple[str, str],
                  heldout: bool = True) -> None:
    add = parser.add_argument
    add("--vocab", metavar="DICTIONARY.pkl", help="dictionary of `storyteller vocab` (default: the words of the "
        "training texts)")
    if heldout:
        add("--heldout", nargs="+", metavar="TEXT", help="texts to measure perplexity on, not trained on")
    add("--init", metavar=init[0], help=f"start from {init[1]} of the same sizes instead of from random parameters; "
        "its dictionary is the default of --vocab, which must be the same")
    add("--resume", action="store_true", help="go on from the checkpoint; without one start anew")
    add("--overwrite", action="store_true", help="start anew although there is a checkpoint")
    add("--updates", type=whole(), metavar="N", help="stop after N updates in all")
    add("--minutes", type=real(0), metavar="M", help="stop after M minutes of this run")
    add_device(parser)
    add("--plot", metavar="FILE.png", help="draw the curves of the log when done (needs storyteller[plot])")
    from ..training import tasks
    group = parser.add_argument_group("model and training options")
    bow = defaults.keys() >= {"margin"}
    for name, default in defaults.items():
        flags = list(dict.fromkeys(["--" + re.sub("[A-Z]", lambda m: "-" + m[0].lower(), name).replace("_", "-"),
                                    f"--{name}"]))
        metavar, text = OPTIONS[name]
        text = text.replace("{}", ", or bow: the sum of word vectors" if bow else "")
        if name == "dim" and "bidirectional" in defaults:
            shown = f"{default}, and {_BI_DIM} with --bidirectional"
        else:
            shown = ("yes" if default else "no") if isinstance(default, bool) else f"{default}"
        settings: dict[str, Any] = {"help": f"{text} (default: {shown})", "dest": name, "default": None}
        if isinstance(default, bool):
            group.add_argument(*flags, action=argparse.BooleanOptionalAction, **settings)
            continue
        choices = ("gru", "bow") if name == "encoder" and bow else {**_CHOICES, **tasks.CHOICES}.get(name)
        group.add_argument(*flags, type=type(default), metavar=metavar, choices=choices, **settings)


def given_options(options: argparse.Namespace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a training, checked before any work is done."""
    from ..training import tasks
    given = {name: getattr(options, name) for name in defaults if getattr(options, name) is not None}
    if given.get("bidirectional"):
        given.setdefault("dim", _BI_DIM)
    try:
        return tasks.options_of(defaults, given)
    except StorytellerError as error:
        raise UsageError(str(error)) from error


def _check_start(saveto: str, options: argparse.Namespace, inputs: Sequence[str]) -> None:
    """What would only be noticed after hours."""
    from ..training.trainer import check_plot, checkpoint_path
    if not saveto.endswith(".npz"):
        raise UsageError(f"{saveto}: expected a name that ends in .npz")
    check_output(saveto, inputs)
    checkpoint = checkpoint_path(saveto)
    if os.path.exists(checkpoint) and not (options.resume or options.overwrite):
        raise StorytellerError(f"{checkpoint}: a training of {saveto} was begun before; go on with --resume, or "
                               "start anew, losing it, with --overwrite")
    if options.plot is not None:
        check_output(options.plot, inputs)
        check_plot(options.plot)


@contextmanager
def _refusing(saveto: str, *made: str) -> Iterator[None]:
    """Where a training cannot begin, what it has made is removed, but for vectors, which have taken hours."""
    from ..training.trainer import checkpoint_path, log_path
    new = [path for path in made if not os.path.lexists(path)]
    try:
        yield
    except (StorytellerError, MemoryError):
        if not os.path.exists(checkpoint_path(saveto)) and not os.path.exists(log_path(saveto)):
            for path in new:
                if os.path.isdir(path) and not any(".vectors.npy" in name for name in os.listdir(path)):
                    shutil.rmtree(path)
                elif os.path.isfile(path):
                    os.remove(path)
        raise


def _texts(options: argparse.Namespace) -> dict[str, list[str]]:
    """The files of 'train' and, where there are any, of 'heldout'."""
    from ..training import corpus
    given = {"train": options.texts, "heldout": options.heldout}
    return {name: corpus.books(paths) for name, paths in given.items() if paths}


def _train(task: Any, saveto: str, options: argparse.Namespace, measure: str, files: Sequence[str],
           before: Callable[[], None] = lambda: None) -> int:
    """Train; `before` is done once it is clear that the training can begin (or go on)."""
    from ..training import trainer
    run = trainer.Trainer(task, saveto, resume=options.resume)
    before()
    if options.overwrite and not options.resume:
        Path(trainer.checkpoint_path(saveto)).unlink(missing_ok=True)
    seconds = None if options.minutes is None else 60 * options.minutes
    summary = run.run(not options.quiet, options.updates, seconds)
    written = [*files, trainer.log_path(saveto), trainer.checkpoint_path(saveto)]
    say(f"{saveto}: {counted(summary.updates, 'update')}, {counted(summary.epochs, 'epoch')} finished, "
        f"{summary.seconds:,.0f} s "
        f"({summary.stopped}); {summary.words_per_second:,.0f} {task.unit}/s in this run")
    say(f"best held-out {measure}: {summary.best:.2f}" if summary.best is not None
        else "nothing was held out: the last parameters were written")
    say("written: " + ", ".join(file for file in written if os.path.exists(file)))
    if options.plot is not None:
        trainer.plot_log(trainer.log_path(saveto), options.plot)
        say(f"written: {options.plot}")
    return 0


def _train_skipthoughts(options: argparse.Namespace) -> int:
    from ..training import corpus, prepare, tasks, vocabulary
    o, verbose, folder = given_options(options, tasks.SKIPTHOUGHTS), not options.quiet, options.output
    names = ("bi_skip.npz", "uni_skip.npz")
    saveto, other = (os.path.join(folder, name) for name in (names if o["bidirectional"] else names[::-1]))
    inputs = _texts(options)
    work_folder = os.path.join(folder, "skipthoughts.data")
    dictionary, listed = (os.path.join(folder, f"dictionary.{ending}") for ending in ("pkl", "txt"))
    with _refusing(saveto, folder, work_folder, dictionary):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StorytellerError(f"{folder}: cannot be made a folder ({error.strerror}); name another") from error
        _check_start(saveto, options, sum(inputs.values(), []))
        check_output(listed, sum(inputs.values(), []))
        device = device_of(options)
        if options.vocab is None and os.path.exists(other) and os.path.exists(dictionary):
            _log.info("using %s, which %s was trained with", dictionary, other)
            options.vocab = dictionary
        if options.init and options.vocab is None:
            options.vocab = prepare.dictionary_of(options.init, tasks.skipthoughts_dictionary)
        work = prepare.WorkFolder(work_folder, verbose)
        for name, files in inputs.items():
            work.texts(name, "sentences", files, partial(corpus.sentence_stream, files))
        words, counts = prepare.number_words(options.vocab, o["n_words"], work.lines("train"), verbose)
        prepare.check_shared(listed, other, prepare.word_list(words))
        train = work.corpus("train", words)
        heldout = work.corpus("heldout", words) if "heldout" in inputs else None
        frequencies = prepare.count_indices(train, len(words) + 2) if o["n_samples"] else None
        task = tasks.SkipThoughtsTask(train, folder, prepare.word_list(words), heldout=heldout, counts=frequencies,
                                      init=options.init, device=device, **o)
        table = os.path.join(folder, "btable.npy" if o["bidirectional"] else "utable.npy")
        status = _train(task, saveto, options, "perplexity", [saveto, f"{saveto}.pkl", table, listed, dictionary],
                        lambda: vocabulary.save_dictionary(dictionary, words, counts))
    say(f"{folder}: is complete, use it as --skipthoughts" if os.path.exists(other) else
        f"still to train into {folder}: {os.path.basename(other)}"
        + (", the same without --bidirectional" if o["bidirectional"] else ", the same with --bidirectional"))
    return status


def _train_decoder(options: argparse.Namespace) -> int:
    from ..training import corpus, prepare, tasks, vocabulary
    from ..training.trainer import check_resume
    o, verbose, saveto = given_options(options, tasks.DECODER), not options.quiet, options.output
    if options.embeddings and options.init:
        raise UsageError("--embeddings and --init both say what to start from: give one of them")
    inputs = _texts(options)
    _check_start(saveto, options, [*sum(inputs.values(), []), *filter(None, [options.embeddings])])
    device = device_of(options)
    if options.init and options.vocab is None:
        options.vocab = prepare.dictionary_of(options.init, tasks.decoder_dictionary)
    least, most = bounds(options, o["maxlen_w"])
    model, model_key = prepare.load_encoder(options.skipthoughts, options.config, verbose, device)
    work_folder, dictionary = f"{saveto}.data", tasks.decoder_dictionary(saveto)
    with _refusing(saveto, work_folder, dictionary):
        work = prepare.WorkFolder(work_folder, verbose)
        for name, files in inputs.items():
            work.texts(name, f"passages {least} {most} of sentences", files,
                       partial(corpus.passages, files, least, most, tokenized=True, between="\t"))
        words, counts = prepare.number_words(options.vocab, o["n_words"], work.lines("train"), verbose)
        names = prepare.word_list(words)
        o["n_words"] = min(o["n_words"], len(names))
        tasks.check_decoder({**o, "dimctx": model.dim}, names, options.init, saveto)
        if options.resume:
            check_resume(saveto, {**o, "dimctx": model.dim})
        embeddings = None
        if options.embeddings:
            given = vocabulary.load_word_vectors(options.embeddings)
            embeddings = vocabulary.initial_vectors(given, names, o["dim_word"], o["seed"], options.embeddings)
        data = {}
        for name in inputs:
            encoded = work.corpus(name, words)
            data[name] = encoded, work.vectors(name, model, model_key, len(encoded), o["context"])
        passages, vectors = data["train"]
        frequencies = prepare.count_indices(passages, o["n_words"]) if o["n_samples"] else None
        task = tasks.DecoderTask(passages, vectors, saveto, heldout=data.get("heldout"), vocabulary=names,
                                 counts=frequencies, embeddings=embeddings, init=options.init, device=device, **o)
        return _train(task, saveto, options, "perplexity", [saveto, f"{saveto}.pkl", dictionary],
                      lambda: vocabulary.save_dictionary(dictionary, words, counts))


def _train_embedding(options: argparse.Namespace) -> int:
    from .. import text
    from ..training import prepare, tasks
    o, saveto = given_options(options, tasks.EMBEDDING), options.output
    pairs = _pairs_of(options)
    _check_start(saveto, options, [file for pair in pairs for file in pair])
    device = device_of(options)
    data: list[tuple[list[str], Any]] = []
    for caption_file, feature_file in pairs:
        captions = list(map(text.normalize, text.read_captions(caption_file, aligned=True)))
        data.append((captions, prepare.read_features(feature_file, captions, caption_file, shared=bool(data))))
    if len(data) > 1 and data[0][1].shape[1] != data[1][1].shape[1]:
        raise StorytellerError(f"{pairs[1][1]}: has {data[1][1].shape[1]}-dimensional features, and {pairs[0][1]} "
                               f"{data[0][1].shape[1]}-dimensional ones; expected features of one network")
    if options.init and options.vocab is None:
        options.vocab = prepare.dictionary_of(options.init, tasks.embedding_dictionary)
    words, _ = prepare.number_words(options.vocab, o["n_words"], data[0][0], not options.quiet)
    task = tasks.EmbeddingTask(*data[0], words, saveto, heldout=data[1] if len(data) > 1 else None,
                               init=options.init, device=device, **o)
    return _train(task, saveto, options, "sum of R@1, R@5 and R@10 both ways (at most 600)",
                  [saveto, f"{saveto}.pkl", f"{saveto}.dictionary.pkl"])


def _pairs_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(captions, features) of the training and, where there are any, of the held-out pairs."""
    single = (options.captions, options.features, options.heldout_captions, options.heldout_features)
    if options.data is not None:
        if any(single):
            raise UsageError("--data names the captions and features already: give either --data or --captions and "
                             "--features")
        names = [[os.path.join(options.data, f"{options.name}_{split}_{kind}") for kind in ("caps.txt", "ims.npy")]
                 for split in ("train", "dev")]
        found = [(captions, features) for captions, features in names]
        return found if any(map(os.path.exists, names[1])) else found[:1]
    captions, features, heldout_captions, heldout_features = single
    if not (captions and features):
        raise UsageError("the captions and their image features are not named: give --captions and --features, or "
                         "--data")
    if bool(heldout_captions) != bool(heldout_features):
        raise UsageError("one of --heldout-captions and --heldout-features is missing: give both or none")
    return [(captions, features)] + ([(heldout_captions, heldout_features)] if heldout_captions else [])
