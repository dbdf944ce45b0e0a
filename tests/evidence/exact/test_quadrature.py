"""Quadrature against closed forms, scipy and brute force; its error must bound the error that it made."""

import math
import sys

import exact_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import crossed, slow_but
from scipy import integrate as scipy_integrate
from scipy import stats
from torch import nn

import ppl_vae as pv
from ppl_vae.evidence.exact.linear_gaussian import linear_gaussian
from ppl_vae.evidence.exact.quadrature import quadrature

RULES = ("adaptive", "gauss_hermite")
CLOSED = {
    "normal": lambda dtype: models.normal_normal(models.draw_normal_normal(8), dtype=dtype),
    "normal, useless guide": lambda dtype: models.normal_normal(
        models.draw_normal_normal(8), widen=0.05, shift=6, dtype=dtype
    ),
    "beta": lambda dtype: models.beta_bernoulli(8, dtype=dtype),
    "gamma": lambda dtype: models.gamma_poisson(8, dtype=dtype),
    "linear VAE 1": lambda dtype: models.linear_vae(1, 3, 8, dtype=dtype),
    "linear VAE 2": lambda dtype: models.linear_vae(2, 5, 4, widen=1.4, shift=0.5, dtype=dtype),
}


def assert_bounded(evidence, exact, slack=1e-12):
    error = (evidence.log_evidence - exact).abs()
    print(f"error {float(error.max()):.1e}, bound {float(evidence.stderr.max()):.1e}")
    assert (error <= evidence.stderr + slack).all(), (error, evidence.stderr)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name, rule):
    exact = CLOSED[name](torch.float64)
    evidence = quadrature(exact.program, exact.x, rule=rule)
    assert_bounded(evidence, exact.log_evidence)
    assert evidence.stderr.max() < 2e-8
    assert (evidence.basis, evidence.bound, evidence.method) == ("computed", "consistent", "quadrature")
    assert set(evidence.status) == {"trust"}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_in_float32(name, rule):
    """The data of the reference are not rounded to float32: a relative 1e-7 of what they move the density by."""
    exact = CLOSED[name](torch.float32)
    evidence = quadrature(exact.program, exact.x, rule=rule)
    assert evidence.log_evidence.dtype == torch.float64
    assert_bounded(evidence, exact.log_evidence, slack=3e-6)
    assert evidence.stderr.max() < 1e-3


@pytest.mark.parametrize("rule", slow_but(["gauss_hermite"], RULES))
def test_three_dimensions(rule):
    exact = models.linear_vae(3, 7, 2, widen=1.2)
    evidence = quadrature(exact.program, exact.x, nodes=32, rule=rule)
    assert_bounded(evidence, exact.log_evidence)
    assert evidence.stderr.max() < 2e-6


def test_a_posterior_much_narrower_than_the_prior():
    """100 observed numbers, and a noise of 0.02: deviations of the posterior of 0.002 to 0.02 of the prior's."""
    W, b, _, x = models.draw_linear_gaussian(2, 100, 3, seed=5, noise=0.02)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=pv.likelihoods.Gaussian(100, scale=0.02),
        posterior=pv.posteriors.MeanFieldNormal(2),
        hidden=(3,),
        decoder=nn.Linear(2, 100),
    ).double()
    with torch.no_grad():
        vae.decoder.weight.copy_(models.tensor(W))
        vae.decoder.bias.copy_(models.tensor(b))
    data = models.tensor(x)
    for rule in RULES:  # the guide is untrained: it knows nothing of where the posterior is
        evidence = quadrature(vae.program, data, rule=rule)
        assert_bounded(evidence, linear_gaussian(vae, data).log_evidence, slack=1e-9)
        assert evidence.stderr.max() < 2e-8


