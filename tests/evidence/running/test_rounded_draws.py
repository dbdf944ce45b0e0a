"""What rounding puts onto the edge of a support: counted, and never trusted; quadrature knows what it leaves out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.errors import NonFiniteError
from ppl_vae.evidence.results.verdict import Verdict
from ppl_vae.program import Program

ev = pv.evidence


def beta_binomial(a, dtype):
    x = torch.tensor([0.0, 10.0, 3.0, 7.0], dtype=dtype)
    a = torch.tensor(a, dtype=dtype)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Beta(a, a))
            pyro.sample("x", dist.Binomial(10, probs=z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Beta(a + 0.9 * x, a + 0.9 * (10 - x)))

    return Program(model, guide), x, dist.BetaBinomial(a.double(), a.double(), 10).log_prob(x.double())


def gamma_poisson(a, dtype):
    x = torch.tensor([0.0, 0.0, 2.0, 5.0], dtype=dtype)
    a = torch.tensor(a, dtype=dtype)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(a, torch.ones_like(a)))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(a + 0.9 * x, torch.full_like(a, 1.9)))

    return (
        Program(model, guide),
        x,
        dist.NegativeBinomial(a.double(), probs=a.new_tensor(0.5).double()).log_prob(x),
    )


CASES = [
    (f, a, d)
    for f in (beta_binomial, gamma_poisson)
    for a in (0.5, 0.05, 0.01)
    for d in ("float32", "float64")
]


@pytest.mark.parametrize(("family", "a", "dtype"), CASES)
def test_the_error_of_quadrature_holds_what_rounding_hides(family, a, dtype):
    program, x, exact = family(a, getattr(torch, dtype))
    found = ev.quadrature(program, x, 32, progress=False)
    off = (found.log_evidence - exact).abs()
    assert (off <= 1.1 * found.stderr + 2e-5).all()
    if a == 0.5:
        assert (found.status == "trust").all()


@pytest.mark.parametrize("estimate", ["importance", "widened", "annealed"])
@pytest.mark.parametrize(("family", "a"), [(beta_binomial, 0.01), (gamma_poisson, 0.01)])
def test_draws_on_an_edge_spoil_trust(family, a, estimate):
    program, x, _ = family(a, torch.float32)
    found = {
        "importance": lambda: ev.importance(program, x, 2000, progress=False),
        "widened": lambda: ev.importance(program, x, 2000, proposal=ev.Widened(1.2), progress=False),
        "annealed": lambda: ev.annealed(program, x, 16, 20, progress=False),
    }[estimate]()
    assert (found.on_edge[:2] > 0.1).all()
    assert (found.on_edge[2:] == 0).all()
    assert (found.status[:2] != "trust").all()
    assert Verdict.ROUNDED_EDGE in found.verdicts


def test_no_edge_is_no_reason():
    program, x, _ = beta_binomial(2.0, torch.float32)
    found = ev.importance(program, x, 2000, progress=False)
    assert (found.on_edge == 0).all()
    assert (found.status == "trust").all()


def test_the_count_is_saved_and_picked(tmp_path):
    program, x, _ = beta_binomial(0.01, torch.float32)
    found = ev.importance(program, x, 500, progress=False)
    found.save(tmp_path / "e.safetensors")
    again = ev.Evidence.load(tmp_path / "e.safetensors")
    assert torch.equal(again.on_edge, found.on_edge)
    assert torch.equal(found[1:3].on_edge, found.on_edge[1:3])


def test_an_error_names_the_latent_on_the_edge():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Kumaraswamy(0 * x + 0.02, 0 * x + 1.0))
            pyro.sample("x", dist.Bernoulli(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Beta(0.02 + 0.5 * x, 0 * x + 1.0))

    with pytest.raises(NonFiniteError, match=r"datum 0.*'z' \(Kumaraswamy\).*edge"):
        ev.quadrature(Program(model, guide), torch.tensor([0.0, 1.0]), progress=False)


def test_a_prior_whose_mass_is_not_one_is_no_prior():
    """Its integral is 3: nothing that quadrature makes of it can be trusted."""

    class Thrice(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + torch.tensor(3.0).log()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", Thrice(0 * x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    found = ev.quadrature(Program(model, guide), torch.tensor([0.0, 1.0]).double(), progress=False)
    assert (found.status == "reject").all()
