"""Exact models that are difficult for verdicts: heavy tails with much or little mass, and mass that is never visited.

There are three kinds. *Harmless*: the weights have no finite variance, but their tail has almost no mass, so the
estimate is right and should not be rejected. *Harmful*: the guide is far too narrow, or never draws in a part of the
posterior. *Phase transitions*: a narrow spike has most of the evidence, beside a broad mode, and neither draws of the
guide nor tempered chains find it.

All are plain Pyro programs in float64, as in `ppl_vae.validation.models`.
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.program import Program
from ppl_vae.validation.exact_model import ExactModel
from ppl_vae.validation.exact_model import generator as _rng
from ppl_vae.validation.exact_model import tensor as _tensor


def lognormal_guide(
    *, num_data: int = 20, seed: int = 0, prior: tuple[float, float] = (4.0, 0.5)
) -> ExactModel:
    """rate ~ Gamma(a, b), x ~ Poisson(rate), with a log-normal guide of the right mean and variance of log rate.

    The lower tail of the gamma density is a power of the rate, and that of the log-normal density decreases faster than
    any power. The weights therefore have only a first moment, which k-hat shows. But this tail has about one thousandth
    of the posterior.
    """
    a, b = prior
    rng = _rng("gamma-lognormal", seed)
    x = rng.poisson(rng.gamma(a, 1 / b, size=num_data)).astype(float)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(a), b))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mean = torch.digamma(a + x) - math.log(b + 1)
            pyro.sample("rate", dist.LogNormal(mean, torch.polygamma(1, a + x).sqrt()))

    exact = stats.nbinom(a, b / (b + 1)).logpmf(x)
    note = "Gamma-Poisson; log-normal guide, weights without variance"
    return ExactModel("gamma-lognormal", Program(model, guide), _tensor(x), _tensor(exact), note)


def student_t(
    *, num_data: int = 20, seed: int = 0, widen: float = 1.0, freedom: float = 5.0, spread: float = 0.7
) -> ExactModel:
    """z ~ StudentT(5), x ~ StudentT(5, z, 0.7): posterior tails of power 12, and a Gaussian guide of its moments.

    The reference is a sum over a fine grid of a smooth density. The guide's moments come from the same grid, for x from
    -30 to 30 in steps of 0.01.
    """
    rng = _rng("student-t", seed)
    x = stats.t(freedom).rvs(size=num_data, random_state=rng)
    x = x + spread * stats.t(freedom).rvs(size=num_data, random_state=rng)
    line, step = np.linspace(-400, 400, 160_001, retstep=True)

    def log_terms(x: np.ndarray) -> np.ndarray:
        likelihood = stats.t(freedom).logpdf((x[:, None] - line) / spread) - math.log(spread)
        return np.asarray(stats.t(freedom).logpdf(line) + likelihood)

    exact = special.logsumexp(log_terms(x), axis=1) + math.log(step)
    # Enough for a guide: the moments at 241 x, between which they are interpolated.
    knots = np.linspace(-30, 30, 241)
    coarse = slice(None, None, 20)
    weights = np.stack([special.softmax(log_terms(knots[i : i + 1])[0][coarse]) for i in range(len(knots))])
    means = weights @ line[coarse]
    deviations = np.sqrt(weights @ line[coarse] ** 2 - means**2)
    table = _tensor(np.stack([means, deviations], axis=1).round(6))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(x.new_tensor(freedom), 0.0, 1.0))
            pyro.sample("x", dist.StudentT(x.new_tensor(freedom), z, spread), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            place = ((x.clamp(-29.9, 29.9) + 30) * 4).clamp(0, len(table) - 1.001)
            low = place.floor().long()
            share = (place - low).unsqueeze(-1)
            mean, deviation = ((1 - share) * table[low] + share * table[low + 1]).unbind(-1)
            pyro.sample("z", dist.Normal(mean, widen * deviation))

    note = "Student's t prior and noise; Gaussian guide of the posterior's moments, weights without variance"
    return ExactModel("student-t", Program(model, guide), _tensor(x), _tensor(exact), note, error=1e-7)


def one_mode(*, num_data: int = 20, seed: int = 0, widen: float = 1.1, noise: float = 0.5) -> ExactModel:
    """x = z² + N(0, 0.5²) with modes at ±sqrt(x), and a guide that fits one of them well and never draws the other.

    The diagnostics of the weights are perfect, and each estimate from them is log 2 too low.
    """
    rng, scale = _rng("one-mode", seed), 1.5
    x = (1.5 + np.abs(rng.normal(size=num_data))) ** 2 + noise * rng.normal(size=num_data)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), scale))
            pyro.sample("x", dist.Normal(z**2, noise), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mode = x.clamp(min=0.25).sqrt()
            precision = 1 / scale**2 + (2 * mode / noise) ** 2
            pyro.sample("z", dist.Normal(mode - mode / scale**2 / precision, widen / precision.sqrt()))

    line = np.arange(-12, 12, 0.0005)
    terms = stats.norm(0, scale).logpdf(line) + stats.norm(line**2, noise).logpdf(x[:, None])
    exact = special.logsumexp(terms, axis=1) + math.log(0.0005)
    note = "two modes; guide that fits one of them and never draws the other"
    return ExactModel("one-mode", Program(model, guide), _tensor(x), _tensor(exact), note, bad_guide=True)


def rare_tail(*, num_data: int = 20, seed: int = 0, widen: float = 1.1, away: float = 5.0) -> ExactModel:
    """z ~ N(0, 3²), x = z + noise, N(0, 1) with probability 0.7 and N(-5, 1) otherwise; the guide ignores the second.

    Three tenths of the posterior are in a region where the guide draws about once in 40,000 times.
    """
    rng, share = _rng("rare-tail", seed), np.array([0.7, 0.3])
    x = 3 * rng.normal(size=num_data) - away * (rng.random(num_data) < share[1]) + rng.normal(size=num_data)
    offsets = _tensor([0.0, -away])
    shares = _tensor(share)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 3.0))
            parts = dist.Normal(z.unsqueeze(-1) + offsets, 1.0)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(shares), parts), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.9 * x, widen * math.sqrt(0.9)))

    terms = stats.norm(np.array([0.0, -away]), math.sqrt(10)).logpdf(x[:, None])
    exact = special.logsumexp(np.log(share) + terms, axis=1)
    note = "noise of two kinds; guide that knows of the more frequent one"
    return ExactModel("rare-tail", Program(model, guide), _tensor(x), _tensor(exact), note, bad_guide=True)


def phase_transition(
    dim: int = 10,
    *,
    num_data: int = 20,
    seed: int = 0,
    share: float = 0.9,
    width: float = 0.02,
    centre: float = 1.0,
    away: float = 1.0,
    widen: float = 1.05,
    name: str = "phase-transition",
) -> ExactModel:
    """z ~ N(0, I); x is z with broad noise or, rarely, with very little noise: a broad mode and a spike of width 0.02.

    With J a rotation by 90 degrees in each pair of coordinates and A = centre I + away J,

        x | z ~ (1 - e) N(z, I) + e N(A^-1 z, width² A^-1 A^-T),

    so the posterior has a broad mode N(x / 2, I / 2) and a spike N(A x, width²), far from each other, both in closed
    form. The data are on the ellipsoid on which the spike has ``share`` of p(x). The guide is the broad mode. A chain
    that is tempered from the guide or the prior ends in the broad mode: at the temperature at which both have the same
    mass, the volume of the spike is about ``width ** dim`` times that of the broad mode (a first-order phase
    transition).

    Raises:
        InputError: if ``dim`` is below 2, or ``centre`` is 0.
    """
    if dim < 2:
        raise InputError("dim", "at least 2", dim)
    if centre == 0:
        raise InputError("centre", "another number than 0", centre)
    rng = _rng(name, seed)
    J = np.zeros((dim, dim))
    for i in range(0, dim - 1, 2):
        J[i, i + 1], J[i + 1, i] = 1.0, -1.0
    A = centre * np.eye(dim) + away * J
    stretch = np.sqrt(np.diag(A @ A.T))
    spread = np.sqrt(1 + width**2) / stretch  # of x whose noise is the narrow one
    direction = rng.normal(size=(num_data, dim))
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    x = math.sqrt(dim) * direction * spread
    spike = stats.norm(0, spread).logpdf(x).sum(1)
    hill = stats.norm(0, math.sqrt(2)).logpdf(x).sum(1)
    # The odds of the narrow noise for which the spike holds its share of p(x), on average over the data.
    odds = math.log(share / (1 - share)) - float(np.median(spike - hill))
    log_share = np.array([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)])
    exact = np.logaddexp(log_share[0] + hill, log_share[1] + spike)
    inverse, narrow, logits = _tensor(np.linalg.inv(A)), _tensor(width / stretch), _tensor(log_share)
    scales = torch.stack([torch.ones_like(narrow), narrow])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(dim), 1.0).to_event(1))
            parts = dist.Normal(torch.stack([z, z @ inverse.T], dim=-2), scales).to_event(1)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, widen * math.sqrt(0.5)).to_event(1))

    note = f"a spike of width {width:g} that holds {share:.0%} beside a hill in {dim} dimensions; guide: the hill"
    return ExactModel(name, Program(model, guide), _tensor(x), _tensor(exact), note, bad_guide=True)


def nested_spike(
    dim: int = 20, *, num_data: int = 20, seed: int = 0, share: float = 0.9, width: float = 0.02
) -> ExactModel:
    """A spike of width 0.02 at the centre of a broad mode of width 0.7.

    Gradient ascent from any point of the broad mode leads to the spike, but no chain finds it: nearly all of the broad
    mode's mass is sqrt(dim) standard deviations from its centre. See `phase_transition`; Skilling, "Nested sampling for
    general Bayesian computation" (2006), has such a likelihood in 20 dimensions.
    """
    return phase_transition(
        dim,
        num_data=num_data,
        seed=seed,
        share=share,
        width=width,
        centre=0.5,
        away=0.0,
        name="nested-spike",
    )
