"""The one exception that tells a user what went wrong and what to do about it."""
from __future__ import annotations


class StorytellerError(Exception):
    """A mistake in a file, a setting or an argument, told in one sentence.

    The message names the file, setting or argument, says what was expected, and
    what to do next.  Everything that a user can get wrong raises this class, so
    that one ``except`` serves a program that wants to go on.
    """
