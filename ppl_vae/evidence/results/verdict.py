"""Verdicts: the rules by which an estimate is given trust, caution or reject, and what to do about the last two."""

from __future__ import annotations

from enum import Enum

import numpy as np
import torch
from torch import Tensor

from ppl_vae.evidence.results.pareto import khat_threshold, tail_size

INFINITE_VARIANCE = 0.5
"""k from which on the weights have no variance (moments of order 1 / k and above do not exist)."""

HIDDEN, LOST_IN_TAIL = 0.05, 0.3
"""What the tail of the weights may still hide, as a share of p(x): from the first on an estimate is given with caution,
from the second on it is rejected.

Of estimates of exact models with less than the first, 95 % intervals cover 95 %; those between the two cover as much,
since what may be hidden is a part of the interval, and are wide.
"""

ENOUGH_ESS = 25.0
"""The effective sample size below which the delta method's standard error is not relied on."""

_ESS_OF_A_FREEDOM = 4.0
"""The effective sample size that is worth one degree of freedom: weights are skewed, their variance is known less well
than that of normal numbers."""

STATUSES = ("trust", "caution", "reject")

BASES = ("weights", "runs", "computed")
"""What an error rests on: many independent weights, a few independent runs, or nothing drawn at all."""

FULL = "full"
"""The precision of matrix products that were not rounded, as in `ppl_vae.program.matmul_precision`."""

AGREEING, APART, DISAGREEING = 0.8, 0.6, 0.25
"""ESS a run: from 0.8 on (relative variance 1/4) runs agree; below 0.25 (variance 3) one of them carries all.

The first is asked of what the steps let expect, where there are steps (see `ppl_vae.evidence.annealing.work_variance`):
asked of how a few runs happened to end, it would pick those that are close together by chance, whose intervals are too
short. How they ended is asked for 0.6 only then, for modes that the steps know nothing of.
"""

ON_EDGE = 0.005
"""The share of draws on an edge of their support from which on an estimate is not trusted: two of 256."""
RESOLVED, SURELY = 0.2, 0.95
"""Nats, and a level: a few runs are trusted if an interval at this level may be expected to reach no further than this.

Few runs tell little of their own tail, so a wide interval of them is not what a wide interval of many weights is. As
for `AGREEING`, it is asked of what the steps let expect, where there are steps.
"""

UNRESOLVED, LOST = 0.1, 1.0
"""Nats: numerical errors from which on a computed value is given with caution, and rejected."""


