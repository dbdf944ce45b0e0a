"""Work variance: how far apart independent runs are expected to be, from the increments of their steps.

The verdict on a few runs must not hang on how close together they happened to end: it would pick those whose spread
came out small by luck, with their intervals too short. The variance of a sum of many increments is told far more
precisely by the increments themselves, and nearly without regard to the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

PARTS = 32
"""Parts that the steps are summed to: neighbours are taken to depend on one another, others not."""


class Increments:
    """The variance of a sum of increments, from their sums over ``PARTS`` parts B of the way.

        V = sum_b Var(B_b) + 2 sum_b Cov(B_b, B_{b-1}),

    variances and covariances over the chains. Chains that stay in modes of their own depend on one another for longer
    than a part, which V does not see: the spread of their sums does.

    Args:
        num_steps: T, the increments that there will be.
    """

    def __init__(self, num_steps: int) -> None:
        self.length = -(-num_steps // PARTS)
        self.num_steps, self.count = num_steps, 0
        self.part = self.before = self.variance = torch.zeros(0)

    def add(self, increment: Tensor) -> None:
        """Take in the next increments of log weights, ``(S, N)``."""
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
        """exp(-V), ``(N,)``: the effective sample size a run of weights that are lognormal, as sums of many are.

        NaN where a log weight was not finite, or for one chain.
        """
        share = (-self.variance.clamp(min=0)).exp()
        return share if len(self.part) > 1 else torch.full_like(share, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors; `restore` takes them back."""
        tensors = {name: getattr(self, name) for name in ("part", "before", "variance")}
        return {f"increments/{name}": value for name, value in tensors.items()} | {
            "increments/count": torch.tensor(self.count)
        }

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Put back what `state` gave."""
        for name in ("part", "before", "variance"):
            setattr(self, name, tensors[name].to(device))
        self.count = int(tensors["count"])
