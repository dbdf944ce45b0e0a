"""Every likelihood is a normalised distribution on its support. New families: add to LIKELIHOODS."""

import copy
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from scipy import special, stats
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Bernoulli, Binomial, Gaussian, Poisson

LIKELIHOODS = {
    "bernoulli": lambda shape: Bernoulli(shape),
    "binomial": lambda shape: Binomial(shape, total_count=6),
    "poisson": lambda shape: Poisson(shape),
    "gaussian": lambda shape: Gaussian(shape, scale=0.7),
    "gaussian-learned": lambda shape: Gaussian(shape, scale="learned"),
    "gaussian-decoder": lambda shape: Gaussian(shape, scale="decoder", min_scale=0.01),
}


def points(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name, shape):
    likelihood = LIKELIHOODS[name](shape).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3)
    return likelihood


def params_for(likelihood, *lead):
    return {
        key: points(*lead, *shape, seed=j) for j, (key, shape) in enumerate(likelihood.param_shapes.items())
    }


@pytest.fixture(params=LIKELIHOODS)
def name(request):
    return request.param


def support_grid(likelihood, numbers):
    """Points that carry the whole mass of ``numbers`` numbers, and the volume that each stands for."""
    if likelihood.base_measure == "lebesgue":
        line, step = torch.linspace(-20, 20, 801, dtype=torch.float64), 0.05
    else:
        # Where there is no largest integer, up to where no mass is left at the rates of these tests.
        top = int(
            getattr(likelihood.support, "upper_bound", None)
            or (1 if likelihood.support is constraints.boolean else 200)
        )
        line, step = torch.arange(0, top + 1, dtype=torch.float64), 1.0
    return torch.cartesian_prod(*[line] * numbers).reshape(-1, numbers), step**numbers


@pytest.mark.parametrize("numbers", [1, 2])
def test_density_sums_to_one(name, numbers):
    likelihood = build(name, numbers)
    grid, volume = support_grid(likelihood, numbers)
    log_prob = likelihood(params_for(likelihood)).log_prob(grid)
    assert math.isclose(float(log_prob.detach().exp().sum()) * volume, 1.0, rel_tol=1e-8)


