"""Diagnostics: what is known of the draws behind an estimate. Each kind judges the data, and gives their intervals.

The kinds differ in what an error rests on: `WeightDiagnostics` on many independent weights, `RunDiagnostics` on the
spread of a few runs, `NumericalError` on no draws at all. What the verdicts mean is told in
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
"""The effective sample size that is worth one degree of freedom: weights are skewed, their variance is known less well
than that of normal numbers."""

_FLAGS = ("missed", "unvisited", "unconfirmed")
Rules: TypeAlias = dict[Verdict, Tensor]
Rows: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What was seen of the draws for each of N data, before it is said what the error of the estimate rests on.

    Attributes:
        ess: ``(N,)`` effective sample sizes, out of ``draws``.
        khat: ``(N,)`` Pareto tail indices of the weights (Vehtari et al. 2024).
        draws: ``(N,)`` int64, the number of weights that each datum got.
        hidden: ``(N,)`` what the tail of the weights may still hide, as a share of p(x) (see
            `ppl_vae.evidence.results.pareto.hidden_share`); NaN where there are no weights to tell.
        expected_ess: ``(N,)`` the effective sample size that the steps of a few runs let expect (see
            `ppl_vae.evidence.annealing.work_variance`); NaN where there are no steps.
        missed: ``(N,)`` bool, where other draws found clearly more mass than the estimate holds (see `prior_check`,
            `guide_check` and `mode_search` in `ppl_vae.evidence.running`); False where nobody looked.
        unvisited: ``(N,)`` bool, where exact posterior samples of data that the model makes lie where neither draws nor
            chains go (see `ppl_vae.evidence.running.simulation_check`); False where nobody looked.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support (see
            `ppl_vae.evidence.running.rounded_draws`); 0 where nobody looked.
        unconfirmed: ``(N,)`` bool, where the other bound of a `Sandwich` does not confirm this one; False elsewhere.
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
    """Diagnostics of which it is known what the error of an estimate rests on.

    Attributes:
        basis: the word for it in files.
        unit: what is counted by S; empty where nothing is drawn.
        error: what the error of a mean is called.
        curve: what the curve over K is called.
        has_iwae: whether it is that of the IWAE-K bounds, from the ELBO on.
    """

    basis: ClassVar[str]
    unit: ClassVar[str] = ""
    error: ClassVar[str] = "Monte Carlo"
    curve: ClassVar[str] = "K runs"
    has_iwae: ClassVar[bool] = False

    @property
    def drawn(self) -> bool:
        """Whether the numbers are a function of a seed."""
        return bool(self.unit)

    def counted(self, num_samples: int) -> str:
        """What stands after a method's name: how many were drawn."""
        return f", {num_samples} {self.unit}" if self.drawn else ""

    def verdicts(self, estimate: Estimate) -> list[Verdict]:
        """The verdict on each datum: the first of the rules that holds."""
        rules = self._rules(estimate)
        first = (torch.stack(list(rules.values())).cumsum(dim=0) == 0).sum(dim=0)
        verdicts = list(rules)
        return [verdicts[index] for index in first.tolist()]

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:
        """Both ends of each datum's interval, see `Evidence.interval`."""
        width = estimate.stderr * student_quantile(level, self._freedom())
        return estimate.value - width, estimate.value + width

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:
        """The rows of the table that are about draws, as names and texts.

        Args:
            num_samples: S.
            rejected: ``(N,)`` bool, the data whose estimates are.
        """
        raise NotImplementedError

    def _rules(self, estimate: Estimate) -> Rules:
        """``(N,)`` bool for each verdict of this kind: where it holds. The last holds everywhere."""
        raise NotImplementedError

    def _freedom(self) -> Tensor:
        """What the sample variance of weights is worth, ``(N,)`` degrees of freedom, at least 1."""
        raise NotImplementedError

    def _ess_row(self, num_samples: int) -> tuple[str, str]:
        fewest = int(self.draws.min())
        of = f"{num_samples}" if fewest == num_samples else f"{fewest} to {num_samples}"
        return "ESS", f"median {_median(self.ess):.1f} [min {float(self.ess.min()):.1f}] of {of}"

    def _khat_row(self) -> tuple[str, str]:
        numbers, threshold = self.khat[~self.khat.isnan()], khat_threshold(int(self.draws.min()))
        worst = float(numbers.max()) if len(numbers) else math.nan
        return "k-hat", f"median {_median(self.khat):.2f}, max {worst:.2f}, threshold {threshold:.2f}"

    def _told(self) -> Tensor:
        return ~self.hidden.isnan()

    def _heavy(self) -> Tensor:
        thresholds = {int(S): khat_threshold(int(S)) for S in self.draws.unique()}
        return self.khat > torch.tensor([thresholds[S] for S in self.draws.tolist()], dtype=torch.float64)

    def _hides_some(self) -> Tensor:
        """Where the tail hides more than a little; where nothing tells how much, by k-hat and its standard error."""
        error = _khat_error(self.khat, self.draws)
        return torch.where(self._told(), self.hidden > HIDDEN, self.khat + error >= INFINITE_VARIANCE)


