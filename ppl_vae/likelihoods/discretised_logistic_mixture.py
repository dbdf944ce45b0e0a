"""Integers from 0 to a known maximum with several modes for each number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import softplus

from ppl_vae.errors import check_positive_int
from ppl_vae.likelihoods.discretised_logistic import DiscretisedLogistic


class DiscretisedLogisticMixture(DiscretisedLogistic):
    """p(x|z) = prod_i sum_k softmax(logits_i)_k times the probability of x_i under `DiscretisedLogistic` number k.

    Several modes for each number of x: the likelihood of PixelCNN++ (Salimans et al. 2017) without its channels'
    dependence. log p(x|z) is in nats. The encoder sees x / (levels - 1).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        components: K.
        levels: the number of values of x.
        min_scale: the smallest scale, in units of ``levels`` - 1.
    """

    def __init__(
        self, shape: int | Sequence[int], components: int = 5, levels: int = 256, min_scale: float = 1e-4
    ) -> None:
        super().__init__(shape, levels, min_scale)
        self.components = check_positive_int("components", components)
        each = self.several(self.components)
        self.param_shapes = {"logits": each, "loc": each, "raw_scale": each}

    def _cut(
        self, params: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        top, K = self.levels - 1, self.components
        loc, raw, logits = (self.values_last(params[name], K) for name in ("loc", "raw_scale", "logits"))
        return top * loc, top * (self.min_scale + softplus(raw)), logits

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """Locations spread evenly by a tenth of the range on each side of ``x_mean``, scales of a tenth of it."""
        single = super().initial_params(x_mean)
        spread = torch.linspace(-0.1, 0.1, self.components) if self.components > 1 else torch.zeros(1)
        loc = torch.cat([single["loc"] + float(distance) for distance in spread])
        return {
            "logits": torch.zeros_like(loc),
            "loc": loc,
            "raw_scale": torch.cat([single["raw_scale"]] * self.components),
        }
