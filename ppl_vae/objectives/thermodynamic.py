"""The thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.gates import Gated, Gates
from ppl_vae.objectives.terms import Scale, Terms


class Thermodynamic(Objective):
    """sum_j (b_(j+1) - b_j) E_j[log w] for each datum: a left Riemann sum of log p(x) = integral of E_b[log w] db.

    E_b is the mean under the path from the guide at b = 0 to the posterior at b = 1, proportional to q^(1-b) p^b; it
    is estimated by self-normalised weights w_k^b. The sum is a lower bound of log p(x), the ELBO with one step, tighter
    with more; its estimate is biased by a term of order 1/K. The gradient is E_b[grad log w] + Cov_b[grad log (q^(1-b)
    p^b), log w], with the draws held fixed: latents need not be reparameterised. Its bias is of order 1/K, too.

    Masrani, Le and Wood 2019, "The thermodynamic variational objective".

    Args:
        num_particles: K, 2 or more.
        num_steps: the number of steps from 0 to 1; the points after ``first`` are evenly spaced in their logarithms.
        first: the end of the first step, if there are several; above 0 and below 1.
        **options: see `Objective`.

    Raises:
        InputError: if an argument is out of range; in training, naming the site, if a latent is a flow without an
            inverse.
    """

    needs_paths = False
    scores_afresh = True

    def __init__(
        self, num_particles: int = 10, num_steps: int = 5, first: float = 0.05, **options: Any
    ) -> None:
        super().__init__(num_particles, **options)
        if num_particles < 2:
            raise InputError("num_particles", "an integer of at least 2, for a covariance", num_particles)
        self.num_steps = check_positive_int("num_steps", num_steps)
        if isinstance(first, bool) or not isinstance(first, int | float) or not 0.0 < first < 1.0:
            raise InputError("first", "a number above 0 and below 1", describe(first))
        self.first = float(first)

    @property
    def points(self) -> tuple[float, ...]:
        """b_0 = 0 to b_J = 1."""
        last = self.num_steps - 1
        return (0.0, *(self.first ** (1 - j / last) for j in range(last)), 1.0)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x, z) and log q(z|x)."""
        log_weights = parts[0] - parts[1]
        return torch.stack(
            [w * (share * log_weights).sum(0) for _, w, share in self._steps(log_weights)]
        ).sum(0)

    def estimate(self, parts: Sequence[Tensor], scale: Scale, runs: Sequence[Terms]) -> tuple[Tensor, Any]:
        """See `Objective.estimate`."""
        log_model, log_guide = parts
        log_weights = log_model - log_guide
        fixed, total = log_weights.detach(), torch.zeros_like(log_weights)
        for b, width, share in self._steps(fixed):
            centred = fixed - (share * fixed).sum(0)
            total = total + width * share * (log_weights + centred * ((1.0 - b) * log_guide + b * log_model))
        value = (scale * self.bound(*parts)).sum().detach()
        return value, Gated(Gates(runs), (scale * total).sum())

    def _steps(self, log_weights: Tensor) -> list[tuple[float, float, Tensor]]:
        """The begin of each step, its width, and the shares of the particles there."""
        ends = list(zip(self.points[:-1], self.points[1:], strict=True))
        return [(a, b - a, torch.softmax(a * log_weights, 0)) for a, b in ends]