@dataclass(frozen=True, eq=False)
class WeightDiagnostics(Judge):
    """Those of many independent importance weights, judged by what their tail may hide.

    Where ``hidden`` is NaN, as in files that were written without it, k-hat tells instead: heavy above its threshold,
    and to be looked at where, with its standard error, it reaches 0.5.
    """

    basis = "weights"
    unit = "samples"
    curve = "IWAE-K"
    has_iwae = True

    def counted(self, num_samples: int) -> str:
        """See `Judge.counted`."""
        return f", S = {num_samples}"

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:
        """See `Judge.interval`; the upper end has what the tail may hide above it."""
        low, high = super().interval(estimate, level)
        quantiles = torch.special.ndtri(torch.tensor([(1 + level) / 2, 0.975], dtype=torch.float64))
        scale = float(quantiles[0] / quantiles[1])
        return low, high + (scale * self.hidden).log1p().nan_to_num(nan=0.0, posinf=math.inf)

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:
        """See `Judge.table_rows`; the last tells what the tails may hide beyond the errors."""
        rows = [self._ess_row(num_samples), self._khat_row()]
        if self.hidden.isnan().all():
            return rows
        kept = self.hidden[~rejected]
        kept = kept[kept.isfinite()]
        if not len(kept):
            return [*rows, ("tail", "may hide an unknown amount")]
        mean, most = float(kept.log1p().mean()), float(kept.log1p().max())
        words = f"may hide up to {mean:.2g} nats beyond the errors on average, max {most:.2g}"
        return [*rows, ("tail", words)]

    def _rules(self, estimate: Estimate) -> Rules:
        told = self._told()
        return {
            Verdict.MISSED_MASS: self.missed,
            Verdict.NO_DENSITY: estimate.value.isinf(),
            Verdict.HEAVY_TAIL: torch.where(told, self.hidden > LOST_IN_TAIL, self._heavy()),
            Verdict.ROUNDED_EDGE: self.on_edge > ON_EDGE,
            Verdict.UNVISITED: self.unvisited,
            Verdict.NO_TAIL_FIT: ~told & self.khat.isnan(),
            Verdict.TAIL: self._hides_some(),
            Verdict.FEW_EFFECTIVE: ~(self.ess >= ENOUGH_ESS),
            Verdict.UNCONFIRMED: self.unconfirmed,
            Verdict.GOOD: torch.ones_like(self.missed),
        }

    def _freedom(self) -> Tensor:
        return (self.ess / _ESS_OF_A_FREEDOM).nan_to_num(nan=1.0).clamp(min=1.0)


@dataclass(frozen=True, eq=False)
class RunDiagnostics(Judge):
    """Those of a few chains, islands or scramblings, each an estimate of its own, judged by whether they agree.

    They are judged by k-hat, too, where there are enough of them for one.
    """

    basis = "runs"
    unit = "runs"

    def table_rows(self, num_samples: int, rejected: Tensor) -> Rows:  # noqa: ARG002  (as the others')
        """See `Judge.table_rows`. Their k-hat is that of all weights behind them, its threshold that for so few."""
        return [self._ess_row(num_samples)] + [self._khat_row()] * (not self.khat.isnan().all())

    def _rules(self, estimate: Estimate) -> Rules:
        told = self._told()
        share, expected = self.ess / self.draws, self.expected_ess / self.draws
        apart = torch.where(expected.isnan(), share < AGREEING, (expected < AGREEING) | (share < APART))
        let_expect = ((1 / expected - 1).clamp(min=0) / self.draws).sqrt()
        let_expect = torch.where(expected.isnan(), estimate.stderr, let_expect)
        wide = ~(student_quantile(SURELY, (self.draws - 1.0).clamp(min=1.0)) * let_expect <= RESOLVED)
        heavy = self._heavy() & (self.khat > INFINITE_VARIANCE)
        return {
            Verdict.MISSED_MASS: self.missed,
            Verdict.NO_DENSITY: estimate.value.isinf(),
            Verdict.ONE_RUN: self.draws < 2,
            Verdict.DISAGREE: ~(share >= DISAGREEING) | (self.ess < 2),
            Verdict.HEAVY_TAIL: torch.where(told, self.hidden > LOST_IN_TAIL, heavy),
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
    """Those of values that were computed: nothing was drawn, and the standard error is a bound of the numerical one."""

    basis = "computed"
    error = "numerical"

    @classmethod
    def of(cls, num_data: int) -> NumericalError:
        """That of so many data: one value each, and nothing that is known of draws."""
        nothing = torch.full((num_data,), math.nan, dtype=torch.float64)
        return cls(nothing, nothing, torch.ones(num_data, dtype=torch.int64))

    def interval(self, estimate: Estimate, level: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002  (any)
        """The error bound on either side, whatever the level."""
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
"""The kinds by their words in files."""


def student_quantile(level: float, freedom: Tensor) -> Tensor:
    """Half the width of a two-sided interval in standard errors, for ``(N,)`` degrees of freedom."""
    from scipy import special  # here, since it takes as long as all of ppl_vae to import

    return torch.from_numpy(np.asarray(special.stdtrit(freedom.cpu().numpy(), (1 + level) / 2)))


def _khat_error(khat: Tensor, draws: Tensor) -> Tensor:
    """The standard error of k-hat, (1 + k) / sqrt(M) for a tail of M (Smith 1987); 0 where there is no tail."""
    sizes = torch.tensor([tail_size(int(S)) for S in draws.tolist()], dtype=torch.float64)
    return torch.where(khat.isinf(), 0.0, (1 + khat.clamp(min=0)) / sizes.sqrt())


def _median(values: Tensor) -> float:
    """The median of what is not NaN (torch would give the lower of the middle two)."""
    numbers = values[~values.isnan()]
    return float(np.median(numbers.numpy())) if len(numbers) else math.nan
