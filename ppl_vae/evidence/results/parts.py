"""Parts of a result: an estimate with its error, the IWAE-K curves, the cost, and where the numbers come from."""

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
"""Which way an estimate may err, in words."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimates of one quantity for each of N data, in nats.

    Attributes:
        value: ``(N,)`` the estimates.
        stderr: ``(N,)`` their standard errors, NaN where they are not known.
    """

    value: Tensor
    stderr: Tensor

    @classmethod
    def none(cls, num_data: int) -> Estimate:
        """That of an estimator that has none: NaN."""
        nothing = torch.full((num_data,), torch.nan, dtype=torch.float64)
        return cls(nothing, nothing)


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


@dataclass(frozen=True, eq=False)
class Curves:
    """The IWAE-K bounds (Burda et al. 2016) of each of N data, in nats.

    Attributes:
        k: ``(J,)`` the K, int64; J = 0 where an estimator has no curve.
        bound: ``(N, J)`` the estimates of E[log (1/K) sum_k w_k].
        stderr: ``(N, J)`` their standard errors.
    """

    k: Tensor
    bound: Tensor
    stderr: Tensor

    @classmethod
    def none(cls, num_data: int) -> Curves:
        """Those of an estimator that has none."""
        empty = torch.zeros(num_data, 0, dtype=torch.float64)
        return cls(torch.zeros(0, dtype=torch.int64), empty, empty)

    def mean(self) -> Curve:
        """The average over data."""
        error = (self.stderr**2).sum(dim=0).sqrt() / len(self.stderr)
        return Curve(self.k.clone(), self.bound.mean(dim=0), error)


@dataclass(frozen=True, eq=False)
class Cost:
    """What an estimate cost for each datum: what estimators are compared at equal amounts of.

    Attributes:
        density_evals: ``(N,)`` evaluations of log p(x, z) without a gradient.
        gradient_evals: ``(N,)`` evaluations of log p(x, z) together with its gradient in z; none by default. Pilot runs
            are counted, too.
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
        """Evaluations without a gradient a datum, on average."""
        return float(self.density_evals.mean())

    @property
    def gradient(self) -> float:
        """Evaluations with a gradient a datum, on average."""
        return float(self.gradient_evals.mean())

    def summary(self) -> dict[str, float]:
        """The averages, in JSON's types."""
        return {"densities": self.density, "gradients": self.gradient}

    @property
    def passes(self) -> float:
        """Passes through the decoder a datum: 1 for a density, 2 for a gradient (forward, and backward to z)."""
        return self.density + 2 * self.gradient


@dataclass(frozen=True)
class Origin:
    """How an estimate was made, and which way it errs.

    Attributes:
        num_samples: S, the number of weights a datum: samples, chains, or independent runs. Where data got different
            numbers of them, the largest.
        method: the estimator's name, such as "importance".
        bound: "lower" or "upper" (in expectation: a stochastic bound), or "consistent" (no bound).
        seed: the seed that the estimate can be had again from.
        certified: whether ``bound`` is proved. False for a heuristic, such as an upper bound whose chains start from
            approximate posterior samples, and for products of a lower precision: it then holds for the model with
            rounded products, and not for the program.
        details: how it was run, in words, for tables and plots.
        precision: of the matrix products: "full", or the lower one that they were computed in.
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
        """Which way the estimate errs, in words."""
        if self.certified:
            return BOUNDS[self.bound]
        if self.precision != FULL:
            return f"{BOUNDS[self.bound]}, of a model with products in {self.precision}: not certified"
        return f"HEURISTIC {self.bound} bound, not certified"
