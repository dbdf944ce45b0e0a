"""Counts that vary more than a Poisson: right at every size of mean and dispersion."""

import itertools
import math

import pytest
import torch
from families import points

from ppl_vae.likelihoods import (
    NegativeBinomial,
    ZeroInflatedNegativeBinomial,
)

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
