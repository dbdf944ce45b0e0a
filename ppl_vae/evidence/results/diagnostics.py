"""Diagnostics of the draws behind an estimate. Each kind decides the verdicts and gives the intervals.

The kinds differ in the source of the error: many independent weights (`WeightDiagnostics`), the spread of a few runs
(`RunDiagnostics`), or the numerical error of a computed value (`NumericalError`). For the meaning of the verdicts see
`ppl_vae.evidence.results.verdict`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.results.pareto import khat_threshold, tail_size
from ppl_vae.evidence.results.parts import Estimate
from ppl_vae.evidence.results.verdict import (
    AGREEING,
    APART,
    DISAGREEING,
    ENOUGH_ESS,
    HIDDEN,
    INFINITE_VARIANCE,
    LOST,
    LOST_IN_TAIL,
    ON_EDGE,
    RESOLVED,
    SURELY,
    UNRESOLVED,
    Verdict,
)

_ESS_OF_A_FREEDOM = 4.0
"""The effective sample size for one degree of freedom: weights are skewed, so their variance is known less well than
that of normal numbers."""

_FLAGS = ("missed", "unvisited", "unconfirmed")
Rules: TypeAlias = dict[Verdict, Tensor]
Rows: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """The diagnostics of the draws for each of N data, for errors of any source.

    Attributes:
        ess: ``(N,)`` effective sample sizes, at most ``draws``.
        khat: ``(N,)`` Pareto tail indices of the weights (Vehtari et al. 2024).
        draws: ``(N,)`` int64, the number of weights of each datum.
        hidden: ``(N,)`` the share of p(x) that the tail of the weights may hide (see
            `ppl_vae.evidence.results.pareto.hidden_share`); NaN if it is not known.
        expected_ess: ``(N,)`` the effective sample size that the steps of a few runs predict (see
            `ppl_vae.evidence.annealing.work_variance`); NaN for estimators without steps.
        missed: ``(N,)`` bool, True if other draws found clearly more mass than the estimate (see `prior_check`,
            `guide_check` and `mode_search` in `ppl_vae.evidence.running`); False if this was not checked.
        unvisited: ``(N,)`` bool, True if exact posterior samples of simulated data lie where neither draws nor chains
            go (see `ppl_vae.evidence.running.simulation_check`); False if this was not checked.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support (see
            `ppl_vae.evidence.running.rounded_draws`); 0 if this was not checked.
        unconfirmed: ``(N,)`` bool, True if the other bound of a `Sandwich` does not confirm this one; else False.
    """

    ess: Tensor
    khat: Tensor
    draws: Tensor
    hidden: Tensor = None  # type: ignore[assignment]  # __post_init__ fills these six in
    expected_ess: Tensor = None  # type: ignore[assignment]
    missed: Tensor = None  # type: ignore[assignment]
    unvisited: Tensor = None  # type: ignore[assignment]
    on_edge: Tensor = None  # type: ignore[assignment]
    unconfirmed: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.ess, Tensor):
            raise InputError("ess", "a tensor", describe(self.ess))
        usual = dict.fromkeys(("hidden", "expected_ess"), math.nan) | dict.fromkeys((*_FLAGS, "on_edge"), 0.0)
        for name, value in usual.items():
            if getattr(self, name) is None:
                dtype = torch.bool if name in _FLAGS else torch.float64
                object.__setattr__(self, name, torch.full_like(self.ess, value, dtype=dtype))


@dataclass(frozen=True, eq=False)
class Judge(Diagnostics):
    """Diagnostics with a known source of the error, which decide verdicts and give intervals.

    Attributes:
        basis: the name of the source in files: "weights", "runs" or "computed".
        unit: the unit that S counts; empty if nothing is drawn.
        error: the name of the error of a mean.
        curve: the name of the curve over K.
        has_iwae: whether the curve is that of the IWAE-K bounds, which starts at the ELBO.
    """

    basis: ClassVar[str]
    unit: ClassVar[str] = ""
    error: ClassVar[str] = "Monte Carlo"
    curve: ClassVar[str] = "K runs"
    has_iwae: ClassVar[bool] = False

    @property
    def drawn(self) -> bool:
        """Whether the numbers depend on a seed."""
        return bool(self.unit)

    def counted(self, num_samples: int) -> str:
        """The text after a method's name: the number of samples or runs."""
        return f", {num_samples} {self.unit}" if self.drawn else ""

    def verdicts(self, estimate: Estimate) -> list[Verdict]:
        """The verdict on each datum: the first rule that applies."""
        rules = self._rules(estimate)
        first = (torch.stack(list(rules.values())).cumsum(dim=0) == 0).sum(dim=0)
        verdicts = list(rules)
        return [verdicts[index] for index in first.tolist()]

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:
        """Both ends of each datum's interval, see `Evidence.interval`."""
        width = estimate.stderr * student_quantile(level, self._freedom())
        return estimate.value - width, estimate.value + width

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:
        """The rows of the table about draws, as names and texts.

        Args:
            num_samples: S.
            rejected: ``(N,)`` bool, True for data whose estimates are rejected.
        """
        raise NotImplementedError

    def _rules(self, estimate: Estimate) -> Rules:
        """``(N,)`` bool for each verdict of this kind: whether its rule applies. The last rule always applies."""
        raise NotImplementedError

    def _freedom(self) -> Tensor:
        """The degrees of freedom of the sample variance of weights, ``(N,)``, at least 1."""
        raise NotImplementedError

    def _ess_row(self, num_samples: int) -> tuple[str, str]:
        fewest = int(self.draws.min())
        of = f"{num_samples}" if fewest == num_samples else f"{fewest} to {num_samples}"
        return "ESS", f"median {_median(self.ess):.1f} [min {float(self.ess.min()):.1f}] of {of}"

    def _khat_row(self) -> tuple[str, str]:
        numbers, threshold = self.khat[~self.khat.isnan()], khat_threshold(int(self.draws.min()))
        worst = float(numbers.max()) if len(numbers) else math.nan
        return "k-hat", f"median {_median(self.khat):.2f}, max {worst:.2f}, threshold {threshold:.2f}"

    def _hidden_known(self) -> Tensor:
        return ~self.hidden.isnan()

    def _heavy(self) -> Tensor:
        thresholds = {int(S): khat_threshold(int(S)) for S in self.draws.unique()}
        return self.khat > torch.tensor([thresholds[S] for S in self.draws.tolist()], dtype=torch.float64)

    def _hides_some(self) -> Tensor:
        """Whether the tail may hide more than 5 %; by k-hat and its standard error if the share is not known."""
        error = _khat_error(self.khat, self.draws)
        return torch.where(self._hidden_known(), self.hidden > HIDDEN, self.khat + error >= INFINITE_VARIANCE)


