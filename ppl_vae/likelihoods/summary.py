"""Summary of data: the range of their values, and whether these are integers; by it a likelihood says if it suits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

CHUNK = 2**20
"""Elements looked at together: a few megabytes of temporaries, however large the data are."""


class Summary(NamedTuple):
    """A tensor's values: the range of the finite ones; whether all are finite, and all integers."""

    low: float
    high: float
    finite: bool
    integers: bool


def summarise(x: torch.Tensor) -> Summary:
    """One pass over ``x`` (not empty), in chunks."""
    low, high, finite, integers = float("inf"), float("-inf"), True, True
    for _, part in chunks(x):
        good = torch.isfinite(part)
        whole = bool(good.all())
        values = part if whole else part[good]
        finite = finite and whole
        if values.numel():
            low, high = min(low, values.min().item()), max(high, values.max().item())
            integers = integers and (not values.is_floating_point() or torch.equal(values, values.floor()))
    # + 0.0 turns a negative zero, which reads oddly in a message, into zero.
    return Summary(low + 0.0, high + 0.0, finite, finite and integers)


def chunks(x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Runs of whole data with the index of their first: a support may vary over a datum's elements."""
    rows = max(1, CHUNK // max(1, x[:1].numel()))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]
