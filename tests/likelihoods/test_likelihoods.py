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
from ppl_vae.likelihoods import (
    Bernoulli,
    Beta,
    BetaBinomial,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
    Gaussian,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)

LIKELIHOODS = {
    "bernoulli": lambda shape: Bernoulli(shape),
    "binomial": lambda shape: Binomial(shape, total_count=6),
    "poisson": lambda shape: Poisson(shape),
    "gaussian": lambda shape: Gaussian(shape, scale=0.7),
    "gaussian-learned": lambda shape: Gaussian(shape, scale="learned"),
    "gaussian-decoder": lambda shape: Gaussian(shape, scale="decoder", min_scale=0.01),
    "continuous-bernoulli": lambda shape: ContinuousBernoulli(shape),
    "laplace": lambda shape: Laplace(shape, scale=0.7),
    "student-t": lambda shape: StudentT(shape, df=12.0, scale="learned"),
    "log-normal": lambda shape: LogNormal(shape, scale=0.4),
    "beta": lambda shape: Beta(shape),
    "negative-binomial": lambda shape: NegativeBinomial(shape, total_count=9.0),
    "negative-binomial-learned": lambda shape: NegativeBinomial(shape),
    "negative-binomial-decoder": lambda shape: NegativeBinomial(shape, total_count="decoder"),
    "zero-inflated": lambda shape: ZeroInflatedNegativeBinomial(shape, total_count=9.0),
    "beta-binomial": lambda shape: BetaBinomial(shape, total_count=6),
    "categorical": lambda shape: Categorical(shape, categories=4),
    "ordinal": lambda shape: Ordinal(shape, levels=4),
    "discretised-logistic": lambda shape: DiscretisedLogistic(shape, levels=7),
    "discretised-logistic-mixture": lambda shape: DiscretisedLogisticMixture(shape, components=2, levels=7),
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
    params = {
        key: points(*lead, *shape, seed=j) for j, (key, shape) in enumerate(likelihood.param_shapes.items())
    }
    if isinstance(likelihood, Beta):
        # With less, a part of the mass lies nearer to 1 than double precision can say.
        params["log_concentration"] += 3.0
    return params


@pytest.fixture(params=LIKELIHOODS)
def name(request):
    return request.param


def line(likelihood, centre):
    """Points that carry the whole mass of a single number, and the volume that each stands for."""
    if likelihood.base_measure == "counting":
        # Where there is no largest integer, up to where no mass is left at the rates of these tests.
        top = largest(likelihood) or 200
        x = torch.arange(0, int(top) + 1, dtype=torch.float64)
        return x, torch.ones_like(x)
    # Double-exponential quadrature (Takahasi and Mori 1974): ends that are infinite or singular do no harm.
    step = 1 / 32
    t = torch.arange(-4, 4, step, dtype=torch.float64)
    s, slope = math.pi / 2 * t.sinh(), math.pi / 2 * t.cosh() * step
    if likelihood.support is constraints.real:  # both ways from the centre, where a density may have a kink
        distance, volume = s.exp(), s.exp() * slope
        return torch.cat([centre - distance.flip(0), centre + distance]), torch.cat([volume.flip(0), volume])
    if likelihood.support is constraints.positive:
        return centre * s.exp(), centre * s.exp() * slope
    inside = (s.tanh() + 1) / 2
    keep = (inside > 0) & (inside < 1)
    return inside[keep], (slope / (2 * s.cosh() ** 2))[keep]


def largest(likelihood):
    """The largest value of a number; None if there is none."""
    top = (
        1.0 if likelihood.support is constraints.boolean else getattr(likelihood.support, "upper_bound", None)
    )
    return None if top is None else float(top)


@pytest.mark.parametrize("numbers", [1, 2])
def test_density_sums_to_one(name, numbers):
    likelihood = build(name, numbers)
    params = params_for(likelihood)
    lines = [line(likelihood, centre) for centre in likelihood.mean(params).detach()]
    grid = torch.cartesian_prod(*[x for x, _ in lines]).reshape(-1, numbers)
    volume = torch.cartesian_prod(*[v for _, v in lines]).reshape(-1, numbers).prod(1)
    total = float((likelihood(params).log_prob(grid).detach().exp() * volume).sum())
    assert math.isclose(total, 1.0, rel_tol=1e-8)


def test_mean_is_the_expectation(name):
    likelihood = build(name, 1)
    params = params_for(likelihood)
    x, volume = line(likelihood, likelihood.mean(params).detach()[0])
    weight = likelihood(params).log_prob(x[:, None]).exp() * volume
    expected = (weight * x).sum()[None]
    torch.testing.assert_close(likelihood.mean(params), expected, rtol=1e-7, atol=1e-7)


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


NO_EXACT_START = {"categorical", "ordinal", "discretised-logistic", "discretised-logistic-mixture"}


@pytest.mark.parametrize("shape", [4, (2, 2)])
def test_initial_params_reproduce_the_mean(name, shape):
    if name in NO_EXACT_START:
        pytest.skip("its mean is no simple function of its parameters")
    likelihood = build(name, shape)
    x_mean = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64).reshape(likelihood.shape)
    start = likelihood.initial_params(x_mean)
    assert {key: value.shape for key, value in start.items()} == likelihood.param_shapes
    torch.testing.assert_close(likelihood.mean(start), x_mean, rtol=1e-10, atol=1e-10)


