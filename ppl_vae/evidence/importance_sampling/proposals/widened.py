"""Widened proposal: the guide, scaled around its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.errors import check_positive_float
from ppl_vae.evidence.importance_sampling.proposals.unconstrained import Space, outside
from ppl_vae.evidence.running.proposal import ProposalOnData
from ppl_vae.program import Data, Program


@dataclass(frozen=True)
class Widened:
    """The guide's draws moved away from its mean m: u = m + scale (v - m), v ~ q, in unconstrained coordinates.

    r(u) = q(m + (u - m) / scale) / scale**D, so the guide keeps its shape, correlations and conditionals, and its
    covariance is multiplied by scale**2. A guide trained by an ELBO is usually too narrow, and a proposal that is a
    little too wide costs little. m is exact if there is a single site of real numbers whose distribution has a mean.
    Otherwise it is the mean of pilot draws. Each draw of a constrained latent needs three runs of the model instead of
    one.

    Args:
        scale: the factor; 1 is the guide itself.

    Raises:
        ProgramError: naming a latent that is discrete.
    """

    scale: float = 1.2

    def __post_init__(self) -> None:
        check_positive_float("scale", self.scale)

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        """The widened guide for data ``x``; its mean is estimated on stream ``index`` if it has to be."""
        space = Space(program, x)
        moments, cost = space.moments(seed, index)
        return _Widened(space, self.scale, moments.mean, cost)


class _Widened(ProposalOnData):
    def __init__(self, space: Space, scale: float, mean: Tensor, cost: float = 0.0) -> None:
        self.space, self.scale, self.mean = space, scale, mean
        self.density_evals = cost
        self.per_draw = 1.0 + space.draw_cost

    def log_weights(self, num_samples: int) -> Tensor:
        v, log_guide = self.space.draw(num_samples)
        lost = outside(v)
        v = torch.where(lost.unsqueeze(-1), self.mean, v.double())
        u = self.mean + self.scale * (v - self.mean)
        log_proposal = log_guide - v.shape[-1] * math.log(self.scale)
        return torch.where(lost, -torch.inf, self.space.log_joint(u) - log_proposal)

    def take(self, rows: Tensor) -> ProposalOnData:
        return _Widened(self.space.take(rows), self.scale, self.mean[rows])
