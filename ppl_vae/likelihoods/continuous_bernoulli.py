"""Real numbers from 0 to 1, such as grey levels taken as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.likelihoods.base import Likelihood


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod_i C(l_i) σ(l_i)^x_i σ(-l_i)^(1 - x_i), for x in [0, 1], with logits l from the decoder.

    C(l) = l / tanh(l / 2) normalises it: the cross entropy that is often summed over grey levels, made a density.
    log p(x|z) is in nats, per unit of x.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders" (2019).

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
    """

    base_measure = "lebesgue"

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape)
        self.param_shapes = {"logits": self.shape}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from logits ``(..., *shape)``."""
        p: TorchDistribution = _ContinuousBernoulli(params["logits"]).to_event(len(self.shape))
        return p

    @property
    def support(self) -> constraints.Constraint:
        """A number from 0 to 1."""
        return constraints.unit_interval

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits whose mean is ``x_mean``, kept between 0.001 and 0.999, by bisection."""
        wanted = x_mean.clamp(1e-3, 1 - 1e-3)
        low, high = torch.full_like(wanted, -1e3), torch.full_like(wanted, 1e3)
        for _ in range(100):  # each halves an interval of 2,000
            middle = (low + high) / 2
            below = _mean(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return {"logits": (low + high) / 2}


_SMALL = (
    0.05  # below it, series are exact to double precision: the first term that is left out is of order l^8
)


class _ContinuousBernoulli(TorchDistribution):
    """The distribution of a single number."""

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  (torch's own form)
    support = constraints.unit_interval

    def __init__(self, logits: torch.Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _ContinuousBernoulli:
        new: _ContinuousBernoulli = self._get_checked_instance(_ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        cross_entropy = value * logsigmoid(self.logits) + (1 - value) * logsigmoid(-self.logits)
        # In double precision: terms of the size of 1 / l nearly cancel in its slope.
        return cross_entropy + _log_constant(self.logits.double()).to(self.logits.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            # x = log(1 + u (e^l - 1)) / l, of the mirrored density for positive logits so that nothing overflows. At
            # the smallest size it is u.
            size = self.logits.abs().clamp(min=1e-12)
            x = -(u * torch.expm1(-size)).log1p() / size
            return torch.where(self.logits > 0, 1 - x, x).clamp(0, 1)

    @property
    def mean(self) -> torch.Tensor:
        return _mean(self.logits.double()).to(self.logits.dtype)


def _log_constant(logits: torch.Tensor) -> torch.Tensor:
    """log(l / tanh(l / 2)): even in l, and log 2 at 0."""
    size = logits.abs()
    # Where one branch is not used its input is replaced, so that its gradient is no NaN.
    safe = torch.where(size < _SMALL, 1.0, size)
    square = torch.where(size < _SMALL, logits, 0.0) ** 2
    series = square / 12 - 7 * square**2 / 1440 + 31 * square**3 / 90720
    exact = safe.log() + (-safe).exp().log1p() - (-(-safe).expm1()).log()
    return torch.where(size < _SMALL, series + torch.log(torch.full_like(size, 2.0)), exact)


def _mean(logits: torch.Tensor) -> torch.Tensor:
    """1 / (1 - e^-l) - 1 / l, which is 1/2 at 0."""
    size = logits.abs()
    safe = torch.where(size < _SMALL, 1.0, logits)
    small = torch.where(size < _SMALL, logits, 0.0)
    series = 0.5 + small / 12 - small**3 / 720 + small**5 / 30240
    exact = -1 / torch.expm1(-safe) - 1 / safe
    return torch.where(size < _SMALL, series, exact)
