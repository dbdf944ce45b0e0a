"""The Gaussian with a covariance of low rank plus a diagonal."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import InputError, check_positive_int
from ppl_vae.posteriors.base import Posterior


class LowRankNormal(Posterior):
    """q(z|x) = N(z; loc, W Wᵀ + diag(exp(log_scale)²)), with W of ``rank`` columns.

    Reparameterised: z = loc + W ε + exp(log_scale) · η with ε, η standard normal. log q(z|x) in nats. The family is
    between `MeanFieldNormal` and `MultivariateNormal`: the encoder computes (rank + 2) · dim numbers. Parameters of
    zero give the standard normal.

    Args:
        dim: the number of latent dimensions.
        rank: the number of columns of W, at most ``dim``.
    """

    def __init__(self, dim: int, rank: int = 1) -> None:
        super().__init__(dim)
        self.rank = check_positive_int("rank", rank)
        if self.rank > self.dim:
            raise InputError("rank", f"at most dim = {self.dim}", rank)
        self.param_shapes = {
            "loc": torch.Size([dim]),
            "log_scale": torch.Size([dim]),
            "factor": torch.Size([dim, rank]),
        }

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""
        variance = (2 * params["log_scale"]).exp()
        return dist.LowRankMultivariateNormal(params["loc"], params["factor"], variance)
