"""ELBO surgery and active units against quadrature and closed forms."""

import math

import exact_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

import ppl_vae as pv
from ppl_vae import InputError, ProgramError
from ppl_vae.analysis import active_units, surgery
from ppl_vae.program.densities import log_terms

PARTS = ("rate", "distortion", "information", "marginal")


@pytest.fixture(scope="module")
def one_dimension():
    """A normal-normal model of 40 data, its guide moved; and all four parts of each datum, by quadrature."""
    x = models.draw_normal_normal(40, seed=3)
    exact = models.normal_normal(x, widen=1.3, shift=0.4)
    variance = 1 / (1 / 2.0**2 + 1 / 0.8**2)
    means = variance * (0.5 / 2.0**2 + x / 0.8**2) + 0.4 * variance**0.5
    scale = 1.3 * variance**0.5
    nodes, shares = np.polynomial.hermite_e.hermegauss(120)
    z, shares = means[:, None] + scale * nodes, shares / shares.sum()
    own = stats.norm(means[:, None], scale).logpdf(z)
    every = stats.norm(means, scale).logpdf(z[..., None])
    aggregate = special.logsumexp(every, axis=-1) - math.log(40)
    prior, likelihood = stats.norm(0.5, 2.0).logpdf(z), stats.norm(z, 0.8).logpdf(x[:, None])
    parts = (own - prior, -likelihood, own - aggregate, aggregate - prior)
    return exact, {name: torch.from_numpy(v @ shares) for name, v in zip(PARTS, parts, strict=True)}


def test_every_part_of_every_datum(one_dimension):
    """Within 4 standard errors: 160 numbers, so that 1 % of seeds would fail."""
    exact, parts = one_dimension
    result = surgery(exact.program, exact.x, 400)
    for name, wanted in parts.items():
        scores = (getattr(result, name) - wanted) / getattr(result, f"{name}_stderr")
        assert scores.abs().max() < 4, name
        assert 0.7 < scores.std() < 1.3, name
        mean = result.mean(name)
        assert abs(mean.value - float(wanted.mean())) < 4 * mean.mc_stderr
    assert math.isfinite(result.mean("rate").data_stderr)
    assert math.isnan(result.mean("information").data_stderr)


def test_the_identities_hold_draw_by_draw(one_dimension):
    exact, _ = one_dimension
    result = surgery(exact.program, exact.x, 10, seed=1)
    torch.testing.assert_close(result.rate, result.information + result.marginal)
    assert (result.information <= result.max_information + 1e-12).all()
    assert result.max_information == pytest.approx(math.log(40))


def test_the_elbo_is_what_the_surgeon_has_on_the_table():
    exact = models.linear_vae(3, 6, 30, widen=1.2)
    result = surgery(exact.program, exact.x, 500)
    elbo = pv.evidence.importance(exact.program, exact.x, 500)
    scores = (-result.distortion - result.rate - elbo.elbo) / (
        result.distortion_stderr**2 + result.rate_stderr**2 + elbo.elbo_stderr**2
    ).sqrt()
    assert scores.abs().max() < 4


def pair(guide_of, prior=lambda x: dist.Normal(x.new_zeros(()), 1.0)):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide_of(x))

    return pv.Program(model, guide)


X = torch.linspace(-2, 2, 9).double()


def test_a_guide_that_is_the_prior_tells_nothing():
    result = surgery(pair(lambda x: dist.Normal(x.new_zeros(()), 1.0)), X, 5)
    for name in ("rate", "information", "marginal"):
        assert getattr(result, name).abs().max() < 1e-12


def test_guides_that_do_not_overlap_tell_the_data_apart():
    result = surgery(pair(lambda x: dist.Normal(100 * x, 0.1)), X, 5)
    torch.testing.assert_close(result.information, torch.full((9,), math.log(9)).double())


def test_a_discrete_latent():
    exact = models.mixture(30, temper=2.0)
    logits = exact.program.log_guide({"k": torch.arange(4)[:, None].expand(4, 30)}, exact.x)
    aggregate = logits.logsumexp(1) - math.log(30)
    information = (logits.exp() * (logits - aggregate[:, None])).sum(0)
    result = surgery(exact.program, exact.x, 300)
    scores = (result.information - information) / result.information_stderr
    assert scores[result.information_stderr > 1e-6].abs().max() < 4


def test_pieces_do_not_change_the_aggregate(monkeypatch, one_dimension):
    exact, _ = one_dimension
    whole = surgery(exact.program, exact.x, 10)
    monkeypatch.setitem(surgery.__globals__, "_NUMBERS", {"cpu": 300, "cuda": 300})
    cut = surgery(exact.program, exact.x, 10)
    torch.testing.assert_close(whole.information, cut.information)
    assert torch.equal(whole.rate, cut.rate)
    other = surgery(exact.program, exact.x, 10, seed=1, progress=False)
    assert not torch.equal(whole.rate, other.rate)


