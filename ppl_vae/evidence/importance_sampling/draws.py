"""Draws: how the samples of importance sampling are made, as values for ``importance(..., draws=...)``."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import InputError, check_positive_float, check_positive_int, describe


@dataclass(frozen=True)
class IID:
    """Independent draws, the same number for each datum."""


@dataclass(frozen=True)
class Sobol:
    """Scrambled Sobol points: spread more evenly than independent draws, for a smaller error in a few dimensions.

    See `ppl_vae.evidence.importance_sampling.rqmc.scrambled`.

    Args:
        scrambles: R, the independent scramblings whose spread is the error; each takes S / R points, rounded up to a
            power of two.

    Raises:
        InputError: if ``scrambles`` is not an integer of at least 2.
    """

    scrambles: int = 16

    def __post_init__(self) -> None:
        if check_positive_int("scrambles", self.scrambles) < 2:
            raise InputError("scrambles", "at least 2, whose spread is the error", self.scrambles)


@dataclass(frozen=True)
class UntilStderr:
    """Independent draws, for each datum as many as a standard error needs: a pilot finds out how many.

    See `ppl_vae.evidence.importance_sampling.until_stderr.budgeted`. ``e.stderr > target`` are the data that missed it.

    Args:
        target: the standard error to meet, in nats.
        most: the most samples that any datum gets.
        pilot: the pilot's samples for each datum.

    Raises:
        InputError: if ``target`` is not a positive number, or ``most`` or ``pilot`` not a positive integer.
    """

    target: float
    most: int = 2**16
    pilot: int = 512

    def __post_init__(self) -> None:
        check_positive_float("target", self.target)
        check_positive_int("most", self.most)
        check_positive_int("pilot", self.pilot)


Draws = IID | Sobol | UntilStderr
"""What ``importance(..., draws=...)`` takes."""


def check_draws(value: object) -> Draws:
    """``value`` if it is one of `Draws`; raises `InputError` otherwise."""
    if not isinstance(value, Draws):
        raise InputError("draws", "IID(), Sobol() or UntilStderr(target)", describe(value))
    return value
