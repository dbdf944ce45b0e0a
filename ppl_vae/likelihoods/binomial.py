"""Integers from 0 to a known maximum: grey levels, counts out of a number of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.nn.functional import logsigmoid

from ppl_vae.errors import check_positive_int
from ppl_vae.likelihoods.bounded_integers import BoundedIntegers
from ppl_vae.likelihoods.summary import Summary


class Binomial(BoundedIntegers):
    """p(x|z) = prod_i C(n, x_i) p_i^x_i (1 - p_i)^(n - x_i), for x of integers from 0 to n = ``total_count``.

    Here p = sigmoid(logits). log p(x|z) is in nats. The encoder sees x / n.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        total_count: n, the largest value of x: 255 for grey levels of 8 bits.
    """

    def __init__(self, shape: int | Sequence[int], total_count: int) -> None:
        super().__init__(shape)
        self.total_count = self.largest = check_positive_int("total_count", total_count)
        self.param_shapes = {"logits": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from logits ``(..., *shape)``."""
        p: TorchDistribution = _Binomial(self.total_count, logits=params["logits"]).to_event(len(self.shape))
        return p

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits of ``x_mean / total_count``, kept 0.001 counts inside the ends (infinite logits)."""
        return {"logits": x_mean.clamp(min=1e-3).log() - (self.total_count - x_mean).clamp(min=1e-3).log()}

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:
        """Integers from 0 to above 1.

        The largest is taken for ``total_count``.
        """
        good = summary.integers and summary.low >= 0 and summary.high > 1
        return {"total_count": int(summary.high)} if good else None


class _Binomial(dist.Binomial):
    """Pyro's Binomial, its log probability summed in double precision.

    log C(n, x) and the log of the powers are both of the size of n and nearly cancel. In single precision
    Pyro's sum is off by 1e-4 nats for each number at n = 255, and by 0.01 at n = 100 000, even where x is
    likely; and it follows the process-wide setting ``binomial_approx_log_prob_tol``. The result is rounded
    to the precision of the logits at the end.
    """

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, k, logits = self.total_count.double(), value.double(), self.logits.double()
        log_coefficient = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        log_prob = log_coefficient + k * logsigmoid(logits) + (n - k) * logsigmoid(-logits)
        return log_prob.to(self.logits.dtype)
