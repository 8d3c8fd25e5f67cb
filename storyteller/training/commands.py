"""The commands ``storyteller vocab``, ``train`` and ``evaluate``.

What a training reads again and again (tokenised texts, word indices, thought vectors) is made once,
in a work folder beside the model, and used again as long as what it was made from is the same.
"""
from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StorytellerError

_log = logging.getLogger(__name__)

DESCRIPTIONS = {
    "vocab": "Number the words of texts by falling frequency, for trainings that share a dictionary.",
    "train": "Train a model.  `storyteller train MODEL --help` lists its options.",
    "evaluate": "Measure a model.  `storyteller evaluate WHAT --help` lists what is needed.",
}

_TEXTS = ("texts: UTF-8 files, plain or packed (.gz, .xz, .bz2), one paragraph a line or paragraphs apart by "
          "blank lines, and folders of such files ending in .txt, .txt.gz, .txt.xz or .txt.bz2")
_MIN_WORDS = 30         # of a decoder's passages
_CHUNK = 1024           # passages that are encoded at a time; an interruption loses at most one chunk
_UNIT = 1e-3            # how far the norm of an image's features may be from 1

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
    "saveFreq": ("N", "updates between two checkpoints"),
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
    "bidirectional": (None, "train bi_skip.npz, which reads sentences forwards and backwards, instead of "
                      "uni_skip.npz; --dim is that of each direction"),
    "doutput": (None, "a layer of dim_word units between hidden state and output"),
    "context": ("NAME", "what a passage is written from: passage, the vector of the passage read as one sentence, or "
                "sentences, the mean of its sentences' vectors, as a story is written from a mean of captions'"),
    "noise": ("X", "norm of the normal noise on thought vectors, as a share of each vector's own"),
    "margin": ("X", "by which a pair that belongs together is to score above one that does not"),
    "encoder": ("NAME", "gru{}"),
    "decoder": ("NAME", "gru"),
}
_CHOICES = {"optimizer": ("adam", "adam_2015"), "encoder": ("gru",), "decoder": ("gru",),
            "context": ("passage", "sentences")}
_BI_DIM = 1200          # of each direction, as published


# Command lines.

def fill(parser: argparse.ArgumentParser, command: str,
         add_common: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    """Give a parser the arguments of a command of :data:`DESCRIPTIONS`.

    Parameters
    ----------
    parser : ArgumentParser
    command : str
    add_common : callable
        Gives a subcommand's parser the arguments of every command.

    Returns
    -------
    ArgumentParser
        The same; ``options.run(options)`` does what was asked and returns the exit status.
    """
    if command == "vocab":
        _fill_vocab(parser)
        return parser
    commands = parser.add_subparsers(title="commands", required=True,
                                     metavar="MODEL" if command == "train" else "WHAT")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int], epilog: str | None = None,
            aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text.split(".  ")[0], description=text, epilog=epilog,
                                   aliases=list(aliases))
        add_common(made)
        made.set_defaults(run=run)
        return made

    (_fill_train if command == "train" else _fill_evaluate)(add)
    return parser


def _positive(kind: type) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        number = kind(value)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"{value} is not above 0")
        return number
    read.__name__ = kind.__name__
    return read


