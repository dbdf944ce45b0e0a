"""A user's own prior, likelihood and posterior, and a small VAE."""

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

import ppl_vae as pv
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.posteriors import MeanFieldNormal, Posterior
from ppl_vae.priors import Prior, StandardNormal

N = 9


class StudentT(Prior):
    """A user's own prior."""

    def __init__(self, dim, df=4.0):
        super().__init__(dim)
        self.df = df
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self):
        return dist.StudentT(self.df, torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class Poisson(Likelihood):
    """A user's own likelihood."""

    base_measure = "counting"

    def __init__(self, shape, floor=0.01):
        super().__init__(shape)
        self.floor = floor
        self.param_shapes = {"rate": self.shape}

    def forward(self, params):
        return dist.Poisson(self.floor + softplus(params["rate"])).to_event(len(self.shape))

    @property
    def support(self):
        return constraints.nonnegative_integer

    def features(self, x):
        return torch.log1p(x)


class Laplace(Posterior):
    """A user's own posterior."""

    def __init__(self, dim):
        super().__init__(dim)
        self.param_shapes = {"loc": torch.Size([dim]), "log_scale": torch.Size([dim])}

    def forward(self, params):
        return dist.Laplace(params["loc"], params["log_scale"].exp()).to_event(1)


def make(prior=None, likelihood=None, posterior=None, **options):
    return pv.VAE(
        prior or StandardNormal(2),
        likelihood or Bernoulli(6),
        posterior or MeanFieldNormal(2),
        **({"hidden": (5,)} | options),
    )


def bits(n=N, shape=(6,), seed=0):
    return (torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def dense(n_in, n_out):
    return nn.Sequential(
        nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, n_out)
    )
