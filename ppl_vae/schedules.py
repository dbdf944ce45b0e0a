"""Learning-rate schedules: functions from the epoch (from 0) and the number of epochs to a factor in (0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

from ppl_vae.errors import InputError, describe

Schedule = Callable[[int, int], float]
"""``(epoch, epochs) -> factor`` on the learning rate."""


def constant(epoch: int, epochs: int) -> float:  # noqa: ARG001
    """1 in all epochs."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine, from 1 in the first epoch towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def burda(epoch: int, epochs: int) -> float:
    """``10^(-i/7)`` in stage i of 8, stage i lasting ``3^i`` of ``sum_j 3^j = 3280`` parts of the run.

    With 3280 epochs this is the schedule of Burda, Grosse and Salakhutdinov, "Importance weighted
    autoencoders" (2016); a shorter run passes through the same stages in proportion.
    """
    done = (epoch + 0.5) / epochs * 3280
    stage = 0
    while stage < 7 and done > (3 ** (stage + 1) - 1) / 2:
        stage += 1
    return float(10 ** (-stage / 7))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "burda": burda}


def schedule(given: str | Schedule) -> Schedule:
    """A schedule by name, or the user's own function; raises `InputError` for anything else."""
    if isinstance(given, str) and given in SCHEDULES:
        return SCHEDULES[given]
    if isinstance(given, str) or not callable(given):
        options = ", ".join(map(repr, SCHEDULES))
        raise InputError(
            "lr_schedule", f"one of {options}, or a function (epoch, epochs) -> factor", describe(given)
        )
    return given
