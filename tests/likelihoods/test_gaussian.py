"""The Gaussian likelihood against scipy, and its three kinds of scale."""

import math

import numpy as np
import pytest
import torch
from families import build, points
from scipy import stats

from ppl_vae.likelihoods import (
    Gaussian,
)


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
