"""Data of a VAE that are more than one tensor: which entries there are, and what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Data
from ppl_vae.program.filled import on_support

X, MASK = "x", "mask"


class Read(NamedTuple):
    """The entries of data, in the form that the parts of a VAE take.

    Attributes:
        x: ``(N, *shape)``; None where it is to be drawn.
        mask: which numbers of x were observed, bool ``(N, *shape)``; None where all of them were.
    """

    x: Tensor | None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Entries:
    """The entries that a VAE's data have.

    Attributes:
        shape: of one datum of ``"x"``.
        missing: whether there may be a ``"mask"`` of the numbers that were observed.
    """

    shape: torch.Size
    missing: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.missing, bool):
            raise InputError("missing", "True or False", describe(self.missing))

    @property
    def several(self) -> bool:
        """Whether the data may be a dict."""
        return self.missing

    @property
    def encoder_shape(self) -> torch.Size:
        """The shape of the encoder's input: what stands beside x is stacked on the first axis."""
        return torch.Size([self.shape[0] * (1 + self.missing), *self.shape[1:]])

    def read(self, data: Data | None) -> Read:
        """The entries of data that `check` has passed; all numbers of a tensor were observed."""
        if not isinstance(data, Mapping):
            return Read(data)
        return Read(data.get(X), data.get(MASK))

    def check(self, data: Any, argument: str) -> Read:
        """The entries of data, each checked but for the values of x.

        Raises:
            InputError: naming ``argument``, and in what was expected the entry.
        """
        size = f"shape (N, {', '.join(map(str, self.shape))})"
        if not isinstance(data, Mapping) or not self.several:
            found = Read(data)
        else:
            unknown = [name for name in data if name not in (X, MASK)]
            if unknown:
                raise InputError(argument, f"the entries {X!r} and {MASK!r} only", f"entry {unknown[0]!r}")
            found = self.read(data)
        x = found.x
        if not isinstance(x, Tensor):
            expected = f"a tensor of {size}"
            if self.several:
                expected += f", or a dict of it as {X!r} with a {MASK!r} of the numbers that were observed"
            raise InputError(argument, expected, describe(data))
        if x.ndim != len(self.shape) + 1 or x.shape[1:] != self.shape or len(x) == 0:
            raise InputError(argument, f"{size}, N > 0", tuple(x.shape))
        if found.mask is not None:
            mask = found.mask
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != x.shape:
                expected = f"the entry {MASK!r} to be a bool tensor of x's shape {tuple(x.shape)}"
                raise InputError(argument, expected, describe(mask))
        return found


class Observed(MaskedDistribution):
    """A distribution of single numbers of which some were observed: the others contribute nothing to log densities.

    What stands in the place of a number that was not observed is never looked at: a number on the support takes its
    place first. Its log density would be left out all the same, but a gradient that is NaN or infinite would not: zero
    times NaN is NaN.

    Args:
        base_dist: of batch shape ``(..., N, *shape)``.
        mask: which numbers were observed, bool ``(N, *shape)``.
        on_support: their support.
    """

    def __init__(self, base_dist: Any, mask: Tensor, on_support: constraints.Constraint) -> None:
        super().__init__(base_dist, mask)
        self._seen, self._support = (
            mask,
            on_support,
        )  # the mask as it came: values have no samples on their left

    def expand(self, batch_shape: Any, _instance: Any = None) -> Observed:
        """See Pyro."""
        return Observed(self.base_dist.expand(batch_shape), self._seen, self._support)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), and 0 where nothing was observed: ``(..., N, *shape)``."""
        found: Tensor = super().log_prob(filled(value, self._seen, self._support))
        return found


def filled(x: Tensor, mask: Tensor | None, support: constraints.Constraint) -> Tensor:
    """x with a number on the support where nothing was observed."""
    return x if mask is None else torch.where(mask, x, on_support(support, x))


def observed_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over data of each number of x, ``shape``; of all numbers, for one that was never observed."""
    if mask is None:
        return x.mean(0)
    seen = torch.where(mask, x, 0)
    overall = seen.sum() / mask.sum().clamp(min=1)
    return torch.where(mask.any(0), seen.sum(0) / mask.sum(0).clamp(min=1), overall)


def observed_part(
    p: TorchDistribution, mask: Tensor | None, support: constraints.Constraint
) -> TorchDistribution:
    """p(x|z) as the distribution of those numbers that were observed; of all of them without a mask.

    Args:
        p: of batch shape ``(..., N)`` and event shape ``shape``, its numbers independent.
        mask: bool ``(N, *shape)``, or None.
        support: of its numbers.
    """
    if mask is None:
        return p
    part: TorchDistribution = Observed(p.base_dist, mask, support).to_event(p.reinterpreted_batch_ndims)
    return part


def is_by_number(p: Any) -> bool:
    """Whether a distribution over x is a product over its numbers, so that leaving some out integrates over them."""
    return isinstance(p, Independent) and p.reinterpreted_batch_ndims == len(p.event_shape)
