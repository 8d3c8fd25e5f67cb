"""``storyteller evaluate``: measure a model."""
from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError
from ..progress import counted
from .arguments import (
    TEXTS,
    add_bounds,
    add_device,
    add_skipthoughts,
    bounds,
    device_of,
    new_parser,
    subcommands,
    whole,
)
from .terminal import say, say_json


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller evaluate", "Measure a model.  `storyteller evaluate WHAT --help` lists what "
                      "is needed.")
    add = subcommands(made, "WHAT")
    retrieval = add("retrieval", "Recall and median rank of a joint embedding, from images to sentences (i2t) and "
                    "from sentences to images (t2i).", _evaluate_retrieval)
    retrieval.add_argument("--model", required=True, metavar="NAME.npz", help="joint embedding")
    retrieval.add_argument("--captions", required=True, metavar="FILE", help="captions, one a line, those of "
                           "an image in a row; equally many for each image")
    retrieval.add_argument("--features", required=True, metavar="FILE.npy", help="image features: one row of unit "
                           "norm for each caption, or for each image")

    decoder = add("decoder", "Perplexity of a decoder on passages, and how well it writes them again from their "
                  "own vectors (BLEU).", _evaluate_decoder)
    decoder.add_argument("texts", metavar="TEXT", nargs="+", help=TEXTS)
    decoder.add_argument("--model", required=True, metavar="NAME.npz", help="decoder")
    decoder.add_argument("--dictionary", metavar="FILE.pkl", help="(default: NAME_dictionary.pkl)")
    add_skipthoughts(decoder)
    add_bounds(decoder)
    decoder.add_argument("--passages", type=whole(), default=1000, metavar="N",
                         help="measure perplexity on the first N passages (default: %(default)s)")
    decoder.add_argument("--reconstruct", type=whole(0), default=20, metavar="N",
                         help="write N of them again; 0: none (default: %(default)s)")
    decoder.add_argument("--beam-width", type=whole(), default=5, metavar="N",
                         help="(default: %(default)s)")

    neighbours = add("neighbours", "The sentences of a corpus that are nearest to sentences of yours.",
                     _evaluate_neighbours)
    neighbours.add_argument("sentences", metavar="SENTENCE", nargs="+")
    add_skipthoughts(neighbours)
    neighbours.add_argument("--corpus", required=True, metavar="TEXT", help="a text file, or a folder of them")
    neighbours.add_argument("-k", type=whole(), default=5, metavar="N", help="(default: %(default)s)")
    neighbours.add_argument("--limit", type=whole(), default=20000, metavar="N",
                            help="read the first N sentences (default: %(default)s)")

    parsers = [retrieval, decoder, neighbours]
    for name, aliases, text, files, run in (
            ("trec", (), "TREC: kinds of questions.", ("TRAIN", "TEST"), _evaluate_trec),
            ("mr", ("cr", "subj", "mpqa"), "MR, CR, SUBJ, MPQA: a file of positive and one of negative sentences, "
             "cross-validated.", ("POSITIVE", "NEGATIVE"), _evaluate_binary),
            ("msrp", (), "MSRP: paraphrases.", ("TRAIN", "TEST"), _evaluate_msrp),
            ("sick", (), "SICK: relatedness of sentences.", ("TRAIN", "TEST"), _evaluate_sick)):
        one = add(name, f"{text}  A linear classifier on frozen vectors (needs storyteller[evaluate]).", run,
                   aliases=aliases)
        for file in files:
            one.add_argument(file.lower(), metavar=file)
        one.add_argument("--folds", type=whole(2), default=10, metavar="N", help="of the cross-validation "
                          "(default: %(default)s)")
        add_skipthoughts(one)
        parsers.append(one)
    for one in parsers:
        add_device(one)
        one.add_argument("--json", action="store_true", help="print JSON")
    return made


def _show(options: argparse.Namespace, values: Mapping[str, Any], lines: Iterable[str]) -> int:
    if options.json:
        say_json(values)
    else:
        for line in lines:
            say(line)
    return 0


