"""The mixture posterior: its density, and gradients of its draws against closed forms."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import validation_enabled
from pyro.infer import SVI, Trace_ELBO
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.errors import InputError
from ppl_vae.posteriors import MixtureOfNormals

DRAWS = 200_000


def params_for(dim, components, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    loc, log_scale = torch.randn(2, components, dim, generator=generator, dtype=torch.float64)
    logits = torch.randn(components, generator=generator, dtype=torch.float64)
    return {"logits": 0.7 * logits, "loc": spread * loc, "log_scale": 0.4 * log_scale}


def leaves(params, *lead):
    return {
        name: value.expand(*lead, *value.shape).clone().requires_grad_() for name, value in params.items()
    }


def test_against_scipy():
    params = params_for(2, 3)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights, loc, scale = (
        params["logits"].softmax(-1),
        params["loc"].numpy(),
        params["log_scale"].exp().numpy(),
    )
    density = sum(float(weights[k]) * stats.norm.pdf(z.numpy(), loc[k], scale[k]).prod(-1) for k in range(3))
    q = MixtureOfNormals(2, 3)(params)
    np.testing.assert_allclose(q.log_prob(z).numpy(), np.log(density), rtol=0, atol=1e-10)


@pytest.mark.statistical
def test_draws_follow_the_density():
    """Kolmogorov and Smirnov's test of each coordinate: fails by chance in about 1 of 5000 seeds."""
    params = params_for(2, 3)
    torch.manual_seed(0)
    z = MixtureOfNormals(2, 3)(params).rsample((20_000,)).numpy()
    weights, loc, scale = (
        params["logits"].softmax(-1).numpy(),
        params["loc"].numpy(),
        params["log_scale"].exp().numpy(),
    )
    for i in range(2):

        def cdf(value, i=i):
            return (weights * stats.norm.cdf(value[:, None], loc[:, i], scale[:, i])).sum(-1)

        assert stats.kstest(z[:, i], cdf).pvalue > 1e-4


def test_draws_are_those_of_sample():
    leaf = leaves(params_for(3, 4), 5)
    q = MixtureOfNormals(3, 4)(leaf)
    assert q.has_rsample
    drawn = []
    for draw in (q.rsample, q.sample):
        torch.manual_seed(0)
        drawn.append(draw((7,)))
    assert drawn[0].requires_grad
    assert torch.equal(*drawn)


