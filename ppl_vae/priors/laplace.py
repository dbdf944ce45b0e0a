"""The Laplace prior: sparse latents."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.priors.fixed import FixedPrior


class Laplace(FixedPrior):
    """p(z) = prod_d exp(-√2 |z_d|) / √2: independent, of mean 0 and variance 1, with more mass at 0 and far from it.

    log p(z) in nats. Unlike a Gaussian it is not rotationally invariant: it prefers vectors with few large entries.

    Args:
        dim: the number of latent dimensions.
    """

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        p: TorchDistribution = dist.Laplace(self.zeros, torch.full_like(self.zeros, 2**-0.5)).to_event(1)
        return p