class Verdict(Enum):
    """What is to be thought of one datum's estimate. Where several hold, the first in this order is given.

    Attributes:
        status: "trust", "caution" or "reject".
        message: why, and what to do, in one sentence.
    """

    status: str
    message: str

    MISSED_MASS = (
        "reject",
        (
            "draws of the prior or of the guide, or a search for modes, find more mass than the estimate holds, so a "
            "part of the posterior is missed: "
            "use chains that start from the prior, a Defensive proposal, or a better guide"
        ),
    )
    UNVISITED = (
        "reject",
        (
            "exact posterior samples of data that the model makes lie where the draws or chains for those data do not "
            "go, so a part of the posterior may be missed here, too, by an unknown amount: "
            "use a guide that covers it; sandwich measures the gap on simulated data"
        ),
    )
    NO_DENSITY = (
        "reject",
        (
            "no sample has any density under the model, so there is no estimate: "
            "use a better guide, or annealed importance sampling"
        ),
    )
    ROUNDED_EDGE = (
        "caution",
        (
            "rounding puts draws onto the edge of their support (a probability of exactly 0 or 1), where densities are "
            "not those of the model, so the estimate is off by an unknown amount: use float64 data and parameters, or "
            "a latent whose edges have little mass"
        ),
    )
    HEAVY_TAIL = (
        "reject",
        (
            "the weights' tail may hide more than 30 % of p(x), so the estimate is too low by an unknown amount and "
            "its standard error is not to be believed: "
            "use a better guide, annealed importance sampling, or far more samples"
        ),
    )
    NO_TAIL_FIT = (
        "caution",
        (
            "no tail could be fitted to the largest weights (20 samples or fewer), so the estimate is unchecked: "
            "draw more samples"
        ),
    )
    TAIL = (
        "caution",
        (
            "the weights' tail may hide from 5 to 30 % of p(x), so the error may be larger than its standard error "
            "says, up to about the upper end of the interval: draw more samples, or use a better guide"
        ),
    )
    FEW_EFFECTIVE = (
        "caution",
        (
            "the effective sample size is below 25, so the error may be larger than its standard error says: "
            "draw more samples, or use a better guide or annealed importance sampling"
        ),
    )
    DISAGREE = (
        "reject",
        (
            "the runs disagree so much that one or two of them carry the estimate, so it is too low (an upper bound: "
            "too high) by an unknown amount: use more steps or a better schedule"
        ),
    )
    SPREAD = (
        "caution",
        (
            "the runs spread too widely for so few of them, so the error may be larger than its standard error says: "
            "use more steps or more runs"
        ),
    )
    TAILED = (
        "caution",
        (
            "the weights' tail may hide more than the spread of so few runs shows, so the error may be larger than its "
            "standard error says: use more samples or more runs"
        ),
    )
    UNKNOWN = ("reject", "the numerical error is above 1 nat: use more nodes, or another rule")
    ROUGH = ("caution", "the numerical error is above 0.1 nat: use more nodes, or another rule")
    ONE_RUN = ("caution", "one run has no spread to judge it by: use at least two")
    HEURISTIC = (
        "caution",
        "no bound is proved, since the chains start from approximate samples of the posterior: use simulated data",
    )
    ROUNDED = (
        "caution",
        (
            "the matrix products were rounded to a lower precision, which biases the estimate by an amount that does "
            "not show here: use full precision, or see with precision_error that it does not matter"
        ),
    )
    UNCONFIRMED = (
        "caution",
        (
            "the other bound of the same datum does not confirm it: the two are further apart than their errors "
            "explain, or the other one is rejected, so it may be loose by more than its standard error says: "
            "use more steps, or a better guide"
        ),
    )
    GOOD = ("trust", "the weights' tail hides little and enough of them count")
    AGREE = ("trust", "the runs agree")
    COMPUTED = ("trust", "nothing was drawn: the error is the numerical one")

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        self.message = message


