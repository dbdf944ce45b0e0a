"""Sticking the landing, and doubly reparameterised gradients of many particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.gates import Gated, Gates
from ppl_vae.objectives.iwae import log_mean_exp
from ppl_vae.objectives.terms import Scale, Terms


class DReG(Objective):
    """The bound of `IWAE`, log (1/K) sum_k w_k for each datum, with gradients of less noise for the guide.

    With v_k = w_k / sum_j w_j, the gradient of the guide's parameters phi is sum_k v_k^2 (d log w_k / d z_k) (d z_k / d
    phi): the parameters inside log q's density are left out, and the square makes up for what that leaves out in
    expectation. The gradient of the model's parameters is sum_k v_k grad log p(x, z_k). Both are unbiased for the
    gradient of the IWAE bound, and the signal-to-noise ratio for the guide grows as K^(1/2). With one particle it is
    "sticking the landing": the gradient is zero in every draw where the guide is the exact posterior.

    Parameters are left out of log q where it is the guide's density and nowhere else: an encoder that is in the
    prior, too (`VampPrior`), keeps its gradient there. Nothing is asked of the guide but reparameterised
    latents: they may depend on one another, and a flow needs an inverse. A step costs a second pass backwards.

    Roeder, Wu and Duvenaud 2017, "Sticking the landing"; Tucker, Lawson, Gu and Maddison 2019, "Doubly reparameterized
    gradient estimators for Monte Carlo objectives".

    Args:
        num_particles: K.
        **options: see `Objective`.

    Raises:
        InputError: if K is no positive integer; in training, naming the site, if a latent is not reparameterised, or
            is a flow without an inverse.
    """

    scores_afresh = True

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x, z) and log q(z|x)."""
        return log_mean_exp(parts[0] - parts[1])

    def estimate(self, parts: Sequence[Tensor], scale: Scale, runs: Sequence[Terms]) -> tuple[Tensor, Any]:
        """See `Objective.estimate`."""
        log_model, log_guide = parts
        log_weights = log_model - log_guide
        share = torch.softmax(log_weights.detach(), 0)
        # A factor b of log q (KL warm-up) is one of its score, too, so b (share - share²) is what goes.
        factor = runs[0].guide_factor
        paths = share - factor * (share - share.square())
        closed = (scale * ((share - paths) * log_model + paths * log_guide)).sum()
        opened = (scale * paths * log_weights).sum()
        return (scale * self.bound(*parts)).sum().detach(), Gated(Gates(runs), closed, opened)
