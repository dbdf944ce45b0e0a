"""Averages over data that an estimate has beside its mean: the IWAE-K curve, and what a datum cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What an estimate cost for each datum, on average: what estimators are compared at equal amounts of.

    Attributes:
        density: evaluations of log p(x, z) without a gradient.
        gradient: evaluations of log p(x, z) together with its gradient in z. Pilot runs are counted, too.
    """

    density: float
    gradient: float

    @property
    def passes(self) -> float:
        """Passes through the decoder: 1 for a density, 2 for a gradient (forward, and backward to z)."""
        return self.density + 2 * self.gradient


@dataclass(frozen=True, eq=False)
class Curve:
    """The IWAE-K bound averaged over data, in nats, for K from 1 (the ELBO) to S (the evidence estimate).

    Attributes:
        k: ``(J,)`` the K, int64.
        bound: ``(J,)`` the mean over data of E[log (1/K) sum_k w_k], non-decreasing in K but for the error.
        stderr: ``(J,)`` its Monte Carlo standard error. The points share samples: their errors are not
            independent.
    """

    k: Tensor
    bound: Tensor
    stderr: Tensor
