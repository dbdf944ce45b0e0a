"""Angles: one period holds all of the mass, in chains, quadrature and proposals."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.errors import ProgramError
from ppl_vae.program import Coordinates, Program

ev = pv.evidence
X = torch.tensor([[-1.2, 0.1], [0.4, -0.9], [0.8, 0.7], [-0.7, -0.6]], dtype=torch.float64)


def t(value):
    return torch.tensor(value, dtype=torch.float64)


def around(z):
    """A likelihood that knows the circle."""
    return dist.Normal(torch.stack([z.cos(), z.sin()], -1), 0.7).to_event(1)


def along(z):
    """A likelihood that does not: it jumps where the ends of the circle meet."""
    return dist.Normal(torch.stack([z, 0.5 * z], -1), 0.9).to_event(1)


def angles(likelihood, skewed=False):
    """A prior about pi, where the circle's ends meet, and a guide about the datum's own direction."""

    def prior(shape):
        return dist.VonMises(t(2.9).expand(shape), t(1.5))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            if skewed:
                fn = dist.SineSkewed(prior(()).expand([1]).to_event(1), t([0.5]))
                z = pyro.sample("z", fn)[..., 0]
            else:
                z = pyro.sample("z", prior(()))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            towards = torch.atan2(x[:, 1], x[:, 0])
            if skewed:
                pyro.sample("z", dist.VonMises(towards.unsqueeze(-1), t(0.8)).to_event(1))
            else:
                pyro.sample("z", dist.VonMises(towards, t(0.8)))

    z = (torch.arange(20_000, dtype=torch.float64) + 0.5) * (2 * math.pi / 20_000) - math.pi
    terms = prior(()).log_prob(z)
    if skewed:
        terms = dist.SineSkewed(prior(()).expand([1]).to_event(1), t([0.5])).log_prob(z[:, None])
    terms = terms[:, None] + likelihood(z[:, None]).log_prob(X)
    return Program(model, guide), terms.logsumexp(0) + math.log(2 * math.pi / 20_000)


ESTIMATORS = {
    "importance": lambda p: ev.importance(p, X, 4000, progress=False),
    "defensive": lambda p: ev.importance(p, X, 4000, proposal=ev.Defensive(0.2), progress=False),
    "widened": lambda p: ev.importance(p, X, 8000, proposal=ev.Widened(1.2), progress=False),
    "student": lambda p: ev.importance(p, X, 8000, proposal=ev.StudentT(5.0), progress=False),
    "annealed": lambda p: ev.annealed(p, X, 64, 50, progress=False),
    "prior": lambda p: ev.annealed(p, X, 64, 50, start="prior", progress=False),
    "smc": lambda p: ev.smc(p, X, 256, 20, progress=False),
}


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", [around, along])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_evidence_of_an_angle(name, likelihood):
    """5 standard errors and 0.03 nat, 4 data: less than one seed in 10,000."""
    program, exact = angles(likelihood)
    found = ESTIMATORS[name](program)
    assert ((found.log_evidence - exact).abs() <= 5 * found.stderr + 0.03).all()
    assert (found.stderr < 0.3).all()


@pytest.mark.parametrize("likelihood", [around, along])
def test_quadrature_over_one_period(likelihood):
    program, exact = angles(likelihood)
    found = ev.quadrature(program, X, 32, progress=False)
    assert torch.allclose(found.log_evidence, exact, atol=1e-5)
    assert (found.stderr < 1e-3).all()


def test_a_skewed_angle():
    program, exact = angles(along, skewed=True)
    assert torch.allclose(ev.quadrature(program, X, 32, progress=False).log_evidence, exact, atol=1e-5)


def test_chains_go_round():
    """u and u + 2 pi are one point, with one density; of integrals over all u, the circle is cut."""
    program, exact = angles(around)
    joined, cut = Coordinates(program, X), Coordinates(program, X, cut=True)
    u = torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None, None].expand(-1, len(X), 1)
    here, there = joined.densities(u), joined.densities(u + 2 * math.pi)
    assert torch.allclose(here.log_joint, there.log_joint)
    assert torch.allclose(joined.log_guide(here), joined.log_guide(there))
    assert ((here.z["z"] >= -math.pi) & (here.z["z"] < math.pi)).all()
    assert torch.equal(joined.to_vector(here.z)[..., 0], here.z["z"])
    grid = torch.linspace(-30, 30, 3001, dtype=torch.float64)[:, None, None].expand(-1, len(X), 1)
    total = cut.densities(grid).log_joint.logsumexp(0) + math.log(60 / 3000)
    assert torch.allclose(total, exact, atol=1e-6)


def test_an_angle_for_a_number_is_refused_and_an_observed_angle_may_be_in_any_period():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0 * x, 1.0))
            pyro.sample("x", dist.VonMises(z, 2.0), obs=x)

    def guide(x, family=dist.Normal):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", family(0 * x, 1.0))

    x = torch.tensor([0.3, 4.0, 6.0], dtype=torch.float64)
    found = [ev.importance(Program(model, guide), data, 500, progress=False) for data in (x, x - 2 * math.pi)]
    assert torch.allclose(found[0].log_evidence, found[1].log_evidence)
    with pytest.raises(ProgramError, match="guide site 'z'"):
        Program(model, lambda x: guide(x, dist.VonMises)).check(x)
