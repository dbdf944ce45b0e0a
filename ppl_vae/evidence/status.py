"""When an importance sampling estimate is to be trusted: the rules, and what to do if it is not."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ppl_vae.evidence.psis import khat_threshold

INFINITE_VARIANCE = 0.5
"""k from which on the weights have no variance (moments of order 1 / k and above do not exist)."""

ENOUGH_ESS = 100.0
"""The effective sample size below which the delta method's standard error is not relied on."""

STATUSES = ("trust", "caution", "reject")

BASES = ("weights", "runs", "computed")
"""What an error rests on: many independent weights, a few independent runs, or nothing drawn at all."""

AGREEING, DISAGREEING = 0.9, 0.25
"""ESS a run: from 0.9 on (relative variance 1/9) a few runs agree; below 0.25 (variance 3) one of them carries all.

Where the true variance is larger, a lenient limit would pick just the runs that happen to agree.
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
            "the weights have a mean but perhaps no variance (k-hat above 0.5), so the standard error is too "
            "small: draw more samples, or use a better guide"
        ),
    )
    FEW_EFFECTIVE = (
        "caution",
        (
            "the effective sample size is below 100, so the standard error is rough: "
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
    """
    number = torch.as_tensor(draws).expand(log_evidence.shape)
    thresholds = {int(S): khat_threshold(int(S)) for S in number.unique()}
    threshold = torch.tensor([thresholds[S] for S in number.tolist()], dtype=torch.float64)
    always = torch.ones_like(khat, dtype=torch.bool)
    empty = log_evidence.isinf()
    heavy = khat > threshold
    share = ess / number
    error = torch.zeros_like(khat) if stderr is None else stderr
    found = torch.zeros_like(always) if missed is None else missed
    rules = {
        "weights": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.HEAVY_TAIL: heavy,
            Verdict.NO_TAIL_FIT: khat.isnan(),
            Verdict.NO_VARIANCE: khat > INFINITE_VARIANCE,
            Verdict.FEW_EFFECTIVE: ~(ess >= ENOUGH_ESS),
            Verdict.GOOD: always,
        },
        "runs": {
            Verdict.MISSED_MASS: found,
            Verdict.NO_DENSITY: empty,
            Verdict.ONE_RUN: number < 2,
            Verdict.DISAGREE: ~(share >= DISAGREEING) | (ess < 2),
            Verdict.HEAVY_TAIL: heavy & (khat > INFINITE_VARIANCE),
            Verdict.SPREAD: share < AGREEING,
            Verdict.TAILED: heavy,
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
