"""Draws: how the samples of importance sampling are made, as values for ``importance(..., draws=...)``."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import InputError, check_positive_float, check_positive_int, describe


@dataclass(frozen=True)
class IID:
    """Independent draws, the same number for each datum."""


@dataclass(frozen=True)
class Sobol:
    """Scrambled Sobol points, which are spread more evenly than independent draws: a smaller error in few dimensions.

    See `ppl_vae.evidence.importance_sampling.rqmc.scrambled`.

    Args:
        scrambles: R, the number of independent scramblings; their spread gives the standard error. Each has S / R
            points, rounded up to a power of two.

    Raises:
        InputError: if ``scrambles`` is not an integer of at least 2.
    """

    scrambles: int = 16

    def __post_init__(self) -> None:
        if check_positive_int("scrambles", self.scrambles) < 2:
            raise InputError("scrambles", "at least 2, since their spread gives the error", self.scrambles)


@dataclass(frozen=True)
class UntilStderr:
    """Independent draws, for each datum as many as a standard error needs; a pilot run estimates their number.

    See `ppl_vae.evidence.importance_sampling.until_stderr.budgeted`. Data with ``e.stderr > target`` did not reach it.

    Args:
        target: the target standard error, in nats.
        most: the largest number of samples of a datum.
        pilot: the number of pilot samples for each datum.

    Raises:
        InputError: if ``target`` is not a positive number, or ``most`` or ``pilot`` is not a positive integer.
    """

    target: float
    most: int = 2**16
    pilot: int = 512

    def __post_init__(self) -> None:
        check_positive_float("target", self.target)
        check_positive_int("most", self.most)
        check_positive_int("pilot", self.pilot)


Draws = IID | Sobol | UntilStderr
"""The values of ``draws`` in ``importance(..., draws=...)``."""


def check_draws(value: object) -> Draws:
    """``value`` if it is one of `Draws`; raises `InputError` otherwise."""
    if not isinstance(value, Draws):
        raise InputError("draws", "IID(), Sobol() or UntilStderr(target)", describe(value))
    return value
