"""Simulation-based calibration: the exact posterior passes at the stated rate, others fail for the right reason."""

import exact_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import ppl_vae as pv
from ppl_vae import InputError
from ppl_vae.analysis import Calibration, calibration

EXACT = {
    "linear VAE": lambda: models.linear_vae(3, 7, 20),
    "beta-bernoulli": lambda: models.beta_bernoulli(20),
    "gamma-poisson": lambda: models.gamma_poisson(20),
    "mixture": lambda: models.mixture(20),
}
OFF = {
    "too narrow": lambda: models.linear_vae(3, 7, 20, widen=0.7),
    "too wide": lambda: models.linear_vae(3, 7, 20, widen=1.3),
    "too low": lambda: models.linear_vae(1, 7, 20, shift=-0.5),
    "too high": lambda: models.linear_vae(1, 7, 20, shift=0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_posterior_passes(name):
    """At level 0.01 for each of the two posteriors: 2 % of seeds would fail, for each of four models."""
    exact = EXACT[name]()
    result = calibration(exact.program, exact.x)
    assert result.calibrated()
    assert result.calibrated("reweighted")
    torch.testing.assert_close(result.ess, torch.full((1000,), 1000.0).double(), rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.statistical
def test_the_failure_rate_is_the_one_stated():
    """80 seeds, 4 correlated quantities, family-wise level 0.2: at most 29 failures but once in 500 (and 0.1 expected
    below 5, if Holm's procedure lost no power)."""
    exact = models.linear_vae(3, 7, 20)
    failures = {"guide": 0, "reweighted": 0}
    for seed in range(80):
        result = calibration(exact.program, exact.x, 200, num_importance=99, bins=10, alpha=0.2, seed=seed)
        for of in failures:
            failures[of] += not result.calibrated(of)
    most = stats.binom.ppf(0.999, 80, 0.2)
    assert all(5 <= count <= most for count in failures.values()), failures


@pytest.mark.parametrize("word", OFF)
def test_a_guide_that_is_off_fails_with_the_right_word(word):
    exact = OFF[word]()
    result = calibration(exact.program, exact.x)
    assert set(result.verdicts()[:-1]) == {word}
    assert result.calibrated("reweighted")
    # Draws of a narrow guide have more density than the truth, those of a wide one less.
    if word in ("too narrow", "too wide"):
        assert result.verdicts()[-1] == {"too narrow": "too high", "too wide": "too low"}[word]


def test_a_discrete_posterior_is_judged_through_its_ties():
    exact = models.mixture(20, temper=2.0)
    result = calibration(exact.program, exact.x)
    assert result.labels == ("k", "log p(x, z)")
    assert list(result.verdicts()) == ["too wide", "too low"]
    assert result.calibrated("reweighted")


def test_a_guide_that_is_the_prior_is_found_out_by_the_joint_density():
    """Every latent's rank is uniform under the prior, too: only a quantity that knows x can tell."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    result = calibration(pv.Program(model, guide), torch.zeros(1).double())
    assert list(result.verdicts()) == ["calibrated", "too low"]
    assert result.calibrated("reweighted")


def test_reweighting_too_few_draws_is_found_out():
    exact = models.linear_vae(3, 7, 20, widen=0.3, shift=1.0)
    result = calibration(exact.program, exact.x, num_importance=100)
    assert result.ess.median() < 20
    assert not result.calibrated("reweighted")


def test_several_sites_dicts_and_covariates():
    """Two sites of several numbers each, the second of which depends on the first; covariates are kept."""

    def model(x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            a = pyro.sample("a", dist.Normal(x["shift"], 1.0).to_event(1))
            pyro.sample("b", dist.Normal(a.sum(-1, keepdim=True).expand(*a.shape[:-1], 2), 0.5).to_event(1))
            pyro.sample("x", dist.Normal(a, 1.0).to_event(1), obs=x["x"])

    def guide(x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            a = pyro.sample("a", dist.Normal((x["x"] + x["shift"]) / 2, 0.5**0.5).to_event(1))
            pyro.sample("b", dist.Normal(a.sum(-1, keepdim=True).expand(*a.shape[:-1], 2), 0.3).to_event(1))

    x = {"x": torch.zeros(5, 2).double(), "shift": torch.randn(5, 2).double()}
    result = calibration(pv.Program(model, guide), x, 500)
    assert result.labels == ("a[0]", "a[1]", "b[0]", "b[1]", "log p(x, z)")
    assert list(result.verdicts()[:2]) == ["calibrated"] * 2
    assert not result.calibrated()


def made(ranks, L=9, bins=5, alpha=0.05):
    ranks = torch.as_tensor(ranks)
    labels = tuple(f"z[{d}]" for d in range(len(ranks)))
    ess = torch.ones(ranks.shape[1]).double()
    return Calibration(labels, ranks, ranks.flip(0), ess, L, 100, bins, alpha, 0)


def test_counts_and_p_values_are_those_of_three_tests():
    ranks = np.random.default_rng(0).integers(0, 10, (3, 200))
    ranks[0, :60], ranks[1, :40], ranks[2, :30] = 9, 5, [0, 9] * 15
    result = made(ranks)
    for d in range(3):
        counts = np.bincount(ranks[d] // 2, minlength=5)
        assert result.counts()[d].tolist() == counts.tolist()
        u, uniform = ranks[d], stats.randint(0, 10)
        mean = (u.mean() - 4.5) / (uniform.var() / 200) ** 0.5
        fourth = np.mean((np.arange(10) - 4.5) ** 4)
        spread = (((u - 4.5) ** 2).mean() - uniform.var()) / ((fourth - uniform.var() ** 2) / 200) ** 0.5
        three = [stats.chisquare(counts).pvalue, *(2 * stats.norm.sf(abs(v)) for v in (mean, spread))]
        assert float(result.p_values()[d]) == pytest.approx(min(1, 3 * min(three)))
        assert (float(result.shift()[d]), float(result.spread()[d])) == pytest.approx((mean, spread))
    assert torch.equal(result.counts("reweighted"), result.counts().flip(0))
    with pytest.raises(InputError, match="of: expected one of 'guide', 'reweighted'"):
        result.counts("prior")


def test_holm_rejects_as_it_should():
    """p-values of 0.00003, 0.024 and 1 at level 0.05: the first two are rejected, at 0.05 / 3 and 0.05 / 2."""
    even = np.repeat(np.arange(10), 20)
    off, far = even.copy(), even.copy()
    off[:12], far[:20] = 9, 9
    result = made(np.stack([even, off, far]))
    p = result.p_values()
    assert 0.05 / 3 < p[1] < 0.05 / 2
    assert p[2] < 0.05 / 3
    assert list(result.verdicts()) == ["calibrated", "too low", "too low"]
    # Beside two that pass, the middle one would not be rejected at 0.05 / 3.
    assert list(made(np.stack([even, off, even])).verdicts()) == ["calibrated"] * 3


def test_shift_and_spread_are_standard_normal_under_uniform_ranks():
    ranks = np.random.default_rng(1).integers(0, 10, (400, 300))
    result = made(ranks)
    for moment in (result.shift(), result.spread()):
        assert abs(float(moment.mean())) < 0.2
        assert 0.85 < float(moment.std()) < 1.15


def test_a_shape_that_is_neither_shifted_nor_spread():
    ranks = np.tile(np.array([1, 5, 8, 1, 4, 8]), 50)  # as uniform ones in mean and variance
    assert list(made(ranks[None]).verdicts()) == ["misshapen"]


def test_a_seed_gives_the_same_numbers_and_leaves_the_global_ones_alone():
    exact = models.linear_vae(2, 5, 7)
    state = torch.get_rng_state()
    first, again, other = (
        calibration(exact.program, exact.x, 150, num_importance=150, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.ranks, again.ranks)
    assert torch.equal(first.reweighted_ranks, again.reweighted_ranks)
    assert not torch.equal(first.ranks, other.ranks)


def test_saving_and_loading_give_the_same_bits(tmp_path):
    exact = models.linear_vae(2, 5, 7)
    result = calibration(exact.program, exact.x, 100, num_importance=100)
    assert result.bins == 20
    path = tmp_path / "calibration.safetensors"
    result.save(path)
    loaded = Calibration.load(path)
    for name, value in vars(result).items():
        same = torch.equal(value, getattr(loaded, name)) if isinstance(value, torch.Tensor) else None
        assert value == getattr(loaded, name) if same is None else same
    assert str(loaded) == str(result)
    pv.evidence.importance(exact.program, exact.x, 10).save(path)
    with pytest.raises(InputError, match=r"a file written by Calibration\.save"):
        Calibration.load(path)


def test_what_it_prints():
    exact = models.linear_vae(2, 5, 7, widen=0.6)
    result = calibration(exact.program, exact.x, 300)
    text = str(result)
    assert "guide: 3 of 3 quantities are not calibrated (family-wise level 0.01)" in text
    assert "too narrow" in text
    assert "ESS median" in text
    assert "guide fails, reweighted passes" in repr(result)


def test_bins_are_the_most_that_fit():
    exact = models.linear_vae(1, 3, 5)
    assert calibration(exact.program, exact.x, 30, num_importance=99).bins == 5
    assert calibration(exact.program, exact.x, 60, num_draws=11, num_importance=20).bins == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_data": 0}, "num_data: expected a positive integer"),
        ({"num_data": 9}, "num_data: expected at least 5 for each of 2 bins"),
        ({"num_draws": 0}, "num_draws"),
        ({"num_importance": 50}, "num_importance: expected at least num_draws, 99"),
        ({"bins": 3}, r"bins: expected a divisor of num_draws \+ 1 = 100"),
        ({"bins": 1}, "bins"),
        ({"bins": 50, "num_data": 100}, "num_data: expected at least 5 for each of 50 bins"),
        ({"alpha": 1.0}, "alpha: expected a number between 0 and 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    exact = models.linear_vae(1, 3, 5)
    with pytest.raises(InputError, match=words):
        calibration(exact.program, exact.x, **options)
