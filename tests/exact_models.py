"""Models whose log p(x) is known in closed form, each with a guide that can be moved off the exact posterior.

Data are drawn from the model under a seed of their own, with numpy, so that the torch streams under test stay out
of it. ``widen`` = 1 and ``shift`` = 0 make the guide the exact posterior.
"""

from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import nn

import ppl_vae as pv


@dataclass
class Exact:
    """A program, its data, and log p(x) of each datum, ``(N,)`` float64, in nats."""

    program: pv.Program
    x: torch.Tensor
    log_evidence: torch.Tensor


def repeated(exact, repetitions, datum=0):
    """The program, one of its data ``repetitions`` times, and its log p(x): so many independent estimates."""
    x = exact.x[datum : datum + 1]
    return exact.program, x.expand(repetitions, *x.shape[1:]).clone(), float(exact.log_evidence[datum])


def identical(a, b):
    """Every field of two results, and of their parts, bit by bit (NaN equal to NaN)."""
    assert type(a) is type(b)
    for field in fields(a):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(torch.isnan(ours), torch.isnan(theirs)), field.name
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), field.name
        elif is_dataclass(ours):
            assert identical(ours, theirs), field.name
        else:
            assert ours == theirs, field.name
    return True


def tensor(array, dtype=torch.float64):
    return torch.as_tensor(np.asarray(array)).to(dtype)


def posterior(W, b, noise, x):
    """Mean (N, k) and covariance (k, k) of p(z|x) for x = W z + b + N(0, diag(noise)), z ~ N(0, I)."""
    k = W.shape[1]
    covariance = np.linalg.inv(np.eye(k) + W.T @ (W / noise[:, None]))
    return (x - b) / noise @ W @ covariance, covariance


def linear_gaussian_model(W, b, noise, dtype=torch.float64):
    """z ~ N(0, I), x = W z + b + N(0, diag(noise)), as a plain Pyro program."""
    W, b, scale = (tensor(v, dtype) for v in (W, b, np.sqrt(noise)))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(W.new_zeros(W.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + b, scale).to_event(1), obs=x)

    return model


def linear_gaussian_evidence(W, b, noise, x):
    """Its log p(x), ``(N,)``."""
    return tensor(np.atleast_1d(stats.multivariate_normal(b, W @ W.T + np.diag(noise)).logpdf(x)))


def factor_analysis(W, b, noise, x, *, widen=1.0, shift=0.0, dtype=torch.float64):
    """A plain Pyro program with a noise variance for each dimension."""
    _, covariance = posterior(W, b, noise, x)
    tril = tensor(widen * np.linalg.cholesky(covariance), dtype)
    slope, _ = posterior(W, 0 * b, noise, np.eye(len(b)))
    slope, b_ = tensor(slope, dtype), tensor(b, dtype)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.MultivariateNormal((x - b_) @ slope + shift * tril.sum(-1), scale_tril=tril)
            )

    program = pv.Program(linear_gaussian_model(W, b, noise, dtype), guide)
    return Exact(program, tensor(x, dtype), linear_gaussian_evidence(W, b, noise, x))


def draw_linear_gaussian(latent, dim, num_data, seed, noise=0.7):
    """W, b, noise variances and data of a random factor model."""
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(dim, latent)) / np.sqrt(latent), rng.normal(size=dim)
    noise = np.full(dim, noise**2)
    x = rng.normal(size=(num_data, latent)) @ W.T + b + rng.normal(size=(num_data, dim)) * np.sqrt(noise)
    return W, b, noise, x


