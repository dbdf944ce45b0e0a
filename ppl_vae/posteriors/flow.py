"""A normalising flow as a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import check_positive_int
from ppl_vae.flows import flow_distribution, spline_flow
from ppl_vae.posteriors.base import Posterior


class Flow(Posterior):
    """q(z|x) of z = loc + exp(log_scale) · f⁻¹(u; context), u ~ N(0, I), with f a neural spline flow.

    From Durkan et al. (2019, "Neural Spline Flows"), by the package zuko (the extra ``flows``). The encoder emits the
    location, the scales and a context, which the flow's own networks read. Reparameterised; any point is scored.
    log q(z|x) = log N(f(y); 0, I) + log |det df/dy| - sum(log_scale) at y = (z - loc) / exp(log_scale), in nats. It
    starts as the Gaussian of `MeanFieldNormal`. Splines bend the space inside [-5, 5] of y alone.

    Args:
        dim: the number of latent dimensions.
        context: how many numbers the encoder tells the flow.
        transforms: the number of layers.
        bins: the number of bins of each spline.
        hidden: the widths of the hidden layers of each layer's network.
        autoregressive: whether each coordinate depends on all before it: scores in one pass and draws in ``dim``
            passes. Otherwise (coupling), each half depends on the other in turn, and draws take two passes.
        seed: the networks' start is a function of it.

    Raises:
        InputError: if zuko is not installed.
    """

    def __init__(
        self,
        dim: int,
        context: int = 16,
        transforms: int = 3,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        autoregressive: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dim)
        self.param_shapes = {
            "loc": torch.Size([self.dim]),
            "log_scale": torch.Size([self.dim]),
            "context": torch.Size([check_positive_int("context", context)]),
        }
        self.flow = spline_flow(
            self.dim,
            context,
            transforms=transforms,
            bins=bins,
            hidden=hidden,
            autoregressive=autoregressive,
            seed=seed,
        )

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""
        return flow_distribution(self.flow, params["context"], params["loc"], params["log_scale"])
