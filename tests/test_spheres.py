"""Distributions on the sphere: normalised, reparameterised, and right from concentrations of 1e-3 to 1e6."""

import itertools
import math

import numpy as np
import pytest
import torch
from pyro import validation_enabled
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.spheres import PowerSphericalDistribution, UniformOnSphere

CONCENTRATIONS = [1e-3, 1.0, 30.0, 1e6]
DRAWS = 200_000


def direction(dim, seed=3):
    vector = torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vector / vector.norm()


def power_spherical(dim, concentration):
    return PowerSphericalDistribution(direction(dim), torch.tensor(concentration, dtype=torch.float64))


def uniform(dim, dtype=torch.float64):
    return UniformOnSphere(torch.zeros(dim, dtype=dtype))


def integral(q, dim):
    """The integral of a density over the sphere, by the angle from one direction and points of the circle around it.

    Tanh-sinh quadrature (Takahasi and Mori 1974) of the angle: a density may be sharp at one end and have no
    derivatives at the other.
    """
    t = torch.arange(-3.2, 3.2, 1 / 128, dtype=torch.float64)
    angle = math.pi / (1 + (-math.pi * t.sinh()).exp())
    weight = math.pi**2 * t.cosh() / (2 + 2 * (math.pi * t.sinh()).cosh()) / 128
    weight = weight * angle.sin() ** (dim - 2)
    frame = torch.linalg.qr(torch.cat([direction(dim)[:, None], torch.eye(dim).double()[:, : dim - 1]], 1))[
        0
    ].T
    around = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    if dim == 3:
        turn = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
        around = torch.stack([turn.cos(), turn.sin()], 1)
    z = angle.cos()[:, None, None] * direction(dim) + angle.sin()[:, None, None] * (around @ frame[1:])
    share = 1.0 if dim == 2 else 2 * math.pi / 12
    return float((q.log_prob(z).exp().sum(1) * weight).sum()) * share


@pytest.mark.parametrize("dim", [2, 3])
def test_uniform_density_integrates_to_one(dim):
    assert math.isclose(integral(uniform(dim), dim), 1.0, rel_tol=1e-8)


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
@pytest.mark.parametrize("dim", [2, 3])
def test_density_integrates_to_one(dim, concentration):
    assert math.isclose(integral(power_spherical(dim, concentration), dim), 1.0, rel_tol=1e-8)


@pytest.mark.parametrize("dim", [2, 3, 8, 50])
def test_density_against_the_beta_distribution(dim):
    """(1 + μᵀz)/2 is Beta, and given it z is uniform on a circle of radius √(1 - (μᵀz)²)."""
    q, z = power_spherical(dim, 4.5), uniform(dim).sample((20,))
    t = (1 + z @ direction(dim)) / 2
    beta = (dim - 1) / 2
    log_circle = math.log(2) + beta * math.log(math.pi) - math.lgamma(beta)
    expected = stats.beta.logpdf(t.numpy(), 4.5 + beta, beta) - math.log(2) - log_circle
    expected -= (dim - 3) / 2 * (4 * t * (1 - t)).log().numpy()
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-10)


@pytest.mark.statistical
@pytest.mark.parametrize(("dim", "concentration"), [(2, 1e-3), (2, 3.0), (3, 1e6), (8, 20.0), (50, 1.0)])
def test_draws_follow_the_density(dim, concentration):
    """Kolmogorov and Smirnov's test of μᵀz, and the mean: fails by chance in about 1 of 1000 seeds."""
    torch.manual_seed(0)
    q = power_spherical(dim, concentration)
    z = q.sample((DRAWS,))
    assert q.support.check(z).all()
    beta = (dim - 1) / 2
    far = (z - q.direction).square().sum(-1) / 4  # 1 - (1 + μᵀz)/2, exact where draws are close to μ
    assert stats.kstest(far.numpy(), stats.beta(beta, concentration + beta).cdf).pvalue > 1e-4
    across = z - (z @ q.direction)[:, None] * q.direction
    for values, mean in ((z, q.mean), (across, torch.zeros(dim).double())):
        error = values.std(0) / DRAWS**0.5
        assert ((values.mean(0) - mean).abs() < 5 * error + 1e-12).all()


