"""The Beta-Binomial against scipy, from Beta-distributed extremes to a Binomial."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppl_vae.likelihoods import (
    BetaBinomial,
)


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
