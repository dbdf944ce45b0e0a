"""Counts without a largest value that vary more than a Poisson's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn
from torch.nn.functional import logsigmoid

from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.gamma_ratio import log_rising
from ppl_vae.likelihoods.counts import Counts

TotalCount = float | Literal["learned", "decoder"]


class NegativeBinomial(Counts):
    """p(x|z) = prod_i Γ(x_i + r_i) / (Γ(r_i) x_i!) σ(-l_i)^r_i σ(l_i)^x_i, for x of integers from 0.

    The mean μ = exp(log_mean) comes from the decoder, and l = log μ - log r. The variance is μ + μ² / r: a large r is
    a Poisson, a small one means many zeros and a long tail. r is the ``total_count`` of Pyro, the inverse of the
    dispersion. log p(x|z) is in nats. The encoder sees log(1 + x).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        total_count: r. A number: fixed. ``"learned"``: a parameter for each number of x, starting at 1.
            ``"decoder"``: from the decoder, as the mean is.
        exposure: the name of an entry of the data that μ is multiplied by (see `Counts`), such as ``"library_size"``.

    Attributes:
        log_total_count: ``shape``, the logarithm of r; only with ``total_count="learned"``.
    """

    log_mean = "log_mean"

    def __init__(
        self,
        shape: int | Sequence[int],
        total_count: TotalCount = "learned",
        exposure: str | None = None,
    ) -> None:
        super().__init__(shape, exposure)
        self.param_shapes = {"log_mean": self.shape}
        if isinstance(total_count, str):
            if total_count not in ("learned", "decoder"):
                expected = "a positive number, 'learned' or 'decoder'"
                raise InputError("total_count", expected, describe(total_count))
            self.total_count: float | str = total_count
        else:
            self.total_count = check_positive_float("total_count", total_count)
        if total_count == "learned":
            self.log_total_count = nn.Parameter(torch.zeros(self.shape))
        if total_count == "decoder":
            self.param_shapes["log_total_count"] = self.shape

    def distribution(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """The distribution of single numbers, of batch shape ``(..., *shape)``."""
        log_mean = params["log_mean"]
        if self.total_count == "learned":
            log_total = self.log_total_count.expand_as(log_mean)
        elif self.total_count == "decoder":
            log_total = params["log_total_count"]
        else:
            log_total = torch.full_like(log_mean, math.log(float(self.total_count)))
        return _NegativeBinomial(log_mean, log_total)

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *shape)`` each."""
        p: TorchDistribution = self.distribution(params).to_event(len(self.shape))
        return p

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logarithm of ``x_mean``, of 0.001 where nothing was counted; a decoder's r starts at 1."""
        start = super().initial_params(x_mean)
        return start | {"log_mean": x_mean.clamp(min=1e-3).log()}


class _NegativeBinomial(dist.NegativeBinomial):
    """Pyro's NegativeBinomial from the logarithms of its mean and of r, which may be very small or very large.

    Its logarithms of gamma functions are large and nearly cancel: the log probability is computed in double precision,
    and rounded to the precision of the log mean at the end.
    """

    def __init__(
        self, log_mean: torch.Tensor, log_total: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.log_mean, self.log_total = log_mean, log_total
        super().__init__(log_total.exp(), logits=log_mean - log_total, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _NegativeBinomial:
        new: _NegativeBinomial = super().expand(
            batch_shape, _instance=self._get_checked_instance(_NegativeBinomial, _instance)
        )
        new.log_mean, new.log_total = self.log_mean.expand(batch_shape), self.log_total.expand(batch_shape)
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k, log_mean, log_total = value.double(), self.log_mean.double(), self.log_total.double()
        r, logits = log_total.exp(), log_mean - log_total
        log_coefficient = log_rising(r, k) - torch.lgamma(k + 1)
        return (log_coefficient + r * logsigmoid(-logits) + k * logsigmoid(logits)).to(self.log_mean.dtype)

    @property
    def mean(self) -> torch.Tensor:
        return self.log_mean.exp()
