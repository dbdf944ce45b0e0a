"""The VAE: parts that fit and parts that do not, starts and numbers."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from vae_parts import N, bits, dense, make, same, state

import ppl_vae as pv
from ppl_vae import InputError, rng
from ppl_vae.likelihoods import Bernoulli, Binomial, Gaussian
from ppl_vae.networks import MLP
from ppl_vae.posteriors import MeanFieldNormal, MultivariateNormal
from ppl_vae.priors import MixtureOfGaussians, StandardNormal, VampPrior


@pytest.mark.parametrize(
    ("make_it", "argument", "words"),
    [
        (lambda: make(prior="normal"), "prior", ["Prior", "'normal'"]),
        (lambda: make(prior=dist.Normal(0, 1)), "prior", ["Prior", "Normal"]),
        (lambda: make(prior=StandardNormal), "prior", ["an instance", "StandardNormal"]),
        (lambda: make(likelihood=MeanFieldNormal(2)), "likelihood", ["Likelihood", "MeanFieldNormal"]),
        (lambda: make(posterior=StandardNormal(2)), "posterior", ["Posterior", "StandardNormal"]),
        (lambda: make(posterior=MeanFieldNormal(3)), "posterior", ["2", "3"]),
        (lambda: make(hidden=200), "hidden", ["sequence", "200"]),
        (lambda: make(hidden=(5, 0)), "hidden", ["positive", "0"]),
        (lambda: make(activation="swoosh"), "activation", ["'tanh'", "'swoosh'"]),
        (lambda: make(seed=-1), "seed", ["integer", "-1"]),
        (lambda: make(encoder=nn.Linear(6, 3)), "encoder", ["4 outputs", "(2, 3)"]),
        (lambda: make(decoder=nn.Linear(2, 5)), "decoder", ["6 outputs", "(2, 5)"]),
        (lambda: make(encoder=nn.Linear(7, 4)), "encoder", ["(B, 6)", "7"]),
        (lambda: make(encoder=MLP(7, 4)), "encoder", ["(B, 6)", "7"]),
        (lambda: make(decoder=MLP(3, 6)), "decoder", ["(B, 2)", "3"]),
        (lambda: make(encoder=nn.Flatten(0)), "encoder", ["4 outputs", "(12,)"]),
        (lambda: make(encoder=3), "encoder", ["Module", "3"]),
        (lambda: make(encoder=lambda i, o: "net"), "encoder", ["Module", "'net'"]),
        (
            lambda: make(likelihood=Gaussian(6, "decoder"), decoder=nn.Linear(2, 6)),
            "decoder",
            ["12", "(2, 6)"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(make_it, argument, words):
    with pytest.raises(InputError) as caught:
        make_it()
    message = str(caught.value)
    assert caught.value.argument == argument
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_vamp_prior_belongs_to_one_vae():
    prior = VampPrior(2, 3)
    make(prior)
    with pytest.raises(InputError, match="bound already"):
        make(prior)


# ---- data ---------------------------------------------------------------------------------------------------


def with_nan():
    x = torch.randn(N, 6)
    x[3, 2] = math.nan
    return x


@pytest.mark.parametrize(
    ("likelihood", "x", "words"),
    [
        (Bernoulli(6), [[0.0] * 6], ["a tensor of shape (N, 6)", "[[0.0"]),
        (Bernoulli(6), {"x": bits()}, ["a tensor of shape (N, 6)", "{'x'"]),
        (Bernoulli(6), bits(shape=(7,)), ["(N, 6)", "(9, 7)"]),
        (Bernoulli((1, 2, 3)), bits(), ["(N, 1, 2, 3)", "(9, 6)"]),
        (Bernoulli(6), bits()[0], ["(N, 6)", "(6,)"]),
        (Bernoulli(6), bits()[:0], ["N > 0", "(0, 6)"]),
        (Bernoulli(6), bits().long(), ["float32", "int64"]),
        (Bernoulli(6), bits().bool(), ["float32", "bool"]),
        (Bernoulli(6), bits().double(), ["float32", "float64"]),
        (Bernoulli(6), bits() * 0.3, ["Bernoulli", "Gaussian", "binarise", "datum"]),
        (Bernoulli(6), bits() * 3, ["Bernoulli", "Binomial(total_count=3)"]),
        (Binomial(6, 4), bits() * 5, ["Binomial", "Binomial(total_count=5)"]),
        (Gaussian(6), with_nan(), ["nan", "datum 3"]),
    ],
)
def test_data_that_do_not_fit_are_refused_everywhere(likelihood, x, words):
    vae = make(likelihood=likelihood)
    for attempt in (
        vae.check_data,
        vae.program.check,
        lambda x: pv.evidence.importance(vae.program, x, num_samples=2),
        lambda x: pv.fit(vae, x, epochs=1),
        lambda x: pv.fit(vae, bits(shape=tuple(likelihood.shape)), x_valid=x, epochs=1),
        lambda x: pv.reconstruct(vae, x),
    ):
        with pytest.raises(InputError) as caught:
            attempt(x)
        assert caught.value.argument in ("x", "x_train", "x_valid")
    with pytest.raises(InputError) as caught:
        vae.check_data(x, "pixels")
    message = str(caught.value)
    assert message.startswith("pixels: expected")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_drawing_needs_a_number():
    with pytest.raises(InputError, match="num_data"):
        make().model()
    assert make().model(None, 4).shape == (4, 6)


def test_the_decoder_mirrors_the_hidden_layers():
    vae = make(hidden=(5, 4, 3))
    widths = [layer.out_features for layer in vae.encoder.modules() if isinstance(layer, nn.Linear)]
    mirrored = [layer.out_features for layer in vae.decoder.modules() if isinstance(layer, nn.Linear)]
    assert sorted(widths) == sorted([5, 4, 3, 4])
    assert sorted(mirrored) == sorted([3, 4, 5, 6])
    assert [layer.out_features for layer in vae.decoder.layers if isinstance(layer, nn.Linear)] == [3, 4, 5]


def test_two_vaes_share_nothing():
    x = bits()
    one, two = make(VampPrior(2, 3)), make(VampPrior(2, 3))
    assert same(state(one), state(two))  # same parts, same seed
    before = state(one)
    svi = SVI(two.model, two.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    assert same(state(one), before)
    assert not same(state(two), before)
    pv.fit(one, x, epochs=1)
    moved = state(two)
    pv.fit(one, x, epochs=1)
    assert same(state(two), moved)
    assert not list(pyro.get_param_store().keys())


def test_pyros_store_is_neither_read_nor_written():
    x = bits()
    vae = make()
    before = vae.program.log_weights(x, 3)
    name = next(iter(vae.program.parameters(x)))
    with pyro.get_param_store().scope():
        pyro.param(name, torch.full_like(next(vae.parameters()), 9.0))
        assert torch.equal(vae.program.log_weights(x, 3), before)
        SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO()).step(x)
        assert list(pyro.get_param_store().keys()) == [name]
        assert (pyro.param(name) == 9.0).all()


def test_a_frozen_parameter_stays():
    vae = make()
    vae.decoder.requires_grad_(False)
    before = state(vae.decoder)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(bits())
    assert same(state(vae.decoder), before)


# ---- starts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "likelihood",
    [
        Bernoulli(6),
        Bernoulli((1, 2, 3)),
        Binomial(6, 4),
        Gaussian(6),
        Gaussian(6, "decoder"),
        Gaussian(6, "learned"),
    ],
)
def test_start_from_sets_the_mean_of_the_output(likelihood):
    vae = make(likelihood=likelihood).double()
    x = bits(40, tuple(likelihood.shape)).double()
    vae.start_from(x)
    mean = vae.likelihood.mean(vae.decoder_params(torch.zeros(1, 2).double()))[
        0
    ]  # tanh(0) = 0: the bias alone
    torch.testing.assert_close(mean, x.mean(0), atol=2e-3, rtol=0)


def test_start_from_spreads_pseudo_inputs():
    vae = make(VampPrior(2, 4))
    x = bits(40)
    vae.start_from(x, seed=1)
    rows = {tuple(row.tolist()) for row in x}
    assert all(tuple(row.tolist()) in rows for row in vae.prior.pseudo_inputs)
    first = vae.prior.pseudo_inputs.detach().clone()
    vae.start_from(x, seed=1)
    assert torch.equal(vae.prior.pseudo_inputs, first)
    vae.start_from(x, seed=2)
    assert not torch.equal(vae.prior.pseudo_inputs, first)


def test_pseudo_inputs_are_what_the_encoder_sees():
    vae = make(VampPrior(2, 4), Binomial(6, 4))
    x = bits(40) * 3
    vae.start_from(x)
    rows = {tuple(row.tolist()) for row in x / 4}
    assert all(tuple(row.tolist()) in rows for row in vae.prior.pseudo_inputs)


def test_the_seed_is_the_start_and_the_global_stream_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = state(make(MixtureOfGaussians(2, 3), seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    b = state(make(MixtureOfGaussians(2, 3), seed=3))
    c = state(make(MixtureOfGaussians(2, 3), seed=4))
    assert same(a, b)
    assert not torch.equal(a["encoder.last.weight"], c["encoder.last.weight"])
    factory = {"encoder": lambda i, o: nn.Linear(6, 4)}  # a factory's own layers are drawn on the same stream
    assert same(state(make(**factory, seed=1)), state(make(**factory, seed=1)))


# ---- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.statistical
def test_trace_elbo_agrees_with_the_program():
    """4 standard errors of a difference of two independent means: fails at about 6 seeds in 100,000."""
    vae = make(VampPrior(2, 3), posterior=MultivariateNormal(2)).double()
    x = bits().double()
    S = 4000
    ours = vae.program.log_weights(x, S).sum(1).detach()
    with rng.seeded("cpu", 1, "test"):
        objective = Trace_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=1)
        pyros = -objective.loss(vae.model, vae.guide, x)
    assert abs(float(ours.mean()) - pyros) < 4 * float(ours.std()) * math.sqrt(2 / S)


def linear_gaussian(d=2, D=5, scale=0.6):
    """A VAE whose posterior is exact, and the covariance and mean of its p(x)."""
    vae = make(StandardNormal(d), Gaussian(D, scale), MultivariateNormal(d), hidden=()).double()
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(D, d, generator=generator, dtype=torch.float64)
    b = torch.randn(D, generator=generator, dtype=torch.float64)
    cov = torch.linalg.inv(torch.eye(d, dtype=torch.float64) + W.T @ W / scale**2)
    gain = cov @ W.T / scale**2
    L = torch.linalg.cholesky(cov)
    rows, columns = torch.tril_indices(d, d, offset=-1)
    with torch.no_grad():
        vae.decoder.last.weight.copy_(W)
        vae.decoder.output_bias.copy_(b)
        vae.encoder.last.weight.zero_()[:d] = gain
        vae.encoder.output_bias.copy_(torch.cat([-gain @ b, L.diagonal().log(), L[rows, columns]]))
    return vae, b, W @ W.T + scale**2 * torch.eye(D, dtype=torch.float64)


def test_an_exact_posterior_has_weights_without_variance():
    vae, mean, cov = linear_gaussian()
    with rng.seeded("cpu", 2, "test"), torch.no_grad():
        x = vae.model(None, 7)
    exact = dist.MultivariateNormal(mean, cov).log_prob(x)
    log_weights = vae.program.log_weights(x, 50)
    torch.testing.assert_close(log_weights, exact.expand(50, 7), rtol=1e-10, atol=1e-10)
    with rng.seeded("cpu", 3, "test"):
        loss = Trace_ELBO().loss(vae.model, vae.guide, x)
    assert loss == pytest.approx(-float(exact.sum()), rel=1e-10)
    e = pv.evidence.importance(vae.program, x, num_samples=100)
    torch.testing.assert_close(e.log_evidence, exact, rtol=1e-10, atol=1e-10)
    assert (e.stderr < 1e-8).all()


def test_the_numbers_do_not_depend_on_the_train_mode_or_on_copies():
    vae = make(encoder=dense(6, 4))
    x = bits()
    assert torch.equal(vae.train().program.log_weights(x, 3), vae.eval().program.log_weights(x, 3))
    assert torch.equal(copy.deepcopy(vae).program.log_weights(x, 3), vae.program.log_weights(x, 3))
