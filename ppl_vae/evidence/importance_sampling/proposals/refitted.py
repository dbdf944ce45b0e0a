"""Refitted proposal: the guide's family fitted to each datum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import check_positive_float, check_positive_int
from ppl_vae.evidence.importance_sampling.proposals.student import StudentT
from ppl_vae.evidence.importance_sampling.refit import TOLERANCE, refit
from ppl_vae.evidence.running.proposal import ProposalOnData
from ppl_vae.program import Data, Program, take


@dataclass(frozen=True)
class Refitted:
    """The member of the guide's family that `refit` finds for each datum, with its own random draws.

    It removes the amortisation gap, and so reduces the variance of the weights. It takes some thousand gradients for
    each datum, which are counted in ``gradient_evals``. The member with the best ELBO is usually too narrow for a
    proposal. The samples are therefore drawn from a Student t distribution with its moments, as by `StudentT`.

    Args:
        num_samples: the number of draws in a gradient.
        step_size: the optimiser's first step size.
        max_steps: the largest number of steps for a datum.
        tolerance: in nats: the gain of 50 steps below which a datum stalls; see `refit`.
        df: degrees of freedom of the t distribution; None for the refitted guide itself.

    Raises:
        ProgramError: naming a guide site that is discrete, or that cannot be refitted for another reason.
    """

    num_samples: int = 16
    step_size: float = 0.1
    max_steps: int = 2000
    tolerance: float = TOLERANCE
    df: float | None = 5.0

    def __post_init__(self) -> None:
        check_positive_int("num_samples", self.num_samples)
        check_positive_float("step_size", self.step_size)
        check_positive_int("max_steps", self.max_steps)
        check_positive_float("tolerance", self.tolerance)
        if self.df is not None:
            check_positive_float("df", self.df)

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        """The refitted guide for data ``x``."""
        found = refit(
            program,
            x,
            self.num_samples,
            step_size=self.step_size,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            seed=rng.derive(seed, "refitted proposal", index),
            progress=False,
        )
        if self.df is None:
            return _Refitted(found.program, found.x, found.density_evals, found.gradient_evals)
        bound = StudentT(self.df).bind(found.program, found.x, seed, index)
        bound.density_evals = found.density_evals + bound.density_evals
        bound.gradient_evals = found.gradient_evals
        return bound


class _Refitted(ProposalOnData):
    def __init__(
        self, program: Program, x: Data, densities: Tensor | float = 0.0, gradients: Tensor | float = 0.0
    ) -> None:
        self.program, self.x = program, x
        self.density_evals, self.gradient_evals = densities, gradients

    def log_weights(self, num_samples: int) -> Tensor:
        return self.program.log_weights(self.x, num_samples, seed=None, check=False)

    def take(self, rows: Tensor) -> ProposalOnData:
        return _Refitted(self.program, take(self.x, rows))
