"""Whether two ways of computing the same numbers agree, to round-off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""By the lowest precision that anything was computed in."""

ROUNDED = 50.0
"""The slack of lowered products: where round-off tips a factor over, it is off by a unit in its own last place."""


def disagreement(
    ours: Sequence[Tensor],
    plain: Sequence[Tensor],
    precision: torch.dtype,
    slack: float = 1.0,
    least: float = 0.0,
) -> str | None:
    """How ``ours`` differs from ``plain`` beyond round-off, in words; None where it does not.

    The rule: infinities and NaNs lie in the same places, and elsewhere no element differs by more than t times the
    largest one of its tensor (or a thousandth of the largest of all tensors, for one that cancels to nearly zero),
    where t is 1e-10 if everything is computed in float64, and 2e-5 in float32.

    Args:
        ours: tensors.
        plain: as many, of the same shapes.
        precision: the lowest precision that went into them.
        slack: what t is multiplied by.
        least: a size that numbers have been on the way, if they may have cancelled to smaller ones.
    """
    tolerance = TOLERANCE.get(precision, 2e-2) * slack
    sizes = [_largest(value) for value in plain]
    floor = 1e-3 * max(sizes, default=0.0)
    for i, (a, b, size) in enumerate(zip(ours, plain, sizes, strict=True)):
        if a.shape != b.shape:
            return f"output {i} has shape {tuple(a.shape)} in place of {tuple(b.shape)}"
        a, b = a.detach().double(), b.detach().double()
        finite = b.isfinite()
        same = torch.where(finite, a.isfinite(), (a == b) | (a.isnan() & b.isnan()))
        if not bool(same.all()):
            return f"output {i} is not finite in other places"
        worst = _largest(torch.where(finite, a - b, 0.0))
        limit = tolerance * max(size, floor, least)
        if worst > limit:
            return f"output {i} differs by {worst:.3g} where {limit:.3g} is round-off"
    return None


def precision_of(tensors: Sequence[Tensor]) -> torch.dtype:
    """The lowest floating-point precision among tensors; float64 if there is none."""
    found = [t.dtype for t in tensors if t.is_floating_point()]
    return min(found, key=lambda dtype: -torch.finfo(dtype).eps, default=torch.float64)


def _largest(value: Tensor) -> float:
    value = value.detach().double().abs()
    value = value[value.isfinite()]
    return float(value.max()) if value.numel() else 0.0