def squares(noise, guide_scale=0.5):
    """x = z² + noise: two modes for x > 0, of which the guide covers one."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z**2, noise), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mode = x.clamp(min=0.1).sqrt()
            pyro.sample("z", dist.Normal(mode, guide_scale * noise / (2 * mode)))

    return pv.Program(model, guide)


@pytest.mark.parametrize(("rule", "noise"), crossed(RULES, [0.5, 0.1, 0.01], strength=1))
def test_two_modes_of_which_the_guide_covers_one(noise, rule):
    """The reference is a sum over 4 million points. Gauss-Hermite is far off, and must say so."""
    x = torch.tensor([-0.5, 0.5, 1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 4_000_001, dtype=torch.float64)
    terms = -(grid**2) / 2 - ((x[:, None] - grid**2) / noise) ** 2 / 2 - math.log(2 * math.pi * noise)
    exact = terms.logsumexp(1) + math.log(16 / 4_000_000)
    evidence = quadrature(squares(noise), x, rule=rule)
    assert_bounded(evidence, exact)
    if rule == "adaptive":
        assert evidence.stderr.max() < 2e-8
        assert (evidence.log_evidence - exact).abs().max() < 1e-10
    else:
        assert evidence.stderr[-1] > math.log(2)


def decoded(dim, activation="tanh", dtype=torch.float64, num_data=5):
    """An untrained VAE whose decoder bends: weights four times the usual."""
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(dim),
        likelihood=pv.likelihoods.Bernoulli(20),
        posterior=pv.posteriors.MeanFieldNormal(dim),
        hidden=(20,),
        activation=activation,
    ).to(dtype)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(4)
    return vae, pv.sample(vae, num_data, seed=0)


def test_a_nonlinear_decoder_against_scipy():
    vae, x = decoded(1)

    def density(z, n):
        value = vae.program.log_joint({"z": torch.full((1, 1, 1), z, dtype=torch.float64)}, x[n : n + 1])
        return math.exp(float(value.detach()))

    reference = [
        scipy_integrate.quad(
            density, -12, 12, args=(n,), epsabs=0, epsrel=1e-12, limit=500, points=[-2, 0, 2]
        )[0]
        for n in range(2)
    ]
    for rule in RULES:
        evidence = quadrature(vae.program, x[:2], rule=rule)
        assert_bounded(evidence, models.tensor(np.log(reference)), slack=1e-11)
        assert evidence.stderr.max() < (2e-8 if rule == "adaptive" else 0.1)


def test_a_nonlinear_decoder_in_two_dimensions_against_a_grid():
    """The trapezoidal rule on 401 x 401 points converges faster than any power for a smooth density."""
    vae, x = decoded(2)
    line = torch.linspace(-9, 9, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)[:, None]
    with torch.no_grad():
        reference = torch.stack(
            [vae.program.log_joint({"z": grid}, x[n : n + 1]).logsumexp(0)[0] for n in range(3)]
        ) + 2 * math.log(18 / 400)
    evidence = quadrature(vae.program, x[:3])
    assert_bounded(evidence, reference, slack=1e-11)
    assert evidence.stderr.max() < 2e-8
    hermite = quadrature(vae.program, x[:3], rule="gauss_hermite")
    assert_bounded(hermite, reference, slack=1e-11)


@pytest.mark.parametrize(("dim", "worst"), [(1, 2e-8), (2, 1e-4)])
def test_a_decoder_with_kinks(dim, worst):
    """Twice the nodes, and a map and cells of their own: the two differ by no more than the two errors."""
    vae, x = decoded(dim, "relu", num_data=3)
    one = quadrature(vae.program, x)
    two = quadrature(vae.program, x, nodes=128, seed=1)
    assert ((one.log_evidence - two.log_evidence).abs() < one.stderr + two.stderr).all()
    assert one.stderr.max() < worst


def test_single_and_double_precision_agree():
    vae, x = decoded(2, num_data=3)
    double = quadrature(vae.program, x)
    single = quadrature(vae.float().program, x.float())
    assert ((double.log_evidence - single.log_evidence).abs() < single.stderr + double.stderr).all()
    assert single.stderr.max() < 1e-3


def hierarchy():
    """t ~ HalfCauchy(1), theta ~ N(0, t²), four x ~ N(theta, 1): a funnel, with a neck that has no end."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            t = pyro.sample("t", dist.HalfCauchy(x.new_ones(())))
            theta = pyro.sample("theta", dist.Normal(x.new_zeros(()), t))
            pyro.sample("x", dist.Normal(theta.unsqueeze(-1), x.new_ones(4)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("t", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("theta", dist.Normal(x.mean(-1), 0.5))

    return pv.Program(model, guide)


def test_a_funnel():
    """The mean of four is sufficient: one integral over log t is left, for scipy."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(4, 4, dtype=torch.float64, generator=g) + torch.tensor([[0.0], [1.0], [3.0], [8.0]])
    reference = []
    for row in x:
        mean, squares_ = float(row.mean()), float(((row - row.mean()) ** 2).sum())

        def density(log_t, mean=mean):
            t = math.exp(log_t)
            return 2 / math.pi / (1 + t * t) * t * stats.norm.pdf(mean, 0, math.sqrt(t * t + 0.25))

        halves = [
            scipy_integrate.quad(density, *ends, epsabs=0, epsrel=1e-11, limit=500)[0]
            for ends in ((-40, 0), (0, 40))
        ]
        reference.append(math.log(sum(halves)) - squares_ / 2 - 1.5 * math.log(2 * math.pi) - math.log(4) / 2)
    for rule in RULES:
        assert_bounded(quadrature(hierarchy(), x, rule=rule), models.tensor(reference), slack=1e-10)


def test_a_heavy_tailed_prior():
    """z ~ Cauchy, x ~ N(z, 1): a Voigt profile."""
    from scipy.special import voigt_profile

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Cauchy(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.tensor([0.0, 3.0, 50.0, 1000.0], dtype=torch.float64)
    evidence = quadrature(pv.Program(model, guide), x)
    assert_bounded(evidence, models.tensor(np.log(voigt_profile(x.numpy(), 1.0, 1.0))), slack=1e-10)
    assert evidence.stderr.max() < 2e-8


def test_the_seed_only_says_where_to_look():
    exact = models.beta_bernoulli(4)
    one, two = (quadrature(exact.program, exact.x, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.density_evals, two.density_evals) or torch.equal(
        one.log_evidence, two.log_evidence
    )
    assert ((one.log_evidence - two.log_evidence).abs() < one.stderr + two.stderr).all()
    assert torch.equal(one.log_evidence, quadrature(exact.program, exact.x, seed=0).log_evidence)


def test_evaluations_are_counted(monkeypatch):
    from ppl_vae.program import Coordinates

    counted, original = [0], Coordinates.densities

    def counting(self, u):
        counted[0] += u.shape[0] * u.shape[1]
        return original(self, u)

    monkeypatch.setattr(Coordinates, "densities", counting)
    exact = models.gamma_poisson(6)
    for rule in RULES:
        counted[0] = 0
        assert counted[0] == 0
        assert float(quadrature(exact.program, exact.x, rule=rule).density_evals.sum()) == counted[0] > 0


def test_memory_is_bounded_by_pieces(monkeypatch):
    module = sys.modules["ppl_vae.evidence.exact.quadrature"]

    exact = models.linear_vae(2, 5, 3)
    whole = quadrature(exact.program, exact.x)
    monkeypatch.setattr(module, "_NUMBERS", 2**13)
    pieces = quadrature(exact.program, exact.x)
    torch.testing.assert_close(pieces.log_evidence, whole.log_evidence, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_what_was_stopped_goes_on(tmp_path, monkeypatch):
    from ppl_vae import checkpoint

    module = sys.modules["ppl_vae.evidence.exact.quadrature"]

    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", 1e9)
    monkeypatch.setattr(module, "_NUMBERS", 2**4)  # blocks of a few data
    exact = models.normal_normal(models.draw_normal_normal(20))
    whole = quadrature(exact.program, exact.x, nodes=16)
    left, original = [1], module._Integration._integrate

    def stops(self):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(module._Integration, "_integrate", stops)
    path = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        quadrature(exact.program, exact.x, nodes=16, checkpoint=path)
    left[0] = 10
    resumed = quadrature(exact.program, exact.x, nodes=16, checkpoint=path, resume=True)
    assert left[0] == 8  # the first of the three blocks was not worked on again
    for name in ("log_evidence", "stderr", "density_evals"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    assert not path.exists()


def overflowing(where):
    """A scale that overflows far out, and a density that is NaN from ``where`` on."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            scale = torch.where(z > where, math.nan, z.exp())
            pyro.sample("x", dist.Normal(x.new_zeros(()), scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()) - 1, 0.3))

    return pv.Program(model, guide)


def test_a_density_that_overflows_far_out_is_no_obstacle():
    x = torch.tensor([0.3, 2.0], dtype=torch.float64)
    line = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    terms = stats.norm.logpdf(line) + stats.norm.logpdf(x.numpy(), 0, line.exp().numpy())
    exact = models.tensor(terms).logsumexp(0) + math.log(24 / 200_000)
    assert_bounded(quadrature(overflowing(math.inf), x), exact, slack=1e-10)
    assert_bounded(quadrature(overflowing(30.0), x), exact, slack=1e-10)
    with pytest.raises(pv.NonFiniteError, match=r"NaN or \+inf at datum 0"):
        quadrature(overflowing(1.5), x)


def test_no_density_anywhere_is_no_estimate():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(z.sigmoid(), 1 + z.sigmoid()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    evidence = quadrature(pv.Program(model, guide), torch.tensor([0.5, 9.0], dtype=torch.float64))
    # x is inside for sigmoid(z) < x: a jump in z, in the middle.
    assert abs(float(evidence.log_evidence[0]) - math.log(0.5)) < 1e-4
    assert evidence.log_evidence[1] == -math.inf
    assert list(evidence.status)[1] == "reject"


def test_what_cannot_be_integrated_is_refused_in_words():
    exact = models.mixture(3)
    with pytest.raises(pv.ProgramError, match=r"latent site 'k': .*enumerate_latents.*Categorical"):
        quadrature(exact.program, exact.x)
    exact = models.linear_vae(4, 7, 3)
    with pytest.raises(pv.ProgramError, match=r"program: expected 1 to 3 latent dimensions .*received 4"):
        quadrature(exact.program, exact.x)
    exact = models.linear_vae(1, 3, 3)
    for nodes in (0, 60, 512, "64", True):
        with pytest.raises(pv.InputError, match="nodes: expected"):
            quadrature(exact.program, exact.x, nodes=nodes)
    with pytest.raises(pv.InputError, match="rule: expected one of 'adaptive', 'gauss_hermite'"):
        quadrature(exact.program, exact.x, rule="simpson")


def test_nothing_global_moves():
    exact = models.beta_bernoulli(2)
    before = torch.get_rng_state()
    quadrature(exact.program, exact.x)
    assert torch.equal(torch.get_rng_state(), before)
