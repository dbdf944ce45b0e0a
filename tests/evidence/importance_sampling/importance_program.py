"""A program and data for importance sampling, in many small tiles."""

import sys

import pyro
import pyro.distributions as dist
import torch

import ppl_vae as pv
from ppl_vae import Program
from ppl_vae.evidence.importance_sampling.importance import Tiles

importance = pv.evidence.importance


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x
        )


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2] / 3, 0.8).to_event(1))


def sharp_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2] / 3, 0.7).to_event(1))


def program():
    return Program(model, guide)


def data(n=50, dtype=torch.float32, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def small_tiles(monkeypatch):
    """Tiles of 64 samples of 16 data, so that 50 data and 1,000 samples are 4 blocks of 16 tiles."""

    def plan(num_data, num_samples, width, device):
        return Tiles(num_data, num_samples, min(num_data, 16), min(64, num_samples))

    monkeypatch.setattr(Tiles, "plan", plan)


def interrupt(monkeypatch, after):
    """Ctrl-C in the tile after ``after`` of them."""
    module = sys.modules["ppl_vae.evidence.importance_sampling.importance"]
    original, calls = module._tile, []

    def tile(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "_tile", tile)
    return calls
