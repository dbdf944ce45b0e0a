"""Pareto smoothing against arviz_stats, at its edges, and what it is worth."""

import math

import exact_models as models
import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

from ppl_vae import InputError
from ppl_vae.evidence import importance, psis
from ppl_vae.evidence.importance_sampling.psis import Smoothed
from ppl_vae.evidence.results.accumulator import Accumulator
from ppl_vae.evidence.results.pareto import smooth, tail_size


def shapes(S, seed=0):
    """(S, N) log weights of many tails, heavy, light and bounded."""
    r = np.random.default_rng(seed)
    columns = [
        *(scale * r.standard_normal(S) for scale in (0.01, 0.3, 1, 2, 5)),
        *(k * r.standard_exponential(S) for k in (0.1, 0.3, 0.7, 1.0, 2.0)),
        np.log(r.random(S)),
        np.log(r.gamma(3.0, size=S)),
        r.standard_t(3, size=S) - 500,
        r.standard_normal(S) + 1e4,
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def smoothed(log_weights):
    """All S log weights, the largest replaced in their places."""
    S = len(log_weights)
    width = min(tail_size(S) + 1, S)
    found = log_weights.topk(width, dim=0)
    new = smooth(found.values.T, S).T.flip(0)
    return log_weights.scatter(0, found.indices, new)


def read(log_weights, kind=Smoothed):
    sums = kind(log_weights.shape[1], len(log_weights))
    sums.add(log_weights)
    return sums.finish()


@pytest.mark.parametrize("S", [25, 100, 225, 400, 900, 2500, 10_000])
def test_agrees_with_arviz(S):
    # Sizes at which arviz's floor and our ceiling of M are the same. It negates what it is given, and normalises.
    lw = shapes(S)
    reference = array_stats.psislw(-lw.T.numpy())[0]
    ours = smoothed(lw).log_softmax(0).T.numpy()
    theirs = torch.from_numpy(reference).log_softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert np.abs(lw.log_softmax(0).T.numpy() - theirs).max() > 0.01  # something was smoothed


@pytest.mark.parametrize("S", [21, 65, 300, 3000])
def test_the_streamed_figures_are_those_of_all_smoothed_weights(S):
    lw = shapes(S)
    f, w = read(lw), smoothed(lw)
    relative = (w - w.amax(0)).exp()

    def close(a, b):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    close(f.log_evidence, w.logsumexp(0) - math.log(S))
    close(f.stderr, relative.std(0) / (math.sqrt(S) * relative.mean(0)))
    close(f.ess, relative.sum(0) ** 2 / (relative**2).sum(0))
    plain = read(lw, Accumulator)
    for name in ("elbo", "elbo_stderr", "khat", "curve_bound"):
        assert torch.equal(getattr(f, name), getattr(plain, name))


def test_no_weight_becomes_larger_than_the_largest_and_the_order_stays():
    lw = shapes(1000)
    new = smoothed(lw)
    assert (new.amax(0) <= lw.amax(0)).all()
    assert (new.gather(0, lw.argsort(0)).diff(dim=0) >= 0).all()


def test_what_cannot_be_fitted_stays():
    r = torch.Generator().manual_seed(0)
    lw = torch.zeros(1000, 5, dtype=torch.float64)
    lw[:, 1] = torch.where(torch.rand(1000, generator=r) < 0.5, 0.0, -1.0)
    lw[3:, 2] = -math.inf  # three weights in all
    lw[:, 3] = -math.inf
    lw[:3, 4] = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(smoothed(lw), lw)
    f, plain = read(lw), read(lw, Accumulator)
    for name in ("log_evidence", "stderr", "ess"):
        torch.testing.assert_close(getattr(f, name), getattr(plain, name), rtol=0, atol=0, equal_nan=True)
    small = shapes(20)
    assert torch.equal(smoothed(small), small)
    with pytest.raises(InputError, match="log_tail"):
        smooth(torch.zeros(3, 4), 1000)


def test_zeros_below_a_tail():
    """50 of 1,000 weights above zero: the cut-off is zero, and the 50 are all fitted."""
    lw = torch.full((1000, 1), -math.inf, dtype=torch.float64)
    lw[:50, 0] = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = smoothed(lw)
    assert (new[50:] == -math.inf).all()
    assert new[:50].isfinite().all()
    assert (new[:50] != lw[:50]).sum() > 40


def test_a_tail_over_hundreds_of_nats():
    lw = 300 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = smoothed(lw)
    assert new.isfinite().all()
    assert (new.amax(0) <= lw.amax(0)).all()


@pytest.mark.statistical
def test_it_is_steadier_than_importance_sampling_where_the_tail_is_heavy():
    """A guide half as wide as the posterior, whose weights have no variance: 500 estimates of 1,000 samples.

    Mean squared errors of Z differ by a factor of 3 to 50 at four seeds; 1.5 is asked for.
    """
    exact = models.normal_normal([1.7], widen=0.5)
    x = exact.x.expand(500).clone()
    plain, ours = importance(exact.program, x, 1000, seed=2), psis(exact.program, x, 1000, seed=2)
    assert torch.equal(plain.khat, ours.khat)

    def error(e):
        return float((((e.log_evidence - exact.log_evidence).exp() - 1) ** 2).mean())

    print(f"mean squared error of Z: plain {error(plain):.4f}, smoothed {error(ours):.4f}")
    assert error(ours) < error(plain) / 1.5
    assert ours.log_evidence.std() < plain.log_evidence.std()
