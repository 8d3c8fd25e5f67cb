"""What is shown while work goes on: progress bars, messages, and text that is safe on a terminal."""
from __future__ import annotations

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters but tab and newline, characters that turn the direction of text, and halves of surrogate pairs
# (bytes of file names that are no UTF-8).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


# Python's filters of warnings belong to all threads: of two that change them at once, one may leave them changed.
_filters = threading.RLock()
if hasattr(os, "register_at_fork"):     # a child of a fork would wait for ever for a thread that it does not have
    os.register_at_fork(before=_filters.acquire, after_in_parent=_filters.release, after_in_child=_filters.release)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Show no warnings (of Python's :mod:`warnings`) meanwhile.  One thread at a time is let in."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def printable(text: str, stream: TextIO | None = None) -> str:
    """Text as a terminal may be given it.

    Parameters
    ----------
    text : str
        Such as a caption or the name of a file, which may hold anything.
    stream : text file, optional
        What its encoding cannot express is replaced as well.

    Returns
    -------
    str
        The text, with a replacement character for each control character but tab and newline.
    """
    text = _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)
    encoding = getattr(stream, "encoding", None)
    return text.encode(encoding, "replace").decode(encoding) if encoding else text


def counted(n: int, noun: str) -> str:
    """A number with what is counted: '1 file', '2,000 files'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def inform(logger: logging.Logger, message: str, *values: Any) -> None:
    """Log a message for the user at level INFO, or show it where logging is not configured.

    A notebook or a plain script shows it so without any preparation; a program that configures
    logging, by handlers or by a level above WARNING, decides itself.
    """
    if logger.hasHandlers():
        logger.info(message, *values)
    elif sys.stderr is not None and logger.getEffectiveLevel() <= logging.WARNING:
        from tqdm import tqdm
        tqdm.write(printable(message % values, sys.stderr), file=sys.stderr)


def progress_bar(total: int | None, description: str, unit: str, verbose: bool = True, initial: int = 0) -> Any:
    """A bar over ``total`` steps (None: not known), as a context manager with ``update(n)``.

    Silent unless ``verbose``, and in a notebook or with standard error on a terminal.
    """
    notebook = "ipykernel" in sys.modules
    if notebook:
        with without_warnings():    # that without ipywidgets the bar is one of text
            from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    hidden = not verbose or sys.stderr is None
    return tqdm(total=total, desc=description, unit=f" {unit}s", initial=initial, smoothing=0.05, leave=False,
                disable=hidden or (False if notebook else None))    # None: unless on a terminal
