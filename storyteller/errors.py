"""The one exception that tells a user what went wrong and what to do about it, and the checks of arguments."""
from __future__ import annotations

import math
import numbers
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:   # the package itself is imported without NumPy
    import numpy as np


class StorytellerError(Exception):
    """A mistake in a file, a setting or an argument, told in one sentence.

    The message names the file, setting or argument, says what was expected, and
    what to do next.  Everything that a user can get wrong raises this class, so
    that one ``except`` serves a program that wants to go on.
    """


MANY = 10 ** 9      # more than any count that makes sense
MOST_CANDIDATES = 1000      # a mistyped number shall not run for an hour


def check_count(name: str, value: Any, least: int = 1, most: int = MANY) -> int:
    """A whole number from `least` to `most`, such as a beam width or a seed.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : int or NumPy integer

    Returns
    -------
    int

    Raises
    ------
    StorytellerError
        If it is something else; True and 2.0 are, too.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise StorytellerError(f"{name} is {shown(value)}: expected a whole number of at least {least}")
    if int(value) > most:
        raise StorytellerError(f"{name} is {shown(value)}: expected at most {most}")
    return int(value)


def check_number(name: str, value: Any, above: float = -math.inf, most: float = math.inf) -> float:
    """A finite number above `above` and up to `most`, such as a temperature.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : int, float or NumPy number

    Returns
    -------
    float

    Raises
    ------
    StorytellerError
        If it is something else.
    """
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with suppress(OverflowError):       # 10 ** 400
            number = float(value)
    if not (math.isfinite(number) and above < number <= most):
        wanted = " ".join(["a number", *([f"above {above:g}"] if above > -math.inf else []),
                           *([f"up to {most:g}"] if most < math.inf else [])])
        raise StorytellerError(f"{name} is {shown(value)}: expected {wanted}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False, also as 1 or 0; StorytellerError for anything else."""
    import numpy as np
    if not (isinstance(value, (bool, int, np.bool_)) and value in (0, 1)):
        raise StorytellerError(f"{name} is {shown(value)}: expected True or False")
    return bool(value)


def check_floats(name: str, value: Any, shape: tuple[int | None, ...] | None = None, hint: str = "") -> np.ndarray:
    """An array of finite float32 of a shape.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : array_like
    shape : tuple, optional
        None for any, also for one of its lengths.
    hint : str
        What to do about another shape.

    Returns
    -------
    array of that shape, float32, C-contiguous

    Raises
    ------
    StorytellerError
        If it is something else than numbers, of another shape, or holds NaN or infinite values.
    """
    import numpy as np
    try:
        # As it is first: None and texts would become NaN and numbers.
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
    except (TypeError, ValueError, OverflowError):
        raise StorytellerError(f"{name} is {shown(value)}: expected an array of numbers") from None
    if shape is not None and (array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape))):
        wanted = ", ".join("n" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
        raise StorytellerError(f"{name} has shape {array.shape}: expected ({wanted}); {hint}")
    if not np.isfinite(array).all():
        raise StorytellerError(f"{name} holds NaN or infinite values: check what it was made from")
    return array


def shown(value: Any, most: int = 60) -> str:
    """A value as a message shows it: its repr on one line of bounded length, an array's shape alone."""
    import numpy as np
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of shape {value.shape}, {value.dtype}"
    if isinstance(value, (str, bytes)):
        value = value[:most]
    elif not isinstance(value, (int, float, complex, np.generic, np.ndarray, type(None))):
        return f"of type {type(value).__name__}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 200 else "a huge number"
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most - 3] + "..."
