"""The peer in Pyro: a VAE as Pyro's own tutorial recipe trains it.

That is `pyro.optim.Adam`, `SVI` and `Trace_ELBO` (or `RenyiELBO`) under default validation. Its evidence is from
`pyro.infer.importance.vectorized_importance_weights`, whose weights are joint over the data; the traces that it returns
hold what belongs to each datum.
"""

from __future__ import annotations

import math
import time

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.optim import Adam
from torch import nn

from benchmarks.workloads import Layer, Parameters

ACTIVATIONS = {"softplus": nn.Softplus, "tanh": nn.Tanh}


class RecipeVAE(nn.Module):
    """Dense layers with a sigmoid output, and `pyro.module` in model and guide."""

    def __init__(self, parameters: Parameters, activation: str) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        hidden = [part for layer in parameters.encoder[:-1] for part in (_linear(layer), act())]
        self.encoder = nn.Sequential(*hidden)
        weight, bias = parameters.encoder[-1]
        self.latent = len(bias) // 2
        self.loc = _linear((weight[: self.latent], bias[: self.latent]))
        self.log_scale = _linear((weight[self.latent :], bias[self.latent :]))
        hidden = [part for layer in parameters.decoder[:-1] for part in (_linear(layer), act())]
        self.decoder = nn.Sequential(*hidden, _linear(parameters.decoder[-1]), nn.Sigmoid())

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

    @torch.no_grad()
    def log_weight(self, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """log p(x, z) - log q(z|x) of each datum at given noise ``(N, latent)``."""
        pyro.clear_param_store()
        h = self.encoder(x)
        z = {"latent": self.loc(h) + self.log_scale(h).exp() * eps}
        model, guide = (
            poutine.trace(poutine.condition(fn, z)).get_trace(x) for fn in (self.model, self.guide)
        )
        return _per_datum(model) - _per_datum(guide)


class Recipe:
    """Some epochs at a time, shuffled, of the recipe."""

    def __init__(
        self, parameters: Parameters, activation: str, x: torch.Tensor, batch_size: int, particles: int = 1
    ) -> None:
        pyro.clear_param_store()
        self.x, self.batch_size = x, batch_size
        self.vae = RecipeVAE(parameters, activation)
        loss = Trace_ELBO() if particles == 1 else renyi(particles)
        self.svi = SVI(self.vae.model, self.vae.guide, Adam({"lr": 1e-3}), loss=loss)

    def epochs(self, epochs: int) -> tuple[float, float]:
        """Seconds, and the mean ELBO of a datum while it trained."""
        start, total = time.perf_counter(), 0.0
        for _ in range(epochs):
            for index in torch.randperm(len(self.x)).split(self.batch_size):
                total += self.svi.step(self.x[index])
        return time.perf_counter() - start, -total / (epochs * len(self.x))


def renyi(particles: int) -> RenyiELBO:
    """Pyro's objective that is the importance-weighted bound of K particles, all in one pass."""
    return RenyiELBO(alpha=0.0, num_particles=particles, max_plate_nesting=1, vectorize_particles=True)


class RecipeEvidence:
    """log p(x) of each datum from S importance samples, ``chunk`` (2 or more) a call."""

    def __init__(
        self, parameters: Parameters, activation: str, x: torch.Tensor, num_samples: int, chunk: int
    ) -> None:
        pyro.clear_param_store()
        self.vae, self.x = RecipeVAE(parameters, activation), x
        self.num_samples, self.chunk = num_samples, chunk

    @torch.no_grad()
    def estimate(self) -> torch.Tensor:
        """log (1/S) sum_s w_s, ``(N,)`` float64."""
        weights = []
        for start in range(0, self.num_samples, self.chunk):
            size = min(self.chunk, self.num_samples - start)
            _, model, guide = vectorized_importance_weights(
                self.vae.model, self.vae.guide, self.x, num_samples=size, max_plate_nesting=1
            )
            weights.append(_per_datum(model) - _per_datum(guide))
        return torch.cat(weights).double().logsumexp(0) - math.log(self.num_samples)


def _per_datum(trace: poutine.Trace) -> torch.Tensor:
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return sum(site["log_prob"] for site in sites if type(site["fn"]).__name__ != "_Subsample")  # type: ignore


def _linear(layer: Layer) -> nn.Linear:
    weight, bias = (tensor.detach().clone() for tensor in layer)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
