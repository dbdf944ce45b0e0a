"""Proportions: real numbers strictly between 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.likelihoods.base import Likelihood


class Beta(Likelihood):
    """p(x|z) = prod_i Beta(x_i; μ_i κ_i, (1 - μ_i) κ_i), for 0 < x < 1: mean μ, concentration κ.

    μ = σ(logits) and κ = exp(log_concentration) come from the decoder. The variance is μ (1 - μ) / (1 + κ). log p(x|z)
    is in nats, as a density per unit of x. The encoder sees the logit of x.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
    """

    base_measure = "lebesgue"

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape)
        self.param_shapes = {"logits": self.shape, "log_concentration": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *shape)`` each."""
        single = _Beta(params["logits"], params["log_concentration"])
        p: TorchDistribution = single.to_event(len(self.shape))
        return p

    @property
    def support(self) -> constraints.Constraint:
        """A number above 0 and below 1: the density may be infinite at the ends."""
        return OPEN_UNIT_INTERVAL

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """``log(x / (1 - x))``."""
        return torch.logit(x)

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits of ``x_mean``, kept between 0.001 and 0.999, and a concentration of 2."""
        log_two = torch.full_like(x_mean, 2.0).log()
        return {"logits": torch.logit(x_mean.clamp(1e-3, 1 - 1e-3)), "log_concentration": log_two}


class _OpenUnitInterval(constraints.Constraint):
    """Numbers above 0 and below 1."""

    lower_bound, upper_bound = 0.0, 1.0

    def check(self, value: torch.Tensor) -> torch.Tensor:
        return (value > 0) & (value < 1)

    def __str__(self) -> str:
        return "numbers above 0 and below 1"


OPEN_UNIT_INTERVAL = _OpenUnitInterval()


class _Beta(dist.Beta):
    """Pyro's Beta from the logits of its mean and the logarithm of its concentration.

    Its logarithms of gamma functions are large and nearly cancel: the log probability is computed in double precision,
    and rounded to the precision of the logits at the end.
    """

    support = OPEN_UNIT_INTERVAL  # type: ignore[assignment]  # Pyro's is closed, where the density may be infinite

    def __init__(
        self, logits: torch.Tensor, log_concentration: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.logits, self.log_concentration = logits, log_concentration
        log_a, log_b = self._log_parameters()
        tiny = torch.finfo(logits.dtype).tiny  # what is drawn from; log_prob uses the logarithms themselves
        super().__init__(
            log_a.exp().clamp(min=tiny), log_b.exp().clamp(min=tiny), validate_args=validate_args
        )

    def _log_parameters(self) -> tuple[torch.Tensor, torch.Tensor]:
        log_mean, log_rest = logsigmoid(self.logits), logsigmoid(-self.logits)
        return log_mean + self.log_concentration, log_rest + self.log_concentration

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Beta:
        new: _Beta = super().expand(batch_shape, _instance=self._get_checked_instance(_Beta, _instance))
        new.logits = self.logits.expand(batch_shape)
        new.log_concentration = self.log_concentration.expand(batch_shape)
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, logits, log_k = value.double(), self.logits.double(), self.log_concentration.double()
        a, b, k = (logsigmoid(logits) + log_k).exp(), (logsigmoid(-logits) + log_k).exp(), log_k.exp()
        log_constant = torch.lgamma(k) - torch.lgamma(a) - torch.lgamma(b)
        log_prob = (a - 1) * x.log() + (b - 1) * (-x).log1p() + log_constant
        return log_prob.to(self.logits.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        # A draw that rounds to an end, where the density may be infinite, becomes the nearest number inside.
        drawn: torch.Tensor = super().rsample(sample_shape)
        limits = torch.finfo(drawn.dtype)
        return drawn.clamp(limits.tiny, 1 - limits.eps / 2)

    @property
    def mean(self) -> torch.Tensor:
        return self.logits.sigmoid()
