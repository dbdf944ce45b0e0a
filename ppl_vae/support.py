"""Do the data lie on the likelihood's support? Asked once; a refusal names what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.distributions import constraints

from ppl_vae.errors import InputError, describe

CHUNK = 2**20  # elements looked at together: a few megabytes of temporaries, however large the data


class Summary(NamedTuple):
    """A tensor's values: the range of the finite ones; whether all are finite, and all integers."""

    low: float
    high: float
    finite: bool
    integers: bool


def summarise(x: torch.Tensor) -> Summary:
    """One pass over ``x`` (not empty), in chunks."""
    low, high, finite, integers = float("inf"), float("-inf"), True, True
    for _, part in _chunks(x):
        good = torch.isfinite(part)
        whole = bool(good.all())
        values = part if whole else part[good]
        finite = finite and whole
        if values.numel():
            low, high = min(low, values.min().item()), max(high, values.max().item())
            integers = integers and (not values.is_floating_point() or torch.equal(values, values.floor()))
    # + 0.0 turns a negative zero, which reads oddly in a message, into zero.
    return Summary(low + 0.0, high + 0.0, finite, finite and integers)


def suggest(x: torch.Tensor) -> list[str]:
    """The likelihood families that fit ``x``, as a user would write them; none if a value is not finite.

    Zeros and ones: Bernoulli. Other integers from 0: Binomial of the largest. Other finite numbers: Gaussian.
    A Gaussian is not offered for integers: its density can grow without bound on a discrete set, so its
    evidence would mean nothing; `ppl_vae.data.dequantise` makes them continuous first.
    """
    return _suggest(summarise(x))


def _suggest(summary: Summary) -> list[str]:
    if not summary.finite:
        return []
    if summary.integers and summary.low >= 0:
        return ["Bernoulli"] if summary.high <= 1 else [f"Binomial(total_count={int(summary.high)})"]
    return ["Gaussian"]


def check_support(
    x: torch.Tensor, support: constraints.Constraint, likelihood: str, argument: str = "x"
) -> None:
    """Refuse data that are not finite numbers on a likelihood's support.

    Args:
        x: data ``(N, *shape)``.
        support: where a single number may lie (an event dimension of 0, or `constraints.independent` of one).
        likelihood: the likelihood's name, for the message.
        argument: the name of the data, for the message.

    Raises:
        InputError: with the first bad datum, its value, what the values are, and the likelihoods that would
            fit.
    """
    if not isinstance(x, torch.Tensor) or x.dim() < 1 or x.numel() == 0 or x.is_complex():
        raise InputError(argument, "a tensor of real data, (N, *shape) and not empty", describe(x))
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support.event_dim != 0:
        raise InputError("support", "a constraint on single numbers (event dimension 0)", describe(support))
    # Most supports leave out what is not finite by themselves; asking again would double the time of this pass.
    odd = (torch.inf, -torch.inf, torch.nan) if x.is_floating_point() else ()
    lax = any(bool(support.check(torch.full_like(x[:1], value)).any()) for value in odd)
    for start, part in _chunks(x):
        bad = ~(torch.isfinite(part) & support.check(part)) if lax else ~support.check(part)
        if bad.any():
            advice = _advice(summarise(x))
            index = tuple(int(i) for i in bad.nonzero()[0])
            row, *element = index
            raise InputError(
                argument,
                f"values on the support of {likelihood} ({_words(support)})",
                f"{part[index].item():g} at datum {start + row}{_element(element)} {advice}",
            )


def _chunks(x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Runs of whole data with the index of their first: a support may vary over a datum's elements."""
    rows = max(1, CHUNK // max(1, x[:1].numel()))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def _element(index: list[int]) -> str:
    if not index:
        return ""
    return f", element {index[0]}" if len(index) == 1 else f", element ({', '.join(map(str, index))})"


def _advice(summary: Summary) -> str:
    low, high, finite, integers = summary
    if not finite:
        return "(not all values are finite): no likelihood would fit"
    found = f"(all values in [{low:g}, {high:g}], {'integers' if integers else 'not integers'})"
    families = " or ".join(_suggest(summary))
    if not integers:
        return f"{found}: {families} would fit" + ("; or binarise the data" if low >= 0 and high <= 1 else "")
    return f"{found}: {families} would fit" + (
        "; or dequantise the data for Gaussian" if low >= 0 and high > 1 else ""
    )


def _words(support: constraints.Constraint) -> str:
    lower, upper = (_bound(getattr(support, name, None)) for name in ("lower_bound", "upper_bound"))
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.real:
        return "finite numbers"
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"integers from {lower} to {upper}"
    if isinstance(support, type(constraints.nonnegative_integer)):
        return f"integers from {lower}"
    if isinstance(support, type(constraints.unit_interval)):
        return f"numbers from {lower} to {upper}"
    return " ".join(str(support).split())


def _bound(bound: object) -> str:
    if isinstance(bound, torch.Tensor):
        low, high = bound.min().item(), bound.max().item()
        return f"{low:g}" if low == high else f"bounds between {low:g} and {high:g}"
    return f"{bound:g}" if isinstance(bound, int | float) else str(bound)
