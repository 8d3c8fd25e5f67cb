"""Gradients, clipping and Adam: from a cost to the updates of a training function.

>>> gradients = optimise.gradients(cost, p)                                     # doctest: +SKIP
>>> scale, norm = optimise.clip_scale(gradients, 5.)                            # doctest: +SKIP
>>> adam = optimise.adam(p, gradients, scale, optimise.warmup_cosine(1e-3, 500, 20000)) # doctest: +SKIP
>>> step = backend.train_function(inputs, [cost, norm], adam.updates)           # doctest: +SKIP
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StorytellerError

Variable = Any
Schedule = Callable[[Variable], Variable]


@dataclass(frozen=True)
class Optimiser:
    """What an optimiser does and what it remembers.

    Attributes
    ----------
    updates : list of pairs of variables
        For :func:`storyteller.backend.train_function`.
    state : dict of str to shared variables
        ``step`` (int64, updates done), and ``m_NAME`` and ``v_NAME`` for every parameter: saved and set
        again (get_value, set_value), training goes on exactly where it was.
    """

    updates: list[tuple[Variable, Variable]]
    state: dict[str, Variable]


def gradients(cost: Variable, p: Mapping[str, Variable]) -> dict[str, Variable]:
    """Gradients of a cost by every parameter, under the parameters' names."""
    from .. import backend as be
    return dict(zip(p, be.grad(cost, list(p.values()))))


def clip_scale(gradients: Mapping[str, Variable], grad_clip: float | None) -> tuple[Variable, Variable]:
    """The factor that brings the global norm of all gradients down to ``grad_clip`` (Pascanu et al. 2013,
    arXiv:1211.5063, section 3.2).

    Parameters
    ----------
    gradients : mapping of str to variables
    grad_clip : float or None
        None or 0: no clipping.

    Returns
    -------
    scale : variable ()
        For the optimisers below, or to multiply by.
    norm : variable ()
        The global norm before clipping.
    """
    from .. import backend as be
    if grad_clip is not None and not grad_clip >= 0:
        raise StorytellerError(f"grad_clip is {grad_clip}: expected a norm, or 0 for no clipping")
    squares = be.sum_of_squares(*gradients.values())
    norm = be.sqrt(squares)
    if not grad_clip:
        return be.zeros_like(norm) + np.float32(1), norm
    clip = np.float32(grad_clip)
    return be.switch(squares > clip * clip, clip / norm, np.float32(1)), norm


def constant(rate: float) -> Schedule:
    """The same learning rate always."""
    return lambda step: np.float64(rate)


def warmup(rate: float, steps: int) -> Schedule:
    """A rate that rises in a straight line over the first ``steps`` updates, then stays."""
    from .. import backend as be
    return lambda step: np.float64(rate) * be.minimum(step / np.float64(max(1, steps)), np.float64(1))


def warmup_cosine(rate: float, steps: int, total: int, last: float = 0.0) -> Schedule:
    """:func:`warmup`, then half a cosine down to ``last`` times the rate at update ``total`` (Loshchilov &
    Hutter 2017, arXiv:1608.03983)."""
    from .. import backend as be
    if total <= steps:
        raise StorytellerError(f"the learning rate warms up for {steps} updates of {total}: expected fewer")

    def schedule(step: Variable) -> Variable:
        done = (be.maximum(step, np.float64(steps)) - np.float64(steps)) / np.float64(total - steps)
        wave = 0.5 + 0.5 * be.cos(np.float64(np.pi) * be.minimum(done, np.float64(1)))
        return warmup(rate, steps)(step) * (last + (1 - last) * wave)
    return schedule


