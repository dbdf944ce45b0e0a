"""Masked latents: not there for the data that mask them, in every estimator; refused where that means nothing."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but
from pyro import poutine

import ppl_vae as pv
from ppl_vae.errors import ProgramError
from ppl_vae.program import Coordinates, Program
from ppl_vae.program.masks import counted

ev = pv.evidence
N = 6
DATA = {
    "x": torch.linspace(-1.5, 1.5, N, dtype=torch.float64),
    "there": torch.arange(N) % 2 == 0,
    "each": torch.arange(N)[:, None] > torch.tensor([1, 3]),
}
EXACT = dist.Normal(0.0, 1.25**0.5).log_prob(
    DATA["x"]
)  # of x = z + noise: what is masked touches nothing observed


def one(d, masked, guide):
    """z, and a positive latent beside it that is there for some of the data."""
    with pyro.plate("data", len(d["x"]), dim=-1):
        z = pyro.sample("z", dist.Normal(0.8 * d["x"], 0.5) if guide else dist.Normal(0 * d["x"], 1.0))
        with poutine.mask(mask=d["there"] if masked else True):
            pyro.sample("y", dist.LogNormal(0.4 + 0 * z, 0.9) if guide else dist.Gamma(2.0 + 0 * z, 1.0))
        if not guide:
            pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])


def elements(d, masked, guide):
    """The same, with two positive latents of one site, masked number by number inside ``.to_event``."""
    with pyro.plate("data", len(d["x"]), dim=-1):
        z = pyro.sample("z", dist.Normal(0.8 * d["x"], 0.5) if guide else dist.Normal(0 * d["x"], 1.0))
        zero = torch.zeros(*z.shape, 2, dtype=torch.float64)
        each = dist.LogNormal(0.4 + zero, 0.9) if guide else dist.Gamma(2.0 + zero, 1.0)
        pyro.sample("y", (each.mask(d["each"]) if masked else each).to_event(1))
        if not guide:
            pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])


def program_of(form, model=True, guide=True):
    return Program(lambda d: form(d, model, False), lambda d: form(d, guide, True))


ESTIMATORS = {
    "importance": lambda p: ev.importance(p, DATA, 4000, progress=False),
    "defensive": lambda p: ev.importance(p, DATA, 4000, proposal=ev.Defensive(0.2), progress=False),
    "widened": lambda p: ev.importance(p, DATA, 4000, proposal=ev.Widened(1.3), progress=False),
    "student": lambda p: ev.importance(p, DATA, 4000, proposal=ev.StudentT(5.0), progress=False),
    "annealed": lambda p: ev.annealed(p, DATA, 32, 50, progress=False),
    "prior": lambda p: ev.annealed(p, DATA, 32, 100, start="prior", progress=False),
    "smc": lambda p: ev.smc(p, DATA, 128, 10, progress=False),
    "quadrature": lambda p: ev.quadrature(p, DATA, 16, progress=False),
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", slow_but(["importance", "defensive", "annealed", "quadrature"], ESTIMATORS))
def test_a_masked_latent_is_not_there(name):
    """5 standard errors of 6 data: less than one seed in 100,000; errors of 32 chains are Student's, hence 0.03."""
    found = ESTIMATORS[name](program_of(one))
    assert ((found.log_evidence - EXACT).abs() <= 5 * found.stderr + 0.03).all()
    assert (found.stderr < 0.3).all()


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["importance", "student", "annealed"])
def test_a_mask_of_each_number(name):
    """As above."""
    found = ESTIMATORS[name](program_of(elements))
    assert ((found.log_evidence - EXACT).abs() <= 5 * found.stderr + 0.03).all()


def test_both_sides_hold_with_masks():
    """Simulated data: the upper side is above the lower one, up to 4 standard errors of both together."""
    both = ev.sandwich(program_of(one), DATA, num_chains=16, num_steps=30, progress=False)
    error = (both.lower.stderr**2 + both.upper.stderr**2).sqrt()
    assert (both.upper.log_evidence - both.lower.log_evidence > -4 * error - 0.03).all()
    assert (both.upper.log_evidence - both.lower.log_evidence).abs().max() < 0.5