def _fill_vocab(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("texts", metavar="TEXT", nargs="+", help=_TEXTS)
    add("-o", "--output", required=True, metavar="DICTIONARY.pkl", help="words and counts, as the original writes "
        "them; use it as --vocab")
    add("--max-words", type=_positive(int), metavar="N", help="number only the N most frequent words (a model has "
        "two more, <eos> and UNK)")
    add("--min-count", type=_positive(int), default=1, metavar="N", help="number only words that occur at least N "
        "times (default: %(default)s)")
    add("--captions", action="store_true", help="the texts are captions: one a line, words apart by blanks")
    parser.set_defaults(run=_vocab)


def _fill_train(add: Callable[..., argparse.ArgumentParser]) -> None:
    from . import tasks
    epilog = ("Every option is also known by the original's spelling (--dim_word, --validFreq).  A training that "
              "was interrupted goes on with the same command line and --resume.")
    skip = add("skipthoughts", "Train skip-thoughts: sentences -> vectors.  Train uni_skip and bi_skip (with "
               "--bidirectional) into one folder; they share its dictionary.", _train_skipthoughts, epilog)
    skip.add_argument("texts", metavar="TEXT", nargs="+", help=_TEXTS)
    skip.add_argument("-o", "--output", "--saveto", required=True, metavar="FOLDER",
                      help="of uni_skip.npz, bi_skip.npz, utable.npy, btable.npy and dictionary.txt")
    _add_training(skip, tasks.SKIPTHOUGHTS, ("FOLDER", "the uni_skip.npz (or bi_skip.npz) in a folder"))

    decoder = add("decoder", "Train a decoder: thought vector -> passage.  Passages of the texts are encoded with "
                  "a skip-thoughts model once.", _train_decoder, epilog)
    decoder.add_argument("texts", metavar="TEXT", nargs="+", help=_TEXTS)
    decoder.add_argument("-o", "--output", "--saveto", required=True, metavar="NAME.npz",
                         help="such as romance.npz; romance_dictionary.pkl is written beside it")
    _add_skipthoughts(decoder)
    _add_bounds(decoder)
    decoder.add_argument("--embeddings", metavar="VECTORS", help="start from these word vectors, of dim_word numbers: "
                         "a file of word2vec, GloVe or fastText (needs storyteller[word2vec])")
    _add_training(decoder, tasks.DECODER, ("NAME.npz", "a decoder"))

    embedding = add("embedding", "Train a joint embedding of images and sentences.", _train_embedding, epilog)
    embedding.add_argument("-o", "--output", "--saveto", required=True, metavar="NAME.npz",
                           help="such as coco_embedding.npz")
    embedding.add_argument("--captions", metavar="FILE", help="captions, one a line, words apart by blanks")
    embedding.add_argument("--features", metavar="FILE.npy", help="image features: one row of unit norm for each "
                           "caption, in the captions' order")
    embedding.add_argument("--heldout-captions", metavar="FILE", help="five captions an image, in a row")
    embedding.add_argument("--heldout-features", metavar="FILE.npy", help="their image features")
    embedding.add_argument("--data", metavar="FOLDER", help="instead of these: the folder of "
                           "NAME_{train,dev}_caps.txt and NAME_{train,dev}_ims.npy")
    embedding.add_argument("--name", metavar="NAME", default="coco", help="of the data set in --data (default: "
                           "%(default)s)")
    _add_training(embedding, tasks.EMBEDDING, ("NAME.npz", "a joint embedding"), heldout=False)


def _add_skipthoughts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skipthoughts", metavar="FOLDER", help="skip-thoughts model: uni_skip.npz, bi_skip.npz, "
                        "utable.npy, btable.npy and dictionary.txt (default: that of the settings)")


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--min-words", type=_positive(int), default=_MIN_WORDS, metavar="N",
                        help="of a passage (default: %(default)s)")
    parser.add_argument("--max-words", type=_positive(int), metavar="N",
                        help="of a passage (default: one less than maxlen_w)")


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
    add("--updates", type=_positive(int), metavar="N", help="stop after N updates in all")
    add("--minutes", type=_positive(float), metavar="M", help="stop after M minutes of this run")
    add("--plot", metavar="FILE.png", help="draw the curves of the log when done (needs storyteller[plot])")
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
        choices = ("gru", "bow") if name == "encoder" and bow else _CHOICES.get(name)
        group.add_argument(*flags, type=type(default), metavar=metavar, choices=choices, **settings)


def _fill_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    retrieval = add("retrieval", "Recall and median rank of a joint embedding, from images to sentences (i2t) and "
                    "from sentences to images (t2i).", _evaluate_retrieval)
    retrieval.add_argument("--model", required=True, metavar="NAME.npz", help="joint embedding")
    retrieval.add_argument("--captions", required=True, metavar="FILE", help="five captions an image, in a row, "
                           "one a line")
    retrieval.add_argument("--features", required=True, metavar="FILE.npy", help="image features: one row of unit "
                           "norm for each caption")

    decoder = add("decoder", "Perplexity of a decoder on passages, and how well it writes them again from their "
                  "own vectors (BLEU).", _evaluate_decoder)
    decoder.add_argument("texts", metavar="TEXT", nargs="+", help=_TEXTS)
    decoder.add_argument("--model", required=True, metavar="NAME.npz", help="decoder")
    decoder.add_argument("--dictionary", metavar="FILE.pkl", help="(default: NAME_dictionary.pkl)")
    _add_skipthoughts(decoder)
    _add_bounds(decoder)
    decoder.add_argument("--passages", type=_positive(int), default=1000, metavar="N",
                         help="measure perplexity on the first N passages (default: %(default)s)")
    decoder.add_argument("--reconstruct", type=int, default=20, metavar="N",
                         help="write N of them again; 0: none (default: %(default)s)")
    decoder.add_argument("--beam-width", type=_positive(int), default=5, metavar="N",
                         help="(default: %(default)s)")

    neighbours = add("neighbours", "The sentences of a corpus that are nearest to sentences of yours.",
                     _evaluate_neighbours)
    neighbours.add_argument("sentences", metavar="SENTENCE", nargs="+")
    _add_skipthoughts(neighbours)
    neighbours.add_argument("--corpus", required=True, metavar="TEXT", help="a text file, or a folder of them")
    neighbours.add_argument("-k", type=_positive(int), default=5, metavar="N", help="(default: %(default)s)")
    neighbours.add_argument("--limit", type=_positive(int), default=20000, metavar="N",
                            help="read the first N sentences (default: %(default)s)")

    parsers = [retrieval, decoder, neighbours]
    for name, aliases, text, files, run in (
            ("trec", (), "TREC: kinds of questions.", ("TRAIN", "TEST"), _evaluate_trec),
            ("mr", ("cr", "subj", "mpqa"), "MR, CR, SUBJ, MPQA: a file of positive and one of negative sentences, "
             "cross-validated.", ("POSITIVE", "NEGATIVE"), _evaluate_binary),
            ("msrp", (), "MSRP: paraphrases.", ("TRAIN", "TEST"), _evaluate_msrp),
            ("sick", (), "SICK: relatedness of sentences.", ("TRAIN", "TEST"), _evaluate_sick)):
        made = add(name, f"{text}  A linear classifier on frozen vectors (needs storyteller[evaluate]).", run,
                   aliases=aliases)
        for file in files:
            made.add_argument(file.lower(), metavar=file)
        made.add_argument("--folds", type=_positive(int), default=10, metavar="N", help="of the cross-validation "
                          "(default: %(default)s)")
        _add_skipthoughts(made)
        parsers.append(made)
    for made in parsers:
        made.add_argument("--json", action="store_true", help="print JSON")


