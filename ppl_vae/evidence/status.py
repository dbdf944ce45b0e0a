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


class Verdict(Enum):
    """What is to be thought of one datum's estimate. Where several hold, the first in this order is given.

    Attributes:
        status: "trust", "caution" or "reject".
        message: why, and what to do, in one sentence.
    """

    status: str
    message: str

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
    GOOD = ("trust", "the weights have a light tail and enough of them count")

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        self.message = message


def judge(log_evidence: Tensor, khat: Tensor, ess: Tensor, num_samples: int) -> list[Verdict]:
    """The verdict on each datum.

    Args:
        log_evidence: ``(N,)`` in nats.
        khat: ``(N,)`` Pareto tail indices, NaN where there is none.
        ess: ``(N,)`` effective sample sizes.
        num_samples: S, on which the threshold for k-hat depends.
    """
    verdicts = list(Verdict)
    rules = torch.stack(
        [
            log_evidence == -torch.inf,
            khat > khat_threshold(num_samples),
            khat.isnan(),
            khat > INFINITE_VARIANCE,
            ~(ess >= ENOUGH_ESS),
            torch.ones_like(khat, dtype=torch.bool),
        ]
    )
    # The first rule that holds, as the number of rules before it.
    first = (rules.cumsum(dim=0) == 0).sum(dim=0)
    return [verdicts[index] for index in first.tolist()]
