"""Resampling: the choice of particles in a sequential Monte Carlo sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ppl_vae.errors import InputError, describe


@runtime_checkable
class Resampler(Protocol):
    """A method that chooses M of M particles by their weights, with repetition.

    Make it a frozen dataclass: results and checkpoints identify it by its ``repr``.
    """

    def resample(self, log_shares: Tensor, generator: Generator) -> Tensor:
        """The chosen particles, as indices from 0 to M - 1.

        The estimate is unbiased if particle i is chosen M w_i times on average.

        Args:
            log_shares: ``(R, M, N)`` float64, log w of M particles for each of R islands and N data; w sums to 1.
            generator: generator of the random numbers.

        Returns:
            ``(R, M, N)`` int64.
        """


@dataclass(frozen=True)
class Systematic:
    """Systematic resampling, with one uniform number for each island and datum.

    Particle i is chosen M w_i times on average, and each time either rounded down or rounded up (Kitagawa 1996).
    """

    def resample(self, log_shares: Tensor, generator: Generator) -> Tensor:
        """See `Resampler.resample`."""
        R, M, n = log_shares.shape
        ends = log_shares.exp().cumsum(1).transpose(1, 2).contiguous()
        ends = ends / ends[..., -1:]
        offset = torch.rand(R, n, 1, dtype=torch.float64, device=log_shares.device, generator=generator)
        wanted = (torch.arange(M, device=log_shares.device, dtype=torch.float64) + offset) / M
        return torch.searchsorted(ends, wanted, right=True).clamp(max=M - 1).transpose(1, 2)


def check_resampler(value: object) -> Resampler:
    """``value`` if it is a resampler; raises `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Resampler):
        raise InputError(
            "resampler", "a Resampler such as Systematic(), or an object with .resample", describe(value)
        )
    return value


def check_chosen(chosen: object, log_shares: Tensor) -> Tensor:
    """A resampler's choice, if it consists of indices of particles; raises `InputError` otherwise."""
    M = log_shares.shape[1]
    if not isinstance(chosen, Tensor) or chosen.shape != log_shares.shape or chosen.dtype != torch.int64:
        expected = f"indices of shape {tuple(log_shares.shape)} and dtype torch.int64 from .resample"
        raise InputError("resampler", expected, describe(chosen))
    if not bool(((chosen >= 0) & (chosen < M)).all()):
        low, high = int(chosen.min()), int(chosen.max())
        raise InputError("resampler", f"indices from 0 to {M - 1} from .resample", f"{low} to {high}")
    return chosen
