"""``storyteller encode``: lines of text to skip-thought vectors."""
from __future__ import annotations

import argparse

from ..progress import counted
from .arguments import add_device, check_output, new_parser, whole
from .terminal import say, standard_input


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller encode", "Turn every line of a text file into a skip-thought vector.")
    made.add_argument("text", metavar="FILE", nargs="?", default="-",
                        help="text file, one text a line (default: standard input)")
    made.add_argument("-o", "--output", required=True, metavar="FILE.npy",
                        help="array (lines, dim) float32")
    made.add_argument("--no-norm", action="store_true", help="do not scale the uni and bi parts to unit norm")
    made.add_argument("--eos", action="store_true", help="read an <eos> after the last word")
    made.add_argument("--batch-size", type=whole(), default=128, metavar="N", help="(default: %(default)s)")
    add_device(made)
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Write the vectors."""
    import numpy as np

    from .. import files, skipthoughts, text
    from ..generate import Models
    check_output(options.output, [options.text])
    lines = text.read_lines(standard_input("text") if options.text == "-" else options.text)
    z = Models(options.config, not options.quiet, options.device)
    vectors = skipthoughts.encode(z["stv"], lines, use_norm=not options.no_norm, use_eos=options.eos,
                                  batch_size=options.batch_size, verbose=not options.quiet)
    with files.write_atomically(options.output) as file:
        np.save(file, vectors, allow_pickle=False)
    say(f"{options.output}: {counted(len(vectors), 'vector')}, {vectors.shape[1]}-dimensional")
    return 0
