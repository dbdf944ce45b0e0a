"""Counts with more zeros than a negative binomial has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.likelihoods.negative_binomial import NegativeBinomial, TotalCount


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """p(x|z) = prod_i σ(g_i) [x_i = 0] + σ(-g_i) NegativeBinomial(x_i), for x of integers from 0.

    With the probability σ(g) a number is 0 whatever its count would be; the gate's logits g come from the decoder. The
    mean is σ(-g) exp(log_mean). See `NegativeBinomial` for the rest.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        total_count: r of the negative binomial: a number, ``"learned"`` or ``"decoder"``.
        exposure: the name of an entry of the data that exp(log_mean) is multiplied by (see `Counts`).
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        total_count: TotalCount = "learned",
        exposure: str | None = None,
    ) -> None:
        super().__init__(shape, total_count, exposure)
        self.param_shapes["gate_logits"] = self.shape

    def distribution(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """The distribution of single numbers, of batch shape ``(..., *shape)``."""
        return _ZeroInflated(super().distribution(params), params["gate_logits"])

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """A gate of 1/2, counts of twice the mean, 0.001 where nothing was counted; a decoder's r starts at 1."""
        start = super().initial_params(x_mean)
        return start | {"log_mean": start["log_mean"] + math.log(2)}


class _ZeroInflated(TorchDistribution):
    """A distribution of counts that is 0 with the probability σ(gate_logits), whatever it would draw."""

    arg_constraints = {"gate_logits": constraints.real}  # noqa: RUF012  (torch's own form)
    support = constraints.nonnegative_integer

    def __init__(
        self, counts: TorchDistribution, gate_logits: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.counts, self.gate_logits = counts, gate_logits
        super().__init__(counts.batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _ZeroInflated:
        new: _ZeroInflated = self._get_checked_instance(_ZeroInflated, _instance)
        new.counts, new.gate_logits = self.counts.expand(batch_shape), self.gate_logits.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        counted = logsigmoid(-self.gate_logits) + self.counts.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate_logits), counted), counted)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        with torch.no_grad():
            drawn = self.counts.sample(sample_shape)
            gate = self.gate_logits.sigmoid().expand_as(drawn)
            return torch.where(torch.rand_like(gate) < gate, torch.zeros_like(drawn), drawn)

    @property
    def mean(self) -> torch.Tensor:
        mean: torch.Tensor = (-self.gate_logits).sigmoid() * self.counts.mean
        return mean
