"""Normalising flows: neural splines of the package zuko, as Pyro distributions that score arbitrary points both ways.

zuko is an optional dependency, imported when a flow is made: ``pip install 'ppl_vae[flows]'``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import Transform, constraints

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe


def spline_flow(
    dim: int,
    context: int,
    *,
    transforms: int,
    bins: int,
    hidden: Sequence[int],
    autoregressive: bool,
    seed: int,
) -> nn.Module:
    """The networks of a neural spline flow (Durkan et al. 2019, "Neural Spline Flows"), which starts as the identity.

    Args:
        dim: the number of coordinates.
        context: the number of conditioning features; 0 for none.
        transforms: the number of layers; each transforms all coordinates, in turns from the first and from the last.
        bins: the number of bins of each spline.
        hidden: the widths of the hidden layers of each network.
        autoregressive: whether each coordinate depends on all before it: it scores in one pass and draws in ``dim``.
            Otherwise, the second half depends on the first (coupling): one pass and two.
        seed: the networks' start is a function of it.

    Returns:
        A module that, called with a context ``(..., context)`` or with None, gives zuko's transform of data to noise.

    Raises:
        InputError: if zuko is not installed, or an argument is of no use.
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise InputError("hidden", "a sequence of widths such as (64, 64)", describe(hidden))
    for name, value in (("transforms", transforms), ("bins", bins), *(("hidden", width) for width in hidden)):
        check_positive_int(name, value)
    if not isinstance(autoregressive, bool):
        raise InputError("autoregressive", "true or false", describe(autoregressive))
    try:
        from zuko.flows import NSF
    except ImportError as error:
        expected = "the package zuko for a flow (pip install 'ppl_vae[flows]')"
        raise InputError("zuko", expected, "none that can be imported") from error
    passes = dim if autoregressive else 2
    with rng.seeded("cpu", check_seed(seed), "flow"):
        flow = NSF(
            dim,
            context,
            bins=bins,
            transforms=transforms,
            passes=passes,
            hidden_features=tuple(hidden),
            activation=nn.SiLU,
        ).transform
    with torch.no_grad():
        for layer in flow.transforms:
            networks = layer.hyper[-1].parameters() if hasattr(layer, "hyper") else layer.parameters()
            for parameter in networks:
                parameter.zero_()
    found: nn.Module = flow
    return found


class FlowTransform(Transform):
    """z = loc + scale · f⁻¹(u), with f a flow from data to noise at a context.

    A spline is the identity outside of [-5, 5], so that the location and the scale are what takes it to where the data
    are. Nothing is cached: every point is scored as it comes, from either side.

    Args:
        flow: what `spline_flow` returns.
        context: ``(..., context)``, or None.
        loc: the location, ``(..., dim)``.
        log_scale: the logarithms of the scales, ``(..., dim)``.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        flow: Callable[[torch.Tensor | None], Any],
        context: torch.Tensor | None,
        loc: torch.Tensor,
        log_scale: torch.Tensor,
    ) -> None:
        super().__init__()
        self.flow, self.context, self.loc, self.log_scale = flow, context, loc, log_scale

    def _call(self, u: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = self.loc + self.log_scale.exp() * self.flow(self.context).inv(u)
        return moved

    def _inverse(self, z: torch.Tensor) -> torch.Tensor:
        return self.to_noise(z)[0]

    def log_abs_det_jacobian(self, u: torch.Tensor, z: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  (torch's form)
        """log |dz/du| at z, ``(...)``."""
        return -self.to_noise(z)[1]

    def to_noise(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u ``(..., dim)`` for points z, and log |du/dz| ``(...)``, in one pass."""
        u, log_det = self.flow(self.context).call_and_ladj((z - self.loc) * (-self.log_scale).exp())
        return u, log_det - self.log_scale.sum(-1)


class FlowDistribution(dist.TransformedDistribution):
    """The distribution of a `FlowTransform` of standard normal noise; it scores a point in one pass."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log p(z) = log N(u; 0, I) + log |du/dz|, in nats: ``(...)`` for points ``(..., dim)``."""
        if self._validate_args:
            self._validate_sample(value)
        (move,) = self.transforms
        u, log_det = move.to_noise(value)
        log_normal = -0.5 * (u.square().sum(-1) + u.shape[-1] * math.log(2 * math.pi))
        log_prob: torch.Tensor = log_normal + log_det
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


def flow_distribution(
    flow: Callable[[torch.Tensor | None], Any],
    context: torch.Tensor | None,
    loc: torch.Tensor,
    log_scale: torch.Tensor,
) -> FlowDistribution:
    """The distribution of z = loc + exp(log_scale) · f⁻¹(u), u ~ N(0, I): batch shape ``loc.shape[:-1]``."""
    noise = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
    return FlowDistribution(noise, [FlowTransform(flow, context, loc, log_scale)])
