"""Users' own Pyro programs, of every kind that a capture must stand: (model, guide, data)."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

N = 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Params:
    """Parameters of pyro.param, one of them constrained, and data that are a dict with a mask."""

    def __init__(self):
        self.x = {"y": randn(N, 3), "seen": randn(N, 3, seed=1) > 0, "size": randn(N, seed=2).exp()}

    def model(self, x):
        scale = pyro.param("scale", lambda: torch.tensor(0.7).double(), constraint=constraints.positive)
        weight = pyro.param("weight", lambda: randn(2, 3, seed=3))
        with pyro.plate("data", len(x["y"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["y"].new_zeros(2), 1.0).to_event(1))
            loc = z @ weight * x["size"].unsqueeze(-1)
            pyro.sample("y", dist.Normal(loc, scale).mask(x["seen"]).to_event(1), obs=x["y"])

    def guide(self, x):
        gain = pyro.param("gain", lambda: randn(3, 2, seed=4))
        with pyro.plate("data", len(x["y"]), dim=-1):
            filled = torch.where(x["seen"], x["y"], 0.0)
            pyro.sample("z", dist.Normal(filled @ gain, 0.6).to_event(1))


class Discrete:
    """Latents without a reparameterised sampler, one behind the other; a masked row."""

    def __init__(self):
        self.x = randn(N, 3)
        self.net = nn.Linear(3, 4).double()
        self.table = nn.Parameter(randn(4, 3, seed=5))

    def model(self, x):
        table = pyro.param("table", self.table)
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=x[:, 0] < 1.0):
            b = pyro.sample("b", dist.Bernoulli(x.new_tensor(0.3)))
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.1, 0.2, 0.3, 0.4])))
            pyro.sample("x", dist.Normal(table[k] + b.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=x[:, 0] < 1.0):
            b = pyro.sample("b", dist.Bernoulli(torch.sigmoid(x[:, 0])))
            pyro.sample("k", dist.Categorical(logits=self.net(x) + b.unsqueeze(-1)))


class TwoLatents:
    """A hierarchy with a constrained latent, whose guide reads the first latent for the second."""

    def __init__(self):
        self.x = randn(N, 3).abs()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.5)))
            z = pyro.sample("z", dist.Normal(rate.log(), 1.0))
            loc = (rate + z).unsqueeze(-1).expand(*z.shape, 3)
            pyro.sample("x", dist.LogNormal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self.net)
        a, b, c, d = self.net(x).unbind(-1)
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.LogNormal(a, b.exp()))
            pyro.sample("z", dist.Normal(c + rate, d.exp()))


class Net(PyroModule):
    """Modules all the way: a PyroModule with a constrained parameter and a buffer."""

    def __init__(self):
        super().__init__()
        self.x = randn(N, 3)
        self.decoder = PyroModule[nn.Linear](2, 3).double()
        self.encoder = PyroModule[nn.Linear](3, 4).double()
        self.noise = PyroParam(torch.tensor(0.8).double(), constraints.positive)
        self.register_buffer("shift", randn(3, seed=6))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + self.shift, self.noise).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).split(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


class Wandering:
    """A support that moves with a latent, and a guide that may leave the model's support."""

    def __init__(self):
        self.x = randn(N).abs()

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Gamma(x.new_tensor(3.0), 0.7))
            pyro.sample("x", dist.Uniform(torch.zeros_like(top), top, validate_args=False), obs=x)

    def guide(self, x):
        spread = pyro.param("spread", lambda: torch.tensor(0.8).double(), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("top", dist.Normal(x + 1.5, spread))


PROGRAMS = [Params, Discrete, TwoLatents, Net, Wandering]
CONTINUOUS = [Params, TwoLatents, Net]


def shrunk(x, n):
    return {name: value[:n] for name, value in x.items()} if isinstance(x, dict) else x[:n]
