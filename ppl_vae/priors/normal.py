"""A Gaussian prior, learned with the model."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae.priors.base import Prior


class Normal(Prior):
    """p(z) = N(z; loc, diag(exp(log_scale)²)), with location and scales learned; it starts as the standard normal.

    log p(z) in nats. A decoder whose first layer is affine can represent the same location and scales, so this prior
    changes the speed of training and not the set of possible models.

    Args:
        dim: the number of latent dimensions.

    Attributes:
        loc: the mean, ``(dim,)``.
        log_scale: the logarithms of the standard deviations, ``(dim,)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.loc = nn.Parameter(torch.zeros(self.dim))
        self.log_scale = nn.Parameter(torch.zeros(self.dim))

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        p: TorchDistribution = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return p
