"""Real-valued data with sharp centres and exponential tails."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.likelihoods.location_scale import LocationScale


class Laplace(LocationScale):
    """p(x|z) = prod_i exp(-|x_i - loc_i| / scale_i) / (2 scale_i), for real x: its maximum is the least absolute error.

    log p(x|z) in nats, as a density per unit of x. The standard deviation is √2 times the scale.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        scale: a number, ``"learned"`` or ``"decoder"`` (see `LocationScale`).
        min_scale: the smallest that ``"decoder"`` can give, part of the model (see `LocationScale`).
    """

    def distribution(self, loc: torch.Tensor, scale: torch.Tensor) -> TorchDistribution:
        """Laplace(loc, scale)."""
        return dist.Laplace(loc, scale)
