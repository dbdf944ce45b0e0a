"""The peer: a VAE as Pyro's own tutorial recipe trains it (pyro.optim.Adam, SVI, Trace_ELBO, default validation)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn


class RecipeVAE(nn.Module):
    """784-400-50 with softplus, a sigmoid output, and `pyro.module` in model and guide."""

    def __init__(self, data_dim: int = 784, hidden: int = 400, latent: int = 50) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(data_dim, hidden), nn.Softplus())
        self.loc, self.log_scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, data_dim), nn.Sigmoid()
        )

    def model(self, x: torch.Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], self.latent)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("loc", self.loc)
        pyro.module("log_scale", self.log_scale)
        with pyro.plate("data", x.shape[0]):
            h = self.encoder(x)
            pyro.sample("latent", dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1))


class Recipe:
    """Some epochs at a time, shuffled, of the recipe."""

    def __init__(self, x: torch.Tensor, batch_size: int, epochs: int) -> None:
        pyro.clear_param_store()
        self.x, self.batch_size, self.epochs = x, batch_size, epochs
        vae = RecipeVAE(x.shape[1])
        self.svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())

    def __call__(self) -> None:
        for _ in range(self.epochs):
            for index in torch.randperm(len(self.x)).split(self.batch_size):
                self.svi.step(self.x[index])
