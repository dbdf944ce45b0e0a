"""Likelihoods of every family, and quadrature over their supports."""

import math

import torch
from torch.distributions import constraints

from ppl_vae.likelihoods import (
    Bernoulli,
    Beta,
    BetaBinomial,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
    Gaussian,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)

LIKELIHOODS = {
    "bernoulli": lambda shape: Bernoulli(shape),
    "binomial": lambda shape: Binomial(shape, total_count=6),
    "poisson": lambda shape: Poisson(shape),
    "gaussian": lambda shape: Gaussian(shape, scale=0.7),
    "gaussian-learned": lambda shape: Gaussian(shape, scale="learned"),
    "gaussian-decoder": lambda shape: Gaussian(shape, scale="decoder", min_scale=0.01),
    "continuous-bernoulli": lambda shape: ContinuousBernoulli(shape),
    "laplace": lambda shape: Laplace(shape, scale=0.7),
    "student-t": lambda shape: StudentT(shape, df=12.0, scale="learned"),
    "log-normal": lambda shape: LogNormal(shape, scale=0.4),
    "beta": lambda shape: Beta(shape),
    "negative-binomial": lambda shape: NegativeBinomial(shape, total_count=9.0),
    "negative-binomial-learned": lambda shape: NegativeBinomial(shape),
    "negative-binomial-decoder": lambda shape: NegativeBinomial(shape, total_count="decoder"),
    "zero-inflated": lambda shape: ZeroInflatedNegativeBinomial(shape, total_count=9.0),
    "beta-binomial": lambda shape: BetaBinomial(shape, total_count=6),
    "categorical": lambda shape: Categorical(shape, categories=4),
    "ordinal": lambda shape: Ordinal(shape, levels=4),
    "discretised-logistic": lambda shape: DiscretisedLogistic(shape, levels=7),
    "discretised-logistic-mixture": lambda shape: DiscretisedLogisticMixture(shape, components=2, levels=7),
}


def points(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name, shape):
    likelihood = LIKELIHOODS[name](shape).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3)
    return likelihood


def params_for(likelihood, *lead):
    params = {
        key: points(*lead, *shape, seed=j) for j, (key, shape) in enumerate(likelihood.param_shapes.items())
    }
    if isinstance(likelihood, Beta):
        # With less, a part of the mass lies nearer to 1 than double precision can say.
        params["log_concentration"] += 3.0
    return params


def line(likelihood, centre):
    """Points that carry the whole mass of a single number, and the volume that each stands for."""
    if likelihood.base_measure == "counting":
        # Where there is no largest integer, up to where no mass is left at the rates of these tests.
        top = largest(likelihood) or 200
        x = torch.arange(0, int(top) + 1, dtype=torch.float64)
        return x, torch.ones_like(x)
    # Double-exponential quadrature (Takahasi and Mori 1974): ends that are infinite or singular do no harm.
    step = 1 / 32
    t = torch.arange(-4, 4, step, dtype=torch.float64)
    s, slope = math.pi / 2 * t.sinh(), math.pi / 2 * t.cosh() * step
    if likelihood.support is constraints.real:  # both ways from the centre, where a density may have a kink
        distance, volume = s.exp(), s.exp() * slope
        return torch.cat([centre - distance.flip(0), centre + distance]), torch.cat([volume.flip(0), volume])
    if likelihood.support is constraints.positive:
        return centre * s.exp(), centre * s.exp() * slope
    inside = (s.tanh() + 1) / 2
    keep = (inside > 0) & (inside < 1)
    return inside[keep], (slope / (2 * s.cosh() ** 2))[keep]


def largest(likelihood):
    """The largest value of a number; None if there is none."""
    top = (
        1.0 if likelihood.support is constraints.boolean else getattr(likelihood.support, "upper_bound", None)
    )
    return None if top is None else float(top)
