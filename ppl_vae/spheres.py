"""Distributions on the unit sphere, by densities against its surface: the uniform one and the power spherical one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints

from ppl_vae.errors import InputError
from ppl_vae.gamma_ratio import log_rising


def check_sphere_dim(dim: int) -> int:
    """``dim`` if the unit sphere of that many coordinates has a surface; raises `InputError` otherwise."""
    if dim < 2:
        raise InputError("dim", "at least 2 for a sphere (the number of coordinates of its points)", dim)
    return dim


class UniformOnSphere(TorchDistribution):
    """The uniform distribution on {z : |z| = 1}: log p(z) = log Γ(d/2) - log 2 - (d/2) log π, in nats.

    Args:
        zeros: the centre of the sphere, ``(..., d)``: it gives the shape, the dtype and the device.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, zeros: torch.Tensor) -> None:
        self.zeros = zeros
        super().__init__(zeros.shape[:-1], zeros.shape[-1:])

    @property
    def mean(self) -> torch.Tensor:
        """The centre, ``(..., d)``, which is not on the sphere."""
        return self.zeros

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> torch.Tensor:
        """The directions of standard normal vectors: ``(*sample_shape, ..., d)``."""
        shape = self._extended_shape(sample_shape)
        normal = torch.randn(shape, dtype=self.zeros.dtype, device=self.zeros.device)
        return normal / normal.norm(dim=-1, keepdim=True)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log p(z) in nats, the same for all points ``(..., d)`` of the sphere."""
        if self._validate_args:
            self._validate_sample(value)
        half = self.zeros.shape[-1] / 2
        log_surface = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.zeros.new_full(shape, -log_surface)


class PowerSphericalDistribution(TorchDistribution):
    """p(z) = C (1 + μᵀz)^κ on {z : |z| = 1}, with the direction μ of length 1 and the concentration κ > 0.

    From De Cao and Aziz (2020, "The Power Spherical distribution"). With β = (d - 1)/2, (1 + μᵀz)/2 is
    Beta(κ + β, β), and log C = log Γ(κ + 2β) - log Γ(κ + β) - (κ + 2β) log 2 - β log π.

    A draw is reparameterised. With g ~ Gamma(κ + β) and n standard normal in d - 1 dimensions, s = |n|²/2 is Gamma(β),
    so that g / (g + s) has that Beta distribution, and y = ((g - s), √(2g) n) / (g + s) is a draw around the first
    axis: no root of a difference and no division by |n|. A Householder reflection then takes the axis to μ: the first
    axis or its opposite, whichever is further from μ, so that no reflection is computed from a small difference.

    Args:
        direction: μ, ``(..., d)``.
        concentration: κ, ``(...)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "direction": constraints.sphere,
        "concentration": constraints.positive,
    }
    support = constraints.sphere
    has_rsample = True

    def __init__(self, direction: torch.Tensor, concentration: torch.Tensor) -> None:
        batch = torch.broadcast_shapes(direction.shape[:-1], concentration.shape)
        self.direction = direction.expand(*batch, -1)
        self.concentration = concentration.expand(batch)
        super().__init__(batch, direction.shape[-1:])

    @property
    def mean(self) -> torch.Tensor:
        """E[z] = κ μ / (κ + d - 1), ``(..., d)``: inside the sphere."""
        ratio = self.concentration / (self.concentration + self.event_shape[0] - 1)
        return ratio.unsqueeze(-1) * self.direction

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> torch.Tensor:
        """Draws ``(*sample_shape, ..., d)``, differentiable in the direction and the concentration."""
        mu, shape = self.direction, self._extended_shape(sample_shape)
        beta = (shape[-1] - 1) / 2
        n = torch.randn(*shape[:-1], shape[-1] - 1, dtype=mu.dtype, device=mu.device)
        s = n.square().sum(-1, keepdim=True) / 2
        g = torch._standard_gamma((self.concentration + beta).expand(shape[:-1])).unsqueeze(-1)
        far = torch.where(mu[..., :1] < 0, 1.0, -1.0).to(mu)
        y = torch.cat([far * (g - s), (2 * g).sqrt() * n], dim=-1) / (g + s)
        normal = torch.cat([mu[..., :1] - far, mu[..., 1:]], dim=-1)
        along = (normal * y).sum(-1, keepdim=True) / normal.square().sum(-1, keepdim=True)
        return y - 2 * along * normal

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log p(z) in nats for points ``(..., d)`` of the sphere.

        log((1 + μᵀz)/2) is taken from |z - μ|² and |z + μ|², which are exact near μ and near -μ.
        """
        if self._validate_args:
            self._validate_sample(value)
        twice = self.event_shape[0] - 1
        near = (value - self.direction).square().sum(-1)
        far = (value + self.direction).square().sum(-1)
        half = self.concentration.new_tensor(twice / 2)
        log_constant = (
            log_rising(self.concentration + half, half) - twice * math.log(2) - half * math.log(math.pi)
        )
        return log_constant - self.concentration * (near / far).log1p()
