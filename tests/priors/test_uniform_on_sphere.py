"""The uniform prior on the sphere."""

import math

import pytest
import torch

from ppl_vae.config import rebuild
from ppl_vae.priors import PowerSpherical


@pytest.mark.parametrize(("dim", "surface"), [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)])
def test_density_is_one_over_the_surface(dim, surface):
    prior = PowerSpherical(dim).double()
    p = rebuild(prior.config()).double()()
    assert (p.batch_shape, p.event_shape) == ((), (dim,))
    z = prior().sample((2, 5))
    assert z.dtype == torch.float64
    torch.testing.assert_close(p.log_prob(z), torch.full((2, 5), -math.log(surface), dtype=torch.float64))
    assert not list(prior.parameters())
    assert not prior.state_dict()


@pytest.mark.statistical
def test_draws_are_uniform():
    """Mean 0 and covariance I/3 of 100 000 draws, 9 numbers within 5 standard errors."""
    torch.manual_seed(0)
    z = PowerSpherical(3).double()().sample((100_000,))
    assert (z.mean(0).abs() < 5 * (1 / 3 / 1e5) ** 0.5).all()
    assert ((z.T @ z / 1e5 - torch.eye(3) / 3).abs() < 5 * (0.1 / 1e5) ** 0.5).all()