def adam_2015(p: Mapping[str, Variable], gradients: Mapping[str, Variable], scale: Variable,
              learning_rate: float | Schedule = 0.0002, b1: float = 0.1, b2: float = 0.001,
              epsilon: float = 1e-8) -> Optimiser:
    """The original's Adam, literally.

    b1 and b2 weigh the *new* gradient, as in the first version of the paper, but its corrections of the
    first steps take them as if they weighed the old average:
    rate_t = rate sqrt(1 - b2^t) / (1 - b1^t).  So the first step is 3.5 rates long, and steps of full
    length come at once.

    Parameters
    ----------
    p : mapping of str to shared variables
        From :func:`storyteller.training.losses.parameters`: changed in place.
    gradients : mapping of str to variables
    scale : variable ()
        Of :func:`clip_scale`.
    learning_rate : float or schedule
        The skip-thoughts and decoder trainers used 0.0002 whatever they were told.
    b1, b2, epsilon : float

    Returns
    -------
    Optimiser
    """
    def corrected(rate: Variable, step: Variable) -> tuple[Variable, float]:
        from .. import backend as be
        return rate * be.sqrt(1 - np.float64(b2) ** step) / (1 - np.float64(b1) ** step), epsilon
    return _adam(p, gradients, scale, learning_rate, b1, b2, corrected)


def adam(p: Mapping[str, Variable], gradients: Mapping[str, Variable], scale: Variable,
         learning_rate: float | Schedule = 0.001, beta1: float = 0.9, beta2: float = 0.999,
         epsilon: float = 1e-8) -> Optimiser:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

    Parameters
    ----------
    p, gradients, scale
        As in :func:`adam_2015`.
    learning_rate : float or schedule
        See :func:`warmup_cosine`.
    beta1, beta2 : float
        Weights of the *old* averages.
    epsilon : float

    Returns
    -------
    Optimiser
    """
    def corrected(rate: Variable, step: Variable) -> tuple[Variable, Variable]:
        from .. import backend as be
        root = be.sqrt(1 - np.float64(beta2) ** step)
        return rate * root / (1 - np.float64(beta1) ** step), epsilon * root
    return _adam(p, gradients, scale, learning_rate, 1 - beta1, 1 - beta2, corrected)


def averaged(p: Mapping[str, Variable], optimiser: Optimiser, decay: float) -> dict[str, Variable]:
    """Exponential averages of the parameters (Polyak & Juditsky 1992; Kingma & Ba 2015, section 7.2), which
    write better than the last parameters do.

    Parameters
    ----------
    p : mapping of str to shared variables
    optimiser : Optimiser
        Its updates and its state are extended: ``a_NAME`` for every parameter.
    decay : float
        Weight of the old average; in the first updates it is (1 + t) / (10 + t) after t updates, if that is less.

    Returns
    -------
    dict of str to shared variables
        The averages under the parameters' names.
    """
    from .. import backend as be
    if not 0 < decay < 1:
        raise StorytellerError(f"the decay of the average is {decay}: expected a number between 0 and 1")
    step = be.cast(optimiser.state["step"] + 1, "float64")
    new = be.cast(1 - be.minimum(np.float64(decay), (1 + step) / (10 + step)), "float32")
    after = dict(optimiser.updates)
    averages = {}
    for name, value in p.items():
        average = be.trainable(value.get_value(borrow=True), f"a_{name}")
        optimiser.updates.append((average, average + new * (after[value] - average)))
        averages[name] = optimiser.state[f"a_{name}"] = average
    return averages


def _adam(p: Mapping[str, Variable], gradients: Mapping[str, Variable], scale: Variable,
          learning_rate: float | Schedule, b1: float, b2: float, corrected: Callable) -> Optimiser:
    from .. import backend as be
    state = {"step": be.counter(0, "step")}
    updates = [(state["step"], state["step"] + 1)]
    step = be.cast(state["step"] + 1, "float64")
    schedule = learning_rate if callable(learning_rate) else constant(learning_rate)
    rate, epsilon = corrected(schedule(step), step)
    for name, value in p.items():
        zeros = np.zeros(value.get_value(borrow=True).shape, dtype=np.float32)
        m, v = (be.trainable(zeros, f"{moment}_{name}") for moment in "mv")
        state[f"m_{name}"], state[f"v_{name}"] = m, v
        new = be.adam_step(value, m, v, gradients[name], scale, rate, epsilon, b1, b2)
        updates += zip((value, m, v), new)
    return Optimiser(updates, state)
