"""The importance-weighted bound, and its Rényi form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.objectives.base import Objective


class IWAE(Objective):
    """log (1/K) sum_k w_k for each datum, with w_k = p(x, z_k) / q(z_k|x) and z_k ~ q(z|x).

    With ``alpha`` > 0 it is the VR-IWAE bound, 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha): IWAE at 0, the ELBO in
    the limit of 1. In expectation it is at most log p(x). It grows with K and falls with alpha, and tends to log p(x)
    as K grows if alpha is 0. The gradient is the derivative of the bound through the reparameterised draws: unbiased,
    but its signal-to-noise ratio for the guide falls with K as K^(-1/2) (`DReG` is the remedy).

    Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders"; Daudel, Benton, Shi and Doucet 2023,
    "Alpha-divergence variational inference meets importance weighted auto-encoders".

    Args:
        num_particles: K.
        alpha: the order, from 0 to below 1.
        **options: see `Objective`.

    Raises:
        InputError: if K is no positive integer, or alpha is out of range; in training, naming the site, if a latent
            is not reparameterised.
    """

    def __init__(self, num_particles: int = 10, alpha: float = 0.0, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0.0 <= alpha < 1.0:
            raise InputError("alpha", "a number from 0 to below 1 (at 1 it is the ELBO)", describe(alpha))
        self.alpha = float(alpha)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x, z) and log q(z|x)."""
        log_model, log_guide = parts[:2]
        return log_mean_exp((1.0 - self.alpha) * (log_model - log_guide)) / (1.0 - self.alpha)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log (1/K) sum_k exp(log w_k) over the first axis."""
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])
