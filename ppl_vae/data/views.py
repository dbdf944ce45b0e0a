"""Views: pure functions from raw numbers to the numbers that a likelihood scores."""

from __future__ import annotations

import torch

from ppl_vae.errors import InputError, check_positive_int, describe


def binarise(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bernoulli(x) draws: 1 with probability x, element by element.

    Args:
        x: probabilities (grey levels) in [0, 1], any shape.
        generator: the stream of the draws, on the device of ``x``.

    Returns:
        float32 zeros and ones in the shape of ``x``.

    Raises:
        InputError: if a value lies outside [0, 1] or is NaN. Checked on the CPU only: elsewhere the check
            would make every training step wait for the device.
    """
    if x.device.type == "cpu" and x.numel() and not (x.min() >= 0 and x.max() <= 1):  # NaN fails both
        low, high = x.min().item(), x.max().item()
        raise InputError("x", "probabilities in [0, 1] to binarise", f"values from {low:g} to {high:g}")
    # u < x with u uniform on [0, 1): 0 stays 0 and 1 stays 1 for certain.
    uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32)
    return (uniform < x).to(torch.float32)


def threshold(x: torch.Tensor, level: float = 0.5) -> torch.Tensor:
    """float32 ones where ``x`` is above ``level``, zeros elsewhere."""
    return (x > level).to(torch.float32)


def dequantise(x: torch.Tensor, levels: int, generator: torch.Generator) -> torch.Tensor:
    """Integers made continuous: ``y = (x + u) / levels`` with ``u`` uniform on [0, 1), so y lies in [0, 1).

    Densities: ``x + u = levels * y`` is a bijection of D-dimensional data with log-Jacobian ``D *
    log(levels)``, so ``log p(x + u) = log p(y) - D * log(levels)``, and by Jensen's inequality the log
    probability of the integers is at least the mean of that over u. An upper bound on their bits per
    dimension is therefore the mean of ``-log p(y) / (D * log 2) + log2(levels)``.

    Args:
        x: integers from 0 to ``levels - 1``, any shape and dtype.
        levels: how many values an integer can take: 256 for bytes, 17 for the digits.
        generator: the stream of u, on the device of ``x``.

    Returns:
        float32, in the shape of ``x``.

    Raises:
        InputError: if ``x`` holds anything else than those integers (checked on the CPU only), or ``levels``
            is no positive integer.
    """
    check_positive_int("levels", levels)
    if x.device.type == "cpu" and x.numel():
        good = bool(x.min() >= 0 and x.max() <= levels - 1)
        if not good or (x.is_floating_point() and not torch.equal(x, x.floor())):
            raise InputError("x", f"integers from 0 to {levels - 1} to dequantise", describe(x))
    uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32)
    # float32 rounds a u just below one up to the next integer: hold y below 1, where a bounded density would
    # end.
    return ((x.to(torch.float32) + uniform) / levels).clamp(max=1 - 2**-24)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation ``(*shape)`` of each element over training data ``(N, *shape)``.

    Divisor N. An element that never varies gets a standard deviation of 1, so that `standardise` only centres
    it.
    """
    # float64: a float32 sum over 60,000 data loses three digits.
    std, mean = torch.std_mean(x.to(torch.float64), dim=0, correction=0)
    mean32 = mean.to(torch.float32)
    constant = x.amax(0) == x.amin(0)
    return mean32, torch.where(constant, torch.ones_like(mean32), std.to(torch.float32))


def standardise(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``(x - mean) / std`` for data ``(N, *shape)``, with the `moments` of the *training* data, ``(*shape)``.

    Densities: ``log p(x) = log p(y) - sum(log(std))``.
    """
    return (x - mean) / std
