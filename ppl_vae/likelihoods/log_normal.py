"""Positive data whose logarithm is Gaussian."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_vae.likelihoods.location_scale import LocationScale


class LogNormal(LocationScale):
    """p(x|z) = prod_i N(log x_i; loc_i, scale_i²) / x_i, for x > 0.

    log p(x|z) in nats, as a density per unit of x. The encoder sees log x.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        scale: the standard deviation of log x: a number, ``"learned"`` or ``"decoder"`` (see `LocationScale`).
        min_scale: the smallest that ``"decoder"`` can give, part of the model (see `LocationScale`).
    """

    def distribution(self, loc: torch.Tensor, scale: torch.Tensor) -> TorchDistribution:
        """The distribution of exp(loc + scale ε), ε standard normal."""
        return dist.LogNormal(loc, scale)

    @property
    def support(self) -> constraints.Constraint:
        """A number above 0."""
        return constraints.positive

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """``log x``."""
        return x.log()

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The location at which the mean, exp(loc + scale² / 2), is ``x_mean``; scales as in `LocationScale`."""
        start = super().initial_params(x_mean)
        if self.scale == "learned":
            scale = self.log_scale.detach().exp()
        elif self.scale == "decoder":
            scale = self.min_scale + torch.nn.functional.softplus(start["raw_scale"])
        else:
            scale = torch.tensor(float(self.scale), dtype=x_mean.dtype)
        # A mean of 0 has no logarithm; the smallest normal number stands for it.
        start["loc"] = x_mean.clamp(min=torch.finfo(x_mean.dtype).tiny).log() - scale**2 / 2
        return start
