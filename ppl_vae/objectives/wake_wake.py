"""Reweighted wake-sleep, both of whose updates use the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.gates import Gated, Gates
from ppl_vae.objectives.iwae import log_mean_exp
from ppl_vae.objectives.terms import Scale, Terms


class WakeWake(Objective):
    """Reweighted wake-sleep: the model climbs the bound of `IWAE`, the guide descends KL(p(z|x) || q(z|x)).

    With v_k = w_k / sum_j w_j, the gradient of the model's parameters is sum_k v_k grad log p(x, z_k), that of the
    guide's sum_k v_k grad log q(z_k|x), with the draws held fixed: the wake phase of both. It needs no reparameterised
    latents, and the guide covers the posterior rather than one of its modes. The model's gradient is unbiased for that
    of the IWAE bound; the guide's is biased by a term of order 1/K. There is no sleep phase. A parameter that model and
    guide share follows the sum of both. The loss is that of `IWAE`, for both are of one step: nothing is frozen.

    Bornschein and Bengio 2015, "Reweighted wake-sleep"; Le et al. 2019, "Revisiting reweighted wake-sleep for models
    with stochastic control flow" (there: wake-wake).

    Args:
        num_particles: K; with one, the guide learns nothing in expectation.
        **options: see `Objective`.

    Raises:
        InputError: if K is no positive integer; in training, naming the site, if a latent is a flow without an inverse.
    """

    needs_paths = False
    scores_afresh = True

    def __init__(self, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x, z) and log q(z|x)."""
        return log_mean_exp(parts[0] - parts[1])

    def estimate(self, parts: Sequence[Tensor], scale: Scale, runs: Sequence[Terms]) -> tuple[Tensor, Any]:
        """See `Objective.estimate`."""
        log_model, log_guide = parts
        share = torch.softmax((log_model - log_guide).detach(), 0)
        closed = (scale * share * (log_model + log_guide)).sum()
        return (scale * self.bound(*parts)).sum().detach(), Gated(Gates(runs), closed)
