"""Verdicts on estimates: trust, caution or reject, with a reason and advice, and the limits that decide them.

The rules that give each datum its verdict are in `ppl_vae.evidence.results.diagnostics`.
"""

from __future__ import annotations

from enum import Enum

INFINITE_VARIANCE = 0.5
"""At this k and above, the weights have no finite variance (moments of order 1 / k and above do not exist)."""

HIDDEN, LOST_IN_TAIL = 0.05, 0.3
"""Limits of the share of p(x) that the tail of the weights may hide: above the first, an estimate gets caution; above
the second, it is rejected.

On exact models, the 95 % intervals of estimates below the first limit cover 95 %. Between the two limits they cover as
much, because they include the hidden share, but they are wide.
"""

ENOUGH_ESS = 25.0
"""The effective sample size below which the delta method's standard error is not reliable."""

STATUSES = ("trust", "caution", "reject")

FULL = "full"
"""The name of full precision of matrix products, as in `ppl_vae.program.matmul_precision`."""

AGREEING, APART, DISAGREEING = 0.8, 0.6, 0.25
"""Effective number of runs, divided by their number: from 0.8 (relative variance 1/4) runs agree; below 0.25 (relative
variance 3) one run dominates.

For estimators with steps, the first limit applies to the value that the steps predict (see
`ppl_vae.evidence.annealing.work_variance`). Applied to the observed value, it would select runs that are close together
by chance, whose intervals are too short. The observed value must then be at least 0.6; this detects modes that do not
show in the steps.
"""

ON_EDGE = 0.005
"""The share of draws on an edge of their support above which an estimate is not trusted: two of 256."""
RESOLVED, SURELY = 0.2, 0.95
"""Nats, and a level: a few runs are trusted if their expected interval at this level extends at most this far.

A few runs contain little information on their own tail, so a wide interval of runs is less reliable than one of many
weights. As for `AGREEING`, the interval is the one that the steps predict, for estimators with steps.
"""

UNRESOLVED, LOST = 0.1, 1.0
"""Nats: the numerical errors above which a computed value gets caution, and above which it is rejected."""


class Verdict(Enum):
    """The verdict on one datum's estimate. If several apply, the datum gets the first of its kind's rules.

    Attributes:
        status: "trust", "caution" or "reject".
        message: the reason and advice, in one sentence.
    """

    status: str
    message: str

    MISSED_MASS = (
        "reject",
        (
            "draws of the prior or of the guide, or a search for modes, find more mass than the estimate, so a part of "
            "the posterior is missed: "
            "use chains that start from the prior, a Defensive proposal, or a better guide"
        ),
    )
    UNVISITED = (
        "reject",
        (
            "for data simulated from the model, exact posterior samples lie where no draws or chains go, so a part of "
            "the posterior may be missed for this datum, too, by an unknown amount: "
            "use a guide that covers it; sandwich measures the gap on simulated data"
        ),
    )
    NO_DENSITY = (
        "reject",
        (
            "all samples have zero density under the model, so there is no estimate: "
            "use a better guide, or annealed importance sampling"
        ),
    )
    ROUNDED_EDGE = (
        "caution",
        (
            "rounding puts draws onto the edge of their support (a probability of exactly 0 or 1), where densities "
            "differ from the model's, so the estimate has an unknown error: use float64 data and parameters, or a "
            "latent with little mass at its edges"
        ),
    )
    HEAVY_TAIL = (
        "reject",
        (
            "the weights' tail may hide more than 30 % of p(x), so the estimate may be too low by an unknown amount "
            "and its standard error is not valid: "
            "use a better guide, annealed importance sampling, or far more samples"
        ),
    )
    NO_TAIL_FIT = (
        "caution",
        (
            "no tail could be fitted to the largest weights (20 samples or fewer), so the estimate is not checked: "
            "draw more samples"
        ),
    )
    TAIL = (
        "caution",
        (
            "the weights' tail may hide 5 to 30 % of p(x), so the error may be larger than the standard error, up to "
            "about the upper end of the interval: draw more samples, or use a better guide"
        ),
    )
    FEW_EFFECTIVE = (
        "caution",
        (
            "the effective sample size is below 25, so the error may be larger than the standard error: "
            "draw more samples, or use a better guide or annealed importance sampling"
        ),
    )
    DISAGREE = (
        "reject",
        (
            "the runs differ so much that one or two of them dominate the estimate, so it is too low (an upper bound: "
            "too high) by an unknown amount: use more steps or a better schedule"
        ),
    )
    SPREAD = (
        "caution",
        (
            "the spread of the runs is too large for so few runs, so the error may be larger than the standard error: "
            "use more steps or more runs"
        ),
    )
    TAILED = (
        "caution",
        (
            "the weights' tail may hide more than the spread of so few runs shows, so the error may be larger than the "
            "standard error: use more samples or more runs"
        ),
    )
    UNKNOWN = ("reject", "the numerical error is above 1 nat: use more nodes, or another rule")
    ROUGH = ("caution", "the numerical error is above 0.1 nat: use more nodes, or another rule")
    ONE_RUN = ("caution", "a single run has no spread, so its error is unknown: use at least two runs")
    HEURISTIC = (
        "caution",
        "the bound is not proved, since the chains start from approximate posterior samples: use simulated data",
    )
    ROUNDED = (
        "caution",
        (
            "the matrix products were rounded to a lower precision, which biases the estimate by an amount that is not "
            "known here: use full precision, or measure the bias with precision_error"
        ),
    )
    UNCONFIRMED = (
        "caution",
        (
            "the other bound of the same datum does not confirm it: their gap is larger than their errors explain, or "
            "the other bound is rejected, so this bound may be loose by more than its standard error: "
            "use more steps, or a better guide"
        ),
    )
    GOOD = ("trust", "the weights' tail hides little, and the effective sample size is large enough")
    AGREE = ("trust", "the runs agree")
    COMPUTED = ("trust", "no random draws: the error is the numerical error")

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        self.message = message
