"""The standard normal prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.priors.fixed import FixedPrior


class StandardNormal(FixedPrior):
    """p(z) = N(z; 0, I): the prior of Kingma & Welling (2014, "Auto-Encoding Variational Bayes").

    log p(z) = -(|z|² + dim · log 2π) / 2, in nats.

    Args:
        dim: the number of latent dimensions.
    """

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        p: TorchDistribution = dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)
        return p
