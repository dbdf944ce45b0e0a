"""The mass beyond the outermost draws: exact where a formula is known, and an error that Sobol points do not hide."""

import math

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from ppl_vae import Program
from ppl_vae.evidence import Sobol, importance
from ppl_vae.evidence.importance_sampling.rqmc_tail import DRAWS, FEW, excess_outside
from ppl_vae.evidence.running.simulation_check import densities


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_an_exact_guide_is_short_of_nothing(dim):
    exact = models.linear_vae(dim, dim + 2, 40, seed=1)
    share = excess_outside(exact.program, exact.x, dim, 1000, exact.log_evidence, 3, 0)
    assert (share < 1e-6).all()


def narrow(scale):
    """z ~ N(0, 1), x | z ~ N(z, 1), and a guide that is right in the middle and far too narrow in its tails."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, scale * 0.5**0.5))

    return Program(model, guide)


def test_a_guide_that_is_too_narrow_is_short_outside():
    """Known in closed form: N(x / 2, 1/2) less the guide, beyond r guide's standard deviations. Mean of 200 data."""
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    S, scale = 1024, 0.7
    radius = stats.norm.isf(FEW / S / 2)
    expected = 2 * stats.norm.sf(radius * scale) - FEW / S
    log_evidence = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x)
    found = excess_outside(narrow(scale), x, 1, S, log_evidence, 0, 0)
    assert float(found.mean()) == pytest.approx(expected, rel=0.05)


def test_sobol_errors_hold_what_no_point_saw():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    e = importance(narrow(0.8), x, 1024, draws=Sobol(), progress=False)
    outside = 2 * stats.norm.sf(stats.norm.isf(FEW / 1024 / 2) * 0.8) - FEW / 1024
    assert (e.stderr > 0.5 * outside).all()
    assert torch.allclose(e.density_evals, torch.tensor(1024.0 + DRAWS + densities(50, 1024) / 50).double())
    exact = models.linear_vae(2, 4, 5, seed=1)
    perfect = importance(exact.program, exact.x, 1024, draws=Sobol(), progress=False)
    assert (perfect.stderr < 1e-3).all()
