"""Location and scale: what the families of real data share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.likelihoods.base import Likelihood

Scale = float | Literal["learned", "decoder"]


class LocationScale(Likelihood):
    """A density with a location from the decoder for each number of x, and a scale: fixed, learned or from the decoder.

    A family writes `distribution`, and its own docstring.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        scale: in units of x. A number: fixed. ``"learned"``: one parameter shared by all of x, starting at 1.
            ``"decoder"``: ``min_scale + softplus(raw_scale)``, with a ``raw_scale`` from the decoder for each number
            of x.
        min_scale: the smallest scale that ``"decoder"`` can give, in units of x. It is part of the model:
            without it the density, and so the evidence, is unbounded (a decoder that is exactly right about
            one number gains without end by shrinking its scale). The other scales do not use it.

    Attributes:
        log_scale: the logarithm of the scale; only with ``scale="learned"``.
    """

    base_measure = "lebesgue"

    def __init__(self, shape: int | Sequence[int], scale: Scale = 1.0, min_scale: float = 1e-3) -> None:
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

    @abstractmethod
    def distribution(self, loc: torch.Tensor, scale: torch.Tensor) -> TorchDistribution:
        """The distribution of a single number, of batch shape ``loc.shape``."""

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *shape)`` each."""
        loc = params["loc"]
        if self.scale == "learned":
            scale = self.log_scale.exp().expand_as(loc)
        elif self.scale == "decoder":
            scale = self.min_scale + softplus(params["raw_scale"])
        else:
            scale = torch.full_like(loc, float(self.scale))
        p: TorchDistribution = self.distribution(loc, scale).to_event(len(self.shape))
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
