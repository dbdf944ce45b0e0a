"""Integers from 0 to a known maximum that vary more than a Binomial's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.errors import check_positive_int
from ppl_vae.gamma_ratio import log_rising
from ppl_vae.likelihoods.bounded_integers import BoundedIntegers


class BetaBinomial(BoundedIntegers):
    """p(x|z) = prod_i C(n, x_i) B(x_i + a_i, n - x_i + b_i) / B(a_i, b_i), x of integers from 0 to n = ``total_count``.

    A Binomial whose probability is Beta(a, b) distributed, with a = μ κ and b = (1 - μ) κ: μ = σ(logits) and
    κ = exp(log_concentration) come from the decoder. The mean is n μ; a large κ is a `Binomial`. log p(x|z) is in nats.
    The encoder sees x / n.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        total_count: n, the largest value of x.
    """

    def __init__(self, shape: int | Sequence[int], total_count: int) -> None:
        super().__init__(shape)
        self.total_count = self.largest = check_positive_int("total_count", total_count)
        self.param_shapes = {"logits": self.shape, "log_concentration": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *shape)`` each."""
        single = _BetaBinomial(params["logits"], params["log_concentration"], self.total_count)
        p: TorchDistribution = single.to_event(len(self.shape))
        return p

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits of ``x_mean / total_count``, kept 0.001 counts inside the ends, and a concentration of 10."""
        logits = x_mean.clamp(min=1e-3).log() - (self.total_count - x_mean).clamp(min=1e-3).log()
        return {"logits": logits, "log_concentration": torch.full_like(x_mean, 10.0).log()}


class _BetaBinomial(TorchDistribution):
    """The distribution of single numbers; its log probability is summed in double precision, as large terms cancel."""

    arg_constraints = {"logits": constraints.real, "log_concentration": constraints.real}  # noqa: RUF012  (torch's form)

    def __init__(
        self,
        logits: torch.Tensor,
        log_concentration: torch.Tensor,
        total_count: int,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.log_concentration = logits, log_concentration
        self.total_count = total_count
        super().__init__(logits.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        interval: constraints.Constraint = constraints.integer_interval(0, self.total_count)
        return interval

    def expand(self, batch_shape: Any, _instance: Any = None) -> _BetaBinomial:
        new: _BetaBinomial = self._get_checked_instance(_BetaBinomial, _instance)
        new.logits, new.total_count = self.logits.expand(batch_shape), self.total_count
        new.log_concentration = self.log_concentration.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _parameters(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, log_k = self.logits.double(), self.log_concentration.double()
        return (logsigmoid(logits) + log_k).exp(), (logsigmoid(-logits) + log_k).exp(), log_k.exp()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, k = float(self.total_count), value.double()
        a, b, concentration = self._parameters()
        total = torch.full_like(concentration, n)
        log_coefficient = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        log_ratio = log_rising(a, k) + log_rising(b, n - k) - log_rising(concentration, total)
        return (log_coefficient + log_ratio).to(self.logits.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        with torch.no_grad():
            a, b, _ = self._parameters()
            tiny = torch.finfo(torch.float64).tiny
            p = dist.Beta(a.clamp(min=tiny), b.clamp(min=tiny), validate_args=False).sample(sample_shape)
            drawn: torch.Tensor = dist.Binomial(self.total_count, p, validate_args=False).sample()
            return drawn.to(self.logits.dtype)

    @property
    def mean(self) -> torch.Tensor:
        return self.total_count * self.logits.sigmoid()
