"""Supports of distributions, and their comparison: laws on torch's and Pyro's families."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from ppl_vae.program.regions import describe_support, is_other_kind, uncovered
from ppl_vae.program.rounding import has_edges, impossible, on_edge
from ppl_vae.program.supports import circle, hull, is_real, support_of

T = dist.transforms


def t(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


NORMAL = dist.Normal(t(0.0), t(1.0))
VECTOR = dist.Normal(torch.zeros(3), 1.0).to_event(1)
LOGISTIC = dist.TransformedDistribution(dist.Uniform(t(0.0), t(1.0)), [T.SigmoidTransform().inv])


def transformed(*parts, base=NORMAL):
    return dist.TransformedDistribution(base, list(parts))


def mixed_uniforms():
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Uniform(t(-2.0, 1.0), t(-1.0, 2.0)))


COVERED = {
    "the same family": (NORMAL, dist.Normal(t(1.0), t(2.0))),
    "a wider support": (dist.HalfNormal(t(1.0)), NORMAL),
    "open or closed ends": (dist.Exponential(t(1.0)), dist.LogNormal(t(0.0), t(1.0))),
    "an affine transform": (NORMAL, transformed(T.AffineTransform(1.0, 2.0))),
    "an inverse that reaches all": (NORMAL, LOGISTIC),
    "a flow": (VECTOR, dist.TransformedDistribution(VECTOR, [T.affine_autoregressive(3)])),
    "numbers in a row": (dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), VECTOR),
    "a mixture": (
        NORMAL,
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(t(0.0, 1.0), 1.0)),
    ),
    "an interval around a mixture": (mixed_uniforms(), dist.Uniform(t(-2.0), t(2.0))),
    "an angle by a normal": (dist.VonMises(t(0.0), t(1.0)), NORMAL),
    "an angle by a period": (dist.VonMises(t(0.0), t(1.0)), dist.Uniform(t(-math.pi), t(math.pi))),
    "two classes by a coin": (dist.Categorical(torch.ones(2)), dist.Bernoulli(t(0.5))),
    "a simplex": (dist.Dirichlet(torch.ones(3)), dist.LogisticNormal(torch.zeros(2), torch.ones(2))),
    "ordered numbers": (transformed(T.OrderedTransform(), base=VECTOR), VECTOR),
    "correlations": (dist.LKJCholesky(3), dist.LKJCholesky(3, t(2.0))),
    "masks and expansions": (
        NORMAL.expand([4]).mask(torch.ones(4) > 0),
        dist.Normal(torch.zeros(4), 1.0).to_event(0),
    ),
}
PARTS = {
    "half": (NORMAL, dist.HalfNormal(t(1.0))),
    "positive": (NORMAL, dist.Gamma(t(1.0), t(1.0))),
    "an interval": (NORMAL, dist.Uniform(t(-1.0), t(1.0))),
    "a smaller interval": (dist.Uniform(t(-2.0), t(2.0)), dist.Uniform(t(-1.0), t(1.0))),
    "squashed and moved": (NORMAL, transformed(T.SigmoidTransform(), T.AffineTransform(-1.0, 2.0))),
    "positive and moved": (
        dist.HalfNormal(t(1.0)),
        transformed(T.ExpTransform(), T.AffineTransform(1.0, 2.0)),
    ),
    "squashed numbers in a row": (
        VECTOR,
        transformed(T.TanhTransform(), T.AffineTransform(torch.zeros(3), 3.0, event_dim=1), base=VECTOR),
    ),
    "a flow, then squashed": (
        VECTOR,
        transformed(T.affine_autoregressive(3), T.TanhTransform(), base=VECTOR),
    ),
    "the folded": (NORMAL, dist.FoldedDistribution(NORMAL)),
    "a moving bound": (dist.Exponential(t(1.0)), dist.Pareto(t(0.5), t(1.0))),
    "an angle": (NORMAL, dist.VonMises(t(0.0), t(1.0))),
    "another period": (dist.VonMises(t(0.0), t(1.0)), dist.Uniform(t(0.0), t(2 * math.pi))),
    "fewer classes": (dist.Categorical(torch.ones(5)), dist.Categorical(torch.ones(3))),
    "fewer trials": (dist.Poisson(t(1.0)), dist.Binomial(5, t(0.5))),
    "a half of a mixture": (mixed_uniforms(), dist.Uniform(t(-1.0), t(2.0))),
    "ordered numbers for any": (VECTOR, transformed(T.OrderedTransform(), base=VECTOR)),
}
OTHER = {
    "relaxed for hard": (dist.Bernoulli(t(0.5)), dist.RelaxedBernoulli(t(1.0), t(0.5))),
    "a relaxed vector": (
        dist.OneHotCategorical(torch.ones(3)),
        dist.RelaxedOneHotCategorical(t(1.0), torch.ones(3).double()),
    ),
    "continuous for counts": (dist.Poisson(t(1.0)), NORMAL),
    "counts for continuous": (NORMAL, dist.Poisson(t(1.0))),
    "a vector for directions": (dist.ProjectedNormal(torch.ones(3)), VECTOR),
    "directions for a vector": (VECTOR, dist.ProjectedNormal(torch.ones(3))),
    "a vector for a simplex": (dist.Dirichlet(torch.ones(3)), VECTOR),
    "triangular for correlations": (
        dist.LKJCholesky(3),
        dist.TransformedDistribution(
            dist.Normal(torch.zeros(3, 3), 1.0).to_event(2), [T.LowerCholeskyTransform()]
        ),
    ),
}


@pytest.mark.parametrize("name", COVERED)
def test_a_support_that_holds_the_model_s(name):
    model, guide = COVERED[name]
    assert not is_other_kind(model, guide)
    assert not uncovered(model, guide).any()


@pytest.mark.parametrize("name", PARTS)
def test_a_strict_part_of_the_model_s_support(name):
    model, guide = PARTS[name]
    assert not is_other_kind(model, guide)
    assert uncovered(model, guide).any()
    assert describe_support(guide)


@pytest.mark.parametrize("name", OTHER)
def test_a_density_of_another_kind(name):
    assert is_other_kind(*OTHER[name])
    assert uncovered(*OTHER[name]) is None


def test_bounds_are_compared_element_by_element():
    low = t(-1.0, 0.0, 0.5)
    lacks = uncovered(dist.Uniform(t(0.0), t(1.0)), dist.Uniform(low, t(2.0)))
    assert lacks.tolist() == [False, False, True]
    assert not uncovered(dist.Uniform(low, t(2.0)), dist.Uniform(low * (1 + 1e-16), t(2.0))).any()


def test_what_is_not_known_is_not_compared():
    class Silent(dist.TorchDistribution):
        arg_constraints: ClassVar = {}

    silent = Silent(validate_args=False)
    flow_after_squash = transformed(T.TanhTransform(), T.affine_autoregressive(3), base=VECTOR)
    assert support_of(silent) is None
    assert uncovered(NORMAL, silent) is None
    assert uncovered(silent, NORMAL) is None
    assert not is_other_kind(silent, dist.Poisson(t(1.0)))
    assert support_of(flow_after_squash) is None
    # Gaps between components may be more than what both ends say.
    assert hull(support_of(mixed_uniforms())).lower_bound == -2


def test_angles_live_on_a_circle():
    angles = dist.SineBivariateVonMises(t(0.0), t(0.0), t(1.0), t(1.0), t(0.1))
    skewed = dist.SineSkewed(angles, t(0.1, 0.2))
    for fn in (
        dist.VonMises(t(0.0), t(1.0)),
        dist.VonMises(t(0.0), t(1.0)).expand([2]).to_event(1),
        angles,
        skewed,
    ):
        assert hull(support_of(fn)) is circle
        assert bool(support_of(fn).check(fn.sample()).all())
        assert not is_real(support_of(fn))
    moved = transformed(T.AffineTransform(math.pi, 1.0), base=dist.VonMises(t(0.0), t(1.0)))
    assert [float(b) for b in vars(support_of(moved)).values()] == pytest.approx([0.0, 2 * math.pi])


SAMPLED = [*(fn for pair in (*COVERED.values(), *PARTS.values()) for fn in pair)]


@pytest.mark.parametrize("index", range(len(SAMPLED)))
def test_draws_are_on_the_support(index):
    fn = SAMPLED[index]
    with torch.random.fork_rng():
        torch.manual_seed(index)
        value = fn.sample((200,))
    assert bool(support_of(fn).check(value).all())
    if not (value == value.round()).all():
        assert not on_edge(fn, value).any()


def test_values_that_rounding_put_onto_an_edge():
    beta, gamma = dist.Beta(t(0.1), t(0.1)), dist.Gamma(t(0.1), t(1.0))
    assert on_edge(beta, t(0.0, 1.0, 1e-300, 1 - 1e-15, 0.5, 1e-320)).tolist() == [1, 1, 0, 0, 0, 1]
    assert on_edge(gamma, t(0.0, math.inf, 1e-300, 1e300)).tolist() == [1, 1, 0, 0]
    narrow = dist.Uniform(t(5.0), t(6.0))
    assert on_edge(narrow, t(5.0, 6.0, 5.5)).tolist() == [1, 1, 0]
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 1e-200]], dtype=torch.float64)
    assert on_edge(dist.Dirichlet(torch.ones(3).double()), shares).tolist() == [True, False]
    assert has_edges(beta)
    assert not has_edges(NORMAL)
    assert not has_edges(dist.VonMises(t(0.0), t(1.0)))
    assert not has_edges(dist.Poisson(t(1.0)))


def test_probabilities_of_exactly_zero():
    chances = dist.Categorical(torch.tensor([0.5, 0.5, 0.0]))
    assert impossible(chances, torch.tensor([0, 2])).tolist() == [False, True]
    rows = dist.Categorical(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).to_event(1)
    assert impossible(rows, torch.tensor([[0, 1], [1, 1]])).tolist() == [False, True]
    assert impossible(dist.OneHotCategorical(torch.tensor([1.0, 0.0])), torch.eye(2)).tolist() == [
        False,
        True,
    ]
    assert impossible(dist.Bernoulli(torch.tensor(0.0)), torch.tensor([0.0, 1.0])).tolist() == [False, True]
    assert impossible(dist.Binomial(3, torch.tensor(1.0)), torch.tensor([3.0, 2.0])).tolist() == [False, True]
    assert impossible(NORMAL, t(0.0)) is None
    assert impossible(dist.Categorical(logits=torch.zeros(2)), torch.tensor(0)) is None


def test_constraints_of_pyro_are_known():
    assert uncovered(
        dist.ImproperUniform(constraints.positive, (), ()), dist.Gamma(t(1.0), t(1.0))
    ).any() == torch.tensor(False)
    assert uncovered(
        dist.Wishart(t(4.0), torch.eye(3)), dist.Wishart(t(5.0), torch.eye(3))
    ).any() == torch.tensor(False)
