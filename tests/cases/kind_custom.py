"""Distributions of a user's own, with as little as Pyro asks for, as likelihood, guide and prior."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, grid, normal, plate, seeded
from torch.distributions import constraints

import ppl_vae as pv

_X = seeded(91, 6)


def _draw(loc, shape):
    return loc.expand(torch.Size(shape) + loc.shape) + 0.5 * torch.randn(torch.Size(shape) + loc.shape)


class NoSupport(dist.TorchDistribution):
    """Normal(loc, 0.5) that does not say where it lives."""

    arg_constraints = {}  # noqa: RUF012  (as people write it)

    def __init__(self, loc, validate_args=None):
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return type(self)(self.loc.expand(batch_shape))

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return _draw(self.loc, sample_shape)

    def log_prob(self, value):
        return torch.distributions.Normal(self.loc, 0.5).log_prob(value)


class NoExpand(NoSupport):
    support = constraints.real

    def expand(self, batch_shape, _instance=None):
        return dist.TorchDistribution.expand(self, batch_shape)


class NoArguments(dist.TorchDistribution):
    """Nothing but a constructor, `sample` and `log_prob`."""

    support = constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return _draw(self.loc, sample_shape)

    def log_prob(self, value):
        return torch.distributions.Normal(self.loc, 0.5).log_prob(value)


class Bare(dist.Distribution):
    """Pyro's abstract class, and not torch's."""

    def __init__(self, loc):
        self.loc = loc

    def __call__(self, *args, **kwargs):
        return self.loc + 0.5 * torch.randn(self.loc.shape)

    sample = __call__

    def log_prob(self, value):
        return torch.distributions.Normal(self.loc, 0.5).log_prob(value)


class SupportProperty(NoSupport):
    """The support is a property, and draws have gradients."""

    has_rsample = True

    @property
    def support(self):
        return constraints.real

    def rsample(self, sample_shape=torch.Size()):  # noqa: B008
        return _draw(self.loc, sample_shape)


class NoSample(NoSupport):
    """Can be scored only."""

    support = constraints.real

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        raise NotImplementedError


class TorchNormal(torch.distributions.Normal):
    """torch's class without Pyro's mixin: Pyro wraps what it gets."""


_KINDS = (NoSupport, NoExpand, NoArguments, Bare, SupportProperty)


def _prior_is_normal(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _usual_guide(x):
    with plate(x):
        pyro.sample("z", dist.Normal(0.8 * x, 0.55))


def _as_likelihood(kind, **options):
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", kind(z), obs=x)

    name = f"likelihood_{kind.__name__}"
    return Case(name, lambda: pv.Program(model, _usual_guide), _X, normal(), **options)


def _as_guide(kind, **options):
    def guide(x):
        with plate(x):
            pyro.sample("z", kind(0.8 * x))

    name = f"guide_{kind.__name__}"
    return Case(name, lambda: pv.Program(_prior_is_normal, guide), _X, normal(), **options)


def _as_prior(kind, **options):
    def model(x):
        with plate(x):
            z = pyro.sample("z", kind(torch.zeros(len(x))))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(0.5 * x, 0.45))

    name = f"prior_{kind.__name__}"
    return Case(name, lambda: pv.Program(model, guide), _X, normal(0.0, 0.5), **options)


class Inflated(dist.TorchDistribution):
    """Zero with probability 0.3, else a Poisson count: of one's own, without a support."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, rate, validate_args=None):
        self.rate = rate
        super().__init__(rate.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Inflated(self.rate.expand(batch_shape))

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        shape = torch.Size(sample_shape) + self.rate.shape
        return torch.poisson(self.rate.expand(shape)) * (torch.rand(shape) > 0.3)

    def log_prob(self, value):
        count = torch.distributions.Poisson(self.rate).log_prob(value) + math.log(0.7)
        return torch.where(value == 0, torch.logaddexp(count, torch.tensor(0.3).log()), count)


class Curve(dist.TorchDistribution):
    """A vector likelihood with an event dimension of its own: a line seen with noise at 4 points."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, slope, validate_args=None):
        self.slope, self.points = slope, torch.arange(4.0) / 2
        super().__init__(slope.shape, torch.Size([4]), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Curve(self.slope.expand(batch_shape))

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return _draw(self.slope[..., None] * self.points, sample_shape)

    def log_prob(self, value):
        line = self.slope[..., None] * self.points
        return torch.distributions.Normal(line, 0.5).log_prob(value).sum(-1)


class LogitNormal(dist.TransformedDistribution):
    """A transformed distribution with a constructor of its own, as a guide of a latent in (0, 1)."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, loc, scale):
        super().__init__(dist.Normal(loc, scale), [dist.transforms.SigmoidTransform()])

    def expand(self, batch_shape, _instance=None):
        return LogitNormal(self.base_dist.loc.expand(batch_shape), self.base_dist.scale.expand(batch_shape))


def _counts():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Inflated(z.exp()), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(0.0 * x, 1.1))

    x = torch.tensor([0.0, 1.0, 3.0])
    return Case("inflated_counts", lambda: pv.Program(model, guide), x, grid(model, 0, nodes=2001))


def _curve():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Curve(z), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(0.4 * x[:, -1], 0.5))

    return Case(
        "vector_of_ones_own", lambda: pv.Program(model, guide), seeded(92, 4, 4), grid(model, 0, nodes=2001)
    )


def _logit_normal():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Beta(2.0, 2.0))
            pyro.sample("x", dist.Binomial(10, probs=z), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", LogitNormal((x + 2).log() - (12 - x).log(), 0.8 + 0 * x))

    def exact(x):
        two = torch.tensor(2.0, dtype=torch.float64)
        return dist.BetaBinomial(two, two, 10).log_prob(x.double())

    x = torch.tensor([0.0, 3.0, 10.0])
    accepts = ("importance", "refitted", "gaps")
    return Case("logit_normal_guide", lambda: pv.Program(model, guide), x, exact, accepts=accepts, hard=True)


def _factor():
    """A likelihood by `pyro.factor`, as many write an energy: no data are observed by a distribution."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", torch.distributions.Normal(z, 0.5).log_prob(x))

    return Case("factor", lambda: pv.Program(model, _usual_guide), _X, normal(), accepts=(), simulates=False)


_LEAST = {
    "accepts": (),
    "plain": False,
}  # where plain Pyro itself asks for more, or has no gradient: either will do
CASES = [
    *(_as_likelihood(kind, **(_LEAST if kind is Bare else {})) for kind in (*_KINDS, NoSample)),
    *(_as_guide(kind, trains=False, **(_LEAST if kind in (Bare, NoArguments) else {})) for kind in _KINDS),
    *(_as_prior(kind, **(_LEAST if kind is Bare else {})) for kind in _KINDS),
    _as_prior(
        NoSample, accepts=("importance", "widened", "student", "refitted", "sobol", "annealed", "smc", "gaps")
    ),
    _counts(),
    _curve(),
    _logit_normal(),
    _factor(),
]
