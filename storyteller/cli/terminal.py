"""Standard input, output and error: what a command reads and prints there."""
from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, BinaryIO, TextIO

from ..errors import StorytellerError
from ..progress import printable


def say(text: str) -> None:
    """Print text on standard output.

    Raises
    ------
    StorytellerError
        If it cannot be written, as on a full disk.
    BrokenPipeError
        If nobody reads it any more.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        print(printable(text, stream), file=stream, flush=True)
    except OSError as error:
        _give_up(stream)
        if isinstance(error, BrokenPipeError):
            raise
        raise StorytellerError(f"standard output cannot be written ({error.strerror}); make space or send it "
                               "elsewhere") from error


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON on standard output; numbers that JSON cannot express (NaN, infinity) are null."""
    value = json.loads(json.dumps(value), parse_constant=lambda name: None)
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    # What the stream cannot express is escaped, and so is not lost.
    say(text if printable(text, sys.stdout) == text else json.dumps(value, indent=indent, allow_nan=False))


def complain(text: str) -> None:
    """Print an error on standard error."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        print(printable(f"storyteller: {text}", stream), file=stream, flush=True)
    except OSError:     # nobody to tell
        _give_up(stream)


def standard_input(what: str) -> BinaryIO:
    """Standard input as a binary file."""
    if sys.stdin is None:
        raise StorytellerError(f"standard input is closed: expected {what} there, or the name of a file")
    return sys.stdin.buffer


def flush() -> bool:
    """Write what is left in the buffer of standard output; False where it cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as error:
        _give_up(sys.stdout)
        complain(f"standard output cannot be written ({error.strerror})")
        return False
    return True


def check_open() -> None:
    """Refuse to work for nobody."""
    if sys.stdout is None:
        raise StorytellerError("standard output is closed, so nobody would see what is told: send it somewhere, such "
                               "as to /dev/null")


def occupy_closed() -> None:
    """Open the null device in place of closed standard streams, so that no file gets their numbers."""
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return


class PrintableFormatter(logging.Formatter):
    """Messages as a terminal may be given them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Send what is still in a stream's buffer nowhere, or the end of the process would complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):   # it is no file
        pass
