"""The Gaussian with a full covariance."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.posteriors.base import Posterior


class MultivariateNormal(Posterior):
    """q(z|x) = N(z; loc, L Lᵀ), with L lower triangular and its diagonal positive.

    Reparameterised: z = loc + L ε with ε ~ N(0, I) (Kingma & Welling 2019, "An Introduction to Variational
    Autoencoders", section 2.5.1). log q(z|x) in nats. Parameters of zero give L = I.

    The parameter ``scale_tril``, ``(dim · (dim + 1) / 2,)``, has first the ``dim`` logarithms of L's diagonal, and then
    the entries below the diagonal, row by row, unconstrained.

    Args:
        dim: the number of latent dimensions.
    """

    position: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        entries = dim * (dim + 1) // 2
        self.param_shapes = {"loc": torch.Size([dim]), "scale_tril": torch.Size([entries])}
        # Where in the parameter each entry of L comes from; entries above the diagonal, from one added zero.
        position = torch.full((dim, dim), entries)
        position.diagonal().copy_(torch.arange(dim))
        rows, columns = torch.tril_indices(dim, dim, offset=-1)
        position[rows, columns] = torch.arange(dim, entries)
        self.register_buffer("position", position, persistent=False)

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""
        entries = params["scale_tril"]
        zero = torch.zeros_like(entries[..., :1])
        padded = torch.cat([entries[..., : self.dim].exp(), entries[..., self.dim :], zero], dim=-1)
        return dist.MultivariateNormal(params["loc"], scale_tril=padded[..., self.position])
