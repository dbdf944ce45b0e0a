"""Defensive proposal: a mixture of the guide and the prior, which bounds the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.evidence.running.proposal import ProposalOnData
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.mixture import mix_prior


@dataclass(frozen=True)
class Defensive:
    """r(z) = (1 - alpha) q(z|x) + alpha p(z): each draw comes from the prior with probability alpha.

    Each weight is p(x, z) / r(z) <= p(x|z) / alpha. If the likelihood is bounded, the weights are bounded and have all
    moments, even if the guide is very narrow. The second moment of the weights grows by at most a factor of
    1 / (1 - alpha). This helps if the guide misses mass that the prior covers; in many dimensions few draws of the
    prior are useful.

    Args:
        alpha: the share of the prior, between 0 and 1.

    Source: Hesterberg, "Weighted average importance sampling and defensive mixture distributions" (1995).
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        if check_positive_float("alpha", self.alpha) >= 1:
            raise InputError("alpha", "a number between 0 and 1", describe(self.alpha))

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:  # noqa: ARG002
        """The mixture for data ``x``; nothing is tuned."""
        return _Defensive(program, x, self.alpha)


class _Defensive(ProposalOnData):
    def __init__(self, program: Program, x: Data, alpha: float) -> None:
        self.program, self.x, self.alpha = program, x, alpha

    def log_weights(self, num_samples: int) -> Tensor:
        shape = (num_samples, num_data(self.x))
        from_prior = torch.rand(shape, device=device_of(self.x)) < self.alpha
        drawn = self.program.sample_guide(self.x, num_samples, seed=None)
        z, log_prior, log_likelihood = mix_prior(self.program, self.x, drawn, from_prior)
        log_guide = self.program.log_guide(z, self.x)
        log_mixture = torch.logaddexp(log_guide + math.log1p(-self.alpha), log_prior + math.log(self.alpha))
        return torch.where(log_prior == -torch.inf, -torch.inf, log_prior + log_likelihood - log_mixture)

    def take(self, rows: Tensor) -> ProposalOnData:
        return _Defensive(self.program, take(self.x, rows), self.alpha)
