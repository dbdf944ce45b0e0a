"""Flows: normalised, the same from either side, captured whole, and refused in one line without their package."""

import copy
import math
import sys

import numpy as np
import pyro
import pytest
import torch
from pyro import validation_enabled
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

import ppl_vae as pv
from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.posteriors import Flow as FlowPosterior
from ppl_vae.priors import Flow as FlowPrior

SMALL = {"transforms": 2, "bins": 4, "hidden": (8,)}
KINDS = ["prior", "posterior"]


def test_without_zuko_a_flow_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    for family in (FlowPrior, FlowPosterior):
        with pytest.raises(InputError, match=r"^zuko: expected .*ppl_vae\[flows\].*") as caught:
            family(2)
        assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def _zuko(request):
    if "without_zuko" not in request.node.name:
        pytest.importorskip("zuko")


def shaken(part, size=0.5):
    """The part in double precision, away from its start, where it is the identity."""
    generator = torch.Generator().manual_seed(2)
    part = part.double()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return part


def params_for(posterior, *lead, size=0.4):
    generator = torch.Generator().manual_seed(3)
    return {
        name: size * torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        for name, shape in posterior.param_shapes.items()
    }


def density(kind, dim, size=0.5, **options):
    """A flow's distribution, of batch shape ()."""
    if kind == "prior":
        return shaken(FlowPrior(dim, **SMALL, **options), size)()
    posterior = shaken(FlowPosterior(dim, context=3, **SMALL, **options), size)
    return posterior(params_for(posterior))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "step", "size"), [(1, 1e-3, 0.5), (2, 0.015, 0.2)])
