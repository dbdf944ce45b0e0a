"""Parts of a result: an estimate with its error, the IWAE-K curves, the cost, and the estimator with its settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.results.verdict import FULL

BOUNDS = {
    "lower": "stochastic lower bound",
    "upper": "stochastic upper bound",
    "consistent": "consistent estimate, no bound",
}
"""The direction of an estimate's bias, in words."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimates of one quantity for each of N data, in nats.

    Attributes:
        value: ``(N,)`` the estimates.
        stderr: ``(N,)`` their standard errors, NaN if they are not known.
    """

    value: Tensor
    stderr: Tensor

    @classmethod
    def none(cls, num_data: int) -> Estimate:
        """NaN for all data: the part of an estimator without this quantity."""
        nothing = torch.full((num_data,), torch.nan, dtype=torch.float64)
        return cls(nothing, nothing)


@dataclass(frozen=True, eq=False)
class Curve:
    """The IWAE-K bound averaged over data, in nats, for K from 1 (the ELBO) to S (the evidence estimate).

    Attributes:
        k: ``(J,)`` the K, int64.
        bound: ``(J,)`` estimates of the mean over data of E[log (1/K) sum_k w_k], which is non-decreasing in K.
        stderr: ``(J,)`` their Monte Carlo standard errors. All points use the same samples, so their errors are not
            independent.
    """

    k: Tensor
    bound: Tensor
    stderr: Tensor


@dataclass(frozen=True, eq=False)
class Curves:
    """The IWAE-K bounds (Burda et al. 2016) of each of N data, in nats.

    Attributes:
        k: ``(J,)`` the K, int64; J = 0 if an estimator has no curve.
        bound: ``(N, J)`` the estimates of E[log (1/K) sum_k w_k].
        stderr: ``(N, J)`` their standard errors.
    """

    k: Tensor
    bound: Tensor
    stderr: Tensor

    @classmethod
    def none(cls, num_data: int) -> Curves:
        """Empty curves: the part of an estimator without curves."""
        empty = torch.zeros(num_data, 0, dtype=torch.float64)
        return cls(torch.zeros(0, dtype=torch.int64), empty, empty)

    def mean(self) -> Curve:
        """The average over data."""
        error = (self.stderr**2).sum(dim=0).sqrt() / len(self.stderr)
        return Curve(self.k.clone(), self.bound.mean(dim=0), error)


@dataclass(frozen=True, eq=False)
class Cost:
    """The cost of an estimate for each datum, for comparisons of estimators at equal cost. Pilot runs are included.

    Attributes:
        density_evals: ``(N,)`` evaluations of log p(x, z) without a gradient.
        gradient_evals: ``(N,)`` evaluations of log p(x, z) together with its gradient in z; none by default.
    """

    density_evals: Tensor
    gradient_evals: Tensor = None  # type: ignore[assignment]  # __post_init__ fills it in

    def __post_init__(self) -> None:
        if not isinstance(self.density_evals, Tensor):
            raise InputError("density_evals", "a tensor", describe(self.density_evals))
        if self.gradient_evals is None:
            object.__setattr__(self, "gradient_evals", torch.zeros_like(self.density_evals))

    @property
    def density(self) -> float:
        """Evaluations without a gradient for each datum, on average."""
        return float(self.density_evals.mean())

    @property
    def gradient(self) -> float:
        """Evaluations with a gradient for each datum, on average."""
        return float(self.gradient_evals.mean())

    def summary(self) -> dict[str, float]:
        """The averages, in JSON's types."""
        return {"densities": self.density, "gradients": self.gradient}

    @property
    def passes(self) -> float:
        """Passes through the decoder for each datum: 1 for a density, 2 for a gradient (forward, and backward to z)."""
        return self.density + 2 * self.gradient


@dataclass(frozen=True)
class Origin:
    """The estimator, its settings, and the direction of its bias.

    Attributes:
        num_samples: S, the number of weights for each datum: samples, chains, or independent runs. If it differs
            between data, the largest number.
        method: the estimator's name, such as "importance".
        bound: "lower" or "upper" (a stochastic bound, which holds in expectation), or "consistent" (no bound).
        seed: the seed of the random numbers.
        certified: whether ``bound`` is proved. False for a heuristic, such as an upper bound whose chains start from
            approximate posterior samples. False also for matrix products of a lower precision: the bound then holds for
            the model with rounded products, and not for the program.
        details: the settings in words, for tables and plots.
        precision: the precision of the matrix products: "full", "bfloat16" or "tf32".
    """

    num_samples: int
    method: str
    bound: str
    seed: int
    certified: bool = True
    details: str = ""
    precision: str = FULL

    @property
    def direction(self) -> str:
        """The direction of the estimate's bias, in words."""
        if self.certified:
            return BOUNDS[self.bound]
        if self.precision != FULL:
            return f"{BOUNDS[self.bound]}, of a model with products in {self.precision}: not certified"
        return f"HEURISTIC {self.bound} bound, not certified"
