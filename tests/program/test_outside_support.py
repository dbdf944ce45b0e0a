"""Where the guide leaves the prior's support, the density is zero."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td

import ppl_vae as pv
from ppl_vae import Program

STRAYING = {
    "exponential": (lambda: dist.Exponential(torch.tensor(0.7).double()), 0.7),
    "half normal": (lambda: dist.HalfNormal(torch.tensor(1.2).double()), 1.2),
    "gamma": (lambda: dist.Gamma(torch.tensor(2.0).double(), torch.tensor(1.5).double()), None),
    "uniform": (lambda: dist.Uniform(torch.tensor(0.0).double(), torch.tensor(2.0).double()), None),
    "beta": (lambda: dist.Beta(torch.tensor(2.0).double(), torch.tensor(1.5).double()), None),
}


@pytest.mark.parametrize("prior", STRAYING)
def test_a_guide_outside_the_support_of_the_prior_meets_zero_density(prior):
    """Against quadrature on a fine grid; 4 standard errors for 3 data: fails for 2 in 10,000 seeds."""
    made = STRAYING[prior][0]
    x = torch.tensor([0.2, 0.9, 1.5], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", made())
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x * 0.6 + 0.2, 0.7))

    program = Program(model, guide)
    z = program.sample_guide(x, 50, seed=0)
    inside = (z["z"] >= 0) & (z["z"] <= {"uniform": 2.0, "beta": 1.0}.get(prior, math.inf))
    assert 0 < inside.double().mean() < 1
    assert torch.equal(program.log_joint(z, x) > -math.inf, inside)
    weights = program.log_weights(x, 50)
    assert (weights == -math.inf).any()
    assert not weights.isnan().any()

    evidence = pv.evidence.importance(program, x, 20_000)
    top = {"uniform": 2.0, "beta": 1.0}.get(prior, 12.0)
    grid = (torch.arange(200_000).double() + 0.5) * (top / 200_000)
    density = made().log_prob(grid) + td.Normal(grid, 0.8).log_prob(x[:, None])
    exact = density.logsumexp(1) + math.log(top / 200_000)
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()
    assert (evidence.stderr < 0.05).all()
    assert (evidence.elbo == -math.inf).all()


def test_a_support_that_moves_with_a_latent():
    """x ~ Uniform(0, z), z ~ Pareto(1, 2): p(x) = (2/3) max(1, x)^-3. Draws below x are legal."""
    x = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Pareto(x.new_tensor(1.0), 2.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(z), z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Pareto(x.new_tensor(1.0), x.new_tensor(1.5)))

    evidence = pv.evidence.importance(Program(model, guide), x, 50_000)
    exact = math.log(2 / 3) - 3 * x.clamp(min=1).log()
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()

    def shifted(x):  # a Pareto's formula goes on below its scale: p(x|z) must be cut off there
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Exponential(x.new_tensor(1.0)))
            pyro.sample("x", dist.Pareto(z, 2.0), obs=x)

    def exponential(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Exponential(x.new_tensor(0.8)))

    evidence = pv.evidence.importance(Program(shifted, exponential), x, 50_000)
    # The integral of exp(-z) 2 z² / x³ over z < x.
    exact = (2 / x**3 * (2 - (-x).exp() * (x**2 + 2 * x + 2))).log()
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()