@dataclass(frozen=True, eq=False)
class WeightDiagnostics(Judge):
    """Diagnostics of many independent importance weights; verdicts depend on the share that their tail may hide.

    If ``hidden`` is NaN, as in files that were written without it, k-hat is used instead: the tail is heavy if k-hat is
    above its threshold, and the estimate gets caution if k-hat plus its standard error is at least 0.5.
    """

    basis = "weights"
    unit = "samples"
    curve = "IWAE-K"
    has_iwae = True

    def counted(self, num_samples: int) -> str:
        """See `Judge.counted`."""
        return f", S = {num_samples}"

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:
        """See `Judge.interval`; the share that the tail may hide is added to the upper end."""
        low, high = super().interval(estimate, level)
        quantiles = torch.special.ndtri(torch.tensor([(1 + level) / 2, 0.975], dtype=torch.float64))
        scale = float(quantiles[0] / quantiles[1])
        return low, high + (scale * self.hidden).log1p().nan_to_num(nan=0.0, posinf=math.inf)

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:
        """See `Judge.table_rows`; the last row gives the mass that the tails may hide in addition to the errors."""
        rows = [self._ess_row(num_samples), self._khat_row()]
        if self.hidden.isnan().all():
            return rows
        kept = self.hidden[~rejected]
        kept = kept[kept.isfinite()]
        if not len(kept):
            return [*rows, ("tail", "may hide an unknown amount")]
        mean, most = float(kept.log1p().mean()), float(kept.log1p().max())
        words = f"may hide up to {mean:.2g} nats in addition to the errors on average, max {most:.2g}"
        return [*rows, ("tail", words)]

    def _rules(self, estimate: Estimate) -> Rules:
        known = self._hidden_known()
        return {
            Verdict.MISSED_MASS: self.missed,
            Verdict.NO_DENSITY: estimate.value.isinf(),
            Verdict.HEAVY_TAIL: torch.where(known, self.hidden > LOST_IN_TAIL, self._heavy()),
            Verdict.ROUNDED_EDGE: self.on_edge > ON_EDGE,
            Verdict.UNVISITED: self.unvisited,
            Verdict.NO_TAIL_FIT: ~known & self.khat.isnan(),
            Verdict.TAIL: self._hides_some(),
            Verdict.FEW_EFFECTIVE: ~(self.ess >= ENOUGH_ESS),
            Verdict.UNCONFIRMED: self.unconfirmed,
            Verdict.GOOD: torch.ones_like(self.missed),
        }

    def _freedom(self) -> Tensor:
        return (self.ess / _ESS_OF_A_FREEDOM).nan_to_num(nan=1.0).clamp(min=1.0)


