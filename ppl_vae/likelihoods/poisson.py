"""Counts without a largest value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.likelihoods.counts import Counts
from ppl_vae.likelihoods.summary import Summary


class Poisson(Counts):
    """p(x|z) = prod_i λ_i^x_i exp(-λ_i) / x_i!, for x of integers from 0, with λ = exp(log_rate) from the decoder.

    log p(x|z) = sum_i x_i · log_rate_i - exp(log_rate_i) - log x_i!, in nats. The encoder sees log(1 + x).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        exposure: the name of an entry of the data that λ is multiplied by (see `Counts`).
    """

    log_mean = "log_rate"

    def __init__(self, shape: int | Sequence[int], exposure: str | None = None) -> None:
        super().__init__(shape, exposure)
        self.param_shapes = {"log_rate": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from ``log_rate`` ``(..., *shape)``."""
        p: TorchDistribution = _Poisson(params["log_rate"]).to_event(len(self.shape))
        return p

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logarithm of ``x_mean``, of 0.001 where nothing was counted."""
        return {"log_rate": x_mean.clamp(min=1e-3).log()}

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:
        """Integers from 0 to above 1, without a largest value."""
        return {} if summary.integers and summary.low >= 0 and summary.high > 1 else None


class _Poisson(dist.Poisson):
    """Pyro's Poisson from the logarithm of its rate, which may be far below what the rate itself can express.

    log x! and x log λ are large and nearly cancel: the log probability is computed in double precision, and rounded to
    the precision of the log rate at the end.
    """

    def __init__(self, log_rate: torch.Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Poisson:
        new: _Poisson = super().expand(batch_shape, _instance=self._get_checked_instance(_Poisson, _instance))
        new.log_rate = self.log_rate.expand(batch_shape)
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k, log_rate = value.double(), self.log_rate.double()
        return (k * log_rate - log_rate.exp() - torch.lgamma(k + 1)).to(self.log_rate.dtype)
