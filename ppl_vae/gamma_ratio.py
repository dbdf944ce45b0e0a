"""The ratio of two gamma functions, without cancellation."""

from __future__ import annotations

import torch

_LARGE = (
    100.0  # above it the series is exact to double precision: the first term that is left out is below 1e-13
)


def log_rising(a: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """log Γ(a + k) - log Γ(a), for a > 0 and k >= 0.

    For large a both logarithms are large and nearly cancel: Stirling's series of the difference is used there.
    """
    large = a > _LARGE
    # Where one branch is not used its input is replaced, so that its gradient is no NaN.
    small_a, small_k = torch.where(large, 1.0, a), torch.where(large, 0.0, k)
    large_a = torch.where(large, a, 1.0)
    total = large_a + k
    stirling = (total - 0.5) * (k / large_a).log1p() + k * large_a.log() - k + _rest(total) - _rest(large_a)
    return torch.where(large, stirling, torch.lgamma(small_a + small_k) - torch.lgamma(small_a))


def _rest(a: torch.Tensor) -> torch.Tensor:
    return 1 / (12 * a) - 1 / (360 * a**3) + 1 / (1260 * a**5)
