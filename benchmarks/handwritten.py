"""The peer by hand: the same estimators as plain functions of tensors, as one would write them without any library."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.workloads import Layer, Parameters

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"softplus": functional.softplus, "tanh": torch.tanh}


def network(layers: list[Layer], activation: Activation, h: Tensor) -> Tensor:
    """A dense network on ``(..., in)``."""
    for weight, bias in layers[:-1]:
        h = activation(functional.linear(h, weight, bias))
    return functional.linear(h, *layers[-1])


def encode(parameters: Parameters, activation: Activation, x: Tensor) -> tuple[Tensor, Tensor]:
    """loc and log scale of q(z|x)."""
    loc, log_scale = network(parameters.encoder, activation, x).chunk(2, -1)
    return loc, log_scale


def log_likelihood(decoder: list[Layer], activation: Activation, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) for z ``(..., latent)`` and x ``(..., data)`` that broadcasts against it."""
    logits = network(decoder, activation, z)
    return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def weigh(
    decoder: list[Layer], activation: Activation, x: Tensor, loc: Tensor, log_scale: Tensor, eps: Tensor
) -> Tensor:
    """log p(x, z) - log q(z|x) at z = loc + exp(log scale) eps; the two constants log 2 pi / 2 cancel."""
    z = loc + log_scale.exp() * eps
    log_prior = -0.5 * z.square().sum(-1)
    log_guide = -(0.5 * eps.square() + log_scale).sum(-1)
    return log_likelihood(decoder, activation, x, z) + log_prior - log_guide


def negative_elbo(parameters: Parameters, activation: Activation, x: Tensor, eps: Tensor) -> Tensor:
    """The loss of `pyro.infer.Trace_ELBO` with one sample, summed over the batch."""
    loc, log_scale = encode(parameters, activation, x)
    return -weigh(parameters.decoder, activation, x, loc, log_scale, eps).sum()


def negative_bound(parameters: Parameters, activation: Activation, x: Tensor, eps: Tensor) -> Tensor:
    """The loss of importance-weighted autoencoders, summed over the batch, at noise ``(K, batch, latent)``."""
    loc, log_scale = encode(parameters, activation, x)
    log_weights = weigh(parameters.decoder, activation, x, loc, log_scale, eps)
    return -(log_weights.logsumexp(0) - math.log(len(eps))).sum()


