"""A mixture of diagonal Gaussians, learned with the model."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae.errors import check_positive_int, check_seed
from ppl_vae.priors.base import Prior


class MixtureOfGaussians(Prior):
    """p(z) = sum_k w_k N(z; m_k, diag(s_k²)), with weights, means and scales all learned.

    The weights are ``softmax(logits)`` and the scales ``exp(log_scale)``. It starts from equal weights, unit scales,
    and means drawn from N(0, I), since identical components would have identical gradients and stay identical.
    Evaluating log p(z) (in nats) of ``(..., dim)`` needs ``(..., components, dim)`` numbers in memory.

    Args:
        dim: the number of latent dimensions.
        components: the number of components, K.
        seed: the seed of the random start of the means; the global random state is not used.

    Attributes:
        logits: the unnormalised log weights, ``(components,)``.
        loc: the means m_k, ``(components, dim)``.
        log_scale: the logarithms of the scales s_k, ``(components, dim)``.
    """

    def __init__(self, dim: int, components: int = 10, seed: int = 0) -> None:
        super().__init__(dim)
        self.components = check_positive_int("components", components)
        generator = torch.Generator().manual_seed(check_seed(seed))
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, self.dim, generator=generator))
        self.log_scale = nn.Parameter(torch.zeros(components, self.dim))

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        p: TorchDistribution = dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
        return p
