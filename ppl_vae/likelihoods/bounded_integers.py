"""Integers from 0 to a known maximum: what the families of such data share."""

from __future__ import annotations

import torch
from torch.distributions import constraints

from ppl_vae.likelihoods.base import Likelihood


class BoundedIntegers(Likelihood):
    """p(x|z) over integers from 0 to `largest`. The encoder sees x / `largest`.

    Attributes:
        largest: the largest value of x; the family sets it.
    """

    base_measure = "counting"
    largest: int

    @property
    def support(self) -> constraints.Constraint:
        """An integer from 0 to `largest`."""
        # torch declares this class behind a name that mypy takes for a variable.
        interval: constraints.Constraint = constraints.integer_interval(0, self.largest)
        return interval

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """``x / largest``: from 0 to 1."""
        return x / self.largest
