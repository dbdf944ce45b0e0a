"""A Gaussian prior whose location and scales depend on covariates."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae.errors import check_positive_int
from ppl_vae.priors.base import Prior


class ConditionalNormal(Prior):
    """p(z|c) = N(z; A c + a, diag(exp(B c + b)²)), learned with the model; it starts as the standard normal for all c.

    log p(z|c) in nats. The covariates c are those of a `VAE` that was made with ``covariates=``, side by side in their
    order there; a category has a column for each of its values.

    Source: Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models"
    (2015).

    Args:
        dim: the number of latent dimensions.
        num_covariates: how many numbers c has.

    Attributes:
        map: the affine map from c to the location and the logarithms of the scales, ``(num_covariates,)`` to
            ``(2 dim,)``.
    """

    def __init__(self, dim: int, num_covariates: int = 1) -> None:
        super().__init__(dim)
        self.num_covariates = check_positive_int("num_covariates", num_covariates)
        self.map = nn.Linear(self.num_covariates, 2 * self.dim, device="meta").to_empty(device="cpu")
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, covariates: torch.Tensor) -> TorchDistribution:  # type: ignore[override]
        """p(z|c): batch shape ``(...)``, event shape ``(dim,)``, for covariates ``(..., num_covariates)``."""
        loc, log_scale = self.map(covariates).chunk(2, -1)
        p: TorchDistribution = dist.Normal(loc, log_scale.exp()).to_event(1)
        return p
