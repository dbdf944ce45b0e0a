"""Every posterior family is a normalised, reparameterised density. New families: add to POSTERIORS."""

import copy
import math

import numpy as np
import pytest
import torch
from pyro import validation_enabled
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.posteriors import LowRankNormal, MeanFieldNormal, MixtureOfNormals, MultivariateNormal

POSTERIORS = {
    "mean-field": MeanFieldNormal,
    "full": MultivariateNormal,
    "low-rank": LowRankNormal,
    "mixture": MixtureOfNormals,
}


def points(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def params_for(posterior, *lead):
    return {
        key: 0.5 * points(*lead, *size, seed=j)
        for j, (key, size) in enumerate(posterior.param_shapes.items())
    }


@pytest.fixture(params=POSTERIORS)
def family(request):
    return POSTERIORS[request.param]


@pytest.mark.parametrize("dim", [1, 2])
def test_density_integrates_to_one(family, dim):
    posterior = family(dim)
    line = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    log_prob = posterior(params_for(posterior)).log_prob(grid)
    assert math.isclose(float(log_prob.exp().sum()) * 0.05**dim, 1.0, rel_tol=1e-8)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("lead", [(), (4,), (2, 4)])
def test_shapes(family, dim, lead):
    posterior = family(dim)
    q = posterior(params_for(posterior, *lead))
    assert q.batch_shape == lead
    assert q.event_shape == (dim,)
    assert posterior.out_shape == (sum(size.numel() for size in posterior.param_shapes.values()),)
    torch.manual_seed(0)
    z = q.rsample((5,))
    assert z.shape == (5, *lead, dim)
    assert q.support.check(z).all()
    assert q.log_prob(z).shape == (5, *lead)


def test_leading_dimensions_do_not_matter(family):
    posterior = family(3)
    params, z = params_for(posterior, 2, 4), points(2, 4, 3)
    flat = {key: value.reshape(8, *value.shape[2:]) for key, value in params.items()}
    one_by_one = [
        posterior({k: v[j] for k, v in flat.items()}).log_prob(z.reshape(8, 3)[j]) for j in range(8)
    ]
    expected = torch.stack(one_by_one).reshape(2, 4)
    torch.testing.assert_close(posterior(params).log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient(family):
    posterior = family(3)
    params = {key: value.requires_grad_() for key, value in params_for(posterior, 4).items()}
    torch.manual_seed(0)
    q = posterior(params)
    (q.log_prob(q.rsample().detach()).sum() + q.rsample().square().sum()).backward()
    for key, parameter in params.items():
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).all(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_parameters_keep_finite_gradients(family, dtype):
    posterior = family(2)
    params = {
        key: (200 * torch.ones(size, dtype=dtype)).requires_grad_()
        for key, size in posterior.param_shapes.items()
    }
    if "log_scale" in params:
        params["log_scale"] = torch.tensor([-20.0, 20.0], dtype=dtype, requires_grad=True)
    else:
        params["scale_tril"] = torch.tensor([-20.0, 20.0, 200.0], dtype=dtype, requires_grad=True)
    posterior(params).log_prob(torch.full((2,), 200.0, dtype=dtype)).backward()
    assert all(value.grad.isfinite().all() for value in params.values())


def test_zero_parameters_give_the_standard_normal(family):
    posterior, z = family(3), points(5, 3)
    q = posterior(
        {key: torch.zeros(size, dtype=torch.float64) for key, size in posterior.param_shapes.items()}
    )
    np.testing.assert_allclose(
        q.log_prob(z).numpy(), stats.norm.logpdf(z.numpy()).sum(-1), rtol=0, atol=1e-10
    )


def test_mean_field_against_scipy():
    posterior, z = MeanFieldNormal(3), points(5, 3, seed=9)
    params = params_for(posterior, 5)
    expected = stats.norm.logpdf(z, params["loc"], params["log_scale"].exp()).sum(-1)
    np.testing.assert_allclose(posterior(params).log_prob(z).numpy(), expected, rtol=0, atol=1e-10)


def test_low_rank_against_scipy():
    posterior, z = LowRankNormal(4, rank=2), points(4, seed=9)
    params = params_for(posterior)
    factor, scale = params["factor"].numpy(), params["log_scale"].exp().numpy()
    covariance = factor @ factor.T + np.diag(scale**2)
    expected = stats.multivariate_normal.logpdf(z.numpy(), params["loc"].numpy(), covariance)
    np.testing.assert_allclose(posterior(params).log_prob(z).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 4, 1.0])
def test_bad_ranks(rank):
    with pytest.raises(InputError, match=r"^rank: expected"):
        LowRankNormal(3, rank)


def test_full_covariance_against_scipy():
    posterior, z = MultivariateNormal(3), points(3, seed=9)
    a, b, c, d, e, f = params_for(posterior)["scale_tril"].tolist()
    tril = np.array([[math.exp(a), 0, 0], [d, math.exp(b), 0], [e, f, math.exp(c)]])
    params = params_for(posterior)
    q = posterior(params)
    np.testing.assert_allclose(q.scale_tril.numpy(), tril, rtol=1e-14)
    expected = stats.multivariate_normal.logpdf(z.numpy(), params["loc"].numpy(), tril @ tril.T)
    np.testing.assert_allclose(q.log_prob(z).numpy(), expected, rtol=0, atol=1e-10)


def test_can_be_captured_as_a_graph(family):
    posterior = family(3)
    params, z = params_for(posterior, 4), points(4, 3)
    with torch.no_grad(), validation_enabled(False):
        graph = make_fx(lambda params, z: posterior(params).log_prob(z))(params, z)
        other = {key: value.flip(0) for key, value in params.items()}
        torch.testing.assert_close(graph(other, z), posterior(other).log_prob(z))


def test_rebuilds_loads_and_copies(family):
    posterior = family(3)
    again = rebuild(posterior.config())
    again.load_state_dict(posterior.state_dict())
    params, z = params_for(posterior, 4), points(4, 3)
    assert torch.equal(again(params).log_prob(z), posterior(params).log_prob(z))
    assert torch.equal(copy.deepcopy(posterior)(params).log_prob(z), posterior(params).log_prob(z))


@pytest.mark.parametrize("dim", [0, -1, True, 2.0, "3", None])
def test_bad_arguments(family, dim):
    with pytest.raises(InputError, match=r"^dim: expected a positive integer") as caught:
        family(dim)
    assert "\n" not in str(caught.value)
