"""Results in sentences, for users who see them for the first time."""

from __future__ import annotations

from ppl_vae.evidence.results.evidence import Evidence


def in_words(evidence: Evidence, datum: str = "datum", data: str = "data") -> str:
    """Three sentences: log p(x), the gap to the ELBO, and whether the estimates can be trusted.

    Args:
        evidence: the estimate.
        datum: the word for a datum.
        data: the word for several data.
    """
    mean, gap, share = evidence.mean(), evidence.mean("gap"), evidence.status_fractions()
    trusted, refused = share["trust"], share["reject"]
    if refused > 0.05:
        verdict = (
            f"only in part: for {refused:.0%} of the {data} the importance weights may miss much of p(x), and the "
            "estimate is only a lower bound"
        )
    elif trusted > 0.5:
        verdict = "yes, for most of them"
    else:
        verdict = (
            f"the estimates yes, their errors with caution: for most {data} the tail of the weights is heavy"
        )
    limit = f"{mean.limit} " if mean.limit else ""
    error = "error unknown" if mean.limit else f"± {mean.mc_stderr:.2g}"
    gap_error = "error unknown" if gap.limit else f"± {gap.mc_stderr:.1g}"
    return (
        f"log p(x): {limit}{mean.value:.2f} nats a {datum}, averaged over {len(evidence)} test {data}; "
        f"{error} from the {evidence.num_samples} samples, "
        f"± {mean.data_stderr:.2g} from the choice of the {data}.\n"
        f"gap: the ELBO is {limit}{gap.value:.2f} nats ({gap_error}) below log p(x).\n"
        f"trusted: {verdict}; trust {trusted:.0%}, caution {share['caution']:.0%}, reject {refused:.0%} of the {data}."
    )