def test_a_prior_that_depends_on_x_is_refused():
    program = pair(lambda x: dist.Normal(x, 1.0), prior=lambda x: dist.Normal(x, 1.0))
    with pytest.raises(ProgramError, match="model: expected a prior that does not depend on x"):
        surgery(program, X)


def test_what_surgery_prints_and_refuses(one_dimension):
    exact, _ = one_dimension
    result = surgery(exact.program, exact.x, 20)
    assert "at most log N = 3.6889" in str(result)
    assert "marginal KL" in str(result)
    assert "Surgery(N=40, S=20" in repr(result)
    with pytest.raises(InputError, match="of: expected one of 'rate'"):
        result.mean("elbo")
    for options, words in (({"num_samples": 1}, "at least 2"), ({"seed": -1}, "seed")):
        with pytest.raises(InputError, match=words):
            surgery(exact.program, exact.x, **options)


def test_the_two_factors_of_the_density():
    exact = models.linear_vae(3, 6, 8)
    z = exact.program.sample_guide(exact.x, 5)
    terms = log_terms(exact.program, z, exact.x)
    torch.testing.assert_close(terms.log_prior, dist.Normal(0.0, 1.0).log_prob(z["z"]).sum(-1))
    torch.testing.assert_close(sum(terms), exact.program.log_joint(z, exact.x))


# ---- active units ----------------------------------------------------------------------------------------


def units(num_data, dead_scale=1.0, seed=0):
    """Posterior means x_d * slope_d with slopes 1, 0.1 (a variance at the threshold) and 0 (dead)."""
    x = torch.randn(num_data, 3, generator=torch.Generator().manual_seed(seed)).double()
    slopes = torch.tensor([1.0, 0.1, 0.0]).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(slopes * x, dead_scale).to_event(1))

    return pv.Program(model, guide), x, (slopes * x).var(0)


def test_variances_of_posterior_means_are_unbiased():
    """50 data sets, 3 units: means within 4 standard errors; 1 % of seeds would fail. Errors spread as they say."""
    estimates, errors = [], []
    for seed in range(50):
        program, x, _ = units(100, seed=seed)
        found = active_units(program, x, num_samples=16, seed=seed)
        estimates.append(found.variances)
        errors.append(found.stderr)
    estimates, errors = torch.stack(estimates), torch.stack(errors)
    wanted = torch.tensor([1.0, 0.01, 0.0]).double()
    assert ((estimates.mean(0) - wanted).abs() < 4 * estimates.std(0) / 50**0.5).all()
    ratio = (errors**2).mean(0).sqrt() / estimates.std(0)
    assert ((ratio > 0.75) & (ratio < 1.35)).all()
    # Without the correction every dead unit would be active.
    assert 1 / 16 > 0.01


def test_which_units_are_active():
    program, x, exact = units(400)
    found = active_units(program, x, num_samples=256)
    assert found.labels == ("z[0]", "z[1]", "z[2]")
    assert list(found.status) == ["active", "close", "inactive"]
    assert found.active.tolist()[::2] == [True, False]
    assert found.count in (1, 2)
    assert ((found.variances - exact).abs() < 4 * found.stderr).all()
    strict = active_units(program, x, threshold=2.0)
    assert strict.count == 0
    assert "active units: 0 of 3" in str(strict)
    text = str(found)
    assert "1 within 2 standard errors of the threshold" in text
    assert text.splitlines()[1].startswith("z[0]")
    assert "1 close" in repr(found)


def test_units_of_several_sites():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Normal(x.new_zeros(2, 2), 1.0).to_event(2))
            a = pyro.sample("a", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(b.sum((-1, -2)) + a, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("b", dist.Normal(x[:, None, None].expand(-1, 2, 2), 0.1).to_event(2))
            pyro.sample("a", dist.Bernoulli(x.sigmoid()))

    found = active_units(pv.Program(model, guide), X, num_samples=400)
    assert found.labels == ("a", "b[0,0]", "b[0,1]", "b[1,0]", "b[1,1]")
    torch.testing.assert_close(found.variances[1:], X.var().expand(4), rtol=0.05, atol=0)
    assert float(found.variances[0]) == pytest.approx(float(X.sigmoid().var()), rel=0.2)


def test_what_active_units_refuses():
    program, x, _ = units(10)
    for data, options, words in (
        (x[:1], {}, "x: expected at least 2 data"),
        (x, {"num_samples": 1}, "num_samples"),
        (x, {"threshold": 0.0}, "threshold"),
        (x, {"seed": -1}, "seed"),
    ):
        with pytest.raises(InputError, match=words):
            active_units(program, data, **options)
    first, again = (active_units(program, x, seed=2) for _ in range(2))
    assert torch.equal(first.variances, again.variances)
