"""Support check: whether data are on a likelihood's support, and the likelihoods that suit them."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch.distributions import constraints

from ppl_vae import likelihoods
from ppl_vae._part import families
from ppl_vae.errors import InputError, describe
from ppl_vae.likelihoods import Likelihood
from ppl_vae.likelihoods.summary import Summary, chunks, summarise


class Choice(NamedTuple):
    """A likelihood that suits some data.

    Attributes:
        family: the class.
        arguments: those after its shape.
    """

    family: type[Likelihood]
    arguments: dict[str, Any]

    def __str__(self) -> str:
        parameters = inspect.signature(self.family).parameters
        needed = [
            f"{k}={v}" for k, v in self.arguments.items() if parameters[k].default is inspect.Parameter.empty
        ]
        return self.family.__name__ + (f"({', '.join(needed)})" if needed else "")


def choices(summary: Summary) -> list[Choice]:
    """The likelihoods that suit data with such values, in the order of `families`; none if a value is not finite."""
    if not summary.finite:
        return []
    found = ((family, family.suits(summary)) for family in families(likelihoods, Likelihood))
    return [Choice(family, arguments) for family, arguments in found if arguments is not None]


def suited() -> str:
    """Every likelihood that is chosen for some data, with what they are, as its own `suits` says."""
    chosen = [kind for kind in families(likelihoods, Likelihood) if "suits" in vars(kind)]
    lines = {kind.__name__: inspect.getdoc(kind.suits) or "" for kind in chosen}
    first = {name: text.partition("\n")[0].rstrip(".") for name, text in lines.items()}
    return ", ".join(f"{name} ({text[:1].lower()}{text[1:]})" for name, text in first.items())


def suggest(x: torch.Tensor) -> list[str]:
    """The likelihoods that suit ``x``, as a user would write them; none if a value is not finite.

    A density such as the Gaussian is not suggested for integers: its evidence is unbounded on a discrete set. Use
    `ppl_vae.data.dequantise` first, which makes integers continuous.
    """
    return [str(choice) for choice in choices(summarise(x))]


def check_support(
    x: torch.Tensor, support: constraints.Constraint, likelihood: str, argument: str = "x"
) -> None:
    """Refuse data that are not finite numbers on a likelihood's support.

    Args:
        x: data ``(N, *shape)``.
        support: the support of a single number (event dimension 0, or `constraints.independent` of one).
        likelihood: the likelihood's name, for the message.
        argument: the name of the data, for the message.

    Raises:
        InputError: with the first bad datum, its value, the range of the values, and the likelihoods that would fit.
    """
    if not isinstance(x, torch.Tensor) or x.dim() < 1 or x.numel() == 0 or x.is_complex():
        raise InputError(argument, "a tensor of real data, (N, *shape) and not empty", describe(x))
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support.event_dim != 0:
        raise InputError("support", "a constraint on single numbers (event dimension 0)", describe(support))
    # Most supports exclude values that are not finite; another check would double the time of this pass.
    odd = (torch.inf, -torch.inf, torch.nan) if x.is_floating_point() else ()
    lax = any(bool(support.check(torch.full_like(x[:1], value)).any()) for value in odd)
    for start, part in chunks(x):
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


def _element(index: list[int]) -> str:
    if not index:
        return ""
    return f", element {index[0]}" if len(index) == 1 else f", element ({', '.join(map(str, index))})"


def _advice(summary: Summary) -> str:
    low, high, finite, integers = summary
    if not finite:
        return "(not all values are finite): no likelihood would fit"
    found = f"(all values in [{low:g}, {high:g}], {'integers' if integers else 'not integers'})"
    families = " or ".join(map(str, choices(summary)))
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
