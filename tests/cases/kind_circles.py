"""Latent angles and directions: torch says that the support of an angle is all of the reals."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, grid, plate, seeded

import ppl_vae as pv

_X = seeded(41, 6, 2, dtype=torch.float64)
_ZERO = torch.zeros((), dtype=torch.float64)


def _round(z):
    return torch.stack([z.cos(), z.sin()], -1)


def _line(z):
    return torch.stack([z, 0.5 * z], -1)


def _angle(name, decode, prior, posterior, **options):
    def model(x):
        with plate(x):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(decode(z), 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", posterior(x))

    exact = grid(model, 0, low=-math.pi, high=math.pi, nodes=20001, dtype=torch.float64)
    return Case(name, lambda: pv.Program(model, guide), _X, exact, **options)


def _mises(x):
    return dist.VonMises(_ZERO, _ZERO + 1.5)


def _uniform(x):
    return dist.Uniform(_ZERO - math.pi, _ZERO + math.pi)


def _towards(x):
    return dist.VonMises(torch.atan2(x[:, 1], x[:, 0]), _ZERO + 1.0)


def _flat(x):
    return dist.VonMises(0 * x[:, 0], _ZERO + 1.0)


def _two_angles():
    def model(x):
        with plate(x):
            a = pyro.sample("a", _mises(x))
            b = pyro.sample("b", dist.VonMises(a, _ZERO + 2.0))
            pyro.sample("x", dist.Normal(_round(a) + _round(b), 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            a = pyro.sample("a", _flat(x))
            pyro.sample("b", dist.VonMises(a, _ZERO + 1.5))

    def exact(x):
        axis = torch.linspace(-math.pi, math.pi, 401, dtype=torch.float64)[
            :-1
        ]  # periodic in both: trapezoid rule
        a, b = (value[..., None] for value in torch.meshgrid(axis, axis, indexing="ij"))
        log_prior = _mises(x).log_prob(a) + dist.VonMises(a, _ZERO + 2.0).log_prob(b)
        loc = (_round(a) + _round(b)).squeeze(-2)[:, :, None]
        terms = log_prior + dist.Normal(loc, 0.7).to_event(1).log_prob(x)
        return terms.flatten(0, 1).logsumexp(0) + 2 * math.log(2 * math.pi / 400)

    return Case("two_angles", lambda: pv.Program(model, guide), _X, exact, names=("a", "b", "x"))


def _vector_of_angles():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.VonMises(torch.zeros(2).double(), _ZERO + 1.5).to_event(1))
            pyro.sample("x", dist.Normal(z.cos(), 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.VonMises(0 * x, _ZERO + 1.0).to_event(1))

    exact = grid(model, 2, low=-math.pi, high=math.pi, nodes=201, dtype=torch.float64)
    return Case("vector_of_angles", lambda: pv.Program(model, guide), _X, exact)


def _direction():
    """A point on a sphere: its density is one on a surface, which is not that of three numbers."""
    x = seeded(42, 4, 3)

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.ProjectedNormal(torch.tensor([0.5, 0.0, 0.0])))
            pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.ProjectedNormal(0.5 * x))

    def exact(x):
        steps = 400
        heights = (torch.arange(steps, dtype=torch.float64) + 0.5) * (2 / steps) - 1
        turns = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
        h, t = torch.meshgrid(heights, turns, indexing="ij")
        radius = (1 - h**2).sqrt()
        z = torch.stack([h, radius * t.cos(), radius * t.sin()], -1).reshape(-1, 3)  # uniform on the sphere
        prior = dist.ProjectedNormal(torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)).log_prob(z)
        terms = prior[:, None] + dist.Normal(z[:, None], 0.7).to_event(1).log_prob(x.double())
        return terms.logsumexp(0) + math.log(4 * math.pi / len(z))

    return Case("direction_on_a_sphere", lambda: pv.Program(model, guide), x, exact)


def _observed_angle():
    """The angle is observed, and the latent is a number."""
    x = torch.tensor([0.1, -3.0, 2.0, 1.0], dtype=torch.float64)

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(_ZERO, 1.0))
            pyro.sample("x", dist.VonMises(z, _ZERO + 2.0), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(0 * x, 1.2))

    exact = grid(model, 0, low=-10, high=10, nodes=2001, dtype=torch.float64)
    return Case("observed_angle", lambda: pv.Program(model, guide), x, exact)


CASES = [
    _angle("periodic", _round, _mises, _towards),
    _angle("not_periodic", _line, _mises, _flat),
    _angle("uniform_prior", _round, _uniform, _towards, accepts=()),
    _angle(
        "uniform_prior_and_guide",
        _line,
        _uniform,
        lambda x: dist.Uniform(0 * x[:, 0] - math.pi, _ZERO + math.pi),
    ),
    _angle("normal_guide", _round, _mises, lambda x: dist.Normal(0 * x[:, 0], 1.0), accepts=(), plain=False),
    _two_angles(),
    _vector_of_angles(),
    _direction(),
    _observed_angle(),
]
