"""Every estimate against log p(x) in closed form.

"Within 4 standard errors" fails by chance for one datum in 16,000; the tests below look at about 1,700 data, so some
10 % of choices of seeds would show one failure. The seeds are fixed; with them nothing fails.
A standard error is only believed where k-hat is below its threshold; that most data are there is asked as well, so
that no test passes by looking at nothing.
"""

import math

import exact_models as models
import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis

import ppl_vae as pv
from ppl_vae.evidence.results.pareto import khat_threshold

SIZES = [(1, 3), (2, 5), (5, 10), (10, 30)]  # latent, data
MOVED = {
    "normal-normal": lambda: models.normal_normal(models.draw_normal_normal(150), widen=1.3, shift=0.4),
    "beta-bernoulli": lambda: models.beta_bernoulli(150, widen=1.6),
    "gamma-poisson": lambda: models.gamma_poisson(150, widen=1.6),
    "mixture": lambda: models.mixture(150, temper=2.0),
}
EXACT = {
    "linear VAE": lambda: models.linear_vae(3, 7, 20),
    "normal-normal": lambda: models.normal_normal(models.draw_normal_normal(20)),
    "beta-bernoulli": lambda: models.beta_bernoulli(20),
    "gamma-poisson": lambda: models.gamma_poisson(20),
    "mixture": lambda: models.mixture(20),
}


def assert_within_errors(evidence, exact, at_least=0.95, worst=4.0):
    """Every trusted datum within ``worst`` standard errors; at least ``at_least`` of them trusted; one error apart."""
    trusted = evidence.khat < khat_threshold(evidence.num_samples)
    share = float(trusted.double().mean())
    assert share >= at_least, f"only {share:.0%} of {len(evidence)} data have a k-hat below the threshold"
    scores = ((evidence.log_evidence - exact) / evidence.stderr)[trusted]
    assert scores.abs().max() < worst, f"{scores.abs().max():.2f} standard errors off, {len(scores)} data"
    # The errors are neither too small (above) nor too large: standardised, they spread like a standard normal.
    assert 0.75 < scores.std() < 1.25
    # ... and the estimate is not simply the ELBO.
    assert (evidence.log_evidence - evidence.elbo).min() > 0


@pytest.mark.parametrize(("latent", "dim"), SIZES)
def test_linear_gaussian_vae(latent, dim):
    """Guide: the exact posterior, 1.2 times as wide, 0.2 deviations off in every direction. All k-hats are below."""
    exact = models.linear_vae(latent, dim, 150, seed=latent, widen=1.2, shift=0.2)
    evidence = pv.evidence.importance(exact.program, exact.x, 2000, seed=0)
    assert_within_errors(evidence, exact.log_evidence)


def test_linear_gaussian_vae_in_float32_networks():
    exact = models.linear_vae(2, 5, 100, seed=5, widen=1.2, shift=0.2, dtype=torch.float32)
    evidence = pv.evidence.importance(exact.program, exact.x, 2000, seed=1)
    assert evidence.log_evidence.dtype == torch.float64
    assert_within_errors(evidence, exact.log_evidence)


@pytest.mark.parametrize(("latent", "dim"), SIZES)
def test_factor_analysis_of_scikit_learn(latent, dim):
    """A fitted FactorAnalysis, copied: its own score_samples is the reference, with a noise for each dimension."""
    x = models.draw_linear_gaussian(latent, dim, 200, seed=10 + latent)[3]
    x *= np.linspace(0.5, 2.0, dim)
    fitted = FactorAnalysis(latent, max_iter=200, tol=1e-1).fit(x)
    W, noise = fitted.components_.T, fitted.noise_variance_
    exact = models.factor_analysis(W, fitted.mean_, noise, x[:100], widen=1.2, shift=0.2)
    scores = models.tensor(fitted.score_samples(x[:100]))
    torch.testing.assert_close(exact.log_evidence, scores, rtol=1e-9, atol=1e-9)
    evidence = pv.evidence.importance(exact.program, exact.x, 2000, seed=1)
    assert_within_errors(evidence, scores)


@pytest.mark.parametrize("name", MOVED)
def test_conjugate_programs(name):
    exact = MOVED[name]()
    evidence = pv.evidence.importance(exact.program, exact.x, 4000, seed=0)
    if name == "mixture":
        # Four possible weights: no tail can be fitted to ties, so k-hat is NaN or bounded, never a reason to reject.
        assert not (evidence.khat > khat_threshold(4000)).any()
        moved = evidence.stderr > 1e-6
        assert moved.double().mean() > 0.5
        scores = ((evidence.log_evidence - exact.log_evidence) / evidence.stderr)[moved]
        assert scores.abs().max() < 4
        torch.testing.assert_close(
            evidence.log_evidence[~moved], exact.log_evidence[~moved], rtol=0, atol=1e-4
        )
        return
    assert_within_errors(evidence, exact.log_evidence)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("seed", range(5))
def test_zero_variance_under_the_exact_posterior(name, seed):
    """Every weight is p(x) itself: no seed, and no number of samples, can make a difference."""
    exact = EXACT[name]()
    num_samples = (300, 1, 64, 1000, 129)[seed]
    evidence = pv.evidence.importance(exact.program, exact.x, num_samples, seed=seed)
    torch.testing.assert_close(evidence.log_evidence, exact.log_evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(evidence.elbo, exact.log_evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(evidence.curve_bound[:, -1], exact.log_evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(evidence.ess, torch.full_like(evidence.ess, num_samples), rtol=1e-9, atol=0)
    if num_samples == 1:
        assert evidence.stderr.isnan().all()
    else:
        assert evidence.stderr.max() < 1e-10
    if num_samples >= 300:
        assert (evidence.khat == -math.inf).all()
        assert set(evidence.status) == {"trust"}


def test_a_discrete_latent_is_the_sum_over_its_values():
    """log_joint at each of the four values, summed: the evidence without any sampling."""
    exact = models.mixture(30)
    n = len(exact.x)
    values = {"k": torch.arange(4)[:, None].expand(4, n)}
    total = exact.program.log_joint(values, exact.x).logsumexp(0)
    torch.testing.assert_close(total, exact.log_evidence, rtol=0, atol=1e-12)
    guide = exact.program.log_guide(values, exact.x)
    torch.testing.assert_close(guide.logsumexp(0), torch.zeros(n).double(), rtol=0, atol=1e-12)


def test_a_dropped_constant_would_show():
    """The comparison itself can fail: log(2 pi) / 2 a dimension, or the wrong noise, is many standard errors."""
    exact = models.linear_vae(2, 5, 50, seed=2, widen=1.2)
    evidence = pv.evidence.importance(exact.program, exact.x, 2000, seed=0)
    for wrong in (exact.log_evidence + 2.5 * math.log(2 * math.pi), exact.log_evidence + 0.1):
        with pytest.raises(AssertionError, match="standard errors off"):
            assert_within_errors(evidence, wrong)
