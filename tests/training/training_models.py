"""Models and programs to train, and data for them."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.data import load_digits
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.posteriors import MeanFieldNormal
from ppl_vae.priors import StandardNormal

D = 64
DIGITS = load_digits()
X, V = DIGITS.train[:60], DIGITS.valid[:30]
GREY = load_digits(dynamic=True).train[:60]


def make(prior=StandardNormal, likelihood=None, posterior=MeanFieldNormal, **options):
    arguments = (2,) if prior is StandardNormal else (2, 3)
    return pv.VAE(
        prior(*arguments), likelihood or Bernoulli(D), posterior(2), **({"hidden": (6,), "seed": 1} | options)
    )


def normalised():
    def encoder(*_):
        return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))

    return make(encoder=encoder)


def handwritten():
    """A program of plain functions: networks by `pyro.module`, and two `pyro.param`."""
    with rng.seeded("cpu", 0, "test"):
        decoder, encoder = nn.Linear(2, D), nn.Linear(D, 2)

    def model(x):
        pyro.module("decoder", decoder)
        temperature = pyro.param("temperature", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z) * temperature).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", lambda: 0.5 + torch.rand(2), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(encoder(x), scale).to_event(1))

    return pv.Program(model, guide)


def program_of(target):
    return target if isinstance(target, pv.Program) else target.program


def state(target):
    """Every parameter (and buffer) of a VAE or a program."""
    if isinstance(target, pv.Program):
        with rng.seeded("cpu", 0, "test"):
            return {name: value.detach().clone() for name, value in target.parameters(X).items()}
    return {name: value.clone() for name, value in target.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
