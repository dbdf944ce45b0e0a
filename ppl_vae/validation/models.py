"""Models for validation: their log p(x) is known, and each has a guide with a known error.

All are plain Pyro programs in float64 with data drawn from a seed of their own. ``widen`` multiplies the scale of the
guide (of its prior counts' inverse, for counts) and ``shift`` moves it, in its own standard deviations; 1 and 0 make it
the exact posterior where it has the posterior's form.
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from ppl_vae.program import Program
from ppl_vae.validation.exact_model import Builder, ExactModel
from ppl_vae.validation.exact_model import generator as _rng
from ppl_vae.validation.exact_model import tensor as _tensor
from ppl_vae.validation.tails import (
    lognormal_guide,
    nested_spike,
    one_mode,
    phase_transition,
    rare_tail,
    student_t,
)


def linear_gaussian(
    latent: int,
    dim: int,
    *,
    num_data: int = 20,
    seed: int = 0,
    widen: float = 1.2,
    shift: float = 0.2,
    name: str | None = None,
) -> ExactModel:
    """x = W z + b + N(0, 0.49 I), z ~ N(0, I): log N(x; b, W W^T + 0.49 I). The guide has the right correlations."""
    name = f"linear-gaussian-{latent}" if name is None else name
    rng, noise = _rng(name, seed), 0.7
    W, b = rng.normal(size=(dim, latent)) / math.sqrt(latent), rng.normal(size=dim)
    x = rng.normal(size=(num_data, latent)) @ W.T + b + noise * rng.normal(size=(num_data, dim))
    covariance = np.linalg.inv(np.eye(latent) + W.T @ W / noise**2)
    slope, loading, centre = _tensor(W @ covariance / noise**2), _tensor(W), _tensor(b)
    tril = _tensor(np.linalg.cholesky(covariance))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loading.T + centre, noise).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mean = (x - centre) @ slope + shift * tril.sum(-1)
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=widen * tril))

    exact = stats.multivariate_normal(b, W @ W.T + noise**2 * np.eye(dim)).logpdf(x)
    wrong = f"{abs(widen - 1):.0%} too {'wide' if widen > 1 else 'narrow'}"
    return ExactModel(
        name,
        Program(model, guide),
        _tensor(x),
        _tensor(np.atleast_1d(exact)),
        f"linear Gaussian, {latent} latents, {dim} numbers a datum; guide {wrong}",
        # Weights of a normal guide have a variance only if its scale is above 1 / sqrt(2) of the posterior's.
        bad_guide=widen < math.sqrt(0.5),
    )


def decoder(
    latent: int, *, num_data: int = 20, seed: int = 0, widen: float = 1.15, shift: float = 0.2
) -> ExactModel:
    """20 Bernoulli pixels from a fixed random tanh network; a guide with a linear encoder, fitted by least squares.

    The reference is the trapezoidal rule on a fine grid over the prior; for smooth densities it is exact to round-off.
    """
    name = f"decoder-{latent}"
    rng, pixels, hidden = _rng(name, seed), 20, 8
    first, bias = _tensor(rng.normal(size=(latent, hidden)) * 1.5), _tensor(rng.normal(size=hidden))
    second, offset = _tensor(rng.normal(size=(hidden, pixels))), _tensor(rng.normal(size=pixels) / 2)

    def logits(z: Tensor) -> Tensor:
        return torch.tanh(z @ first + bias) @ second + offset

    def draw(number: int) -> tuple[Tensor, Tensor]:
        z = _tensor(rng.normal(size=(number, latent)))
        return z, (_tensor(rng.random((number, pixels))) < logits(z).sigmoid()).double()

    # The encoder: z regressed on x over draws of the model, with the spread of what is left.
    z, seen = draw(4000)
    inputs = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.float64)], dim=1)
    # Rounded: the solver's last bits differ from process to process, and a resumed validation is to be the same.
    slope = torch.linalg.lstsq(inputs, z).solution.round(decimals=6)
    spread = (z - inputs @ slope).std(0).round(decimals=6)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mean = x @ slope[:-1] + slope[-1] + shift * spread
            pyro.sample("z", dist.Normal(mean, widen * spread).to_event(1))

    x = draw(num_data)[1]
    step = 0.01 if latent == 1 else 0.06
    line = torch.arange(-8.0, 8.0 + step, step, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * latent).reshape(-1, latent)
    log_prior = -(grid**2).sum(-1) / 2 - latent * (math.log(2 * math.pi) / 2 - math.log(step))
    at = logits(grid)
    log_off = torch.nn.functional.logsigmoid(-at).sum(-1) + log_prior
    exact = torch.stack([(at @ datum + log_off).logsumexp(0) for datum in x])
    note = (
        f"tanh network, {latent} latent{'s' * (latent > 1)}, 20 Bernoulli pixels; guide with a linear encoder"
    )
    return ExactModel(name, Program(model, guide), x, exact, note)


def beta_binomial(
    *, num_data: int = 20, seed: int = 0, widen: float = 1.5, prior: tuple[float, float] = (2.0, 1.5)
) -> ExactModel:
    """p ~ Beta(a, b), x ~ Binomial(12, p): log C(12, x) + log B(a + x, b + 12 - x) - log B(a, b)."""
    (a, b), n = prior, 12
    rng = _rng("beta-binomial", seed)
    x = rng.binomial(n, rng.beta(a, b, size=num_data)).astype(float)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            p = pyro.sample("p", dist.Beta(x.new_tensor(a), b))
            pyro.sample("x", dist.Binomial(n, p), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("p", dist.Beta((a + x) / widen, (b + n - x) / widen))

    exact = stats.betabinom(n, a, b).logpmf(x)
    note = f"Beta-Binomial; guide with the posterior's counts divided by {widen:g}"
    return ExactModel("beta-binomial", Program(model, guide), _tensor(x), _tensor(exact), note)


def gamma_poisson(
    *, num_data: int = 20, seed: int = 0, widen: float = 1.4, prior: tuple[float, float] = (2.5, 0.5)
) -> ExactModel:
    """rate ~ Gamma(a, b), x ~ Poisson(rate): a negative binomial."""
    a, b = prior
    rng = _rng("gamma-poisson", seed)
    x = rng.poisson(rng.gamma(a, 1 / b, size=num_data)).astype(float)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(a), b))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.Gamma((a + x) / widen, x.new_tensor((b + 1) / widen)))

    exact = stats.nbinom(a, b / (b + 1)).logpmf(x)
    note = f"Gamma-Poisson; guide with the posterior's counts divided by {widen:g}"
    return ExactModel("gamma-poisson", Program(model, guide), _tensor(x), _tensor(exact), note)


def hierarchy(
    *, num_data: int = 20, seed: int = 0, widen: float = 1.15, shift: float = 0.3, between: float = 0.7
) -> ExactModel:
    """mu ~ N(0, 1), theta ~ N(mu, 0.7²), four x ~ N(theta, 1): two latent sites, and a guide that factorises."""
    rng, m = _rng("hierarchy", seed), 4
    theta = rng.normal(size=(num_data, 1)) + between * rng.normal(size=(num_data, 1))
    x = theta + rng.normal(size=(num_data, m))
    variance = 1 / (m + 1 / (1 + between**2))  # of theta given x
    pull = 1 / (1 + between**2)  # of mu to theta
    spread = math.sqrt(pull * between**2 + pull**2 * variance)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
            theta = pyro.sample("theta", dist.Normal(mu, between))
            pyro.sample("x", dist.Normal(theta.unsqueeze(-1), x.new_ones(m)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mean = variance * x.sum(-1) + shift * math.sqrt(variance)
            pyro.sample("theta", dist.Normal(mean, widen * math.sqrt(variance)))
            pyro.sample("mu", dist.Normal(pull * mean, widen * spread))

    covariance = (1 + between**2) * np.ones((m, m)) + np.eye(m)
    exact = stats.multivariate_normal(np.zeros(m), covariance).logpdf(x)
    note = "normal hierarchy, two latent sites; guide that factorises"
    return ExactModel("hierarchy", Program(model, guide), _tensor(x), _tensor(np.atleast_1d(exact)), note)


def two_modes(
    *, num_data: int = 20, seed: int = 0, widen: float = 0.35, shift: float = 4.0, noise: float = 0.5
) -> ExactModel:
    """x = z² + N(0, 0.5²), z ~ N(0, 1.5²), data with z² > 1: modes at ±sqrt(x), of which the guide covers one.

    Weights from one mode do not show that there is another: an estimate would be log 2 too low without a warning. This
    guide is also too narrow for its own mode and off its centre, which the tail of the weights shows: with 1,000
    samples, k-hat rejects all data but one in 250. Chains that start from it and stay in its mode show no error.
    """
    rng, scale = _rng("two-modes", seed), 1.5
    x = (1 + np.abs(rng.normal(size=num_data))) ** 2 + noise * rng.normal(size=num_data)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), scale))
            pyro.sample("x", dist.Normal(z**2, noise), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mode = x.clamp(min=0.25).sqrt()
            width = noise / (2 * mode)
            pyro.sample("z", dist.Normal(mode + shift * width, widen * width))

    line = np.arange(-12, 12, 0.0005)
    terms = stats.norm(0, scale).logpdf(line) + stats.norm(line**2, noise).logpdf(x[:, None])
    exact = special.logsumexp(terms, axis=1) + math.log(0.0005)
    note = "two modes; guide in one of them, off its centre and too narrow"
    return ExactModel("two-modes", Program(model, guide), _tensor(x), _tensor(exact), note, bad_guide=True)


def mixture(*, num_data: int = 20, seed: int = 0, widen: float = 2.0) -> ExactModel:
    """One of four normal components in the plane: a discrete latent, summed out. ``widen`` flattens the guide."""
    rng = _rng("mixture", seed)
    share, means = np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(4, 2)) * 2
    x = means[rng.choice(4, p=share, size=num_data)] + rng.normal(size=(num_data, 2))
    exact = special.logsumexp(np.log(share) + stats.norm(means).logpdf(x[:, None]).sum(-1), axis=1)
    shares, centres = _tensor(share), _tensor(means)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(shares))
            pyro.sample("x", dist.Normal(centres[k], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            logits = shares.log() - ((x.unsqueeze(-2) - centres) ** 2).sum(-1) / 2
            pyro.sample("k", dist.Categorical(logits=logits / widen))

    note = f"mixture of four normals, a discrete latent; guide at temperature {widen:g}"
    return ExactModel("mixture", Program(model, guide), _tensor(x), _tensor(exact), note)


def _linear_2(num_data: int = 20, seed: int = 0) -> ExactModel:
    return linear_gaussian(2, 5, num_data=num_data, seed=seed)


def _linear_10(num_data: int = 20, seed: int = 0) -> ExactModel:
    return linear_gaussian(10, 30, num_data=num_data, seed=seed, widen=1.15, shift=0.1)


def _linear_50(num_data: int = 20, seed: int = 0) -> ExactModel:
    return linear_gaussian(50, 100, num_data=num_data, seed=seed, widen=0.7, shift=0.0)


def _decoder_1(num_data: int = 20, seed: int = 0) -> ExactModel:
    return decoder(1, num_data=num_data, seed=seed)


def _decoder_2(num_data: int = 20, seed: int = 0) -> ExactModel:
    return decoder(2, num_data=num_data, seed=seed)


def _narrow_guide(num_data: int = 20, seed: int = 0) -> ExactModel:
    """Weights with a finite variance, without a third moment, and with a light tail."""
    return linear_gaussian(2, 5, num_data=num_data, seed=seed, widen=0.75, shift=0.0, name="narrow-guide")


def _narrower_guide(num_data: int = 20, seed: int = 0) -> ExactModel:
    """A tenth of the posterior is almost never drawn."""
    return linear_gaussian(2, 5, num_data=num_data, seed=seed, widen=0.5, shift=0.0, name="narrower-guide")


MODELS: dict[str, Builder] = {
    "linear-gaussian-2": _linear_2,
    "linear-gaussian-10": _linear_10,
    "linear-gaussian-50": _linear_50,
    "decoder-1": _decoder_1,
    "decoder-2": _decoder_2,
    "beta-binomial": beta_binomial,
    "gamma-poisson": gamma_poisson,
    "hierarchy": hierarchy,
    "two-modes": two_modes,
    "mixture": mixture,
    # Tails that matter, and tails that do not.
    "gamma-lognormal": lognormal_guide,
    "student-t": student_t,
    "narrow-guide": _narrow_guide,
    "narrower-guide": _narrower_guide,
    "one-mode": one_mode,
    "rare-tail": rare_tail,
    "phase-transition": phase_transition,
    "nested-spike": nested_spike,
}
"""The models of `validate`, by name: ``MODELS[name](num_data=..., seed=...)``."""