def test_density_integrates_to_one(kind, dim, step, size):
    """By the trapezoidal rule; a spline has no second derivative at its knots, which limits the rule's accuracy."""
    line = torch.arange(-9, 9, step, dtype=torch.float64)
    p = density(kind, dim, size)
    with torch.no_grad():
        rows = torch.cartesian_prod(*[line] * dim).reshape(-1, dim).split(400_000)
        total = sum(float(p.log_prob(part).exp().sum()) for part in rows)
    assert math.isclose(total * step**dim, 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_density_is_the_one_that_draws_have(kind, dim, autoregressive):
    """log p(z) = log N(u) - log |dz/du|, with the Jacobian of the draws by automatic differentiation."""
    p = density(kind, dim, autoregressive=autoregressive)
    (move,) = p.transforms
    u = torch.randn(6, dim, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2
    z = move(u).detach()
    torch.testing.assert_close(move.inv(z), u, rtol=1e-9, atol=1e-9)
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(move, u[i])
        expected = stats.norm.logpdf(u[i].numpy()).sum() - float(torch.linalg.slogdet(jacobian).logabsdet)
        assert math.isclose(float(p.log_prob(z[i]).detach()), expected, rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(
            float(-move.log_abs_det_jacobian(u[i], z[i]).detach()) + stats.norm.logpdf(u[i].numpy()).sum(),
            expected,
            rel_tol=1e-9,
            abs_tol=1e-9,
        )


@pytest.mark.statistical
@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind):
    """Kolmogorov and Smirnov's test in one dimension: fails by chance in about 1 of 10 000 seeds."""
    p = density(kind, 1)
    line = torch.arange(-12, 12, 1e-3, dtype=torch.float64)
    with torch.no_grad():
        below = p.log_prob(line[:, None]).exp().cumsum(0).numpy() * 1e-3
        torch.manual_seed(0)
        z = p.sample((20_000,))[:, 0].numpy()
    assert stats.kstest(z, lambda value: np.interp(value, line.numpy() + 5e-4, below)).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_far_from_the_splines_it_is_affine(kind):
    p = density(kind, 2)
    (move,) = p.transforms
    for u in (torch.tensor([40.0, -60.0]).double(), torch.tensor([1e6, 1e6]).double()):
        z = move(u)
        torch.testing.assert_close(z, move.loc + move.log_scale.exp() * u)
        torch.testing.assert_close(move.inv(z), u)


def test_it_starts_as_a_gaussian():
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    np.testing.assert_allclose(
        FlowPrior(3).double()().log_prob(z).detach(), stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-10
    )
    posterior = FlowPosterior(3).double()
    params = params_for(posterior, 7)
    expected = stats.norm.logpdf(z.numpy(), params["loc"], params["log_scale"].exp()).sum(-1)
    np.testing.assert_allclose(posterior(params).log_prob(z).detach(), expected, rtol=1e-10)


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("lead", [(), (4,), (2, 4)])
def test_shapes(lead, autoregressive):
    posterior = shaken(FlowPosterior(3, context=2, **SMALL, autoregressive=autoregressive))
    params = params_for(posterior, *lead)
    q = posterior(params)
    assert posterior.out_shape == (8,)
    assert (q.batch_shape, q.event_shape) == (lead, (3,))
    z = q.rsample((5,))
    assert z.shape == (5, *lead, 3)
    assert q.log_prob(z).shape == (5, *lead)
    one = posterior({name: value.reshape(-1, value.shape[-1])[0] for name, value in params.items()})
    first = z.reshape(5, -1, 3)[:, 0]
    torch.testing.assert_close(one.log_prob(first), q.log_prob(z).reshape(5, -1)[:, 0])
    p = shaken(FlowPrior(3, **SMALL))()
    assert p.expand((4,)).sample((2,)).shape == (2, 4, 3)
    assert p.expand((4,)).log_prob(z.reshape(-1, 1, 3)).shape == (z[..., 0].numel(), 4)


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("dim", [1, 3])
def test_gradients_by_finite_differences(dim, autoregressive):
    posterior = shaken(FlowPosterior(dim, context=2, **SMALL, autoregressive=autoregressive))
    names, values = zip(*params_for(posterior, 2).items(), strict=True)
    values = [value.requires_grad_() for value in values]
    z = torch.randn(2, dim, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()

    def log_prob(z, *values):
        return posterior(dict(zip(names, values, strict=True))).log_prob(z)

    def draw(*values):
        torch.manual_seed(7)
        return posterior(dict(zip(names, values, strict=True))).rsample()

    assert torch.autograd.gradcheck(log_prob, (z, *values))
    assert torch.autograd.gradcheck(draw, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(dtype):
    posterior = shaken(FlowPosterior(3, context=2, **SMALL), size=3).to(dtype)
    params = {name: 3 * value.to(dtype) for name, value in params_for(posterior, 2000, size=2).items()}
    params = {name: value.requires_grad_() for name, value in params.items()}
    torch.manual_seed(8)
    q = posterior(params)
    z = q.rsample()
    far = torch.full((3,), 1e4, dtype=dtype)
    (q.log_prob(z) + 1e-6 * q.log_prob(far) + z.sum(-1)).sum().backward()
    assert z.isfinite().all()
    assert all(value.grad.isfinite().all() for value in (*params.values(), *posterior.parameters()))


@pytest.mark.parametrize("autoregressive", [False, True])
def test_captured_is_plain(autoregressive):
    posterior = shaken(FlowPosterior(3, context=2, **SMALL, autoregressive=autoregressive))
    prior = shaken(FlowPrior(3, **SMALL, autoregressive=autoregressive))

    def scores(params, z):
        q = posterior(params)
        drawn = q.rsample((3,))
        return drawn, q.log_prob(drawn), q.log_prob(z), prior().log_prob(drawn), prior().rsample((2,))

    params, z = params_for(posterior, 4), torch.randn(4, 3, dtype=torch.float64)
    other = {name: value.flip(0) for name, value in params.items()}
    with torch.no_grad(), validation_enabled(False):
        graph = make_fx(scores)(params, z)
        results = []
        for way in (graph, scores):
            torch.manual_seed(9)
            results.append(way(other, z * 2))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_rebuilds_loads_and_copies():
    for part in (shaken(FlowPrior(3, **SMALL, seed=4)), shaken(FlowPosterior(3, **SMALL, seed=4))):
        again = rebuild(part.config()).double()
        again.load_state_dict(part.state_dict())
        given = [params_for(part, 4)] if isinstance(part, FlowPosterior) else []
        z = part(*given).sample()
        for other in (again, copy.deepcopy(part)):
            assert torch.equal(other(*given).log_prob(z), part(*given).log_prob(z))


def test_the_start_depends_on_the_seed_alone():
    state = torch.get_rng_state()
    first, same, other = (FlowPrior(2, seed=seed).flow.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"transforms": 0}, "transforms"),
        ({"bins": 1.5}, "bins"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"hidden": 8}, "hidden"),
        ({"autoregressive": 1}, "autoregressive"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(options, argument):
    for family in (FlowPrior, FlowPosterior):
        with pytest.raises(InputError) as caught:
            family(2, **options)
        assert caught.value.argument == argument
    with pytest.raises(InputError, match=r"^context: expected"):
        FlowPosterior(2, context=0)


def test_a_flow_learns_what_a_gaussian_cannot():
    """Of data around a circle: the flow's mean log density comes within 0.15 nats of minus their entropy."""
    generator = torch.Generator().manual_seed(10)
    angle = torch.rand(512, generator=generator, dtype=torch.float64) * 2 * math.pi
    radius = 2 + 0.3 * torch.randn(512, generator=generator, dtype=torch.float64)
    z = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    prior = FlowPrior(2).double()
    optimiser = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss = -prior().log_prob(z).mean()
        loss.backward()
        optimiser.step()
    exact = (
        -math.log(2 * math.pi) - radius.log() + torch.from_numpy(stats.norm.logpdf(radius.numpy(), 2, 0.3))
    )
    assert float(loss.detach()) < -float(exact.mean()) + 0.15


@pytest.mark.parametrize("autoregressive", [False, True])
def test_training_saving_and_evidence(autoregressive, tmp_path):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    vae = pv.VAE(
        FlowPrior(2, **SMALL, autoregressive=autoregressive),
        pv.likelihoods.Gaussian(3, scale=0.8),
        FlowPosterior(2, context=4, **SMALL, autoregressive=autoregressive),
        hidden=(8,),
    )
    pv.fit(vae, x, epochs=5, batch_size=10, seed=0)
    found = pv.evidence.importance(vae.program, x, num_samples=200, seed=1)
    assert found.log_evidence.isfinite().all()
    pv.save(vae, tmp_path / "vae")
    again = pv.evidence.importance(pv.load(tmp_path / "vae").program, x, num_samples=200, seed=1)
    assert torch.equal(found.log_evidence, again.log_evidence)
    assert pv.evidence.annealed(vae.program, x[:4], num_chains=2, num_steps=4).log_evidence.isfinite().all()
    assert not pyro.get_param_store().keys()
