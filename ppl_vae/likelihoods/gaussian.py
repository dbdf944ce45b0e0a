"""Real-valued data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.summary import Summary


class Gaussian(Likelihood):
    """p(x|z) = prod_i N(x_i; loc_i, scale_i²), for real x, with the scale fixed, learned or from the decoder.

    log p(x|z) = -sum_i ((x_i - loc_i)² / scale_i² + 2 log scale_i + log 2π) / 2: nats, as a density per unit
    of x. Rescaling the data therefore shifts the evidence.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        scale: the standard deviation, in units of x. A number: fixed. ``"learned"``: one parameter shared by
            all of x, starting at 1. ``"decoder"``: ``min_scale + softplus(raw_scale)``, with a ``raw_scale``
            from the decoder for each number of x.
        min_scale: the smallest scale that ``"decoder"`` can give, in units of x. It is part of the model:
            without it the density, and so the evidence, is unbounded (a decoder that is exactly right about
            one number gains without end by shrinking its scale). The other scales do not use it.

    Attributes:
        log_scale: the logarithm of the scale; only with ``scale="learned"``.
    """

    base_measure = "lebesgue"

    def __init__(
        self,
        shape: int | Sequence[int],
        scale: float | Literal["learned", "decoder"] = 1.0,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(shape)
        self.min_scale = check_positive_float("min_scale", min_scale)
        self.param_shapes = {"loc": self.shape}
        if isinstance(scale, str):
            if scale not in ("learned", "decoder"):
                raise InputError("scale", "a positive number, 'learned' or 'decoder'", describe(scale))
            self.scale: float | str = scale
        else:
            self.scale = check_positive_float("scale", scale)
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        if scale == "decoder":
            self.param_shapes["raw_scale"] = self.shape

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *shape)`` each."""
        loc = params["loc"]
        if self.scale == "learned":
            scale = self.log_scale.exp().expand_as(loc)
        elif self.scale == "decoder":
            scale = self.min_scale + softplus(params["raw_scale"])
        else:
            scale = torch.full_like(loc, float(self.scale))
        p: TorchDistribution = dist.Normal(loc, scale).to_event(len(self.shape))
        return p

    @property
    def support(self) -> constraints.Constraint:
        """Any real number."""
        return constraints.real

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """``loc = x_mean``; a decoder's scale starts at 1, or at twice ``min_scale`` if that is more."""
        start = {"loc": x_mean}
        if self.scale == "decoder":
            above = max(1.0 - self.min_scale, self.min_scale)
            start["raw_scale"] = torch.full_like(x_mean, above + math.log(-math.expm1(-above)))
        return start

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:
        """Real numbers.

        Not integers from 0, on which the evidence under a density means nothing.
        """
        return None if summary.integers and summary.low >= 0 else {"scale": "learned"}
