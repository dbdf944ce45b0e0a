"""Pareto smoothed importance sampling (PSIS): the largest weights are replaced by quantiles of a fitted tail."""

from __future__ import annotations

import math
from typing import Any

import torch
from typing_extensions import Unpack

from ppl_vae.evidence.importance_sampling.importance import describe_proposal, estimate_from_draws
from ppl_vae.evidence.importance_sampling.proposals import Guide, Proposal
from ppl_vae.evidence.results.accumulator import Accumulator, Figures, stderr_of_mean
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.pareto import smooth, tail_size
from ppl_vae.evidence.running.blocks import evidence_of
from ppl_vae.evidence.running.options import ALL, RunOptions, takes_run_options
from ppl_vae.program import Data, Program


@takes_run_options(*ALL)
def psis(
    program: Program,
    x: Data,
    num_samples: int = 5000,
    *,
    proposal: Proposal | None = None,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum by Pareto smoothed importance sampling.

    The M = ceil(min(S / 5, 3 sqrt(S))) largest weights are replaced by the expected order statistics of the
    generalised Pareto distribution that is fitted to them, none larger than the largest weight. The estimate is the log
    of the mean of the new weights. If the tail is heavy, it has a smaller variance than `importance` with the same
    weights. Its bias is unknown, mostly negative, and vanishes as S grows, so it is an estimate and not a bound. For a
    Gaussian 0.7 times as wide as its posterior (k-hat 0.53) and S = 1,000, its mean squared error is 0.4 times that of
    `importance`, and 1 % of p(x) is missing on average. It cannot find mass that no draw has visited, so its verdicts
    follow the same rules as those of `importance`.

    Args:
        program: as for `importance`.
        x: the data.
        num_samples: S, above 20 so that there is a tail to smooth.
        proposal: as for `importance`.
        seed: seed of all random numbers; the weights are those of `importance` with the same seed.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="consistent"``: for each datum in nats, ``(N,)`` float64. Standard error and ESS are
        those of the smoothed weights. The ELBO, k-hat and the curve are those of the original weights, so the curve
        ends at the estimate without smoothing.

    Raises:
        InputError, ProgramError, NonFiniteError: as for `importance`.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024).
    """
    proposal = Guide() if proposal is None else proposal
    figures = estimate_from_draws(
        program,
        x,
        num_samples,
        proposal,
        Smoothed,
        name="Pareto smoothed importance sampling",
        seed=seed,
        **run,
    )
    return evidence_of(
        figures, method="psis", bound="consistent", seed=seed, details=describe_proposal(proposal)
    )


class Smoothed(Accumulator):
    """An accumulator whose log evidence, standard error and ESS are those of the Pareto smoothed weights."""

    def _read(self) -> Figures:
        figures = super()._read()
        S = self.count
        width = min(tail_size(S) + 1, S)
        raw = self._tail[: self._tail_fill].topk(width, dim=0).values.T
        reference = torch.where(self._max == -math.inf, 0.0, self._max)[:, None]
        new, old = (smooth(raw, S) - reference).exp(), (raw.sort(dim=1).values - reference).exp()
        change, change_of_squares = (new - old).sum(1), (new**2 - old**2).sum(1)
        moved = (change != 0) | (change_of_squares != 0)
        mean = self._mean + change / S
        # The squared deviations from the new mean; they are below zero only by round-off.
        m2 = (self._m2 + S * (self._mean**2 - mean**2) + change_of_squares).clamp(min=0)
        stderr = stderr_of_mean(m2, S) / mean
        ess = S / (1 + m2 / (S * mean**2))
        read = {"log_evidence": self._max + mean.log(), "stderr": stderr, "ess": ess}
        new_figures: dict[str, Any] = {
            name: torch.where(moved.cpu(), value.cpu(), getattr(figures, name))
            for name, value in read.items()
        }
        return figures.replace(**new_figures)
