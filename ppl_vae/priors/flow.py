"""A normalising flow as a prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae.flows import flow_distribution, spline_flow
from ppl_vae.priors.base import Prior


class Flow(Prior):
    """p(z) of z = loc + exp(log_scale) · f⁻¹(u), u ~ N(0, I), with f a neural spline flow, all learned.

    From Durkan et al. (2019, "Neural Spline Flows"), by the package zuko (the extra ``flows``).
    log p(z) = log N(f(y); 0, I) + log |det df/dy| - sum(log_scale) at y = (z - loc) / exp(log_scale), in nats. It
    starts as the standard normal. Splines bend the space inside [-5, 5] of y alone; location and scales take y there.

    Args:
        dim: the number of latent dimensions.
        transforms: the number of layers.
        bins: the number of bins of each spline.
        hidden: the widths of the hidden layers of each layer's network.
        autoregressive: whether each coordinate depends on all before it: scores in one pass and draws in ``dim``
            passes. Otherwise (coupling), each half depends on the other in turn, and draws take two passes.
        seed: the networks' start is a function of it.

    Attributes:
        loc: the location, ``(dim,)``.
        log_scale: the logarithms of the scales, ``(dim,)``.

    Raises:
        InputError: if zuko is not installed.
    """

    def __init__(
        self,
        dim: int,
        transforms: int = 3,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        autoregressive: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dim)
        self.loc = nn.Parameter(torch.zeros(self.dim))
        self.log_scale = nn.Parameter(torch.zeros(self.dim))
        self.flow = spline_flow(
            self.dim,
            0,
            transforms=transforms,
            bins=bins,
            hidden=hidden,
            autoregressive=autoregressive,
            seed=seed,
        )

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        return flow_distribution(self.flow, None, self.loc, self.log_scale)
