"""Bernoulli and Binomial against scipy, in both precisions and at extreme logits."""

import math

import numpy as np
import pyro
import pytest
import torch
from families import points
from scipy import special, stats

from ppl_vae.likelihoods import (
    Bernoulli,
    Binomial,
)


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