def test_initial_params_are_finite_at_the_ends(name):
    likelihood = LIKELIHOODS[name](2)
    top = largest(likelihood) or 1.0
    start = likelihood.initial_params(torch.tensor([0.0, top]))
    assert {key: value.shape for key, value in start.items()} == likelihood.param_shapes
    assert all(value.isfinite().all() for value in start.values())
    if name not in NO_EXACT_START:
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
        too_many = [7.0] if largest(likelihood) else []
        assert not likelihood.support.check(torch.tensor([0.5, -1.0, math.nan, *too_many])).any()
    else:
        beyond = {constraints.real: [], constraints.positive: [0.0, -1.0]}.get(
            likelihood.support, [-0.1, 1.1]
        )
        assert not likelihood.support.check(torch.tensor([math.nan, *beyond])).any()


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


MEANS = [1e-8, 1e-3, 0.7, 40.0, 1e4]
TOTALS = [1e-6, 1e-2, 1.0, 1e3, 1e6, 1e12]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("total", TOTALS)
def test_negative_binomial_at_extremes(mean, total):
    """Against mpmath's 50 digits."""
    mpmath = pytest.importorskip("mpmath")
    k = torch.tensor([0.0, 1.0, 2.0, 17.0, 300.0, 1e5], dtype=torch.float64)
    likelihood = NegativeBinomial(1, total_count=total).double()
    log_mean = torch.tensor([mean], dtype=torch.float64).log()
    ours = likelihood({"log_mean": log_mean}).log_prob(k[:, None])
    with mpmath.workdps(50):
        r, mu = mpmath.exp(math.log(total)), mpmath.exp(float(log_mean))
        expected = [
            mpmath.loggamma(r + n) - mpmath.loggamma(r) - mpmath.loggamma(n + 1)
            + r * mpmath.log(r / (r + mu)) + n * mpmath.log(mu / (r + mu))
            for n in map(int, k)
        ]  # fmt: skip
    for got, wanted in zip(ours.tolist(), map(float, expected), strict=True):
        assert math.isclose(got, wanted, rel_tol=1e-11, abs_tol=1e-9), (got, wanted)


@pytest.mark.parametrize("total", ["learned", "decoder"])
def test_gradients_of_counts_are_finite_at_extremes(total):
    x = torch.tensor([0.0, 1.0, 1e5], dtype=torch.float64)
    for family, log_mean, log_total in itertools.product(
        (NegativeBinomial, ZeroInflatedNegativeBinomial),
        (-18.0, 0.0, 12.0),
        (-14.0, 0.0, 4.60517, 14.0, 30.0),
    ):
        likelihood = family(3, total_count=total).double()
        params = {
            key: torch.zeros(size, dtype=torch.float64) for key, size in likelihood.param_shapes.items()
        }
        params["log_mean"] += log_mean
        if total == "learned":
            likelihood.log_total_count.data += log_total
        else:
            params["log_total_count"] += log_total
        for value in params.values():
            value.requires_grad_()
        likelihood(params).log_prob(x).backward()
        for value in (*params.values(), *likelihood.parameters()):
            assert value.grad is None or value.grad.isfinite().all()


