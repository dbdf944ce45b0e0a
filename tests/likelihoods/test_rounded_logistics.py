"""Probabilities of intervals under logistic densities: nothing cancels."""

import math

import numpy as np
import torch
from families import build, points

from ppl_vae.likelihoods import (
    DiscretisedLogistic,
)


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
