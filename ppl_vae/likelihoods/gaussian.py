"""Real-valued data."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.likelihoods.location_scale import LocationScale
from ppl_vae.likelihoods.summary import Summary


class Gaussian(LocationScale):
    """p(x|z) = prod_i N(x_i; loc_i, scale_i²), for real x, with the scale fixed, learned or from the decoder.

    log p(x|z) = -sum_i ((x_i - loc_i)² / scale_i² + 2 log scale_i + log 2π) / 2: nats, as a density per unit
    of x. Rescaling the data therefore shifts the evidence.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        scale: the standard deviation: a number, ``"learned"`` or ``"decoder"`` (see `LocationScale`).
        min_scale: the smallest that ``"decoder"`` can give, part of the model (see `LocationScale`).
    """

    def distribution(self, loc: torch.Tensor, scale: torch.Tensor) -> TorchDistribution:
        """N(loc, scale²)."""
        return dist.Normal(loc, scale)

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:
        """Real numbers.

        Not integers from 0, on which the evidence under a density means nothing.
        """
        return None if summary.integers and summary.low >= 0 else {"scale": "learned"}
