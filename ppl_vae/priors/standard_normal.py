"""The standard normal prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.priors.base import Prior


class StandardNormal(Prior):
    """p(z) = N(z; 0, I): the prior of Kingma & Welling (2014, "Auto-Encoding Variational Bayes").

    log p(z) = -(|z|² + dim · log 2π) / 2, in nats.

    Args:
        dim: the number of latent dimensions.
    """

    zeros: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        # Not a parameter and not saved: it only carries the module's dtype and device.
        self.register_buffer("zeros", torch.zeros(self.dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        p: TorchDistribution = dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)
        return p