def compile_function(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Under ``torch.compile``, for the shapes that come."""
    from torch._dynamo import config  # not above: whoever stays eager need not wait for it

    # Every architecture and batch size is a compilation of one function; after eight torch would stay eager.
    config.recompile_limit = 64
    return torch.compile(function, dynamic=False)


class Training:
    """Epochs of single-sample ELBO, or of IWAE-K, with one fused Adam; the loss eager, or under ``torch.compile``."""

    def __init__(
        self,
        parameters: Parameters,
        activation: str,
        x: Tensor,
        batch_size: int,
        *,
        compiled: bool,
        particles: int = 1,
        lr: float = 1e-3,
    ) -> None:
        self.parameters, self.activation = parameters.copy(trained=True), ACTIVATIONS[activation]
        self.x, self.batch_size = x, batch_size
        self.shape = (particles,) if particles > 1 else ()
        self.optimiser = torch.optim.Adam(self.parameters.tensors(), lr=lr, fused=True)
        loss = negative_bound if particles > 1 else negative_elbo
        self.loss = compile_function(loss) if compiled else loss

    def check(self, x: Tensor, eps: Tensor) -> Tensor:
        """The ELBO at given noise, ``(1,)``; at the start, before any step."""
        return -self.loss(self.parameters, self.activation, x, eps).detach().reshape(1)

    def epochs(self, epochs: int) -> tuple[float, float]:
        """Seconds, and the mean ELBO of a datum while it trained."""
        start = time.perf_counter()
        total = torch.zeros(())
        latent = self.parameters.decoder[0][0].shape[1]
        for _ in range(epochs):
            for index in torch.randperm(len(self.x)).split(self.batch_size):
                x = self.x.index_select(0, index)
                eps = torch.randn(*self.shape, len(x), latent)
                loss = self.loss(self.parameters, self.activation, x, eps)
                loss.backward()
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
                total += loss.detach()
        elbo = -total.item() / (epochs * len(self.x))
        return time.perf_counter() - start, elbo


class Evidence:
    """log p(x) of each datum from S importance samples, ``chunk`` at a time; eager, or under ``torch.compile``."""

    def __init__(
        self,
        parameters: Parameters,
        activation: str,
        x: Tensor,
        num_samples: int,
        chunk: int,
        *,
        compiled: bool,
    ) -> None:
        self.parameters, self.activation = parameters, ACTIVATIONS[activation]
        self.x, self.num_samples, self.chunk = x, num_samples, chunk
        self.weigh = compile_function(weigh) if compiled else weigh

    @torch.no_grad()
    def check(self, eps: Tensor) -> Tensor:
        """The log weights at given noise ``(S, N, latent)``: ``(S, N)``, a chunk at a time."""
        guide = encode(self.parameters, self.activation, self.x)
        decoder = self.parameters.decoder
        return torch.cat(
            [self.weigh(decoder, self.activation, self.x, *guide, e) for e in eps.split(self.chunk)]
        )

    @torch.no_grad()
    def estimate(self) -> Tensor:
        """log (1/S) sum_s w_s, ``(N,)`` float64."""
        loc, log_scale = encode(self.parameters, self.activation, self.x)
        weights = []
        for start in range(0, self.num_samples, self.chunk):
            eps = torch.randn(min(self.chunk, self.num_samples - start), *loc.shape)
            weights.append(self.weigh(self.parameters.decoder, self.activation, self.x, loc, log_scale, eps))
        return torch.cat(weights).double().logsumexp(0) - math.log(self.num_samples)


Noise = Callable[[int], tuple[Tensor, Tensor]]
"""Move -> standard normal numbers ``(S, N, latent)`` for momenta, and uniform ones ``(S, N)`` for acceptance."""


class Annealing:
    """Annealed importance sampling from the guide: T linear steps, a move of HMC between two of them.

    A move has full refreshment and ``leapfrog`` steps of ``step`` guide scales; the gradient where it starts is known
    from the move before, so a chain of T steps takes 1 + (T - 1) leapfrog gradients.
    """

    def __init__(
        self,
        parameters: Parameters,
        activation: str,
        x: Tensor,
        num_chains: int,
        *,
        step: float,
        leapfrog: int = 3,
    ) -> None:
        self.parameters, self.activation, self.x = parameters, ACTIVATIONS[activation], x
        self.num_chains, self.leapfrog = num_chains, leapfrog
        with torch.no_grad():
            self.loc, self.log_scale = encode(parameters, self.activation, x)
        self.scale = self.log_scale.exp()
        self.step = step * self.scale

    def gradients(self, num_steps: int) -> int:
        """Gradient evaluations a datum."""
        return self.num_chains * (1 + (num_steps - 1) * self.leapfrog)

    def estimate(self, num_steps: int, first: Tensor, noise: Noise) -> Tensor:
        """The log weights of the chains, ``(S, N)``, from ``first`` ``(S, N, latent)`` standard normal."""
        z = self.loc + self.scale * first
        here = self._at(z)
        log_weight = (here[1] - here[0]) / num_steps
        for t in range(1, num_steps):
            beta = t / num_steps
            fresh, threshold = noise(t)
            start = self._energy(here, fresh, beta)
            there, u = here, z
            momentum = fresh + 0.5 * self.step * self._slope(here, beta)
            for left in reversed(range(self.leapfrog)):
                u = u + self.step * momentum
                there = self._at(u)
                momentum = momentum + (1.0 if left else 0.5) * self.step * self._slope(there, beta)
            accept = threshold.log() < self._energy(there, momentum, beta) - start
            wide = accept.unsqueeze(-1)
            z = torch.where(wide, u, z)
            here = tuple(
                torch.where(wide if a.ndim == 3 else accept, b, a) for a, b in zip(here, there, strict=True)
            )
            log_weight = log_weight + (here[1] - here[0]) / num_steps
        return log_weight

    def random(self, num_steps: int) -> Tensor:
        """`estimate` on fresh noise, as log p(x) of each datum ``(N,)``."""
        shape = (self.num_chains, *self.loc.shape)
        weights = self.estimate(
            num_steps, torch.randn(shape), lambda _: (torch.randn(shape), torch.rand(shape[:2]))
        )
        return weights.double().logsumexp(0) - math.log(self.num_chains)

    def _at(self, z: Tensor) -> tuple[Tensor, ...]:
        """log q(z|x), log p(x, z), both without log 2 pi / 2 a dimension, and their gradients in z."""
        leaf = z.detach().requires_grad_()
        log_joint = log_likelihood(self.parameters.decoder, self.activation, self.x, leaf)
        log_joint = log_joint - 0.5 * leaf.square().sum(-1)
        (slope,) = torch.autograd.grad(log_joint.sum(), leaf)
        standard = (z - self.loc) / self.scale
        log_guide = -(0.5 * standard.square() + self.log_scale).sum(-1)
        return log_guide, log_joint.detach(), -standard / self.scale, slope

    @staticmethod
    def _slope(at: tuple[Tensor, ...], beta: float) -> Tensor:
        return torch.lerp(at[2], at[3], beta)

    @staticmethod
    def _energy(at: tuple[Tensor, ...], momentum: Tensor, beta: float) -> Tensor:
        return torch.lerp(at[0], at[1], beta) - 0.5 * momentum.square().sum(-1)