@pytest.mark.parametrize("form", [one, elements])
@pytest.mark.parametrize(("model", "guide"), [(True, False), (False, True)])
def test_a_mask_of_only_one_of_the_two_is_refused(form, model, guide):
    with pytest.raises(ProgramError, match=r"guide site 'y'.*in the (guide|model) only"):
        program_of(form, model, guide).check(DATA)


def test_masks_of_one_meaning_may_be_written_in_two_ways():
    def model(d):
        with pyro.plate("data", len(d["x"]), dim=-1):
            z = pyro.sample(
                "z", dist.Normal(torch.zeros(len(d["x"]), 3), 1.0).mask(d["there"][:, None]).to_event(1)
            )
            pyro.sample("x", dist.Normal((z.sum(-1) * d["there"]), 1.0), obs=d["x"])

    def guide(d):
        with pyro.plate("data", len(d["x"]), dim=-1), poutine.mask(mask=d["there"]):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))

    Program(model, guide).check(DATA)


def test_what_depends_on_a_masked_latent_is_refused():
    def model(d):
        with pyro.plate("data", len(d["x"]), dim=-1):
            with poutine.mask(mask=d["there"]):
                y = pyro.sample("y", dist.Normal(0 * d["x"], 1.0))
            pyro.sample("x", dist.Normal(y, 1.0), obs=d["x"])

    def guide(d):
        with pyro.plate("data", len(d["x"]), dim=-1), poutine.mask(mask=d["there"]):
            pyro.sample("y", dist.Normal(d["x"], 1.0))

    with pytest.raises(ProgramError, match=r"latent site 'y'.*density of site 'x' of datum 1"):
        Program(model, guide).check(DATA)


def test_a_mask_that_is_a_latent_has_no_coordinates():
    def form(d, guide):
        with pyro.plate("data", len(d["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(0 * d["x"], 1.0))
            with poutine.mask(mask=z > 0):
                pyro.sample("y", dist.Normal(0 * z, 2.0 if guide else 1.0))
            if not guide:
                pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])

    program = Program(lambda d: form(d, False), lambda d: form(d, True))
    program.check(DATA)
    with pytest.raises(ProgramError, match="latent site 'y'"):
        Coordinates(program, DATA)


def test_sums_over_masked_values_count_once():
    def form(d, guide):
        with pyro.plate("data", len(d["x"]), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            coins = dist.Bernoulli(torch.full((2,), 0.3)).mask(d["each"]).to_event(1)
            pyro.sample("y", coins)
            if not guide:
                pyro.sample("x", dist.Normal(z.double(), 0.5), obs=d["x"])

    found = ev.enumerate_latents(
        Program(lambda d: form(d, False), lambda d: form(d, True)), DATA, progress=False
    )
    terms = dist.Normal(torch.arange(3.0).double(), 0.5).log_prob(DATA["x"][:, None])
    exact = (terms + torch.tensor([0.2, 0.3, 0.5]).double().log()).logsumexp(1)
    assert torch.allclose(found.log_evidence, exact, atol=1e-6)


def test_masked_coordinates_are_standard_normal():
    coordinates = Coordinates(program_of(one), DATA)
    u = torch.randn(5, N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = coordinates.densities(u)
    there = DATA["there"]
    jacobian = torch.where(there, u[..., 1], -0.5 * u[..., 1] ** 2 - 0.5 * math.log(2 * math.pi))
    assert torch.allclose(at.log_jacobian, jacobian)
    prior = dist.Gamma(t := torch.tensor(2.0).double(), t / t).log_prob(u[..., 1].exp())
    expected = dist.Normal(0.0, 1.0).log_prob(u[..., 0]) + torch.where(there, prior, 0.0) + jacobian
    assert torch.allclose(at.log_prior, expected)


def test_counted_numbers():
    fn = dist.Normal(torch.zeros(4, 3), 1.0)
    rows, cells = torch.arange(4) > 1, torch.eye(4, 3) > 0
    assert counted(fn.to_event(1)) is None
    assert counted(fn.mask(True).to_event(1), True) is None
    assert counted(fn.to_event(1), rows).expand(4, 3).equal(rows[:, None].expand(4, 3))
    assert counted(fn.mask(cells).to_event(1), rows).equal(cells & rows[:, None])
    assert not counted(fn.to_event(1), False).any()
