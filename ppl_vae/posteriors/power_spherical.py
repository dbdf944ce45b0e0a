"""The power spherical distribution: directions around a mean direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution

from ppl_vae.posteriors.base import Posterior
from ppl_vae.spheres import PowerSphericalDistribution, check_sphere_dim


class PowerSpherical(Posterior):
    """q(z|x) = C (1 + μᵀz)^κ on {z : |z| = 1}, with κ = exp(log_concentration).

    From De Cao and Aziz (2020, "The Power Spherical distribution"). Reparameterised in every dimension: by a Gamma
    draw and a Householder reflection (`ppl_vae.spheres`). log q(z|x) in nats, against the surface of the sphere. It
    goes with a prior on the sphere: `ppl_vae.priors.PowerSpherical`, or a VampPrior of such posteriors. Estimators
    that need unconstrained coordinates (annealing, refitting, quadrature) refuse it; importance sampling does not.

    The density falls to 0 at -μ. Where p(z|x) does not, and κ is at least (dim - 1)/2, the importance weights of this
    guide have no variance: k-hat shows it, and `ppl_vae.evidence.Defensive` bounds them.

    μ is the direction of e + direction, with e the first axis: parameters of zero give μ = e and κ = 1, and the one
    vector without a direction is not where a network starts.

    Args:
        dim: the number of coordinates of z, at least 2: the sphere has dim - 1 dimensions.

    Raises:
        InputError: if ``dim`` is below 2.
    """

    axis: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        check_sphere_dim(self.dim)
        self.param_shapes = {"direction": torch.Size([dim]), "log_concentration": torch.Size([])}
        self.register_buffer("axis", torch.eye(dim)[0], persistent=False)

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""
        vector = self.axis + params["direction"]
        direction = vector / vector.norm(dim=-1, keepdim=True)
        return PowerSphericalDistribution(direction, params["log_concentration"].exp())
