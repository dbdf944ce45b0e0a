"""The closed form of linear Gaussian VAEs against independent exact answers."""

import copy
import math

import exact_models as models
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA, FactorAnalysis
from torch import nn

import ppl_vae as pv
from ppl_vae.evidence.exact.enumeration import enumerate_latents
from ppl_vae.evidence.exact.linear_gaussian import (
    best_mean_field_elbo,
    linear_gaussian,
    linear_gaussian_posterior,
)


class FullNormal(pv.priors.Prior):
    """A prior with a full covariance."""

    def __init__(self, dim):
        super().__init__(dim)
        g = torch.Generator().manual_seed(3)
        self.loc = nn.Parameter(torch.randn(dim, generator=g))
        self.raw = nn.Parameter(torch.randn(dim, dim, generator=g) / 3)

    def forward(self):
        return dist.MultivariateNormal(
            self.loc, scale_tril=self.raw.tril(-1) + torch.eye(self.dim).to(self.raw)
        )


class DiagonalNormal(FullNormal):
    def forward(self):
        return dist.Normal(self.loc, self.raw[0].exp()).to_event(1)


class PerPixel(pv.likelihoods.Gaussian):
    """A noise of its own for each number."""

    def forward(self, params):
        return dist.Normal(params["loc"], torch.linspace(0.3, 1.2, self.shape[0]).to(params["loc"])).to_event(
            1
        )


def linear(W, b, likelihood=None, prior=None, dtype=torch.float64):
    dim, latent = W.shape
    vae = pv.VAE(
        prior=prior or pv.priors.StandardNormal(latent),
        likelihood=likelihood or pv.likelihoods.Gaussian(dim, scale=0.7),
        posterior=pv.posteriors.MeanFieldNormal(latent),
        decoder=nn.Linear(latent, dim),
        hidden=(3,),
    ).to(dtype)
    with torch.no_grad():
        vae.decoder.weight.copy_(models.tensor(W))
        vae.decoder.bias.copy_(models.tensor(b))
    return vae