def test_mean_is_the_expectation(name):
    likelihood = build(name, 1)
    params = params_for(likelihood)
    grid, volume = support_grid(likelihood, 1)
    weight = likelihood(params).log_prob(grid).exp()[:, None] * volume
    torch.testing.assert_close(likelihood.mean(params), (weight * grid).sum(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [3, (3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("lead", [(), (4,), (2, 4), (2, 1, 4)])
def test_shapes_and_support(name, shape, lead):
    likelihood = build(name, shape)
    assert likelihood.shape == torch.Size([shape] if isinstance(shape, int) else shape)
    params = params_for(likelihood, *lead)
    p = likelihood(params)
    assert p.batch_shape == lead
    assert p.event_shape == likelihood.shape
    torch.manual_seed(0)
    x = p.sample()
    assert likelihood.support.check(x).all()
    assert likelihood.support.event_dim == 0
    assert likelihood.features(x).shape == x.shape
    assert p.log_prob(x).shape == lead
    assert likelihood.mean(params).shape == (*lead, *likelihood.shape)
    assert likelihood.out_shape.numel() == sum(size.numel() for size in likelihood.param_shapes.values())


def test_leading_dimensions_do_not_matter(name):
    likelihood = build(name, (2, 2))
    params = params_for(likelihood, 3, 4)
    torch.manual_seed(0)
    x = likelihood(params).sample()[0]  # (N, ...), broadcast against (S, N, ...)
    expected = torch.empty(3, 4, dtype=torch.float64)
    with torch.no_grad():
        for s, n in itertools.product(range(3), range(4)):
            expected[s, n] = likelihood({key: value[s, n] for key, value in params.items()}).log_prob(x[n])
    torch.testing.assert_close(
        likelihood(params).log_prob(x), expected, rtol=1e-12, atol=1e-12, check_dtype=True
    )


def test_every_parameter_gets_a_gradient(name):
    likelihood = build(name, 3)
    params = {key: value.requires_grad_() for key, value in params_for(likelihood, 5).items()}
    torch.manual_seed(0)
    likelihood(params).log_prob(likelihood(params).sample()).sum().backward()
    for key, parameter in {**params, **dict(likelihood.named_parameters())}.items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


@pytest.mark.parametrize("shape", [4, (2, 2)])
def test_initial_params_reproduce_the_mean(name, shape):
    likelihood = build(name, shape)
    x_mean = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64).reshape(likelihood.shape)
    start = likelihood.initial_params(x_mean)
    assert {key: value.shape for key, value in start.items()} == likelihood.param_shapes
    torch.testing.assert_close(likelihood.mean(start), x_mean, rtol=1e-10, atol=1e-10)


def test_initial_params_are_finite_at_the_ends(name):
    likelihood = LIKELIHOODS[name](2)
    top = float(getattr(likelihood, "total_count", 1))
    start = likelihood.initial_params(torch.tensor([0.0, top]))
    assert all(value.isfinite().all() for value in start.values())
    torch.testing.assert_close(likelihood.mean(start), torch.tensor([0.0, top]), rtol=0, atol=2e-3)


def test_can_be_captured_as_a_graph(name):
    likelihood = build(name, 3)
    params = params_for(likelihood, 4)
    torch.manual_seed(0)
    x = likelihood(params).sample()
    with torch.no_grad(), pyro.validation_enabled(False):
        graph = make_fx(lambda params, x: likelihood(params).log_prob(x))(params, x)
        other = {key: value.flip(0) for key, value in params.items()}
        torch.testing.assert_close(graph(other, x), likelihood(other).log_prob(x))


def test_rebuilds_and_loads(name):
    likelihood = build(name, (2, 2))
    again = rebuild(likelihood.config()).double()
    again.load_state_dict(likelihood.state_dict())
    params = params_for(likelihood, 3)
    torch.manual_seed(0)
    x = likelihood(params).sample()
    assert torch.equal(again(params).log_prob(x), likelihood(params).log_prob(x))


def test_a_deep_copy_is_independent(name):
    likelihood = build(name, 2)
    before = {key: value.clone() for key, value in likelihood.state_dict().items()}
    twin = copy.deepcopy(likelihood)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[key]) for key, value in likelihood.state_dict().items())


def test_values_off_the_support_are_refused(name):
    likelihood = build(name, 1)
    if likelihood.base_measure == "counting":
        too_many = [7.0] if hasattr(likelihood, "total_count") or name == "bernoulli" else []
        assert not likelihood.support.check(torch.tensor([0.5, -1.0, math.nan, *too_many])).any()
    else:
        assert not likelihood.support.check(torch.tensor(math.nan))


def test_gaussian_against_scipy():
    loc, raw, x = points(5, 3), points(5, 3, seed=1), points(5, 3, seed=2)
    learned = build("gaussian-learned", 3)
    for p, scale in [
        (Gaussian(3, scale=0.2)({"loc": loc}), 0.2),
        (learned({"loc": loc}), math.exp(0.3)),
        (Gaussian(3, scale="decoder")({"loc": loc, "raw_scale": raw}), 1e-3 + np.logaddexp(0, raw.numpy())),
    ]:
        expected = stats.norm.logpdf(x.numpy(), loc.numpy(), scale).sum(-1)
        np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("min_scale", [1e-3, 0.3, 5.0])
def test_a_decoders_scale_starts_at_one_and_stays_above_its_minimum(min_scale):
    likelihood = Gaussian(2, scale="decoder", min_scale=min_scale).double()
    start = likelihood.initial_params(points(2))
    torch.testing.assert_close(
        likelihood(start).stddev, torch.full_like(start["loc"], max(1.0, 2 * min_scale))
    )
    lowest = likelihood({"loc": points(2), "raw_scale": torch.full((2,), -500.0, dtype=torch.float64)})
    assert (lowest.stddev == min_scale).all()


def test_bernoulli_against_scipy():
    logits = points(50, 3)
    x = (points(50, 3, seed=1) > 0).double()
    expected = np.where(
        x.numpy() == 1, special.log_expit(logits.numpy()), special.log_expit(-logits.numpy())
    ).sum(-1)
    np.testing.assert_allclose(
        Bernoulli(3)({"logits": logits}).log_prob(x).numpy(), expected, rtol=0, atol=1e-10
    )


def binomial_reference(n, k, logits):
    log_coefficient = -special.betaln(k + 1, n - k + 1) - math.log(n + 1)
    return log_coefficient + k * special.log_expit(logits) + (n - k) * special.log_expit(-logits)


@pytest.mark.parametrize("n", [1, 8, 255])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_binomial_against_scipy(n, dtype, atol):
    logits = torch.tensor([-9.0, -2.5, -0.25, 0.0, 0.5, 3.0, 11.0], dtype=dtype)
    k = torch.arange(n + 1, dtype=dtype)[:, None]
    got = Binomial(1, n)({"logits": logits[:, None]}).log_prob(k[..., None])
    assert got.dtype == dtype
    expected = stats.binom.logpmf(k.numpy(), n, special.expit(logits.double().numpy()))
    np.testing.assert_allclose(
        got.double().numpy(), expected, rtol=2e-7 if dtype == torch.float32 else 1e-12, atol=atol
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [50.0, 500.0])
@pytest.mark.parametrize("n", [1, 255, 100_000])
def test_extreme_logits(dtype, size, n):
    logits = torch.tensor([[size], [-size]], dtype=dtype, requires_grad=True)
    families = [Binomial(1, n), *([Bernoulli(1)] if n == 1 else [])]
    for likelihood in families:
        p = likelihood({"logits": logits})
        likely = p.log_prob(torch.tensor([[n], [0]], dtype=dtype))
        unlikely = p.log_prob(torch.tensor([[0], [n]], dtype=dtype))
        assert (likely.abs() < 1e-6).all()
        torch.testing.assert_close(unlikely, torch.full_like(unlikely, -n * size), rtol=1e-6, atol=0)
        (grad,) = torch.autograd.grad((likely + unlikely).sum(), logits)
        assert grad.isfinite().all()
        torch.testing.assert_close(p.mean, torch.tensor([[n], [0]], dtype=dtype), rtol=1e-6, atol=1e-6)


def test_binomial_does_not_follow_pyros_process_wide_approximation():
    p = Binomial(1, 255)({"logits": points(1)})
    exact = p.log_prob(torch.tensor([100.0]))
    with pyro.settings.context(binomial_approx_log_prob_tol=0.1):
        assert torch.equal(p.log_prob(torch.tensor([100.0])), exact)


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_binomial_of_large_counts_in_single_precision(n):
    logits = torch.tensor([-2.0, 0.0, 1.5])
    k = (n * logits.sigmoid()).round()
    got = Binomial(1, n)({"logits": logits[:, None]}).log_prob(k[:, None]).double().numpy()
    expected = binomial_reference(n, k.double().numpy(), logits.double().numpy())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_features_of_counts_are_of_the_order_of_one():
    x = torch.tensor([0.0, 3.0, 6.0])
    assert torch.equal(Binomial(3, 6).features(x), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(Gaussian(3).features(x), x)


def test_images_stack_their_parameters_by_channel():
    assert Gaussian((1, 4, 5), scale="decoder").out_shape == (2, 4, 5)
    assert Gaussian(20, scale="decoder").out_shape == (40,)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Bernoulli(0), "shape"),
        (lambda: Bernoulli(True), "shape"),
        (lambda: Bernoulli(()), "shape"),
        (lambda: Bernoulli("784"), "shape"),
        (lambda: Bernoulli((1, 2.0)), "shape"),
        (lambda: Bernoulli(None), "shape"),
        (lambda: Binomial(3, 0), "total_count"),
        (lambda: Binomial(3, 2.5), "total_count"),
        (lambda: Gaussian(3, scale=0), "scale"),
        (lambda: Gaussian(3, scale=-1.0), "scale"),
        (lambda: Gaussian(3, scale=math.inf), "scale"),
        (lambda: Gaussian(3, scale="fixed"), "scale"),
        (lambda: Gaussian(3, scale=None), "scale"),
        (lambda: Gaussian(3, min_scale=0.0), "min_scale"),
    ],
)
def test_bad_arguments(make, argument):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)