# Vocabularies.

def _vocab(options: argparse.Namespace) -> int:
    from . import corpus, vocabulary
    _check_folder(options.output)
    if options.captions:
        texts: Iterable[str] = itertools.chain.from_iterable(map(corpus.open_text, corpus.books(options.texts)))
    else:
        texts = corpus.sentence_stream(options.texts)
    words, counts = vocabulary.build(texts, options.max_words, options.min_count, not options.quiet)
    vocabulary.save_dictionary(options.output, words, counts)
    print(f"{options.output}: {len(words):,} of {len(counts):,} different words; they are "
          f"{100 * vocabulary.coverage(words, counts):.2f} % of {sum(counts.values()):,} running words")
    return 0


def _words(options: argparse.Namespace, n_words: int, texts: Iterable[str], verbose: bool,
           ) -> tuple[dict[str, int], dict[str, int]]:
    """Indices from 2 to below n_words, and counts (none for a dictionary without them)."""
    from .. import files
    from . import vocabulary
    if n_words < 3:
        raise StorytellerError(f"option 'n_words' is {n_words}: expected at least 3, <eos>, UNK and a word")
    if options.vocab is None:
        words, counts = vocabulary.build(texts, None, 1, verbose)
    else:
        words = files.load_dictionary(options.vocab)
        try:
            counts = vocabulary.load_counts(options.vocab)
        except StorytellerError as error:
            _log.warning("%s", error)
            counts = {}
    words = {word: i for word, i in words.items() if 2 <= i < n_words}
    if sorted(words.values()) != list(range(2, len(words) + 2)) or not words:
        raise StorytellerError(f"{options.vocab}: its words are not numbered 2, 3, ... without gaps; make the "
                               "dictionary with `storyteller vocab`")
    # A text may hold the word UNK itself, which has its index already.
    names = [word for word in _names(words)[2:] if word not in (vocabulary.END, vocabulary.UNKNOWN)]
    words = {word: i for i, word in enumerate(names, start=2)}
    if counts:
        _log.info("%d words, %.2f %% of the running ones", len(words), 100 * vocabulary.coverage(words, counts))
    return words, counts


def _init_vocabulary(options: argparse.Namespace, where: Callable[[str], str]) -> None:
    """The dictionary of the model that is started from, where no other is named."""
    if options.init is None or options.vocab is not None:
        return
    found = where(options.init)
    if found.endswith(".txt") or not os.path.exists(found):
        if not os.path.exists(options.init):
            raise StorytellerError(f"{options.init}: no such file or folder; expected the model to start from")
        raise StorytellerError(f"{options.init}: the dictionary that it was trained with does not stand with it "
                               f"({re.sub('[.]txt$', '.pkl', found)}); name it as --vocab")
    _log.info("using %s, the dictionary of the model to start from", found)
    options.vocab = found


def _names(words: Mapping[str, int]) -> list[str]:
    from .vocabulary import END, UNKNOWN
    return [END, UNKNOWN, *sorted(words, key=words.__getitem__)]


# Work folders.

