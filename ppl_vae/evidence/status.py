"""When an importance sampling estimate is to be trusted: the rules, and what to do if it is not."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ppl_vae.evidence.psis import khat_threshold, tail_size

INFINITE_VARIANCE = 0.5
"""k from which on the weights have no variance (moments of order 1 / k and above do not exist)."""

ENOUGH_ESS = 100.0
"""The effective sample size below which the delta method's standard error is not relied on."""

ENOUGH_BESIDE_TAIL = 50.0
"""The effective sample size that has to be left once the tail is discounted.

By 1 - 2 k, k being k-hat and its standard error: what is left of the second moment of the largest weights, of which the
samples have seen the smaller part, as k goes to 1/2. Weights whose tail has not been seen yet look even, and hold too
little: that is where an effective sample size is too large.
"""

HEAVY_FOR_RUNS = 0.25
"""The k-hat of all weights above which the spread of a few runs of them is rough."""

STATUSES = ("trust", "caution", "reject")

BASES = ("weights", "runs", "computed")
"""What an error rests on: many independent weights, a few independent runs, or nothing drawn at all."""

FULL = "full"
"""The precision of matrix products that were not rounded, as in `ppl_vae.program.lowering`."""

AGREEING, APART, DISAGREEING = 0.8, 0.6, 0.25
"""ESS a run: from 0.8 on (relative variance 1/4) runs agree; below 0.25 (variance 3) one of them carries all.

The first is asked of what the steps let expect, where there are steps (see `ppl_vae.evidence.increments`): asked of how
a few runs happened to end, it would pick those that are close together by chance, whose intervals are too short. How
they ended is asked for 0.6 only then, for modes that the steps know nothing of.
"""

ON_EDGE = 0.005
"""The share of draws on an edge of their support from which on an estimate is not trusted: two of 256."""

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
            "draws of the prior find more mass than the estimate holds, so a part of the posterior is missed: "
            "use chains that start from the prior, a Defensive proposal, or a better guide"
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
            "the weights' tail is too heavy for this many samples (k-hat above the threshold), so the "
            "estimate and its standard error are not to be believed: "
            "use a better guide, annealed importance sampling, or far more samples"
        ),
    )
    NO_TAIL_FIT = (
        "caution",
        (
            "no tail could be fitted to the largest weights (20 samples or fewer, or nearly all of them "
            "tied), so the estimate is unchecked: draw more samples"
        ),
    )
    NO_VARIANCE = (
        "caution",
        (
            "the weights have a mean but perhaps no variance (k-hat and its standard error reach 0.5), so the "
            "standard error may be too small: draw more samples, or use a better guide"
        ),
    )
    FEW_EFFECTIVE = (
        "caution",
        (
            "the effective sample size is below 100, or below 50 without the weights' tail, so the standard error is "
            "rough: "
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
        "the runs spread too widely for so few of them, so the standard error is rough: use more steps or more runs",
    )
    TAILED = (
        "caution",
        "the weights' tail is heavy for so few runs, so the spread of the runs is rough: use more samples or more runs",
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
    GOOD = ("trust", "the weights have a light tail and enough of them count")
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
    on_edge: Tensor | None = None,
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
        missed: ``(N,)`` bool, where draws of the prior found more than the estimate holds.
        expected_ess: ``(N,)`` the effective sample sizes that the steps of a few runs let expect; NaN where there are
            none.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support.
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
    room = 1 - 2 * (khat + _khat_error(khat, number)).clamp(min=0)
    error = torch.zeros_like(khat) if stderr is None else stderr
    found = torch.zeros_like(always) if missed is None else missed
    rounded = torch.zeros_like(always) if on_edge is None else on_edge > ON_EDGE
    rules = {
        "weights": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.HEAVY_TAIL: heavy,
            Verdict.ROUNDED_EDGE: rounded,
            Verdict.NO_TAIL_FIT: khat.isnan(),
            Verdict.NO_VARIANCE: room <= 0,
            Verdict.FEW_EFFECTIVE: ~((ess >= ENOUGH_ESS) & (ess * room >= ENOUGH_BESIDE_TAIL)),
            Verdict.GOOD: always,
        },
        "runs": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.ONE_RUN: number < 2,
            Verdict.DISAGREE: ~(share >= DISAGREEING) | (ess < 2),
            Verdict.HEAVY_TAIL: heavy & (khat > INFINITE_VARIANCE),
            Verdict.ROUNDED_EDGE: rounded,
            Verdict.SPREAD: apart,
            Verdict.TAILED: khat > HEAVY_FOR_RUNS,
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


def _khat_error(khat: Tensor, draws: Tensor) -> Tensor:
    """The standard error of k-hat, (1 + k) / sqrt(M) for a tail of M (Smith 1987); 0 where there is no tail."""
    sizes = torch.tensor([tail_size(int(S)) for S in draws.tolist()], dtype=torch.float64)
    return torch.where(khat.isinf(), 0.0, (1 + khat.clamp(min=0)) / sizes.sqrt())