@pytest.mark.parametrize(("latent", "dim"), [(1, 3), (2, 5), (10, 30), (50, 784)])
def test_the_density_is_that_of_scipy(latent, dim):
    W, b, noise, x = models.draw_linear_gaussian(latent, dim, 6, seed=latent)
    exact = models.tensor(stats.multivariate_normal(b, W @ W.T + np.diag(noise)).logpdf(x))
    vae = linear(W, b)
    evidence = linear_gaussian(vae, models.tensor(x))
    torch.testing.assert_close(evidence.log_evidence, exact, rtol=1e-13, atol=1e-12)
    # scipy rounds, too, and more than we do: its own error is not in ours.
    assert ((evidence.log_evidence - exact).abs() < evidence.stderr + 1e-12).all()
    assert evidence.stderr.max() < 1e-10
    mean, covariance = linear_gaussian_posterior(vae, models.tensor(x))
    expected = models.posterior(W, b, noise, x)
    torch.testing.assert_close(mean, models.tensor(expected[0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance, models.tensor(expected[1]), rtol=0, atol=1e-13)


def test_the_result_says_that_it_was_computed():
    W, b, _, x = models.draw_linear_gaussian(2, 5, 3, seed=0)
    vae = linear(W, b)
    evidence = linear_gaussian(vae, models.tensor(x))
    assert (evidence.basis, evidence.bound, evidence.num_samples) == ("computed", "consistent", 1)
    assert set(evidence.status) == {"trust"}
    for name in ("elbo", "ess", "khat"):
        assert getattr(evidence, name).isnan().all()
    assert evidence.curve_k.numel() == 0
    assert evidence.cost.density == 1 + (3 * 2 + 1 + 64) / 3
    assert "linear Gaussian" in str(evidence)
    low, high = evidence.interval(0.5)
    torch.testing.assert_close(high - low, 2 * evidence.stderr, rtol=0, atol=1e-14)
    assert linear_gaussian(vae, models.tensor(x[1:2])).log_evidence == evidence.log_evidence[1:2]


@pytest.mark.parametrize("prior", [FullNormal, DiagonalNormal])
def test_any_normal_prior_and_a_noise_for_each_number(prior):
    W, b, _, x = models.draw_linear_gaussian(3, 6, 5, seed=4)
    vae = linear(W, b, prior=prior(3), likelihood=PerPixel(6))
    p = vae.prior()
    m, C = p.mean.detach().numpy(), np.diag(p.variance.detach().numpy())
    if prior is FullNormal:
        C = p.covariance_matrix.detach().numpy()
    full = stats.multivariate_normal(b + W @ m, W @ C @ W.T + np.diag(np.linspace(0.3, 1.2, 6) ** 2))
    evidence = linear_gaussian(vae, models.tensor(x))
    torch.testing.assert_close(evidence.log_evidence, models.tensor(full.logpdf(x)), rtol=0, atol=1e-6)
    # ... and the posterior is the one that the program itself has: log p(x, z) - log p(z|x) is log p(x) at any z.
    mean, covariance = linear_gaussian_posterior(vae, models.tensor(x))
    z = mean + torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    posterior = dist.MultivariateNormal(mean, covariance).log_prob(z)
    joint = vae.program.log_joint({"z": z}, models.tensor(x)).detach()
    torch.testing.assert_close(joint - posterior, evidence.log_evidence.expand(4, 5), rtol=0, atol=1e-10)


@pytest.mark.parametrize("fit", ["factor analysis", "principal components"])
def test_the_scores_of_scikit_learn(fit):
    x = models.draw_linear_gaussian(3, 8, 200, seed=2)[3] * np.linspace(0.5, 2, 8)
    if fit == "factor analysis":
        fitted = FactorAnalysis(3, tol=1e-3).fit(x)
        W, noise = fitted.components_.T, fitted.noise_variance_
    else:
        fitted = PCA(3).fit(x)
        W = fitted.components_.T * np.sqrt(fitted.explained_variance_ - fitted.noise_variance_)
        noise = np.full(8, fitted.noise_variance_)

    class Fitted(pv.likelihoods.Gaussian):
        def forward(self, params):
            return dist.Normal(params["loc"], models.tensor(np.sqrt(noise))).to_event(1)

    evidence = linear_gaussian(linear(W, fitted.mean_, Fitted(8)), models.tensor(x))
    torch.testing.assert_close(
        evidence.log_evidence, models.tensor(fitted.score_samples(x)), rtol=0, atol=1e-10
    )


def test_float32_networks_lose_nothing_but_their_own_digits():
    W, b, _, x = models.draw_linear_gaussian(5, 40, 6, seed=1)
    vae, data = linear(W, b, dtype=torch.float32), models.tensor(x, torch.float32)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    W32, b32 = vae.decoder.weight.detach().double().numpy(), vae.decoder.bias.detach().double().numpy()
    exact = stats.multivariate_normal(b32, W32 @ W32.T + 0.7**2 * np.eye(40)).logpdf(data.double().numpy())
    evidence = linear_gaussian(vae, data)
    torch.testing.assert_close(evidence.log_evidence, models.tensor(exact), rtol=0, atol=1e-11)
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert next(vae.parameters()).dtype == torch.float32


def test_the_best_mean_field_elbo_is_the_largest_there_is():
    """The ELBO of that guide, in closed form by importance sampling's own identity, and of guides moved off it."""
    W, b, _, x = models.draw_linear_gaussian(3, 5, 4, seed=6)
    vae, data = linear(W, b), models.tensor(x)
    best = best_mean_field_elbo(vae, data)
    mean, covariance = linear_gaussian_posterior(vae, data)
    log_evidence = linear_gaussian(vae, data).log_evidence
    posterior = torch.distributions.MultivariateNormal(mean, covariance)

    def elbo(shift, scale):
        q = torch.distributions.MultivariateNormal(mean + shift, torch.diag(scale**2))
        return log_evidence - torch.distributions.kl_divergence(q, posterior)

    sd = covariance.inverse().diagonal() ** -0.5
    torch.testing.assert_close(elbo(0.0, sd), best, rtol=0, atol=1e-10)
    for shift, factor in ((0.01, 1.0), (0.0, 1.01), (0.0, 0.99), (-0.02, 1.1)):
        assert (elbo(shift, sd * factor) < best).all()
    assert (best < log_evidence).all()
    # One latent: the best factorised guide is the posterior itself.
    W, b, _, x = models.draw_linear_gaussian(1, 5, 4, seed=6)
    vae, data = linear(W, b), models.tensor(x)
    torch.testing.assert_close(
        best_mean_field_elbo(vae, data), linear_gaussian(vae, data).log_evidence, rtol=0, atol=1e-12
    )


def test_it_agrees_with_importance_sampling():
    exact = models.linear_vae(3, 6, 40, widen=1.2)
    estimate = pv.evidence.importance(exact.program, exact.x, 2000, seed=0)
    evidence = linear_gaussian(exact.program._model.__self__, exact.x)
    assert ((estimate.log_evidence - evidence.log_evidence).abs() < 4 * estimate.stderr).all()


def make(**changes):
    parts = {
        "prior": pv.priors.StandardNormal(2),
        "likelihood": pv.likelihoods.Gaussian(5),
        "posterior": pv.posteriors.MeanFieldNormal(2),
        "hidden": (6,),
        "decoder": nn.Linear(2, 5),
    }
    return pv.VAE(**{**parts, **changes}).double()


class Bent(nn.Module):
    """Affine but for a kink 4.5 prior deviations out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 5)

    def forward(self, z):
        return self.linear(z) + torch.relu(z[..., :1] - 4.5)


@pytest.mark.parametrize(
    ("vae", "message"),
    [
        (lambda: make(decoder=None), "vae.decoder: expected a decoder that is affine in z"),
        (lambda: make(decoder=None, activation="relu"), "affine"),
        (lambda: make(decoder=Bent()), "affine"),
        (
            lambda: make(likelihood=pv.likelihoods.Bernoulli(5)),
            "vae.likelihood: expected Gaussian data, received a Bernou",
        ),
        (
            lambda: make(likelihood=pv.likelihoods.Gaussian(5, scale="decoder"), decoder=nn.Linear(2, 10)),
            "vae.likelihood: expected a scale that does not depend on z",
        ),
        (
            lambda: make(prior=pv.priors.MixtureOfGaussians(2, components=3)),
            "vae.prior: expected a normal prior, diagonal or full",
        ),
        (lambda: make().program, "vae: expected a VAE"),
        (lambda: 3, "vae: expected a VAE"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_words(vae, message):
    with pytest.raises(pv.InputError, match=message):
        linear_gaussian(vae(), torch.zeros(3, 5, dtype=torch.float64))


def test_bad_data_are_refused():
    for x in (torch.zeros(3, 4).double(), torch.zeros(0, 5).double(), torch.zeros(3, 5), "x", None):
        with pytest.raises(pv.InputError, match="x: expected"):
            linear_gaussian(make(), x)


def test_a_model_that_is_no_vae_of_ours_will_do():
    class Duck:
        def prior(self):
            return dist.Normal(torch.zeros(1).double(), 2.0).to_event(1)

        def decode(self, z):
            return dist.Normal(3 * z, 0.5).to_event(1)

    x = torch.tensor([[0.3], [7.0]]).double()
    exact = stats.norm(0, math.hypot(6, 0.5)).logpdf(x[:, 0])
    torch.testing.assert_close(
        linear_gaussian(Duck(), x).log_evidence, models.tensor(exact), rtol=0, atol=1e-14
    )


def test_nothing_global_moves():
    W, b, _, x = models.draw_linear_gaussian(2, 5, 3, seed=0)
    vae, exact = linear(W, b), models.mixture(3)
    before = torch.get_rng_state()
    linear_gaussian(vae, models.tensor(x))
    enumerate_latents(exact.program, exact.x)
    assert torch.equal(torch.get_rng_state(), before)
    assert copy.deepcopy(vae).training == vae.training
