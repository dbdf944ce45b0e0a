"""Logistic densities rounded to integers, and the probability of an interval without cancellation."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import log_softmax, logsigmoid


class RoundedLogistics(TorchDistribution):
    """A mixture of K logistic densities, rounded to integers from 0 to L - 1: the distribution of single numbers.

    Args:
        loc: ``(..., K)`` the locations.
        scale: ``(..., K)`` the scales.
        logits: ``(..., K)`` of the components; None for a single one.
        levels: L.
        validate_args: as in Pyro.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  (torch's own form)

    def __init__(
        self,
        loc: torch.Tensor,
        scale: torch.Tensor,
        logits: torch.Tensor | None,
        levels: int,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.logits, self.levels = loc, scale, logits, levels
        super().__init__(loc.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """An integer from 0 to L - 1."""
        interval: constraints.Constraint = constraints.integer_interval(0, self.levels - 1)
        return interval

    def expand(self, batch_shape: Any, _instance: Any = None) -> RoundedLogistics:
        """See Pyro."""
        new: RoundedLogistics = self._get_checked_instance(RoundedLogistics, _instance)
        shape = torch.Size([*batch_shape, self.loc.shape[-1]])
        new.loc, new.scale, new.levels = self.loc.expand(shape), self.scale.expand(shape), self.levels
        new.logits = None if self.logits is None else self.logits.expand(shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_probs(self, value: torch.Tensor) -> torch.Tensor:
        """log p(value) under each component, ``(..., K)``, in double precision."""
        x, loc, scale = value[..., None].double(), self.loc.double(), self.scale.double()
        low, high = (x - 0.5 - loc) / scale, (x + 0.5 - loc) / scale
        low = torch.where(x <= 0, -torch.inf, low)
        return log_interval(low, torch.where(x >= self.levels - 1, torch.inf, high))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log p(value), summed in double precision."""
        if self._validate_args:
            self._validate_sample(value)
        each = self._log_probs(value)
        if self.logits is not None:
            each = each + log_softmax(self.logits.double(), -1)
        return each.logsumexp(-1).to(self.loc.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        """Draws, ``(*sample_shape, ...)``."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            every = torch.Size([*shape, self.loc.shape[-1]])
            loc, scale = self.loc.expand(every), self.scale.expand(every)
            if self.logits is None:
                loc, scale = loc[..., 0], scale[..., 0]
            else:
                which = torch.distributions.Categorical(logits=self.logits.expand(every)).sample()[..., None]
                loc, scale = loc.gather(-1, which)[..., 0], scale.gather(-1, which)[..., 0]
            u = torch.rand(shape, dtype=torch.float64, device=loc.device).clamp(1e-300, 1 - 2**-53)
            drawn = loc.double() + scale.double() * (u.log() - (-u).log1p())
            return drawn.round().clamp(0, self.levels - 1).to(self.loc.dtype)

    @property
    def mean(self) -> torch.Tensor:
        """sum_{t=0}^{L-2} p(x > t), by the levels one after the other, so that memory does not grow with them."""
        loc, scale = self.loc.double(), self.scale.double()
        weight = torch.ones_like(loc) if self.logits is None else self.logits.double().softmax(-1)
        total = torch.zeros_like(loc)
        for level in range(self.levels - 1):
            total = total + torch.sigmoid((loc - level - 0.5) / scale)
        return (weight * total).sum(-1).to(self.loc.dtype)


def log_interval(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """log(σ(high) - σ(low)) for low < high, either of which may be infinite.

    σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a - b)): a product, so nothing cancels, however small the interval's probability.
    """
    inner = low.isfinite() & high.isfinite()
    # Where an end is infinite the last factor is 1. Its input is replaced there, so that its gradient is no NaN.
    distance = torch.where(inner, high - low, 1.0)
    log_width = torch.where(inner, (-torch.expm1(-distance)).log(), 0.0)
    below = torch.where(high.isfinite(), logsigmoid(torch.where(high.isfinite(), high, 0.0)), 0.0)
    above = torch.where(low.isfinite(), logsigmoid(torch.where(low.isfinite(), -low, 0.0)), 0.0)
    return below + above + log_width
