"""The power spherical posterior: what its parameters mean, and what a VAE on the sphere can do."""

import copy
import math

import pytest
import torch

import ppl_vae as pv
from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.posteriors import PowerSpherical


def params_for(posterior, *lead):
    generator = torch.Generator().manual_seed(3)
    return {
        name: 0.5 * torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        for name, shape in posterior.param_shapes.items()
    }


def test_zero_parameters_give_the_first_axis_and_concentration_one():
    q = PowerSpherical(3)({"direction": torch.zeros(4, 3), "log_concentration": torch.zeros(4)})
    assert torch.equal(q.direction, torch.eye(3)[0].expand(4, 3))
    assert torch.equal(q.concentration, torch.ones(4))


@pytest.mark.parametrize("lead", [(), (4,), (2, 4)])
def test_shapes(lead):
    posterior = PowerSpherical(3).double()
    q = posterior(params_for(posterior, *lead))
    assert posterior.out_shape == (4,)
    assert (q.batch_shape, q.event_shape) == (lead, (3,))
    z = q.rsample((5,))
    assert z.shape == (5, *lead, 3)
    assert q.log_prob(z).shape == (5, *lead)


def test_rebuilds_and_copies():
    posterior = PowerSpherical(3).double()
    params = params_for(posterior, 4)
    q = posterior(params)
    z = q.sample()
    for again in (rebuild(posterior.config()).double(), copy.deepcopy(posterior)):
        assert torch.equal(again(params).log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("family", [PowerSpherical, pv.priors.PowerSpherical])
@pytest.mark.parametrize("dim", [1, 0, "3"])
def test_bad_dimensions(family, dim):
    with pytest.raises(InputError, match=r"^dim: expected"):
        family(dim)


@pytest.fixture(scope="module")
def trained():
    """A VAE on the circle, trained for 20 steps, and its data."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vae = pv.VAE(
        pv.priors.PowerSpherical(2), pv.likelihoods.Gaussian(3, scale=0.8), PowerSpherical(2), hidden=(8,)
    ).double()
    pv.fit(vae, x, epochs=5, batch_size=10, seed=0)
    return vae, x[:8]


@pytest.fixture(scope="module")
def exact(trained):
    """log p(x) by 4000 points of the circle, which is all but exact for a smooth decoder."""
    vae, x = trained
    angle = torch.arange(4000, dtype=torch.float64) * (2 * math.pi / 4000)
    z = torch.stack([angle.cos(), angle.sin()], 1)
    with torch.no_grad():
        return vae.decode(z[:, None]).log_prob(x).logsumexp(0) - math.log(4000)


@pytest.mark.statistical
@pytest.mark.parametrize("method", ["importance", "psis", "jackknife"])
def test_evidence_on_the_circle(trained, exact, method):
    """Within 4 standard errors of the exact one for 8 data: fails by chance in about 1 of 2000 seeds."""
    vae, x = trained
    estimate = getattr(pv.evidence, method)
    found = estimate(vae.program, x, num_samples=2000, proposal=pv.evidence.Defensive(0.3), seed=1)
    assert ((found.log_evidence - exact).abs() < 4 * found.stderr + 1e-3).all()
    # The guide's density is 0 opposite to its direction: its weights have no variance, which k-hat says.
    alone = estimate(vae.program, x, num_samples=2000, seed=1)
    assert alone.log_evidence.isfinite().all()
    assert (alone.khat > 0.5).any()


@pytest.mark.parametrize(
    "method",
    [
        lambda program, x: pv.evidence.annealed(program, x, num_chains=2, num_steps=2),
        lambda program, x: pv.evidence.quadrature(program, x),
    ],
    ids=["annealed", "quadrature"],
)
def test_unconstrained_coordinates_are_refused_by_the_name_of_the_site(trained, method):
    vae, x = trained
    with pytest.raises(InputError, match="'z'") as caught:
        method(vae.program, x)
    assert "\n" not in str(caught.value)
