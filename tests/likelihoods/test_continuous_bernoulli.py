"""The continuous Bernoulli at any logits, the small ones of its series among them."""

import math

import pytest
import torch
from families import line

from ppl_vae.likelihoods import (
    ContinuousBernoulli,
)


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