@dataclass(frozen=True, eq=False)
class RunDiagnostics(Judge):
    """Diagnostics of a few runs (chains, islands or scramblings), each with an estimate of its own.

    Verdicts depend on the spread of the runs, and on k-hat if there are enough runs for it.
    """

    basis = "runs"
    unit = "runs"

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:  # noqa: ARG002  (as the others')
        """See `Judge.table_rows`. k-hat is that of all weights of the runs; its threshold is that for few runs."""
        return [self._ess_row(num_samples)] + [self._khat_row()] * (not self.khat.isnan().all())

    def _rules(self, estimate: Estimate) -> Rules:
        known = self._hidden_known()
        share, expected = self.ess / self.draws, self.expected_ess / self.draws
        apart = torch.where(expected.isnan(), share < AGREEING, (expected < AGREEING) | (share < APART))
        expected_stderr = ((1 / expected - 1).clamp(min=0) / self.draws).sqrt()
        expected_stderr = torch.where(expected.isnan(), estimate.stderr, expected_stderr)
        wide = ~(student_quantile(SURELY, (self.draws - 1.0).clamp(min=1.0)) * expected_stderr <= RESOLVED)
        heavy = self._heavy() & (self.khat > INFINITE_VARIANCE)
        return {
            Verdict.MISSED_MASS: self.missed,
            Verdict.NO_DENSITY: estimate.value.isinf(),
            Verdict.ONE_RUN: self.draws < 2,
            Verdict.DISAGREE: ~(share >= DISAGREEING) | (self.ess < 2),
            Verdict.HEAVY_TAIL: torch.where(known, self.hidden > LOST_IN_TAIL, heavy),
            Verdict.ROUNDED_EDGE: self.on_edge > ON_EDGE,
            Verdict.UNVISITED: self.unvisited,
            Verdict.SPREAD: apart | wide,
            Verdict.TAILED: self._hides_some() & ~self.khat.isnan(),
            Verdict.UNCONFIRMED: self.unconfirmed,
            Verdict.AGREE: torch.ones_like(self.missed),
        }

    def _freedom(self) -> Tensor:
        # exp(sigma^2) of lognormal weights is 1 + their relative variance.
        ratio = (self.draws / self.ess).nan_to_num(nan=1.0).clamp(1.0, 1e3)
        kurtosis = ratio**4 + 2 * ratio**3 + 3 * ratio**2 - 6
        simple = (self.draws - 1).clamp(min=1)
        return (2 / (2 / simple + kurtosis / self.draws)).clamp(min=1.0)


@dataclass(frozen=True, eq=False)
class NumericalError(Judge):
    """Diagnostics of computed values: nothing was drawn, and the standard error is a bound of the numerical error."""

    basis = "computed"
    error = "numerical"

    @classmethod
    def of(cls, num_data: int) -> NumericalError:
        """The diagnostics of N data with one computed value each."""
        nothing = torch.full((num_data,), math.nan, dtype=torch.float64)
        return cls(nothing, nothing, torch.ones(num_data, dtype=torch.int64))

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002  (any)
        """The value plus and minus its error bound, for any level."""
        return estimate.value - estimate.stderr, estimate.value + estimate.stderr

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:  # noqa: ARG002  (as the others')
        """None: nothing was drawn."""
        return []

    def _rules(self, estimate: Estimate) -> Rules:
        return {
            Verdict.UNKNOWN: ~(estimate.stderr <= LOST),
            Verdict.NO_DENSITY: estimate.value.isinf(),
            Verdict.ROUGH: estimate.stderr > UNRESOLVED,
            Verdict.COMPUTED: torch.ones_like(self.missed),
        }


KINDS: dict[str, type[Judge]] = {
    kind.basis: kind for kind in (WeightDiagnostics, RunDiagnostics, NumericalError)
}
"""The kinds by their names in files."""


def student_quantile(level: float, freedom: Tensor) -> Tensor:
    """Half the width of a two-sided interval in standard errors, for ``(N,)`` degrees of freedom."""
    from scipy import special  # here, because its import takes as long as that of ppl_vae

    return torch.from_numpy(np.asarray(special.stdtrit(freedom.cpu().numpy(), (1 + level) / 2)))


def _khat_error(khat: Tensor, draws: Tensor) -> Tensor:
    """The standard error of k-hat, (1 + k) / sqrt(M) for a tail of M weights (Smith 1987); 0 if there is no tail."""
    sizes = torch.tensor([tail_size(int(S)) for S in draws.tolist()], dtype=torch.float64)
    return torch.where(khat.isinf(), 0.0, (1 + khat.clamp(min=0)) / sizes.sqrt())


def _median(values: Tensor) -> float:
    """The median of the values that are not NaN (torch would return the lower of the middle two)."""
    numbers = values[~values.isnan()]
    return float(np.median(numbers.numpy())) if len(numbers) else math.nan
