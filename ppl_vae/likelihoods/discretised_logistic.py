"""Integers from 0 to a known maximum, such as grey levels of 8 bits, whose neighbours are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch.nn.functional import softplus

from ppl_vae.errors import check_positive_float
from ppl_vae.likelihoods.bounded_integers import BoundedIntegers
from ppl_vae.likelihoods.categorical import check_categories
from ppl_vae.likelihoods.rounded_logistics import RoundedLogistics


class DiscretisedLogistic(BoundedIntegers):
    """p(x|z) = prod_i σ((x_i + 1/2 - loc_i) / s_i) - σ((x_i - 1/2 - loc_i) / s_i), for x of integers from 0 to L - 1.

    A logistic density rounded to integers; all mass below 0 is at 0 and all above L - 1 at L - 1. The location, in
    units of L - 1, and the scale s = (L - 1) (min_scale + softplus(raw_scale)) come from the decoder. log p(x|z) is in
    nats. The encoder sees x / (L - 1).

    Source: Salimans et al., "PixelCNN++" (2017), and Kingma et al. (2016).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        levels: L, the number of values of x: 256 for grey levels of 8 bits.
        min_scale: the smallest scale, in units of L - 1.
    """

    def __init__(self, shape: int | Sequence[int], levels: int = 256, min_scale: float = 1e-4) -> None:
        super().__init__(shape)
        self.levels = check_categories(levels, "levels")
        self.largest = self.levels - 1
        self.min_scale = check_positive_float("min_scale", min_scale)
        self.param_shapes = {"loc": self.shape, "raw_scale": self.shape}

    def _cut(
        self, params: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Locations and scales in units of x, ``(..., *shape, K)``, and the components' logits if there are several."""
        top = self.levels - 1
        loc, raw = params["loc"][..., None], params["raw_scale"][..., None]
        return top * loc, top * (self.min_scale + softplus(raw)), None

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from parameters ``(..., *param_shapes[name])``."""
        p: TorchDistribution = RoundedLogistics(*self._cut(params), self.levels).to_event(len(self.shape))
        return p

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The location at ``x_mean`` and a scale of a tenth of the range."""
        scale = torch.full_like(x_mean, 0.1 - min(self.min_scale, 0.09))
        return {"loc": x_mean / (self.levels - 1), "raw_scale": scale.expm1().log()}
