"""Agreement: whether two computations of the same numbers agree to round-off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Relative tolerances, by the lowest precision of the computation."""

ROUNDED = 50.0
"""Factor of the tolerance for products of lower precision: a rounded factor may differ by a unit in the last place."""


def disagreement(
    ours: Sequence[Tensor],
    plain: Sequence[Tensor],
    precision: torch.dtype,
    slack: float = 1.0,
    least: float = 0.0,
) -> str | None:
    """The difference between ``ours`` and ``plain`` if it is larger than round-off, in words; else None.

    The rule: infinities and NaNs are at the same places, and no other element differs by more than t times the largest
    element of its tensor (or a thousandth of the largest of all tensors, for a tensor that cancels to nearly zero).
    Here t is 1e-10 if everything is computed in float64, and 2e-5 in float32.

    Args:
        ours: tensors.
        plain: the same number of tensors, of the same shapes.
        precision: the lowest precision of the computation.
        slack: factor of t.
        least: the size of intermediate numbers, if they may have cancelled to smaller ones.
    """
    tolerance = TOLERANCE.get(precision, 2e-2) * slack
    sizes = [_largest(value) for value in plain]
    floor = 1e-3 * max(sizes, default=0.0)
    for i, (a, b, size) in enumerate(zip(ours, plain, sizes, strict=True)):
        if a.shape != b.shape:
            return f"output {i} has shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        a, b = a.detach().double(), b.detach().double()
        finite = b.isfinite()
        same = torch.where(finite, a.isfinite(), (a == b) | (a.isnan() & b.isnan()))
        if not bool(same.all()):
            return f"output {i} is not finite in other places"
        worst = _largest(torch.where(finite, a - b, 0.0))
        limit = tolerance * max(size, floor, least)
        if worst > limit:
            return f"output {i} differs by {worst:.3g}, and round-off is at most {limit:.3g}"
    return None


def precision_of(tensors: Sequence[Tensor]) -> torch.dtype:
    """The lowest floating-point precision among tensors; float64 if there is none."""
    found = [t.dtype for t in tensors if t.is_floating_point()]
    return min(found, key=lambda dtype: -torch.finfo(dtype).eps, default=torch.float64)


def _largest(value: Tensor) -> float:
    value = value.detach().double().abs()
    value = value[value.isfinite()]
    return float(value.max()) if value.numel() else 0.0
