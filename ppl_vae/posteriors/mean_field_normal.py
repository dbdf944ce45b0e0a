"""The Gaussian with a diagonal covariance."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.posteriors.base import Posterior


class MeanFieldNormal(Posterior):
    """q(z|x) = N(z; loc, diag(exp(log_scale)²)).

    The family of Kingma & Welling (2014, "Auto-Encoding Variational Bayes"). Reparameterised:
    z = loc + exp(log_scale) · ε with ε ~ N(0, I). log q(z|x) in nats.

    Args:
        dim: the number of latent dimensions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.param_shapes = {"loc": torch.Size([dim]), "log_scale": torch.Size([dim])}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``, from parameters ``(..., dim)`` each."""
        q: TorchDistribution = dist.Normal(params["loc"], params["log_scale"].exp()).to_event(1)
        return q
