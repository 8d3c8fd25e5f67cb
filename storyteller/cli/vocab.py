"""``storyteller vocab``: number the words of texts."""
from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable

from ..progress import counted
from .arguments import TEXTS, check_output, new_parser, whole
from .terminal import say


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller vocab", "Number the words of texts by descending frequency, for trainings that "
                      "share a dictionary.")
    add = made.add_argument
    add("texts", metavar="TEXT", nargs="+", help=TEXTS)
    add("-o", "--output", required=True, metavar="DICTIONARY.pkl", help="words and counts, as the original writes "
        "them; use it as --vocab")
    add("--max-words", type=whole(), metavar="N", help="number only the N most frequent words (a model has "
        "two more, <eos> and UNK)")
    add("--min-count", type=whole(), default=1, metavar="N", help="number only words that occur at least N "
        "times (default: %(default)s)")
    add("--captions", action="store_true", help="the texts are captions: one a line, words apart by blanks")
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Write the dictionary."""
    from .. import text
    from ..training import corpus, vocabulary
    files = corpus.books(options.texts)
    check_output(options.output, files)
    if options.captions:
        lines = itertools.chain.from_iterable(map(text.read_captions, files))
        texts: Iterable[str] = map(text.normalize, lines)
    else:
        texts = corpus.sentence_stream(files)
    words, counts = vocabulary.build(texts, options.max_words, options.min_count, not options.quiet)
    vocabulary.save_dictionary(options.output, words, counts)
    say(f"{options.output}: {len(words):,} of {counted(len(counts), 'different word')}; they are "
        f"{100 * vocabulary.coverage(words, counts):.2f} % of {sum(counts.values()):,} running words")
    return 0
