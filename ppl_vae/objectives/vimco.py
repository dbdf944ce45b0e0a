"""The importance-weighted bound for latents that are not reparameterised, discrete ones above all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.iwae import log_mean_exp
from ppl_vae.objectives.terms import Scale, Terms


class VIMCO(Objective):
    """The bound of `IWAE`, log (1/K) sum_k w_k for each datum, for any latents.

    The gradient of latents that are not reparameterised is sum_k (L - L_k) grad log q(z_k|x), where L is the bound and
    L_k is the bound with w_k replaced by the geometric mean of the other weights: a baseline that needs no network.
    Reparameterised latents have the gradient of `IWAE`. It is unbiased for the gradient of the IWAE bound.

    Mnih and Rezende 2016, "Variational inference for Monte Carlo objectives".

    Args:
        num_particles: K, 2 or more.
        **options: see `Objective`.

    Raises:
        InputError: if K is below 2; in training, naming the site, if a latent is reparameterised in part.
    """

    needs_paths = False

    def __init__(self, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if num_particles < 2:
            raise InputError("num_particles", "an integer of at least 2, for a baseline", num_particles)

    def parts(self, terms: Terms) -> Sequence[Tensor]:
        """log p(x, z), log q(z|x), and log q of the latents that are not reparameterised."""
        return terms.log_model(), terms.log_guide(), terms.log_score()

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x, z) and log q(z|x)."""
        return log_mean_exp(parts[0] - parts[1])

    def estimate(self, parts: Sequence[Tensor], scale: Scale, runs: Sequence[Terms]) -> tuple[Tensor, Any]:  # noqa: ARG002
        """See `Objective.estimate`."""
        bound = self.bound(*parts)
        signal = bound.detach() - without_each((parts[0] - parts[1]).detach())
        total = (scale * bound).sum()
        return total.detach(), total + (scale * signal * parts[2]).sum()


def without_each(log_weights: Tensor) -> Tensor:
    """The bound with each log weight in turn replaced by the mean of the others: ``(K, *data)``."""
    particles = log_weights.shape[0]
    others = (log_weights.sum(0) - log_weights) / (particles - 1)
    own = torch.eye(particles, dtype=torch.bool, device=log_weights.device)
    own = own.reshape(particles, particles, *(1,) * (log_weights.ndim - 1))
    replaced = torch.where(own, others.unsqueeze(1), log_weights.unsqueeze(0))
    return torch.logsumexp(replaced, 1) - math.log(particles)