def judge(
    log_evidence: Tensor,
    khat: Tensor,
    ess: Tensor,
    draws: Tensor | int,
    basis: str = "weights",
    stderr: Tensor | None = None,
    missed: Tensor | None = None,
    expected_ess: Tensor | None = None,
    hidden: Tensor | None = None,
    unvisited: Tensor | None = None,
    on_edge: Tensor | None = None,
    unconfirmed: Tensor | None = None,
) -> list[Verdict]:
    """The verdict on each datum.

    Args:
        log_evidence: ``(N,)`` in nats.
        khat: ``(N,)`` Pareto tail indices, NaN where there is none.
        ess: ``(N,)`` effective sample sizes.
        draws: ``(N,)`` the numbers of weights, on which the threshold for k-hat depends; or one number for all.
        basis: one of `BASES`. A few runs are judged by whether they agree, and by k-hat, too, where there are
            enough of them for one.
        stderr: ``(N,)`` errors, by which computed values are judged.
        missed: ``(N,)`` bool, where other draws found more than the estimate holds.
        expected_ess: ``(N,)`` the effective sample sizes that the steps of a few runs let expect; NaN where there are
            none.
        hidden: ``(N,)`` what the tail of the weights may hide, as a share of p(x). Where it is NaN, as in files that
            were written without it, k-hat tells instead: heavy above its threshold, and to be looked at where, with
            its standard error, it reaches 0.5.
        unvisited: ``(N,)`` bool, where exact posterior samples of simulated data lie where no draw or chain goes.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support.
        unconfirmed: ``(N,)`` bool, where a bound from the other side does not confirm it.
    """
    number = torch.as_tensor(draws).expand(log_evidence.shape)
    thresholds = {int(S): khat_threshold(int(S)) for S in number.unique()}
    threshold = torch.tensor([thresholds[S] for S in number.tolist()], dtype=torch.float64)
    always = torch.ones_like(khat, dtype=torch.bool)
    empty = log_evidence.isinf()
    heavy = khat > threshold
    share = ess / number
    expected = torch.full_like(share, torch.nan) if expected_ess is None else expected_ess / number
    apart = torch.where(expected.isnan(), share < AGREEING, (expected < AGREEING) | (share < APART))
    wide = torch.zeros_like(khat, dtype=torch.bool)
    if basis == "runs" and stderr is not None:
        let_expect = ((1 / expected - 1).clamp(min=0) / number).sqrt()
        let_expect = torch.where(expected.isnan(), stderr, let_expect)
        wide = ~(student_quantile(SURELY, (number - 1.0).clamp(min=1.0)) * let_expect <= RESOLVED)
    error = torch.zeros_like(khat) if stderr is None else stderr
    found = torch.zeros_like(always) if missed is None else missed
    rounded = torch.zeros_like(always) if on_edge is None else on_edge > ON_EDGE
    elsewhere = torch.zeros_like(always) if unvisited is None else unvisited
    alone = torch.zeros_like(always) if unconfirmed is None else unconfirmed
    share_hidden = torch.full_like(khat, torch.nan) if hidden is None else hidden
    told = ~share_hidden.isnan()
    much = torch.where(told, share_hidden > LOST_IN_TAIL, heavy)
    some = torch.where(told, share_hidden > HIDDEN, khat + _khat_error(khat, number) >= INFINITE_VARIANCE)
    rules = {
        "weights": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.HEAVY_TAIL: much,
            Verdict.ROUNDED_EDGE: rounded,
            Verdict.UNVISITED: elsewhere,
            Verdict.NO_TAIL_FIT: ~told & khat.isnan(),
            Verdict.TAIL: some,
            Verdict.FEW_EFFECTIVE: ~(ess >= ENOUGH_ESS),
            Verdict.UNCONFIRMED: alone,
            Verdict.GOOD: always,
        },
        "runs": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.ONE_RUN: number < 2,
            Verdict.DISAGREE: ~(share >= DISAGREEING) | (ess < 2),
            Verdict.HEAVY_TAIL: torch.where(told, much, heavy & (khat > INFINITE_VARIANCE)),
            Verdict.ROUNDED_EDGE: rounded,
            Verdict.UNVISITED: elsewhere,
            Verdict.SPREAD: apart | wide,
            Verdict.TAILED: some & ~khat.isnan(),
            Verdict.UNCONFIRMED: alone,
            Verdict.AGREE: always,
        },
        "computed": {
            Verdict.UNKNOWN: ~(error <= LOST),
            Verdict.NO_DENSITY: empty,
            Verdict.ROUGH: error > UNRESOLVED,
            Verdict.COMPUTED: always,
        },
    }[basis]
    # The first rule that holds, as the number of rules before it.
    first = (torch.stack(list(rules.values())).cumsum(dim=0) == 0).sum(dim=0)
    verdicts = list(rules)
    return [verdicts[index] for index in first.tolist()]


def degrees_of_freedom(draws: Tensor, ess: Tensor, basis: str) -> Tensor:
    """What the sample variance of weights is worth, see `Evidence.interval`: ``(N,)``, at least 1.

    Args:
        draws: ``(N,)`` S, or the number of runs.
        ess: ``(N,)`` the effective sample sizes, out of S.
        basis: "weights" or "runs".
    """
    if basis == "weights":
        return (ess / _ESS_OF_A_FREEDOM).nan_to_num(nan=1.0).clamp(min=1.0)
    # exp(sigma^2) of lognormal weights is 1 + their relative variance.
    ratio = (draws / ess).nan_to_num(nan=1.0).clamp(1.0, 1e3)
    kurtosis = ratio**4 + 2 * ratio**3 + 3 * ratio**2 - 6
    simple = (draws - 1).clamp(min=1)
    return (2 / (2 / simple + kurtosis / draws)).clamp(min=1.0)


def student_quantile(level: float, freedom: Tensor) -> Tensor:
    """Half the width of a two-sided interval in standard errors, for ``(N,)`` degrees of freedom."""
    from scipy import special  # here, since it takes as long as all of ppl_vae to import

    return torch.from_numpy(np.asarray(special.stdtrit(freedom.cpu().numpy(), (1 + level) / 2)))


def _khat_error(khat: Tensor, draws: Tensor) -> Tensor:
    """The standard error of k-hat, (1 + k) / sqrt(M) for a tail of M (Smith 1987); 0 where there is no tail."""
    sizes = torch.tensor([tail_size(int(S)) for S in draws.tolist()], dtype=torch.float64)
    return torch.where(khat.isinf(), 0.0, (1 + khat.clamp(min=0)) / sizes.sqrt())
