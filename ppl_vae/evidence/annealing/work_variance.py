"""Work variance: the expected variance of the log weights of runs, from the increments of their steps.

The verdict on a few runs must not depend on their observed spread: it would select runs whose spread is small by
chance, and whose intervals are then too short. The increments estimate the variance of their sum much more precisely,
and nearly independently of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

PARTS = 32
"""Number of parts of the path over which increments are summed; only neighbouring parts are treated as dependent."""


class Increments:
    """The variance of a sum of increments, from their sums B_b over ``PARTS`` parts of the path.

        V = sum_b Var(B_b) + 2 sum_b Cov(B_b, B_{b-1}),

    with variances and covariances over the chains. If chains stay in different modes, their increments depend on one
    another for longer than a part. V does not include this dependence; the spread of the sums does.

    Args:
        num_steps: T, the number of increments.
    """

    def __init__(self, num_steps: int) -> None:
        self.length = -(-num_steps // PARTS)
        self.num_steps, self.count = num_steps, 0
        self.part = self.before = self.variance = torch.zeros(0)

    def add(self, increment: Tensor) -> None:
        """Add the next increments of log weights, ``(S, N)``."""
        if self.count == 0:
            self.part, self.before = torch.zeros_like(increment), torch.zeros_like(increment)
            self.variance = torch.zeros_like(increment[0])
        self.part = self.part + increment
        self.count += 1
        if self.count % self.length == 0 or self.count == self.num_steps:
            centred = self.part - self.part.mean(0)
            products = centred * (centred + 2 * self.before)
            self.variance = self.variance + products.sum(0) / max(len(increment) - 1, 1)
            self.part, self.before = torch.zeros_like(self.part), centred

    def expected_share(self) -> Tensor:
        """exp(-V), ``(N,)``: the effective sample size for each run, for lognormal weights.

        NaN if a log weight was not finite, or for one chain.
        """
        share = (-self.variance.clamp(min=0)).exp()
        return share if len(self.part) > 1 else torch.full_like(share, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors, for `restore`."""
        tensors = {name: getattr(self, name) for name in ("part", "before", "variance")}
        return {f"increments/{name}": value for name, value in tensors.items()} | {
            "increments/count": torch.tensor(self.count)
        }

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The inverse of `state`."""
        for name in ("part", "before", "variance"):
            setattr(self, name, tensors[name].to(device))
        self.count = int(tensors["count"])
