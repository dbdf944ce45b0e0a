"""Binary data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.summary import Summary


class Bernoulli(Likelihood):
    """p(x|z) = prod_i Bernoulli(x_i; sigmoid(logits_i)), for x of zeros and ones.

    log p(x|z) = sum_i x_i · log sigmoid(l_i) + (1 - x_i) · log sigmoid(-l_i), in nats, as in Kingma & Welling
    (2014, "Auto-Encoding Variational Bayes"). Grey values are off its support: there it is not a density.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
    """

    base_measure = "counting"

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape)
        self.param_shapes = {"logits": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from logits ``(..., *shape)``."""
        p: TorchDistribution = dist.Bernoulli(logits=params["logits"]).to_event(len(self.shape))
        return p

    @property
    def support(self) -> constraints.Constraint:
        """Zero or one."""
        return constraints.boolean

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits of ``x_mean``, kept 0.001 away from 0 and 1, whose logits are infinite."""
        return {"logits": x_mean.clamp(min=1e-3).log() - (1 - x_mean).clamp(min=1e-3).log()}

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:
        """Zeros and ones."""
        return {} if summary.integers and 0 <= summary.low <= summary.high <= 1 else None
