"""Verdicts: what is thought of an estimate, trust, caution or reject, what to do about the last two, and the limits.

Which verdict a datum gets is decided by the rules in `ppl_vae.evidence.results.diagnostics`.
"""

from __future__ import annotations

from enum import Enum

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

STATUSES = ("trust", "caution", "reject")

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