def test_zero_inflated_is_the_mixture_that_it_says():
    params = {"log_mean": points(5, 3), "gate_logits": 3 * points(5, 3, seed=1)}
    counts = NegativeBinomial(3, total_count=2.5)(params).base_dist
    gate = params["gate_logits"].sigmoid()
    for value in (0.0, 1.0, 6.0):
        x = torch.full((5, 3), value, dtype=torch.float64)
        expected = (gate * (x == 0) + (1 - gate) * counts.log_prob(x).exp()).log().sum(-1)
        ours = ZeroInflatedNegativeBinomial(3, total_count=2.5)(params).log_prob(x)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("concentration", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("n", [1, 17, 255])
def test_beta_binomial_against_scipy(n, concentration):
    logits = torch.tensor([-18.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    params = {
        "logits": logits[:, None],
        "log_concentration": torch.full((4, 1), math.log(concentration), dtype=torch.float64),
    }
    k = torch.arange(n + 1, dtype=torch.float64)
    log_prob = BetaBinomial(1, n)(params).log_prob(k[:, None, None])
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)
    if concentration < 1e6:  # at more, scipy's own differences of gamma functions cancel
        a, b = logits.sigmoid().numpy() * concentration, (-logits).sigmoid().numpy() * concentration
        expected = stats.betabinom.logpmf(k.numpy()[:, None], n, a, b)
        np.testing.assert_allclose(log_prob.numpy(), expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("logits", [-800.0, -30.0, -0.06, -0.04, -1e-9, 0.0, 1e-9, 0.04, 0.06, 30.0, 800.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_at_any_logits(logits, dtype):
    at = torch.tensor([logits], dtype=dtype, requires_grad=True)
    p = ContinuousBernoulli(1)({"logits": at})
    grid, volume = line(ContinuousBernoulli(1), 0.5)
    if abs(logits) < 100:  # a narrower peak needs a finer grid
        total = (p.log_prob(grid.to(dtype)[:, None]).double().exp() * volume).sum()
        assert math.isclose(float(total.detach()), 1.0, rel_tol=1e-9 if dtype == torch.float64 else 1e-5)
    (slope,) = torch.autograd.grad(p.log_prob(torch.tensor([0.25], dtype=dtype)), at)
    assert math.isclose(float(slope), 0.25 - float(p.mean.detach()), rel_tol=1e-3, abs_tol=1e-6)
    torch.manual_seed(0)
    drawn = p.sample(torch.Size([20_000])).double()
    assert abs(drawn.mean() - p.mean.detach()) <= 5 * drawn.std() / 20_000**0.5 + 1e-6


def test_a_bin_far_from_the_centre_keeps_its_probability():
    """Where both ends of a bin round to 0 or 1, its probability is still known."""
    p = DiscretisedLogistic(1, levels=256).double()
    params = {
        "loc": torch.zeros(1).double(),
        "raw_scale": torch.full((1,), math.log(math.expm1(1 / 255)), dtype=torch.float64),
    }
    log_prob = p(params).log_prob(torch.tensor([[0.0], [100.0], [254.0]], dtype=torch.float64))
    scale = 255 * (1e-4 + 1 / 255)
    expected = -(np.array([100.0, 254.0]) - 0.5) / scale + math.log(-math.expm1(-1 / scale))
    np.testing.assert_allclose(log_prob[1:].numpy(), expected, rtol=1e-10)


def test_ordinal_is_the_difference_of_logistic_functions():
    likelihood = build("ordinal", 2)
    loc = points(5, 2)
    cuts = likelihood.cutpoints().detach()
    assert (cuts.diff(dim=-1) > 0).all()
    below = torch.cat(
        [torch.zeros(2, 1), (cuts - loc[:, :, None])[0].sigmoid(), torch.ones(2, 1)], -1
    ).double()
    torch.testing.assert_close(likelihood.log_probs({"loc": loc})[0].exp().detach(), below.diff(dim=-1))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_follow_the_density(name):
    """The mean log probability of draws is minus the entropy, and their mean is the mean: within 5 standard errors."""
    likelihood = build(name, 1)
    params = params_for(likelihood)
    torch.manual_seed(11)
    with torch.no_grad():
        p = likelihood(params)
        drawn = p.sample(torch.Size([20_000]))
        scores = p.log_prob(drawn)
        x, volume = line(likelihood, likelihood.mean(params)[0])
        log_prob = p.log_prob(x[:, None])
        weight = log_prob.exp() * volume
        for value, expected in (
            (scores, torch.xlogy(weight, log_prob.exp()).sum()),
            (drawn[:, 0], (weight * x).sum()),
        ):
            error = value.std() / len(value) ** 0.5
            assert abs(value.mean() - expected) <= 5 * error + 1e-6


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
        (lambda: StudentT(3, df=1.0), "df"),
        (lambda: StudentT(3, df=0), "df"),
        (lambda: NegativeBinomial(3, total_count="fixed"), "total_count"),
        (lambda: NegativeBinomial(3, total_count=0), "total_count"),
        (lambda: BetaBinomial(3, 0), "total_count"),
        (lambda: Categorical(3, 1), "categories"),
        (lambda: Ordinal(3, 1), "levels"),
        (lambda: DiscretisedLogistic(3, levels=1), "levels"),
        (lambda: DiscretisedLogistic(3, min_scale=0), "min_scale"),
        (lambda: DiscretisedLogisticMixture(3, components=0), "components"),
    ],
)
def test_bad_arguments(make, argument):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)
