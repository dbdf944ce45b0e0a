"""Results in sentences: the verdict that the shares call for, and no error where none is known."""

import dataclasses

import pytest

from ppl_vae.evidence.results.words import in_words


@dataclasses.dataclass
class Mean:
    value: float
    mc_stderr: float
    data_stderr: float
    limit: str | None = None


class Estimate:
    """What is asked of an evidence."""

    num_samples = 4000

    def __init__(self, shares, limit=None):
        self.shares, self.limit = shares, limit

    def __len__(self):
        return 250

    def mean(self, name="log_evidence"):
        return Mean(-20.0 if name == "log_evidence" else 0.5, 0.01, 0.3, self.limit)

    def status_fractions(self):
        return dict(zip(("trust", "caution", "reject"), self.shares, strict=True))


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.8, 0.2, 0.0), "trusted: yes, for most of them"),
        ((0.3, 0.7, 0.0), "trusted: the estimates yes, their errors with caution: for most digits the tail"),
        ((0.8, 0.1, 0.1), "trusted: only in part: for 10% of the digits"),
    ],
)
def test_the_verdict(shares, verdict):
    text = in_words(Estimate(shares), "digit", "digits")
    assert "log p(x): -20.00 nats a digit, averaged over 250 test digits; ± 0.01" in text
    assert verdict in text


def test_an_error_that_is_not_known_is_not_made_up():
    text = in_words(Estimate((0.0, 0.0, 1.0), "at least"))
    assert "at least -20.00 nats a datum" in text
    assert text.count("error unknown") == 2
    assert "± 0.01" not in text
