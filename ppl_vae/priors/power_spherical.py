"""The uniform prior on the unit sphere, for power spherical posteriors."""

from __future__ import annotations

from pyro.distributions import TorchDistribution

from ppl_vae.priors.fixed import FixedPrior
from ppl_vae.spheres import UniformOnSphere, check_sphere_dim


class PowerSpherical(FixedPrior):
    """p(z) = Γ(dim/2) / (2 π^(dim/2)) on {z : |z| = 1}: uniform, the power spherical distribution of concentration 0.

    From De Cao and Aziz (2020, "The Power Spherical distribution"). log p(z) in nats, against the surface of the
    sphere. It goes with a posterior on the sphere, such as `ppl_vae.posteriors.PowerSpherical`: one on all vectors is
    refused by `Program.check`. Unlike a Gaussian it does not pull posteriors towards a centre.

    Args:
        dim: the number of coordinates of z, at least 2: the sphere has dim - 1 dimensions.

    Raises:
        InputError: if ``dim`` is below 2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        check_sphere_dim(self.dim)

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        return UniformOnSphere(self.zeros)
