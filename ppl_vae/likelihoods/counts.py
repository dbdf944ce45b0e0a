"""Counts without a largest value: what their families share, an exposure above all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch.distributions import constraints

from ppl_vae.errors import InputError, describe
from ppl_vae.likelihoods.base import Likelihood


class Counts(Likelihood):
    """A likelihood of counts from 0, whose mean is proportional to the exponential of a parameter of the decoder's.

    The encoder sees log(1 + x).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        exposure: the name of an entry of the data, one positive number for each datum, that the mean is multiplied by:
            the total count of a cell, the time of observation. None: nothing.

    Attributes:
        log_mean: the name of the parameter.
    """

    base_measure = "counting"
    log_mean: ClassVar[str]

    def __init__(self, shape: int | Sequence[int], exposure: str | None = None) -> None:
        super().__init__(shape)
        if exposure is not None and (not isinstance(exposure, str) or not exposure):
            raise InputError("exposure", "the name of an entry of the data", describe(exposure))
        self.exposure = exposure

    def exposed(self, params: Mapping[str, torch.Tensor], exposure: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logarithm of the exposure is added to that of the mean."""
        return {**params, self.log_mean: params[self.log_mean] + exposure.log()}

    @property
    def support(self) -> constraints.Constraint:
        """An integer from 0."""
        counts: constraints.Constraint = constraints.nonnegative_integer
        return counts

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """``log(1 + x)``."""
        return x.log1p()
