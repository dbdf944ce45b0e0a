"""Categories with an order: ratings, stages, grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import nn
from torch.nn.functional import softplus

from ppl_vae.likelihoods.bounded_integers import BoundedIntegers
from ppl_vae.likelihoods.categorical import CategoryNumbers, check_categories, mean_number
from ppl_vae.likelihoods.rounded_logistics import log_interval


class Ordinal(BoundedIntegers):
    """p(x_i <= k | z) = σ(c_ik - loc_i), for x of level numbers from 0 to ``levels`` - 1: the proportional-odds model.

    The location comes from the decoder; the cutpoints c_i0 < c_i1 < ... are parameters of each number of x. log p(x|z)
    is in nats. The encoder sees x / (levels - 1).

    Source: McCullagh, "Regression models for ordinal data" (1980).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        levels: how many there are, at least 2.

    Attributes:
        first_cut: ``shape``, the lowest cutpoint.
        raw_steps: ``(*shape, levels - 2)``; softplus of them are the distances between the cutpoints.
    """

    def __init__(self, shape: int | Sequence[int], levels: int) -> None:
        super().__init__(shape)
        self.levels = check_categories(levels, "levels")
        self.largest = self.levels - 1
        self.param_shapes = {"loc": self.shape}
        # Cutpoints one apart, centred at 0.
        self.first_cut = nn.Parameter(torch.full(self.shape, -(levels - 2) / 2))
        one = torch.ones(*self.shape, levels - 2).expm1().log()  # softplus of it is 1
        self.raw_steps = nn.Parameter(one)

    def cutpoints(self) -> torch.Tensor:
        """``(*shape, levels - 1)``, rising along the last axis."""
        steps = softplus(self.raw_steps).cumsum(-1)
        return torch.cat([self.first_cut[..., None], self.first_cut[..., None] + steps], -1)

    def log_probs(self, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """log p(x_i = k | z), ``(..., *shape, levels)``."""
        at = self.cutpoints() - params["loc"][..., None]
        end = torch.full_like(at[..., :1], torch.inf)
        return log_interval(torch.cat([-end, at], -1), torch.cat([at, end], -1))

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from ``loc`` ``(..., *shape)``."""
        p: TorchDistribution = CategoryNumbers(logits=self.log_probs(params)).to_event(len(self.shape))
        return p

    def mean(self, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean of the level's number, ``(..., *shape)``."""
        return mean_number(self.log_probs(params))
