"""What a VAE generates: shapes, seeds, means, and paths that end where they should."""

import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae import InputError, generate
from ppl_vae.likelihoods import Bernoulli, Binomial, Gaussian
from ppl_vae.posteriors import MeanFieldNormal
from ppl_vae.priors import MixtureOfGaussians, StandardNormal, VampPrior

LIKELIHOODS = {
    "Bernoulli": lambda: Bernoulli(6),
    "image": lambda: Bernoulli((1, 2, 3)),
    "Binomial": lambda: Binomial(6, 4),
    "Gaussian": lambda: Gaussian(6, 0.4),
    "Gaussian, decoder": lambda: Gaussian(6, "decoder"),
}


def make(likelihood="Bernoulli", prior=StandardNormal, **options):
    torch_state = torch.get_rng_state()
    vae = pv.VAE(prior(2, **options), LIKELIHOODS[likelihood](), MeanFieldNormal(2), hidden=(5,), seed=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    with torch.no_grad():
        vae.decoder.last.weight.mul_(3.0)  # latents that matter
    return vae


@pytest.fixture(params=LIKELIHOODS)
def vae(request):
    return make(request.param)


def test_shapes(vae):
    for mean in (False, True):
        assert pv.sample(vae, 7, mean=mean).shape == (7, *vae.shape)
    x = pv.sample(vae, 5)
    vae.check_data(x)
    assert pv.reconstruct(vae, x).shape == x.shape
    assert pv.interpolate(vae, x[0], x[1]).shape == (9, *vae.shape)
    assert generate.latent_means(vae, x).shape == (5, 2)
    assert generate.decode_means(vae, torch.zeros(3, 4, 2)).shape == (3, 4, *vae.shape)
    assert not pv.sample(vae, 3).requires_grad


def test_the_seed_and_nothing_else_decides(vae):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = pv.sample(vae, 20, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(pv.sample(vae, 20, seed=4), first)
    assert not torch.equal(pv.sample(vae, 20, seed=5), first)


@pytest.mark.parametrize("n", [1000, 2500])
def test_more_samples_keep_the_first_pass(n):
    vae = make()
    assert torch.equal(pv.sample(vae, n, seed=1)[:1000], pv.sample(vae, 1000, seed=1))
    x = pv.sample(vae, n)
    assert torch.equal(pv.reconstruct(vae, x)[:1000], pv.reconstruct(vae, x[:1000]))
    assert not torch.equal(x[:500], x[n - 500 :])


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_samples_scatter_round_the_means_of_the_same_latents(likelihood):
    """Each pixel within 4 standard errors: 6 pixels fail at about 4 seeds in 10,000.

    Had the means other latents, the spread of the latents would show in `spread` below: it would be 2 or more.
    """
    vae = make(likelihood)
    n = 4000
    x, mean = pv.sample(vae, n, seed=3), pv.sample(vae, n, seed=3, mean=True)
    noise = (x - mean).reshape(n, -1)
    z = noise.mean(0) / noise.std(0) * n**0.5
    assert (z.abs() < 4).all()
    # The residuals do not know the means: their correlation is zero to 4 / sqrt(n).
    centred = (mean - mean.mean(0)).reshape(n, -1)
    correlation = (noise * centred).mean(0) / (noise.std(0) * centred.std(0))
    assert (correlation.abs() < 4 / n**0.5).all()


def test_the_mean_is_the_likelihoods(vae, monkeypatch):
    seen = []
    original = vae.decoder_params
    monkeypatch.setattr(vae, "decoder_params", lambda z: seen.append(z) or original(z))
    x = pv.sample(vae, 6, seed=1)
    mean = pv.sample(vae, 6, seed=1, mean=True)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(mean, vae.likelihood.mean(original(seen[0])))
    assert not torch.equal(mean, x)


@pytest.mark.parametrize("prior", [MixtureOfGaussians, VampPrior])
@pytest.mark.statistical
def test_latents_come_from_the_prior(prior, monkeypatch):
    """Mean of each of 2 latents within 4 standard errors of the prior's: fails at about 1 seed in 10,000."""
    vae = make(prior=prior, components=3)
    seen = []
    monkeypatch.setattr(vae, "decoder_params", lambda z, f=vae.decoder_params: seen.append(z) or f(z))
    pv.sample(vae, 4000)
    z = torch.cat(seen)
    assert z.shape == (4000, 2)
    assert ((z.mean(0) - vae.prior().mean).abs() < 4 * z.std(0) / len(z) ** 0.5).all()


def test_reconstructions_are_the_means_at_the_posteriors_mean(vae):
    x = pv.sample(vae, 5)
    direct = vae.likelihood.mean(vae.decoder_params(vae.encode(x).mean))
    torch.testing.assert_close(pv.reconstruct(vae, x), direct)
    torch.testing.assert_close(
        pv.reconstruct(vae, x), generate.decode_means(vae, generate.latent_means(vae, x))
    )


def test_a_path_starts_and_ends_at_the_reconstructions(vae):
    x = pv.sample(vae, 2)
    for steps in (2, 5):
        path = pv.interpolate(vae, x[0], x[1], steps=steps)
        assert path.shape[0] == steps
        torch.testing.assert_close(path[[0, -1]], pv.reconstruct(vae, x))
    torch.testing.assert_close(pv.interpolate(vae, x[1], x[0], steps=5), path.flip(0))
    same = pv.interpolate(vae, x[0], x[0], steps=3)
    torch.testing.assert_close(same, same[:1].expand_as(same))


def test_evaluation_mode_is_taken_and_given_back():
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
    vae = pv.VAE(StandardNormal(2), Bernoulli(6), MeanFieldNormal(2), hidden=(5,), encoder=encoder)
    encoder[2].eval()
    modes = [module.training for module in vae.modules()]
    x = pv.sample(vae, 3)
    assert torch.equal(pv.reconstruct(vae, x), pv.reconstruct(vae, x))
    torch.testing.assert_close(pv.reconstruct(vae, x)[:1], pv.reconstruct(vae, x[:1]))
    assert [module.training for module in vae.modules()] == modes


X = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda vae: pv.sample(vae, 0), "num_data"),
        (lambda vae: pv.sample(vae, 2.0), "num_data"),
        (lambda vae: pv.sample(vae, True), "num_data"),
        (lambda vae: pv.sample(vae, 2, seed=-1), "seed"),
        (lambda vae: pv.sample(vae, 2, seed=None), "seed"),
        (lambda vae: pv.reconstruct(vae, X[0]), "x"),
        (lambda vae: pv.reconstruct(vae, X * 0.5), "x"),
        (lambda vae: pv.reconstruct(vae, X.tolist()), "x"),
        (lambda vae: generate.latent_means(vae, X[:, :5]), "x"),
        (lambda vae: pv.interpolate(vae, X, X[0]), "x0"),
        (lambda vae: pv.interpolate(vae, X[0], X[0, :5]), "x1"),
        (lambda vae: pv.interpolate(vae, X[0].tolist(), X[0]), "x0"),
        (lambda vae: pv.interpolate(vae, X[0], X[0] * 0.5), "x1"),
        (lambda vae: pv.interpolate(vae, X[0], X[0], steps=1), "steps"),
        (lambda vae: pv.interpolate(vae, X[0], X[0], steps="9"), "steps"),
    ],
)
def test_bad_arguments(call, argument):
    with pytest.raises(InputError) as caught:
        call(make())
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)


def test_a_posterior_without_a_mean_is_shown_by_the_mean_of_its_draws():
    class Squeezed(MeanFieldNormal):
        def forward(self, params):
            normal = super().forward(params)
            return dist.TransformedDistribution(normal, [dist.transforms.AffineTransform(1.0, 0.5)])

    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(6), Squeezed(2), hidden=(5,))
    x = torch.bernoulli(torch.full((9, 6), 0.5))
    found = pv.generate.latent_means(vae, x)
    with torch.no_grad():
        base = vae.encode(x).base_dist
    assert bool(
        ((found - (1.0 + 0.5 * base.mean)).abs() < 5 * 0.5 * base.stddev / 16).all()
    )  # 256 draws: 5 errors
    assert pv.reconstruct(vae, x).shape == (9, 6)
    assert torch.equal(pv.reconstruct(vae, x), pv.reconstruct(vae, x))