def _evaluate_retrieval(options: argparse.Namespace) -> int:
    from .. import embedding, evaluation, text
    from ..training import prepare
    model = embedding.load_model(options.model, device_of(options))
    captions = text.read_captions(options.captions, aligned=True)
    features = prepare.read_features(options.features, captions, options.captions, shared=True)
    per_image = evaluation.captions_per_image(features, len(captions))
    images = embedding.encode_images(model, features)       # first, as they may not fit the model
    sentences = embedding.encode_sentences(model, captions, not options.quiet)
    values: dict[str, Any] = {"images": len(captions) // per_image, "captions": len(captions)}
    lines = [f"{counted(values['images'], 'image')}, {counted(len(captions), 'caption')}"]
    for name, rank in (("i2t", evaluation.i2t), ("t2i", evaluation.t2i)):
        r1, r5, r10, median = rank(images, sentences, per_image=per_image)
        values[name] = {"R@1": r1, "R@5": r5, "R@10": r10, "median rank": median}
        lines.append(f"{name}: R@1 {r1:.1f}, R@5 {r5:.1f}, R@10 {r10:.1f}, median rank {median:.0f}")
    return _show(options, values, lines)


def _evaluate_decoder(options: argparse.Namespace) -> int:
    from .. import decoder, evaluation, files, text
    from ..progress import progress_bar
    from ..training import corpus, prepare, tasks
    dictionary = options.dictionary or tasks.decoder_dictionary(options.model)
    dec = decoder.load_model(options.model, dictionary, device_of(options))
    least, most = bounds(options, int(dec.options.get("maxlen_w") or 100))
    model, _ = prepare.load_encoder(options.skipthoughts, options.config, not options.quiet, device_of(options))
    if model.dim != dec.dimctx:
        raise StorytellerError(f"{options.model}: reads {dec.dimctx}-dimensional thought vectors, but the "
                               f"skip-thoughts model gives {model.dim}-dimensional ones; use the one that the decoder "
                               "was trained with")
    stream = corpus.passages(options.texts, least, most, tokenized=True, between="\t")
    passages = list(itertools.islice(stream, options.passages))
    # The vectors that it was trained to write from.
    vectors = prepare.encode_passages(model, passages, dec.options.get("context", "passage"), verbose=not options.quiet)
    passages = [passage.replace("\t", " ") for passage in passages]
    words = files.load_dictionary(dictionary)
    sequences = [np.array(text.word_indices(passage.split(), words, len(dec.vocabulary)), dtype=np.int64)
                 for passage in passages]
    value, n_words = evaluation.perplexity(dec, sequences, vectors, verbose=not options.quiet)
    unknown = sum(int((sequence == 1).sum()) for sequence in sequences) / n_words
    values: dict[str, Any] = {"passages": len(passages), "words": n_words, "unknown": 100 * unknown,
                              "perplexity": value}
    lines = [f"{counted(len(passages), 'passage')}, {n_words:,} words with ends, {100 * unknown:.2f} % of them UNK",
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
        lines += [f"BLEU {values['bleu']:.2f} of {counted(len(again), 'passage')} written from their own vectors, "
                  f"beam width {options.beam_width}"]
        for example in values["examples"]:
            lines += ["", f"  passage: {example['passage']}", f"  again:   {example['again']}"]
    return _show(options, values, lines)


def _evaluate_neighbours(options: argparse.Namespace) -> int:
    from .. import embedding, layers, skipthoughts
    from ..training import corpus, prepare
    model, _ = prepare.load_encoder(options.skipthoughts, options.config, not options.quiet, device_of(options))
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
    return _show(options, {"sentences": len(sentences), "queries": found}, lines)


def _features_of(options: argparse.Namespace, *texts: Sequence[str], use_eos: bool = False) -> list[np.ndarray]:
    """Thought vectors of several lists of texts."""
    from .. import skipthoughts
    from ..training import prepare
    model, _ = prepare.load_encoder(options.skipthoughts, options.config, not options.quiet, device_of(options))
    vectors = skipthoughts.encode(model, list(itertools.chain(*texts)), verbose=not options.quiet,
                                  use_eos=use_eos)
    return np.split(vectors, np.cumsum([len(part) for part in texts])[:-1])


def _accuracy(options: argparse.Namespace, name: str, result: dict[str, Any]) -> int:
    f1 = f", F1 {result['f1']:.1f}" if "f1" in result else ""
    return _show(options, {"task": name, **result},
                  [f"{name}: accuracy {result['accuracy']:.1f}{f1} of {result['n']}"])


def _evaluate_trec(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation.need_sklearn()
    (texts, labels), (test_texts, test_labels) = map(evaluation.load_trec, (options.train, options.test))
    evaluation.check_labels(labels, options.folds)
    X, test_X = _features_of(options, texts, test_texts)
    return _accuracy(options, "TREC", evaluation.classify(X, labels, options.folds, test_vectors=test_X,
                                                          test_labels=test_labels))


def _evaluate_binary(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation.need_sklearn()
    texts, labels = evaluation.load_binary(options.positive, options.negative)
    evaluation.check_labels(labels, options.folds)
    X, = _features_of(options, texts)
    return _accuracy(options, options.what.upper(), evaluation.classify(X, labels, options.folds))


def _evaluate_msrp(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation.need_sklearn()
    (a, b, labels), (c, d, test_labels) = map(evaluation.load_msrp, (options.train, options.test))
    evaluation.check_labels(labels, options.folds)
    va, vb, vc, vd = _features_of(options, a, b, c, d)
    return _accuracy(options, "MSRP", evaluation.classify(
        evaluation.pair_features(va, vb), labels, options.folds, test_vectors=evaluation.pair_features(vc, vd),
        test_labels=test_labels))


def _evaluate_sick(options: argparse.Namespace) -> int:
    from .. import evaluation
    evaluation.need_sklearn()
    (a, b, scores, _), (c, d, test_scores, _) = map(evaluation.load_sick, (options.train, options.test))
    evaluation.check_scores(scores, options.folds)
    # The original's eval_sick reads an end mark, unlike its other tasks.
    va, vb, vc, vd = _features_of(options, a, b, c, d, use_eos=True)
    result = evaluation.relatedness(evaluation.pair_features(va, vb), scores, evaluation.pair_features(vc, vd),
                                    test_scores, options.folds)
    correlation = f"Pearson {result['pearson']:.4f}, Spearman {result['spearman']:.4f}"
    if math.isnan(result["pearson"]):
        correlation = "no correlation, as the scores of the test set, or those that were told, are all the same"
    return _show(options, {"task": "SICK", **result, "n": len(c)}, [
        f"SICK: {correlation}, MSE {result['mse']:.4f} of {counted(len(c), 'pair')}"])
