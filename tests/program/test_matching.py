"""A guide that misses a part of the model is refused by name; one that misses nothing is not."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.errors import ProgramError
from ppl_vae.program import Program

X = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
T = dist.transforms


def t(value):
    return torch.tensor(value, dtype=torch.float64)


def pair(prior, guide, likelihood=lambda z: dist.Normal(z.double(), 0.8)):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(z), obs=x)

    def posterior(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return Program(model, posterior)


def squashed(x):
    return dist.TransformedDistribution(
        dist.Normal(0 * x, 1.5), [T.SigmoidTransform(), T.AffineTransform(-1.0, 2.0)]
    )


class Barrier(dist.Normal):
    """A normal distribution cut off below -0.5, which says that its support is all real numbers."""

    support = dist.constraints.real

    def log_prob(self, value):
        return torch.where(value > -0.5, super().log_prob(value), -torch.inf)


def normal():
    return dist.Normal(t(0.0), t(1.0))


REFUSED = {
    "half normal": (normal, lambda x: dist.HalfNormal(1 + 0 * x)),
    "log normal": (normal, lambda x: dist.LogNormal(0 * x, 1.0)),
    "uniform": (lambda: dist.Uniform(t(-2.0), t(2.0)), lambda x: dist.Uniform(-1 + 0 * x, 1.0)),
    "moves with x": (normal, lambda x: dist.Uniform(x - 9, x + 9)),
    "squashed": (normal, squashed),
    "an angle": (normal, lambda x: dist.VonMises(0 * x, 1.0)),
    "zero inside its support": (normal, lambda x: Barrier(0 * x, 1.0)),
    "only one datum's": (
        lambda: dist.Uniform(t(-2.0), t(2.0)),
        lambda x: dist.Uniform(torch.where(x > 2, -1.0, -3.0), 3.0),
    ),
    "trials": (lambda: dist.Poisson(t(2.0)), lambda x: dist.Binomial(5, 0.5 + 0 * x)),
    "classes": (lambda: dist.Categorical(torch.ones(5)), lambda x: dist.Categorical(torch.ones(len(x), 3))),
    "no chance": (
        lambda: dist.Categorical(torch.ones(3)),
        lambda x: dist.Categorical(torch.tensor([0.5, 0.5, 0.0]).expand(len(x), 3)),
    ),
    "relaxed": (lambda: dist.Bernoulli(t(0.5)), lambda x: dist.RelaxedBernoulli(t(1.0), 0.5 + 0 * x)),
    "straight through": (
        lambda: dist.Bernoulli(t(0.5)),
        lambda x: dist.RelaxedBernoulliStraightThrough(t(1.0), 0.5 + 0 * x),
    ),
    "continuous": (lambda: dist.Poisson(t(2.0)), lambda x: dist.Normal(x, 1.0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_guide_that_misses_a_part_is_refused_by_name(name):
    program = pair(*REFUSED[name])
    with pytest.raises(ProgramError, match="guide site 'z'") as raised:
        program.check(X)
    assert "\n" not in str(raised.value)


def test_every_estimator_refuses():
    program = pair(*REFUSED["half normal"])
    for estimate in (pv.evidence.importance, pv.evidence.annealed, pv.evidence.smc, pv.evidence.quadrature):
        with pytest.raises(ProgramError, match="guide site 'z'"):
            estimate(program, X, progress=False)


ACCEPTED = {
    "wider": (lambda: dist.HalfNormal(t(1.0)), lambda x: dist.Normal(x, 1.0)),
    "the same": (lambda: dist.Beta(t(2.0), t(2.0)), lambda x: dist.Kumaraswamy(1 + 0 * x, 2.0)),
    "edges that draws are rounded onto": (
        lambda: dist.Gamma(t(0.01), t(1.0)),
        lambda x: dist.Gamma(0.01 + x, 1.0),
    ),
    "a logistic": (
        normal,
        lambda x: dist.TransformedDistribution(dist.Uniform(0 * x, 1.0), [T.SigmoidTransform().inv]),
    ),
    "more classes": (
        lambda: dist.Categorical(torch.ones(3)),
        lambda x: dist.Categorical(torch.ones(len(x), 5)),
    ),
    "a mixture": (
        lambda: dist.Uniform(t(-2.0), t(2.0)),
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(x), 2)),
            dist.Uniform(
                torch.tensor([-2.0, -1.0]).double().expand(len(x), 2), torch.tensor([1.0, 2.0]).double()
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_guide_that_misses_nothing_is_accepted(name):
    pair(*ACCEPTED[name]).check(X)


def test_a_guide_on_the_part_where_the_likelihood_is():
    """x ~ Uniform(0, z), z ~ Pareto(0.1, 2); z > x is all that the posterior has. Within 5 standard errors."""
    program = pair(
        lambda: dist.Pareto(t(0.1), t(2.0)),
        lambda x: dist.Pareto(x, t(2.5)),
        lambda z: dist.Uniform(torch.zeros_like(z), z),
    )
    found = pv.evidence.importance(program, X, 4000, progress=False)
    exact = math.log(2 / 3) + 2 * math.log(0.1) - 3 * X.log()
    assert ((found.log_evidence - exact).abs() < 5 * found.stderr + 1e-6).all()


def test_supports_that_move_in_turns():
    """The triangle 0 < a < b < 1: the model draws a first, the guide b first. Within 5 standard errors."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Uniform(t(0.0), t(1.0)))
            b = pyro.sample("b", dist.Uniform(a, t(1.0)))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x, low=0.0):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Uniform(0 * x, 1.0))
            pyro.sample("a", dist.Uniform(low * b, b))

    found = pv.evidence.importance(Program(model, guide), X, 4000, progress=False)
    a = (torch.arange(400).double() + 0.5) / 400
    b = a[:, None] + (1 - a[:, None]) * a
    exact = dist.Normal((a[:, None] + b).unsqueeze(-1), 1.0).log_prob(X).flatten(0, 1).logsumexp(
        0
    ) - 2 * math.log(400)
    assert ((found.log_evidence - exact).abs() < 5 * found.stderr + 1e-4).all()
    with pytest.raises(ProgramError, match="guide site 'a'"):
        Program(model, lambda x: guide(x, low=0.3)).check(X)


def test_a_mixture_of_intervals_has_density_in_all_of_them():
    """The prior is half Uniform(-2, -1), half Uniform(1, 2). Within 5 standard errors of a grid."""
    program = pair(
        lambda: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Uniform(t([-2.0, 1.0]), t([-1.0, 2.0]))
        ),
        lambda x: dist.Normal(0 * x, 2.0),
    )
    found = pv.evidence.importance(program, X, 8000, progress=False)
    z = torch.cat([torch.linspace(-2, -1, 2001), torch.linspace(1, 2, 2001)]).double()
    exact = dist.Normal(z[:, None], 0.8).log_prob(X).logsumexp(0) - math.log(len(z))
    assert ((found.log_evidence - exact).abs() < 5 * found.stderr + 1e-3).all()


def test_reverse_chains_need_a_guide_within_the_model():
    program = pair(*ACCEPTED["wider"])
    with pytest.raises(ProgramError, match='start="prior"'):
        pv.evidence.sandwich(program, X, num_chains=4, num_steps=5, progress=False)