def test_one_component_is_a_normal():
    leaf = leaves(params_for(3, 1))
    torch.manual_seed(0)
    z = MixtureOfNormals(3, 1)(leaf).rsample()
    scale = leaf["log_scale"][0].exp()
    same = leaf["loc"][0] + ((z - leaf["loc"][0]) / scale).detach() * scale
    a = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(z.square() @ a, (leaf["loc"], leaf["log_scale"]), retain_graph=True),
        torch.autograd.grad(same.square() @ a, (leaf["loc"], leaf["log_scale"])),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_in_one_dimension_the_distribution_function_stays_fixed():
    """There the velocity is unique: dz = -dF(z)/dθ / q(z), by finite differences of scipy's functions."""
    params = params_for(1, 3)
    torch.manual_seed(1)
    leaf = leaves(params, 12)
    z = MixtureOfNormals(1, 3)(leaf).rsample()[:, 0]
    found = torch.autograd.grad(z.sum(), list(leaf.values()))

    def distribution_function(flat):
        logits, loc, log_scale = flat
        return (logits.softmax(-1) * torch.special.ndtr((z.detach()[:, None] - loc) / log_scale.exp())).sum(
            -1
        )

    density = MixtureOfNormals(1, 3)(params).log_prob(z.detach()[:, None]).exp()
    start = [params["logits"], params["loc"][:, 0], params["log_scale"][:, 0]]
    step = 1e-6
    for which in range(3):
        for k in range(3):
            ends = []
            for sign in (1, -1):
                moved = [value.clone() for value in start]
                moved[which][k] += sign * step
                ends.append(distribution_function(moved))
            expected = -(ends[0] - ends[1]) / (2 * step) / density
            torch.testing.assert_close(found[which].reshape(12, 3)[:, k], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.statistical
@pytest.mark.parametrize(("dim", "components"), [(1, 2), (2, 3), (4, 5)])
def test_gradients_of_expectations(dim, components):
    """Of E[cos(ωᵀz)] and E[(ωᵀz)²], whose closed forms are known, for 3 ω: within 4.5 standard errors.

    At most 45 · 6 numbers: fails by chance in about 1 of 500 seeds.
    """
    params = params_for(dim, components, seed=dim)
    exact, many = leaves(params), leaves(params, DRAWS)
    torch.manual_seed(2)
    z = MixtureOfNormals(dim, components)(many).rsample()
    for omega in torch.randn(3, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64):
        weights, mean = exact["logits"].softmax(-1), exact["loc"] @ omega
        variance = exact["log_scale"].mul(2).exp() @ omega.square()
        wanted = (
            (weights * (-variance / 2).exp() * mean.cos()).sum(),
            (weights * (mean.square() + variance)).sum(),
        )
        for closed, drawn in zip(wanted, ((z @ omega).cos(), (z @ omega).square()), strict=True):
            for name in params:
                (gradient,) = torch.autograd.grad(closed, exact[name], retain_graph=True)
                (each,) = torch.autograd.grad(drawn.sum(), many[name], retain_graph=True)
                error = each.std(0) / DRAWS**0.5
                assert ((each.mean(0) - gradient).abs() < 4.5 * error + 1e-12).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_far_out(dtype):
    """Components of very different scales, far apart, in 20 dimensions."""
    torch.manual_seed(4)
    leaf = {
        "logits": torch.tensor([0.0, 10.0, -10.0], dtype=dtype).requires_grad_(),
        "loc": (30 * torch.randn(3, 20)).to(dtype).requires_grad_(),
        "log_scale": torch.linspace(-8, 8, 60).reshape(3, 20).to(dtype).requires_grad_(),
    }
    q = MixtureOfNormals(20, 3)(leaf)
    z = q.rsample((3000,))
    (q.log_prob(z).sum() + z.sin().sum()).backward()
    assert all(value.grad.isfinite().all() for value in leaf.values())


def test_captured_is_plain_with_gradients():
    def gradients(logits, loc, log_scale):
        given = {"logits": logits, "loc": loc, "log_scale": log_scale}
        with torch.enable_grad():
            leaf = {name: value.detach().requires_grad_() for name, value in given.items()}
            q = MixtureOfNormals(2, 3)(leaf)
            z = q.rsample((4,))
            loss = q.log_prob(z).sum() + z.square().sum()
            return torch.autograd.grad(loss, list(leaf.values()))

    first, second = (list(params_for(2, 3, seed=seed).values()) for seed in (0, 1))
    with torch.no_grad(), validation_enabled(False):
        graph = make_fx(gradients)(*first)
        results = []
        for way in (graph, gradients):
            torch.manual_seed(5)
            results.append(way(*second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_svi_finds_a_mixture():
    """The posterior of a known two-component model: KL below 0.02 nats after training by SVI."""
    target = {
        "logits": torch.tensor([1.0, 0.0]),
        "loc": torch.tensor([[-1.5], [1.5]]),
        "log_scale": torch.tensor([[-0.5], [0.0]]),
    }
    target = {name: value.double() for name, value in target.items()}
    start = {"logits": [0.0, 0.0], "loc": [[-0.5], [0.5]], "log_scale": [[0.0], [0.0]]}
    family, p = MixtureOfNormals(1, 2), MixtureOfNormals(1, 2)(target)

    def model():
        with pyro.plate("draws", 256):
            pyro.sample("z", p)

    def guide():
        params = {
            name: pyro.param(name, torch.tensor(value, dtype=torch.float64)) for name, value in start.items()
        }
        with pyro.plate("draws", 256):
            pyro.sample("z", family(params))

    pyro.clear_param_store()
    torch.manual_seed(6)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    for _ in range(300):
        svi.step()
    q = family({name: pyro.param(name).detach() for name in start})
    pyro.clear_param_store()
    line = torch.linspace(-9, 9, 3601, dtype=torch.float64)[:, None]
    log_q = q.log_prob(line)
    assert float((log_q.exp() * (log_q - p.log_prob(line))).sum()) * 0.005 < 0.02
    assert math.isclose(float(log_q.exp().sum()) * 0.005, 1, rel_tol=1e-6)


@pytest.mark.parametrize("components", [0, 1.5, True])
def test_bad_components(components):
    with pytest.raises(InputError, match=r"^components: expected"):
        MixtureOfNormals(3, components)