def entropy(dim, concentration):
    """Of the power spherical distribution, in nats: its logarithm's mean is a digamma function."""
    beta = torch.tensor((dim - 1) / 2, dtype=torch.float64)
    a, both = concentration + beta, concentration + 2 * beta
    constant = torch.lgamma(both) - torch.lgamma(a) - both * math.log(2) - beta * math.log(math.pi)
    return -constant - concentration * (math.log(2) + torch.digamma(a) - torch.digamma(both))


@pytest.mark.statistical
@pytest.mark.parametrize(("dim", "concentration"), [(2, 0.5), (3, 4.0), (9, 100.0), (50, 30.0)])
def test_gradients_of_draws(dim, concentration):
    """Of E[aᵀz] and of the entropy, against closed forms: within 4 standard errors, of 8 + sum(dim) numbers."""
    torch.manual_seed(1)
    vector, a = 1.7 * direction(dim), direction(dim, seed=5)
    log_concentration = torch.tensor(math.log(concentration), dtype=torch.float64)
    exact_v, exact_c = vector.clone().requires_grad_(), log_concentration.clone().requires_grad_()
    mean = exact_c.exp() / (exact_c.exp() + dim - 1) * exact_v / exact_v.norm()
    wanted = [
        torch.autograd.grad(mean @ a, (exact_v, exact_c)),
        torch.autograd.grad(entropy(dim, exact_c.exp()), exact_c),
    ]
    v = vector.expand(DRAWS, dim).clone().requires_grad_()
    c = log_concentration.expand(DRAWS).clone().requires_grad_()
    q = PowerSphericalDistribution(v / v.norm(dim=-1, keepdim=True), c.exp())
    z = q.rsample()
    found = [
        torch.autograd.grad((z @ a).sum(), (v, c), retain_graph=True),
        torch.autograd.grad(-q.log_prob(z).sum(), c),
    ]
    for each, exact in zip(itertools.chain(*found), itertools.chain(*wanted), strict=True):
        error = each.std(0) / DRAWS**0.5
        assert ((each.mean(0) - exact).abs() < 4 * error + 1e-12).all()


@pytest.mark.parametrize("dim", [2, 5])
def test_gradients_by_finite_differences(dim):
    v, c = (1.3 * direction(dim)).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z = direction(dim, seed=6).requires_grad_()

    def log_prob(v, c, z):
        return PowerSphericalDistribution(v / v.norm(), c.exp()).log_prob(z / z.norm())

    def draws(v):
        torch.manual_seed(2)
        return PowerSphericalDistribution(v / v.norm(), c.detach().exp()).rsample((3,))

    assert torch.autograd.gradcheck(log_prob, (v, c, z))
    assert torch.autograd.gradcheck(draws, (v,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3, 10, 50])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extremes_are_finite(dim, dtype, sign):
    """Densities and gradients, for directions along the first axis, where a reflection could be one of nothing."""
    torch.manual_seed(3)
    v = torch.zeros(dim, dtype=dtype)
    v[0] = sign
    v.requires_grad_()
    c = torch.tensor(CONCENTRATIONS, dtype=dtype).log().requires_grad_()
    q = PowerSphericalDistribution(v / v.norm(), c.exp())
    z = q.rsample((2000,))
    assert q.support.check(z).all()
    log_prob = q.log_prob(z)
    (log_prob.sum() + z.square().sum() + z.sum()).backward()
    assert log_prob.isfinite().all()
    assert v.grad.isfinite().all()
    assert c.grad.isfinite().all()
    wide = PowerSphericalDistribution(q.direction.double(), c.detach().double().exp())
    exact = z.detach().double()
    exact = exact / exact.norm(dim=-1, keepdim=True)
    assert (wide.log_prob(exact) - log_prob).abs().max() < 1e-3


def test_captured_is_plain():
    def draw_and_score(v, c):
        q = PowerSphericalDistribution(v / v.norm(), c.exp())
        z = q.rsample((4,))
        return z, q.log_prob(z)

    values = direction(3), torch.tensor(0.3, dtype=torch.float64)
    with torch.no_grad(), validation_enabled(False):
        graph = make_fx(draw_and_score)(*values)
        found = []
        for way in (graph, draw_and_score):
            torch.manual_seed(4)
            found.append(way(values[0].flip(0), values[1] + 1))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_points_off_the_sphere_are_refused():
    for q in (uniform(3), power_spherical(3, 2.0)):
        with pytest.raises(ValueError, match="support"):
            q.log_prob(torch.ones(3, dtype=torch.float64))