def linear_vae(latent, dim, num_data, *, seed=0, widen=1.0, shift=0.0, dtype=torch.float64):
    """The same as a `pv.VAE`: an affine decoder, an affine encoder set to the (moved) exact posterior."""
    W, b, noise, x = draw_linear_gaussian(latent, dim, num_data, seed)
    family = pv.posteriors.MultivariateNormal(latent)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(latent),
        likelihood=pv.likelihoods.Gaussian(dim, scale=float(np.sqrt(noise[0]))),
        posterior=family,
        encoder=nn.Linear(dim, family.out_shape[0]),
        decoder=nn.Linear(latent, dim),
    ).to(dtype)
    slope, covariance = posterior(W, 0 * b, noise, np.eye(dim))
    tril = widen * np.linalg.cholesky(covariance)
    rows, columns = np.tril_indices(latent, -1)
    start = -b @ slope + shift * tril.sum(1)
    with torch.no_grad():
        vae.decoder.weight.copy_(tensor(W))
        vae.decoder.bias.copy_(tensor(b))
        vae.encoder.weight.zero_()
        vae.encoder.weight[:latent] = tensor(slope.T, dtype)
        vae.encoder.bias.copy_(tensor(np.concatenate([start, np.log(np.diag(tril)), tril[rows, columns]])))
    return Exact(vae.program, tensor(x, dtype), linear_gaussian_evidence(W, b, noise, x))


def normal_normal(x, *, prior=(0.5, 2.0), scale=0.8, widen=1.0, shift=0.0, dtype=torch.float64):
    """z ~ N(m, s²), x ~ N(z, scale²): log N(x; m, s² + scale²). Data ``(N,)``."""
    m, s = prior
    variance = 1 / (1 / s**2 + 1 / scale**2)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(m), s))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mean = variance * (m / s**2 + x / scale**2)
            pyro.sample("z", dist.Normal(mean + shift * variance**0.5, widen * variance**0.5))

    exact = stats.norm(m, np.hypot(s, scale)).logpdf(np.asarray(x))
    return Exact(pv.Program(model, guide), tensor(x, dtype), tensor(exact))


def draw_normal_normal(num_data, seed=0, prior=(0.5, 2.0), scale=0.8):
    return np.random.default_rng(seed).normal(prior[0], np.hypot(prior[1], scale), size=num_data)


def beta_bernoulli(num_data, *, flips=12, prior=(2.0, 1.5), widen=1.0, seed=0, dtype=torch.float64):
    """p ~ Beta(a, b), ``flips`` flips of it: log B(a + k, b + n - k) - log B(a, b)."""
    a, b = prior
    rng = np.random.default_rng(seed)
    x = (rng.random((num_data, flips)) < rng.beta(a, b, size=(num_data, 1))).astype(float)
    heads = x.sum(1)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            p = pyro.sample("p", dist.Beta(x.new_tensor(a), b))
            pyro.sample("x", dist.Bernoulli(p.unsqueeze(-1).expand(*p.shape, flips)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            k = x.sum(-1)
            pyro.sample("p", dist.Beta((a + k) / widen, (b + flips - k) / widen))

    exact = special.betaln(a + heads, b + flips - heads) - special.betaln(a, b)
    return Exact(pv.Program(model, guide), tensor(x, dtype), tensor(exact))


def gamma_poisson(num_data, *, prior=(2.5, 0.5), widen=1.0, seed=0, dtype=torch.float64):
    """rate ~ Gamma(a, b), x ~ Poisson(rate): a negative binomial."""
    a, b = prior
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(a, 1 / b, size=num_data)).astype(float)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(a), b))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.Gamma((a + x) / widen, x.new_tensor((b + 1) / widen)))

    exact = stats.nbinom(a, b / (b + 1)).logpmf(x)
    return Exact(pv.Program(model, guide), tensor(x, dtype), tensor(exact))


def mixture(num_data, *, temper=1.0, seed=0, dtype=torch.float64):
    """A discrete latent: one of four components in the plane, summed out exactly. ``temper`` flattens the guide."""
    rng = np.random.default_rng(seed)
    share, means = np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(4, 2)) * 2
    x = means[rng.choice(4, p=share, size=num_data)] + rng.normal(size=(num_data, 2))
    log_joint = np.log(share) + stats.norm(means, 1.0).logpdf(x[:, None]).sum(-1)
    share_, means_ = tensor(share, dtype), tensor(means, dtype)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(share_))
            pyro.sample("x", dist.Normal(means_[k], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            logits = share_.log() - ((x.unsqueeze(-2) - means_) ** 2).sum(-1) / 2
            pyro.sample("k", dist.Categorical(logits=logits / temper))

    return Exact(pv.Program(model, guide), tensor(x, dtype), tensor(special.logsumexp(log_joint, axis=1)))
