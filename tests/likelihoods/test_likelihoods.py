"""Every likelihood is a normalised distribution on its support. New families: add to LIKELIHOODS of families.py."""

import copy
import itertools
import math

import pyro
import pytest
import torch
from families import LIKELIHOODS, build, largest, line, params_for
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import (
    Bernoulli,
    BetaBinomial,
    Binomial,
    Categorical,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
    Gaussian,
    NegativeBinomial,
    Ordinal,
    StudentT,
)


@pytest.fixture(params=LIKELIHOODS)
def name(request):
    return request.param


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
