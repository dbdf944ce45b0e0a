"""Results in sentences, for who reads them for the first time."""

from __future__ import annotations

from ppl_vae.evidence.results.evidence import Evidence


def in_words(evidence: Evidence, datum: str = "datum", data: str = "data") -> str:
    """What is log p(x), how far below is the ELBO, can it be trusted?

    Args:
        evidence: the estimate.
        datum: what a datum is called.
        data: what several are called.
    """
    mean, gap, share = evidence.mean(), evidence.mean("gap"), evidence.status_fractions()
    trusted, refused = share["trust"], share["reject"]
    if refused > 0.05:
        verdict = (
            f"With care: for {refused:.0%} of the {data} the importance weights have too heavy a tail to believe the "
            "estimate; for them it is a lower bound and no more"
        )
    elif trusted > 0.5:
        verdict = "Yes, on the whole"
    else:
        verdict = f"The estimate yes, its error with care: the tails of most {data}' weights come close to too heavy"
    limit = f"{mean.limit} " if mean.limit else ""
    error = "an error that is not known" if mean.limit else f"± {mean.mc_stderr:.2g}"
    gap_error = "error unknown" if gap.limit else f"± {gap.mc_stderr:.1g}"
    return (
        f"What is log p(x)? {limit}{mean.value:.2f} nats a {datum}, averaged over {len(evidence)} test {data}; "
        f"{error} from the {evidence.num_samples} samples, "
        f"± {mean.data_stderr:.2g} from which {data} were tested.\n"
        f"How far below is the ELBO? {limit}{gap.value:.2f} nats ({gap_error}): that is how much of log p(x) the "
        "ELBO alone would hide.\n"
        f"Can it be trusted? {verdict}: trust {trusted:.0%}, caution {share['caution']:.0%}, "
        f"reject {refused:.0%} (what the tail of the weights may hide, {datum} by {datum})."
    )
