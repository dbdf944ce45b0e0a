"""A program with a network whose evidence is known, and networks that show in which mode they are.

p(x) is that of a linear-Gaussian model and the guide is its exact posterior, so the log weight of any draw is log p(x);
dropout, or statistics of a batch, would show at once.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn import functional

from ppl_vae import rng

with rng.seeded("cpu", 0, "test"):
    W, B, X = torch.randn(5, 2), torch.randn(5), torch.randn(7, 5)
EXACT = torch.distributions.MultivariateNormal(B, W @ W.T + 0.25 * torch.eye(5)).log_prob(X).double()
ROUND_OFF = 1e-4  # of float32 numbers of 100 or so
_COVARIANCE = torch.linalg.inv(torch.eye(2) + W.T @ W / 0.25)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal((x - B) @ W @ _COVARIANCE.T / 0.25, _COVARIANCE))


def run(x, decode):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decode(z), 0.5).to_event(1), obs=x)


def linear():
    layer = nn.Linear(2, 5)
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.copy_(B)
    return layer


def network():
    return nn.Sequential(linear(), nn.Dropout(0.5))


class ByFlag(nn.Module):
    """Its dropout is a function that looks at the module's mode, and it need not be called as a module."""

    def __init__(self):
        super().__init__()
        self.layer = linear()

    def decode(self, z):
        return functional.dropout(self.layer(z), 0.5, training=self.training)

    forward = decode