class WorkFolder:
    """What a training reads, made once: NAME.txt, NAME.tokens.npy, NAME.offsets.npy, NAME.vectors.npy.

    Parameters
    ----------
    path : path
        Made where it is missing.
    verbose : bool
        Show progress (on a terminal only).

    Notes
    -----
    ``made.json`` says what each file was made from (a check number of files and settings); a file
    that is missing or was made from something else is made again.  Everything is written under a
    temporary name first.
    """

    def __init__(self, path: str | os.PathLike, verbose: bool = True):
        self.path, self._verbose = os.fspath(path), verbose
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise StorytellerError(f"{self.path}: the work folder cannot be made ({error.strerror}); choose "
                                   "another place for the model") from error
        try:
            found = json.loads(Path(self._file("made.json")).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self._made: dict[str, str] = found if isinstance(found, dict) else {}

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _note(self, name: str, key: str) -> None:
        from .. import files
        self._made[name] = key
        with files.write_atomically(self._file("made.json")) as file:
            file.write(json.dumps(self._made, indent=1).encode())

    def texts(self, name: str, kind: str, sources: Sequence[str], make: Callable[[], Iterable[str]]) -> None:
        """Write tokenised texts, one a line.

        Parameters
        ----------
        name : str
            ``'train'`` or ``'heldout'``.
        kind : str
            Everything but the files that the texts depend on.
        sources : sequence of str
        make : callable
            Gives the texts.
        """
        from .. import cache, files
        from ..progress import progress_bar
        target, key = f"{name}.txt", f"{kind} {cache.fingerprint(*sources)}"
        if self._made.get(target) == key and os.path.exists(self._file(target)):
            return
        with files.write_atomically(self._file(target)) as file, \
                progress_bar(None, f"reading {name} texts", "text", self._verbose) as bar:
            for text in make():
                file.write(f"{text}\n".encode())
                bar.update()
        self._note(target, key)

    def lines(self, name: str) -> Iterator[str]:
        """Texts that :meth:`texts` wrote."""
        with open(self._file(f"{name}.txt"), encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line[:-1]

    def corpus(self, name: str, words: Mapping[str, int]) -> Any:
        """The texts as word indices: an EncodedCorpus."""
        from .corpus import EncodedCorpus
        key = f"{self._made[f'{name}.txt']} {_digest(_names(words))}"
        if self._made.get(f"{name}.tokens.npy") == key:
            try:
                return EncodedCorpus(self._file(name))
            except StorytellerError as error:
                _log.info("%s", error)
        encoded = EncodedCorpus.build(self._file(name), self.lines(name), words, verbose=self._verbose)
        self._note(f"{name}.tokens.npy", key)
        return encoded

    def vectors(self, name: str, model: Any, model_key: str, count: int, context: str = "passage") -> np.ndarray:
        """The texts as thought vectors (count, dim) float32, memory-mapped.

        An interrupted encoding goes on where it stopped.  `context` 'sentences': the mean of the vectors of
        a text's sentences, which stand apart by tabs.
        """
        from .. import files
        from ..progress import progress_bar
        target, key = f"{name}.vectors.npy", f"{self._made[f'{name}.txt']} {model_key}"
        if context != "passage":
            key += f" {context}"
        path, part, shape = self._file(target), self._file(f"{target}.part"), (count, model.dim)
        if self._made.get(target) == key:
            try:
                found = files.load_matrix(path, mmap=True)
                if found.shape == shape:
                    return found
            except StorytellerError as error:
                _log.info("%s", error)
        try:
            same = self._made.get(f"{target}.part") == key and os.path.exists(part)
            if not same:
                self._note(f"{target}.part", key)
            with open(part, "r+b" if same else "w+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                files.save_npy_header(file, shape)
                header = file.tell()
                # Whole chunks only: the same texts are encoded side by side as without an interruption.
                start = min(count, max(0, size - header) // (4 * model.dim)) // _CHUNK * _CHUNK
                file.seek(header + start * 4 * model.dim)
                file.truncate()
                _log.info("encoding %d %s passages%s", count, name, f" from {start} on" if start else "")
                lines = itertools.islice(self.lines(name), start, None)
                with progress_bar(count, f"encoding {name} passages", "passage", self._verbose, start) as bar:
                    while chunk := list(itertools.islice(lines, _CHUNK)):
                        file.write(_encoded(model, chunk, context).tobytes())
                        file.flush()
                        bar.update(len(chunk))
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise StorytellerError(f"{part}: cannot be written ({error.strerror}); what is encoded so far is "
                                   "kept, so make room and start again") from error
        self._note(target, key)
        return files.load_matrix(path, mmap=True)


def _encoded(model: Any, passages: Sequence[str], context: str, verbose: bool = False) -> np.ndarray:
    """Vectors of passages whose sentences stand apart by tabs."""
    from .. import skipthoughts, style
    if context == "sentences":
        return style.sentence_means(model, [passage.split("\t") for passage in passages], verbose=False)
    return skipthoughts.encode(model, [passage.replace("\t", " ") for passage in passages], verbose=verbose)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


# What trainings share.

def _given(options: argparse.Namespace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a training, checked before any work is done."""
    from . import tasks
    given = {name: getattr(options, name) for name in defaults if getattr(options, name) is not None}
    if given.get("bidirectional"):
        given.setdefault("dim", _BI_DIM)
    return tasks.options_of(defaults, given)


def _check_folder(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise StorytellerError(f"{path}: its folder does not exist; make it or name another")


def _check_start(saveto: str, options: argparse.Namespace) -> None:
    """What would only be noticed after hours."""
    from .trainer import checkpoint_path
    if not saveto.endswith(".npz"):
        raise StorytellerError(f"{saveto}: expected a name that ends in .npz")
    _check_folder(saveto)
    checkpoint = checkpoint_path(saveto)
    if os.path.exists(checkpoint) and not (options.resume or options.overwrite):
        raise StorytellerError(f"{checkpoint}: a training of {saveto} was begun before; go on with --resume, or "
                               "start anew, losing it, with --overwrite")
    if options.plot:
        _check_folder(options.plot)
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            raise StorytellerError("--plot takes matplotlib, which is not installed: pip install "
                                   "'storyteller[plot]'") from error


def _train(task: Any, saveto: str, options: argparse.Namespace, measure: str, files: Sequence[str],
           before: Callable[[], None] = lambda: None) -> int:
    """Train; `before` is done once it is clear that the training can begin (or go on)."""
    from . import trainer
    run = trainer.Trainer(task, saveto, resume=options.resume)
    before()
    if options.overwrite and not options.resume:
        Path(trainer.checkpoint_path(saveto)).unlink(missing_ok=True)
    seconds = None if options.minutes is None else 60 * options.minutes
    summary = run.run(not options.quiet, options.updates, seconds)
    written = [*files, trainer.log_path(saveto), trainer.checkpoint_path(saveto)]
    if options.plot:
        trainer.plot_log(trainer.log_path(saveto), options.plot)
        written.append(options.plot)
    epochs = f"{summary.epochs} epoch{'' if summary.epochs == 1 else 's'} finished"
    print(f"{saveto}: {summary.updates:,} updates, {epochs}, {summary.seconds:,.0f} s "
          f"({summary.stopped}); {summary.words_per_second:,.0f} {task.unit}/s in this run")
    print(f"best held-out {measure}: {summary.best:.2f}" if summary.best is not None
          else "nothing was held out: the last parameters were written")
    print("written: " + ", ".join(file for file in written if os.path.exists(file)))
    return 0


def _counts(corpus: Any, n_words: int) -> np.ndarray:
    """How often each index occurs: (n_words,) int64; 0 is one for each text, 1 what is no word of the model."""
    counts = np.zeros(n_words, dtype=np.int64)
    for first in range(0, len(corpus.tokens), 1 << 22):
        tokens = corpus.tokens[first:first + (1 << 22)]
        counts += np.bincount(np.where(tokens < n_words, tokens, 1), minlength=n_words)
    counts[0] += int((corpus.lengths > 0).sum())
    return counts


# Skip-thoughts.

def _train_skipthoughts(options: argparse.Namespace) -> int:
    from . import corpus, tasks, vocabulary
    o, verbose, folder = _given(options, tasks.SKIPTHOUGHTS), not options.quiet, options.output
    names = ("bi_skip.npz", "uni_skip.npz")
    saveto, other = (os.path.join(folder, name) for name in (names if o["bidirectional"] else names[::-1]))
    inputs = [corpus.books(options.texts), corpus.books(options.heldout) if options.heldout else []]
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise StorytellerError(f"{folder}: cannot be made a folder ({error.strerror}); name another") from error
    _check_start(saveto, options)
    work = WorkFolder(os.path.join(folder, "skipthoughts.data"), verbose)
    for name, files in zip(("train", "heldout"), inputs):
        if files:
            work.texts(name, "sentences", files, lambda files=files: corpus.sentence_stream(files))
    dictionary = os.path.join(folder, "dictionary.pkl")
    if options.vocab is None and os.path.exists(other) and os.path.exists(dictionary):
        _log.info("using %s, which %s was trained with", dictionary, other)
        options.vocab = dictionary
    _init_vocabulary(options, tasks.skipthoughts_dictionary)
    words, counts = _words(options, o["n_words"], work.lines("train"), verbose)
    _check_shared(os.path.join(folder, "dictionary.txt"), other, _names(words))
    train = work.corpus("train", words)
    heldout = work.corpus("heldout", words) if inputs[1] else None
    frequencies = _counts(train, len(words) + 2) if o["n_samples"] else None
    task = tasks.SkipThoughtsTask(train, folder, _names(words), heldout, frequencies, options.init, **o)
    table = os.path.join(folder, "btable.npy" if o["bidirectional"] else "utable.npy")
    status = _train(task, saveto, options, "perplexity",
                    [saveto, f"{saveto}.pkl", table, os.path.join(folder, "dictionary.txt"), dictionary],
                    lambda: vocabulary.save_dictionary(dictionary, words, counts))
    print(f"{folder}: is complete, use it as --skipthoughts" if os.path.exists(other) else
          f"still to train into {folder}: {os.path.basename(other)}"
          + (", the same without --bidirectional" if o["bidirectional"] else ", the same with --bidirectional"))
    return status


def _check_shared(path: str, other: str, names: Sequence[str]) -> None:
    """uni_skip and bi_skip read one dictionary.txt."""
    if not (os.path.exists(other) and os.path.exists(path)):
        return
    from .. import text
    if text.read_lines(path) != list(names):
        raise StorytellerError(f"{path}: was written by the training of {other} and lists other words than this "
                               f"training has ({len(names)}); the two share one list, so train them with one "
                               "--vocab and --n-words, or into different folders")


def _encoder(options: argparse.Namespace) -> tuple[Any, str]:
    """The skip-thoughts model and a check number of its files."""
    from .. import backend, cache, skipthoughts
    from .. import config as configs
    if options.skipthoughts:
        models = tables = options.skipthoughts
        for name, flag in (("uni_skip.npz", ""), ("bi_skip.npz", " --bidirectional")):
            path = os.path.join(models, name)
            if not os.path.isfile(path):
                raise StorytellerError(f"{path}: no such file; thought vectors are made of both uni_skip and "
                                       "bi_skip, so train it: storyteller train skipthoughts TEXTS -o "
                                       f"{models}{flag}")
        device = "cpu"
    else:
        config = configs.load(options.config)
        config.require(["skmodels", "sktables"])
        models, tables = config.paths["skmodels"], config.paths["sktables"]
        device = backend.choose_device(config.cpu_mode)
    model = skipthoughts.load_model(models, tables, device, not options.quiet)
    files = [os.path.join(models, name) for name in skipthoughts.ENCODERS]
    files += [os.path.join(tables, name) for name in ("dictionary.txt", "utable.npy", "btable.npy")]
    return model, cache.fingerprint(*files)


# Decoder.

def _train_decoder(options: argparse.Namespace) -> int:
    from . import corpus, tasks, vocabulary
    o, verbose, saveto = _given(options, tasks.DECODER), not options.quiet, options.output
    inputs = [corpus.books(options.texts), corpus.books(options.heldout) if options.heldout else []]
    _check_start(saveto, options)
    _init_vocabulary(options, tasks.decoder_dictionary)
    least, most = _bounds(options, o["maxlen_w"])
    model, model_key = _encoder(options)
    work = WorkFolder(f"{saveto}.data", verbose)
    for name, files in zip(("train", "heldout"), inputs):
        if files:
            work.texts(name, f"passages {least} {most} of sentences", files,
                       lambda files=files: corpus.passages(files, least, most, tokenized=True, between="\t"))
    words, counts = _words(options, o["n_words"], work.lines("train"), verbose)
    o["n_words"] = min(o["n_words"], len(words) + 2)
    embeddings = None
    if options.embeddings:
        # What follows is the task's error, told before hours of encoding.
        if options.init:
            raise StorytellerError("--embeddings and --init both say what to start from: give one of them")
        embeddings = vocabulary.initial_vectors(vocabulary.load_word_vectors(options.embeddings), _names(words),
                                                o["dim_word"], o["seed"], options.embeddings)
    if options.init:
        tasks.check_decoder_init({**o, "dimctx": model.dim}, _names(words), options.init, saveto)
    data = []
    for name, files in zip(("train", "heldout"), inputs):
        if files:
            encoded = work.corpus(name, words)
            data.append((encoded, work.vectors(name, model, model_key, len(encoded), o["context"])))
    passages, vectors = data[0]
    frequencies = _counts(passages, o["n_words"]) if o["n_samples"] else None
    task = tasks.DecoderTask(passages, vectors, saveto, data[1] if len(data) > 1 else None, _names(words),
                             frequencies, embeddings, options.init, **o)
    dictionary = tasks.decoder_dictionary(saveto)
    return _train(task, saveto, options, "perplexity", [saveto, f"{saveto}.pkl", dictionary],
                  lambda: vocabulary.save_dictionary(dictionary, words, counts))


def _bounds(options: argparse.Namespace, maxlen: int) -> tuple[int, int]:
    most = maxlen - 1 if options.max_words is None else options.max_words
    if most >= maxlen:
        raise StorytellerError(f"--max-words is {most}, but maxlen_w {maxlen} leaves out passages of so many "
                               f"words: give a --maxlen-w of {most + 1} or a smaller --max-words")
    if options.min_words > most:
        raise StorytellerError(f"--min-words is {options.min_words}, more than the {most} words that a passage "
                               "may have: give a smaller --min-words or a larger --max-words and --maxlen-w")
    return options.min_words, most


# Joint embedding.

def _read_captions(path: str) -> list[str]:
    from .corpus import open_text
    captions = [line.strip() for line in open_text(path)]
    while captions and not captions[-1]:
        captions.pop()
    for number, caption in enumerate(captions, start=1):
        if not caption:
            raise StorytellerError(f"{path}: line {number} is blank; expected a caption, as each row of image "
                                   "features belongs to a line")
    return captions


def _read_features(path: str, captions: Sequence[str], caption_file: str) -> np.ndarray:
    from .. import files
    features = files.load_matrix(path, mmap=True)
    if len(features) != len(captions):
        hint = ("repeat each image's row for its five captions: numpy.repeat(features, 5, axis=0)"
                if 5 * len(features) == len(captions) else "check whether files were swapped")
        raise StorytellerError(f"{path}: has {len(features)} rows, but {caption_file} has {len(captions)} "
                               f"captions; expected one row of image features for each caption, so {hint}")
    for first in range(0, len(features), 4096):
        norms = np.linalg.norm(np.asarray(features[first:first + 4096], dtype=np.float32), axis=1)
        wrong = np.flatnonzero(~(abs(norms - 1) < _UNIT))
        if len(wrong):
            raise StorytellerError(f"{path}: row {first + wrong[0]} has norm {norms[wrong[0]]:.4g}; expected rows "
                                   "of unit norm: features / numpy.linalg.norm(features, axis=1, keepdims=True)")
    return features


def _train_embedding(options: argparse.Namespace) -> int:
    from . import tasks
    o, saveto = _given(options, tasks.EMBEDDING), options.output
    pairs = _pairs_of(options)
    _check_start(saveto, options)
    data = []
    for caption_file, feature_file in pairs:
        captions = _read_captions(caption_file)
        data.append((captions, _read_features(feature_file, captions, caption_file)))
    if len(data) > 1 and data[0][1].shape[1] != data[1][1].shape[1]:
        raise StorytellerError(f"{pairs[1][1]}: has rows of {data[1][1].shape[1]} numbers, and {pairs[0][1]} of "
                               f"{data[0][1].shape[1]}; expected features of one network")
    _init_vocabulary(options, tasks.embedding_dictionary)
    words, _ = _words(options, o["n_words"], data[0][0], not options.quiet)
    task = tasks.EmbeddingTask(*data[0], words, saveto, data[1] if len(data) > 1 else None, options.init, **o)
    return _train(task, saveto, options, "sum of R@1, R@5 and R@10 both ways (at most 600)",
                  [saveto, f"{saveto}.pkl", f"{saveto}.dictionary.pkl"])


def _pairs_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(captions, features) of the training and, where there are any, of the held-out pairs."""
    single = (options.captions, options.features, options.heldout_captions, options.heldout_features)
    if options.data is not None:
        if any(single):
            raise StorytellerError("--data names the captions and features already: give either --data or "
                                   "--captions and --features")
        names = [[os.path.join(options.data, f"{options.name}_{split}_{kind}") for kind in ("caps.txt", "ims.npy")]
                 for split in ("train", "dev")]
        found = [(captions, features) for captions, features in names]
        return found if any(map(os.path.exists, names[1])) else found[:1]
    captions, features, heldout_captions, heldout_features = single
    if not (captions and features):
        raise StorytellerError("the captions and their image features are not named: give --captions and "
                               "--features, or --data")
    if bool(heldout_captions) != bool(heldout_features):
        raise StorytellerError("one of --heldout-captions and --heldout-features is missing: give both or none")
    return [(captions, features)] + ([(heldout_captions, heldout_features)] if heldout_captions else [])


# Evaluation.

def _print(options: argparse.Namespace, values: Mapping[str, Any], lines: Iterable[str]) -> int:
    if options.json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        for line in lines:
            print(line)
    return 0


def _evaluate_retrieval(options: argparse.Namespace) -> int:
    from .. import embedding, evaluation
    model = embedding.load_model(options.model)
    captions = _read_captions(options.captions)
    if len(captions) % evaluation.PER_IMAGE:
        raise StorytellerError(f"{options.captions}: has {len(captions)} captions; expected five for each image, "
                               "in a row")
    features = _read_features(options.features, captions, options.captions)
    sentences = embedding.encode_sentences(model, captions, not options.quiet)
    images = embedding.encode_images(model, features)
    values: dict[str, Any] = {"images": len(captions) // evaluation.PER_IMAGE, "captions": len(captions)}
    lines = [f"{values['images']} images, {values['captions']} captions"]
    for name, rank in (("i2t", evaluation.i2t), ("t2i", evaluation.t2i)):
        r1, r5, r10, median = rank(images, sentences)
        values[name] = {"R@1": r1, "R@5": r5, "R@10": r10, "median rank": median}
        lines.append(f"{name}: R@1 {r1:.1f}, R@5 {r5:.1f}, R@10 {r10:.1f}, median rank {median:.0f}")
    return _print(options, values, lines)


def perplexity(dec: Any, sequences: Sequence[np.ndarray], vectors: np.ndarray, batch_size: int = 64,
               verbose: bool = False) -> tuple[float, int]:
    """Perplexity of a decoder on passages, by its full softmax.

    Parameters
    ----------
    dec : storyteller.decoder.Decoder
    sequences : sequence of arrays (words,) int
        Word indices of the passages, without ends.
    vectors : array (len(sequences), dimctx) float32
        Their thought vectors.
    batch_size : int
        Passages that are read side by side.
    verbose : bool
        Show progress (on a terminal only).

    Returns
    -------
    perplexity : float
        exp of the mean negative log-likelihood of a word.
    words : int
        How many were predicted, the end of each passage included.
    """
    from ..progress import progress_bar
    from ..text import sorted_batches
    lengths = np.array([len(sequence) for sequence in sequences])
    total = 0.0
    with progress_bar(len(sequences), "measuring perplexity", "passage", verbose) as bar:
        for rows in sorted_batches(lengths, batch_size):
            words = np.zeros((len(rows), lengths[rows[0]] + 1), dtype=np.int64)
            for i, row in enumerate(rows):
                words[i, :lengths[row]] = sequences[row]
            state, last = dec.f_init(vectors[rows]), np.full(len(rows), -1, dtype=np.int64)
            for step in range(words.shape[1]):
                live = int((lengths[rows] >= step).sum())  # the longest come first
                logits, state = dec.step(last[:live], state[:live])
                last = words[:live, step]
                top = logits.max(axis=1, keepdims=True)
                total += float((np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
                                - logits[np.arange(live), last]).sum(dtype=np.float64))
            bar.update(len(rows))
    n_words = int(lengths.sum()) + len(lengths)
    with np.errstate(over="ignore"):
        return float(np.exp(total / n_words)), n_words


def _evaluate_decoder(options: argparse.Namespace) -> int:
    from .. import decoder, evaluation, files, text
    from ..progress import progress_bar
    from . import corpus, tasks
    if options.reconstruct < 0:
        raise StorytellerError(f"--reconstruct is {options.reconstruct}: expected at least 0")
    dictionary = options.dictionary or tasks.decoder_dictionary(options.model)
    dec = decoder.load_model(options.model, dictionary)
    least, most = _bounds(options, int(dec.options.get("maxlen_w") or 100))
    model, _ = _encoder(options)
    if model.dim != dec.dimctx:
        raise StorytellerError(f"{options.model}: reads thought vectors of {dec.dimctx} numbers, but the "
                               f"skip-thoughts model gives {model.dim}; use the one that the decoder was trained "
                               "with")
    stream = corpus.passages(options.texts, least, most, tokenized=True, between="\t")
    passages = list(itertools.islice(stream, options.passages))
    # The vectors that it was trained to write from.
    vectors = _encoded(model, passages, dec.options.get("context", "passage"), verbose=not options.quiet)
    passages = [passage.replace("\t", " ") for passage in passages]
    words = files.load_dictionary(dictionary)
    sequences = [np.array(text.word_indices(passage.split(), words, len(dec.vocabulary)), dtype=np.int64)
                 for passage in passages]
    value, n_words = perplexity(dec, sequences, vectors, verbose=not options.quiet)
    unknown = sum(int((sequence == 1).sum()) for sequence in sequences) / n_words
    values: dict[str, Any] = {"passages": len(passages), "words": n_words, "unknown": 100 * unknown,
                              "perplexity": value}
    lines = [f"{len(passages)} passages, {n_words:,} words with ends, {100 * unknown:.2f} % of them UNK",
             f"perplexity {value:.2f} a word"]
    again = []
    with progress_bar(min(len(passages), options.reconstruct), "writing passages again", "passage",
                      not options.quiet) as bar:
        for vector in vectors[:options.reconstruct]:
            again.append(decoder.run_sampler(dec, vector, options.beam_width, maxlen=most))
            bar.update()
    if again:
        values["reconstructed"] = len(again)
        values["bleu"] = evaluation.bleu(passages[:len(again)], again)
        values["examples"] = [{"passage": a, "again": b} for a, b in zip(passages[:3], again)]
        lines += [f"BLEU {values['bleu']:.2f} of {len(again)} passages written from their own vectors, beam width "
                  f"{options.beam_width}"]
        for example in values["examples"]:
            lines += ["", f"  passage: {example['passage']}", f"  again:   {example['again']}"]
    return _print(options, values, lines)


def _evaluate_neighbours(options: argparse.Namespace) -> int:
    from .. import embedding, layers, skipthoughts
    from . import corpus
    model, _ = _encoder(options)
    stream = (sentence for sentence in corpus.sentence_stream(options.corpus) if sentence)
    sentences = list(dict.fromkeys(itertools.islice(stream, options.limit)))
    if not sentences:
        raise StorytellerError(f"{options.corpus}: holds no sentences; give running text")
    vectors = layers.unit_rows(skipthoughts.encode(model, sentences, verbose=not options.quiet))
    queries = layers.unit_rows(skipthoughts.encode(model, options.sentences, verbose=False))
    found, lines = [], []
    for sentence, query in zip(options.sentences, queries):
        best, scores = embedding.nearest(vectors, query, options.k)
        rows = [{"sentence": sentences[i], "cosine": float(score)} for i, score in zip(best, scores)]
        found.append({"query": sentence, "nearest": rows})
        lines += [sentence, *(f"  {row['cosine']:.4f}  {row['sentence']}" for row in rows)]
    return _print(options, {"sentences": len(sentences), "queries": found}, lines)


def _features_of(options: argparse.Namespace, *texts: Sequence[str]) -> list[np.ndarray]:
    """Thought vectors of several lists of texts."""
    from .. import skipthoughts
    model, _ = _encoder(options)
    vectors = skipthoughts.encode(model, list(itertools.chain(*texts)), verbose=not options.quiet)
    return np.split(vectors, np.cumsum([len(part) for part in texts])[:-1])


def _accuracy(options: argparse.Namespace, name: str, result: dict[str, Any]) -> int:
    f1 = f", F1 {result['f1']:.1f}" if "f1" in result else ""
    return _print(options, {"task": name, **result},
                  [f"{name}: accuracy {result['accuracy']:.1f}{f1} of {result['n']}"])


def _evaluate_trec(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation._need_sklearn()
    (texts, labels), (test_texts, test_labels) = map(evaluation.load_trec, (options.train, options.test))
    X, test_X = _features_of(options, texts, test_texts)
    return _accuracy(options, "TREC", evaluation.classify(X, labels, options.folds, test_vectors=test_X,
                                                          test_labels=test_labels))


def _evaluate_binary(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation._need_sklearn()
    texts, labels = evaluation.load_binary(options.positive, options.negative)
    X, = _features_of(options, texts)
    return _accuracy(options, "two kinds", evaluation.classify(X, labels, options.folds))


def _evaluate_msrp(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation._need_sklearn()
    (a, b, labels), (c, d, test_labels) = map(evaluation.load_msrp, (options.train, options.test))
    va, vb, vc, vd = _features_of(options, a, b, c, d)
    return _accuracy(options, "MSRP", evaluation.classify(
        evaluation.pair_features(va, vb), labels, options.folds, test_vectors=evaluation.pair_features(vc, vd),
        test_labels=test_labels))


def _evaluate_sick(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation._need_sklearn()
    (a, b, scores, _), (c, d, test_scores, _) = map(evaluation.load_sick, (options.train, options.test))
    va, vb, vc, vd = _features_of(options, a, b, c, d)
    result = evaluation.relatedness(evaluation.pair_features(va, vb), scores, evaluation.pair_features(vc, vd),
                                    test_scores, options.folds)
    return _print(options, {"task": "SICK", **result, "n": len(c)}, [
        f"SICK: Pearson {result['pearson']:.4f}, Spearman {result['spearman']:.4f}, MSE {result['mse']:.4f} of "
        f"{len(c)} pairs"])
