"""Guides whose support is not the model's: a part of it is missed by every draw, and no weight can tell."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, grid, plate, seeded

import ppl_vae as pv

_X = torch.cat([0.3 * seeded(31, 6), torch.tensor([2.0, -2.0])]).abs()
_T = torch.tensor


def _pair(prior, likelihood, posterior):
    def model(x):
        with plate(x):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", posterior(x))

    return model, guide


def _square(z):
    return dist.Normal(z**2, 0.5)


def _real(name, posterior, **options):
    """The latent is real, with a posterior of two signs alike: half of it is missed by a guide of one sign."""
    model, guide = _pair(lambda x: dist.Normal(_T(0.0), 1.0), _square, posterior)
    return Case(name, lambda: pv.Program(model, guide), _X, grid(model, 0, nodes=2001), **options)


def _other(name, prior, likelihood, posterior, exact, x=_X, **options):
    model, guide = _pair(prior, likelihood, posterior)
    found = exact(model) if exact is not None else None
    return Case(name, lambda: pv.Program(model, guide), x, found, **options)


def _positive(model):
    return grid(model, 0, low=1e-9, high=12.0, nodes=20001)


def _unit(model):
    return grid(model, 0, low=1e-9, high=1 - 1e-6, nodes=20001)


def _squashed(x):
    base = dist.Normal(0.0 * x, 1.5)
    moves = [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(-1.0, 2.0)]
    return dist.TransformedDistribution(base, moves)


_NAMED = "'z'"
_COUNTS = torch.tensor([0.0, 1.0, 3.0])


def _sum(values, log_prior, log_likelihood):
    """The exact sum over a latent of few values."""

    def exact(model):
        def of(x):
            terms = [log_prior(v) + log_likelihood(v, x).double() for v in values]
            return torch.logsumexp(torch.stack(terms), 0)

        return of

    return exact


def _around(z, x):
    return torch.distributions.Normal(float(z), 1.0).log_prob(x)


_CLASSES = _sum(range(3), lambda k: -math.log(3.0), _around)
_TRIALS = _sum(range(5), lambda k: math.log(math.comb(4, k)) - 4 * math.log(2.0), _around)
_BINARY = _sum(range(2), lambda k: math.log((0.6, 0.4)[k]), _around)

CASES = [
    _real("normal", lambda x: dist.Normal(0.0 * x, 1.2)),
    _real("half_normal", lambda x: dist.HalfNormal(1.0 + 0.0 * x), refused=_NAMED),
    _real("gamma", lambda x: dist.Gamma(2.0 + 0.0 * x, 2.0), refused=_NAMED),
    _real("log_normal", lambda x: dist.LogNormal(-0.2 + 0.0 * x, 0.7), refused=_NAMED),
    _real("uniform", lambda x: dist.Uniform(-1.0 + 0.0 * x, 1.0), refused=_NAMED),
    _real("squashed", _squashed, refused=_NAMED),
    _real("exponential", lambda x: dist.Exponential(1.0 + 0.0 * x), refused=_NAMED),
    _real("beta", lambda x: dist.Beta(2.0 + 0.0 * x, 2.0), refused=_NAMED),
    _real("poisson", lambda x: dist.Poisson(1.0 + 0.0 * x), refused=_NAMED),
    _real("student", lambda x: dist.StudentT(4.0, 0.0 * x, 1.0)),
    _other(
        "beta_for_positive",
        lambda x: dist.Gamma(_T(2.0), 1.0),
        lambda z: dist.Normal(z, 0.5),
        lambda x: dist.Beta(2.0 + 0.0 * x, 2.0),
        None,
        refused=_NAMED,
    ),
    _other(
        "narrow_uniform_for_uniform",
        lambda x: dist.Uniform(_T(0.0), 2.0),
        lambda z: dist.Normal(z, 0.5),
        lambda x: dist.Uniform(0.0 * x, 1.0),
        None,
        refused=_NAMED,
    ),
    _other(
        "wide_uniform_for_uniform",
        lambda x: dist.Uniform(_T(0.0), 1.0),
        lambda z: dist.Normal(z, 0.5),
        lambda x: dist.Uniform(0.0 * x, 1.5),
        _unit,
        plain=False,
    ),
    _other(
        "normal_for_positive",
        lambda x: dist.HalfNormal(_T(1.0)),
        lambda z: dist.Normal(z, 0.5),
        lambda x: dist.Normal(0.5 + 0.0 * x, 1.0),
        _positive,
        accepts=(),
        plain=False,
    ),
    _other(
        "gamma_for_log_normal",
        lambda x: dist.LogNormal(_T(0.0), 0.5),
        lambda z: dist.Normal(z, 0.5),
        lambda x: dist.Gamma(2.0 + 0.0 * x, 1.5),
        _positive,
    ),
    _other(
        "fewer_classes",
        lambda x: dist.Categorical(torch.ones(3)),
        lambda z: dist.Normal(z.float(), 1.0),
        lambda x: dist.Categorical(torch.ones(2).expand(len(x), 2)),
        _CLASSES,
        refused=_NAMED,
        sums=True,
    ),
    _other(
        "more_classes",
        lambda x: dist.Categorical(torch.ones(3)),
        lambda z: dist.Normal(z.float(), 1.0),
        lambda x: dist.Categorical(torch.ones(5).expand(len(x), 5)),
        _CLASSES,
        accepts=(),
        plain=False,
    ),
    _other(
        "classes_of_no_chance",
        lambda x: dist.Categorical(torch.ones(3)),
        lambda z: dist.Normal(z.float(), 1.0),
        lambda x: dist.Categorical(_T([0.5, 0.5, 0.0]).expand(len(x), 3)),
        _CLASSES,
        accepts=(),
        plain=False,
    ),
    _other(
        "fewer_trials",
        lambda x: dist.Binomial(4, _T(0.5)),
        lambda z: dist.Normal(z, 1.0),
        lambda x: dist.Binomial(2, 0.5 + 0.0 * x),
        _TRIALS,
        refused=_NAMED,
        sums=True,
    ),
    _other(
        "real_for_discrete",
        lambda x: dist.Poisson(_T(2.0)),
        lambda z: dist.Normal(z, 1.0),
        lambda x: dist.Normal(2.0 + 0.0 * x, 1.0),
        None,
        refused=_NAMED,
    ),
    _other(
        "real_for_binary",
        lambda x: dist.Bernoulli(_T(0.4)),
        lambda z: dist.Normal(z, 1.0),
        lambda x: dist.RelaxedBernoulli(_T(0.5), probs=0.4 + 0.0 * x),
        _BINARY,
        refused=_NAMED,
        sums=True,
    ),
    _other(
        "poisson_for_geometric",
        lambda x: dist.Geometric(_T(0.4)),
        lambda z: dist.Poisson(0.5 + z),
        lambda x: dist.NegativeBinomial(2.0, probs=0.4 + 0.0 * x),
        _sum(
            range(80),
            lambda k: math.log(0.4) + k * math.log(0.6),
            lambda k, x: torch.distributions.Poisson(0.5 + k).log_prob(x),
        ),
        x=_COUNTS,
    ),
    _other(
        "simplex_for_real",
        lambda x: dist.Normal(torch.zeros(3), 1.0).to_event(1),
        lambda z: dist.Normal(z.sum(-1), 0.5),
        lambda x: dist.Dirichlet(torch.ones(len(x), 3)),
        None,
        refused=_NAMED,
    ),
    _other(
        "positive_vector_for_real",
        lambda x: dist.Normal(torch.zeros(2), 1.0).to_event(1),
        lambda z: dist.Normal(z.pow(2).sum(-1), 0.5),
        lambda x: dist.HalfNormal(torch.ones(len(x), 2)).to_event(1),
        None,
        refused=_NAMED,
    ),
]
