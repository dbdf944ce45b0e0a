"""Regions: whether one support contains another, and whether their densities are of the same kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints as named
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.program.supports import Endpoint, base, bounds_of, core, hull, support_of


@dataclass(frozen=True)
class Region:
    """A set, in a form for comparisons.

    Attributes:
        measure: the kind of its density; densities of different kinds cannot be divided by one another.
        form: the name of the set; empty for a product of intervals.
        low: the lower bounds.
        high: the upper bounds.
    """

    measure: str
    form: str = ""
    low: Endpoint = -math.inf
    high: Endpoint = math.inf

    def words(self) -> str:
        """The set in words."""
        if self.form:
            return self.form
        low, high = (f"{v:g}" if isinstance(v, float | int) else _range(v) for v in (self.low, self.high))
        if self.measure == "numbers" and (low, high) == ("-inf", "inf"):
            return "all real numbers"
        return f"{'real numbers' if self.measure == 'numbers' else 'integers'} from {low} to {high}"


def _range(bound: Tensor) -> str:
    ends = [f"{float(v):g}" for v in (bound.min(), bound.max())]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} ... {ends[1]}"


# Sets that are not products of intervals: the measure, and the sets that contain them.
_FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "_OrderedVector": ("numbers", ()),
    "_PositiveOrderedVector": ("numbers", ("_OrderedVector",)),
    "_Simplex": ("points of a simplex", ()),
    "_OneHot": ("one-hot vectors", ()),
    "_Sphere": ("points of a sphere", ()),
    "_LowerTriangular": ("triangular matrices", ()),
    "_LowerCholesky": ("triangular matrices", ("_LowerTriangular",)),
    "_CorrCholesky": ("Cholesky factors of correlation matrices", ()),
    "_UnitLowerCholesky": ("triangular matrices of unit diagonal", ()),
    "_Square": ("square matrices", ()),
    "_Symmetric": ("symmetric matrices", ()),
    "_PositiveSemidefinite": ("symmetric matrices", ("_Symmetric",)),
    "_PositiveDefinite": ("symmetric matrices", ("_Symmetric", "_PositiveSemidefinite")),
    "_CorrMatrix": ("correlation matrices", ()),
}
_SAME = {"_SoftplusLowerCholesky": "_LowerCholesky", "_PositiveSemidefinite": "_PositiveDefinite"}


def region(support: constraints.Constraint) -> Region | None:
    """A support in the form for comparisons; None if its kind is not known here."""
    inner = hull(support)
    name = type(inner).__name__
    name = _SAME.get(name, name)
    if name in _FORMS:
        return Region(_FORMS[name][0], name)
    if inner is constraints.real or inner is constraints.real_vector:
        return Region("numbers")
    if inner is constraints.boolean:
        return Region("integers", "", 0.0, 1.0)
    if inner is named.integer:
        return Region("integers")
    bounds = bounds_of(inner)
    if bounds is None or isinstance(inner, type(constraints.multinomial(0))):
        return None
    return Region("integers" if inner.is_discrete else "numbers", "", *bounds)


def is_other_kind(model: Any, guide: Any) -> bool:
    """Whether two densities are of different kinds: probabilities and densities, or numbers and points of a sphere."""
    ours, theirs = _regions(model, guide)
    if ours is not None and theirs is not None:
        return ours.measure != theirs.measure
    supports = [support_of(fn) for fn in (model, guide)]
    if supports[0] is None or supports[1] is None:
        return False
    return bool(base(supports[0]).is_discrete) != bool(base(supports[1]).is_discrete)


def uncovered(model: Any, guide: Any) -> Tensor | None:
    """Whether a guide's declared support lacks a part of the model's: bool, of a shape that broadcasts.

    Returns:
        None if the sets cannot be compared; the densities of draws must then be compared.
    """
    ours, theirs = _regions(model, guide)
    if ours is None or theirs is None or ours.measure != theirs.measure:
        return None
    if theirs.form:
        inside = theirs.form == ours.form or (ours.form and theirs.form in _FORMS[ours.form][1])
        return torch.tensor(not inside)
    low, high = (0.0, math.inf) if ours.form == "_PositiveOrderedVector" else (ours.low, ours.high)
    gap = 16 * max(_eps(v) for v in (low, high, theirs.low, theirs.high))
    missing = torch.zeros((), dtype=torch.bool)
    for sign, a, b in ((1, low, theirs.low), (-1, high, theirs.high)):
        a, b = (v.double() if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in (a, b))
        b = b.to(a.device) if b.ndim == 0 else b
        a = a.to(b.device) if a.ndim == 0 else a
        slack = gap * torch.maximum(a.abs(), b.abs()).nan_to_num(0.0, 0.0, 0.0)
        slack = torch.where(slack.isfinite(), slack, 0.0)
        lacks = sign * (b - a) > slack
        missing = missing.to(lacks.device) | torch.where(a == b, False, lacks)
    return missing


def _regions(model: Any, guide: Any) -> tuple[Region | None, Region | None]:
    supports = (support_of(model), support_of(guide))
    return tuple(None if s is None else region(s) for s in supports)  # type: ignore[return-value]


def _eps(bound: Endpoint) -> float:
    return (
        torch.finfo(bound.dtype).eps if isinstance(bound, Tensor) and bound.is_floating_point() else 2.0**-52
    )


def describe_support(fn: Any) -> str:
    """A distribution's family and support, in words."""
    support = support_of(fn)
    found = None if support is None else region(support)
    family = type(core(fn)).__name__
    if found is None:
        return family if support is None else f"{family} on {support}"
    form = _FORMS[found.form][0] if found.form else ""
    if found.form in ("_OrderedVector", "_PositiveOrderedVector"):
        form = "ordered vectors"
    elif found.form == "_PositiveDefinite":
        form = "positive definite matrices"
    return f"{family} on {form or found.words()}"
