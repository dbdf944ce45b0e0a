"""Data of a VAE that are more than one tensor: which entries there are, and what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.program import Data, num_data
from ppl_vae.program.filled import on_support

X, MASK = "x", "mask"


class Read(NamedTuple):
    """The entries of data, in the form that the parts of a VAE take.

    Attributes:
        x: ``(N, *shape)``; None where it is to be drawn.
        mask: which numbers of x were observed, bool ``(N, *shape)``; None where all of them were.
        covariates: all of them side by side, ``(N, K)``; None where the VAE has none.
        exposure: what the mean of x is multiplied by, ``(N, *ones)``, as many axes as x has; or None.
    """

    x: Tensor | None
    mask: Tensor | None = None
    covariates: Tensor | None = None
    exposure: Tensor | None = None


@dataclass(frozen=True)
class Entries:
    """The entries that a VAE's data have.

    Attributes:
        shape: of one datum of ``"x"``.
        missing: whether there may be a ``"mask"`` of the numbers that were observed.
        covariates: the entries that p(x|...) is conditioned on, and how many numbers each of them has.
        exposure: the entry that the mean of x is multiplied by, or None.
    """

    shape: torch.Size
    missing: bool = False
    covariates: Mapping[str, int] = field(default_factory=dict)
    exposure: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.missing, bool):
            raise InputError("missing", "True or False", describe(self.missing))
        if not isinstance(self.covariates, Mapping) or not all(isinstance(k, str) for k in self.covariates):
            expected = "a dict of name -> number of values, such as {'batch': 3, 'age': 1}"
            raise InputError("covariates", expected, describe(self.covariates))
        for name, number in self.covariates.items():
            if name in (X, MASK):
                raise InputError("covariates", f"other names than {X!r} and {MASK!r}", repr(name))
            check_positive_int(f"covariates[{name!r}]", number)
        if self.exposure in (X, MASK):
            raise InputError(
                "likelihood", f"an exposure of another name than {X!r} and {MASK!r}", repr(self.exposure)
            )
        if self.exposure is not None and self.covariates.get(self.exposure, 1) != 1:
            raise InputError(
                f"covariates[{self.exposure!r}]", "1 of an exposure", self.covariates[self.exposure]
            )

    @property
    def several(self) -> bool:
        """Whether the data may be a dict."""
        return self.missing or bool(self.given)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the entries that p(x|...) is conditioned on."""
        exposure = [self.exposure] if self.exposure is not None else []
        return tuple(dict.fromkeys([*self.covariates, *exposure]))

    @property
    def num_covariates(self) -> int:
        """K, the numbers of all covariates together."""
        return sum(self.covariates.values())

    @property
    def features_shape(self) -> torch.Size:
        """The shape of x and its covariates, each of these a slice of constant numbers on the first axis."""
        return torch.Size([self.shape[0] + self.num_covariates, *self.shape[1:]])

    @property
    def encoder_shape(self) -> torch.Size:
        """The shape of the encoder's input: x, covariates and the mask, one after the other on the first axis."""
        return torch.Size([self.features_shape[0] + self.missing * self.shape[0], *self.shape[1:]])

    def read(self, data: Data | None, dtype: torch.dtype) -> Read:
        """The entries of data that `check` has passed, in the networks' dtype; a tensor stands for x alone."""
        if not isinstance(data, Mapping):
            self.check_given({})
            return Read(data)
        self.check_given(data)
        columns = [_columns(data[name], number, dtype) for name, number in self.covariates.items()]
        exposure = None if self.exposure is None else data[self.exposure]
        if exposure is not None:
            exposure = exposure.reshape(len(exposure), *(1,) * len(self.shape))
        return Read(data.get(X), data.get(MASK), torch.cat(columns, -1) if columns else None, exposure)

    def with_covariates(self, features: Tensor, covariates: Tensor | None) -> Tensor:
        """``(N, *shape)`` and ``(N, K)`` as ``(N, *features_shape)``."""
        if covariates is None:
            return features
        wide = covariates.reshape(*covariates.shape, *(1,) * (len(self.shape) - 1))
        wide = wide.expand(*covariates.shape, *self.shape[1:])
        return torch.cat([features, wide], -len(self.shape))

    def with_mask(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """``(..., *features_shape)`` and ``(..., *shape)`` as ``(..., *encoder_shape)``; no mask is one of ones."""
        if not self.missing:
            return features
        axis = -len(self.shape)
        ones = torch.ones_like(features.narrow(axis, 0, self.shape[0]))
        return torch.cat([features, ones if mask is None else mask.to(features)], axis)

    def check(self, data: Any, dtype: torch.dtype, argument: str, *, drawn: bool = False) -> Read:
        """The entries of data, each checked but for the values of x.

        Args:
            data: what the user gave.
            dtype: that the networks compute with.
            argument: what it is called in messages.
            drawn: whether x is to be drawn: the data are then the other entries.

        Raises:
            InputError: naming ``argument``, and in what was expected the entry.
        """
        size = f"shape (N, {', '.join(map(str, self.shape))})"
        if not isinstance(data, Mapping) or not self.several:
            x, entries = data, {}
        else:
            known = [X, *([MASK] if self.missing else []), *self.given]
            unknown = [name for name in data if name not in known]
            if unknown:
                raise InputError(
                    argument, f"the entries {', '.join(map(repr, known))} only", f"entry {unknown[0]!r}"
                )
            x, entries = data.get(X), dict(data)
        if not drawn:
            if not isinstance(x, Tensor):
                also = "" if not self.several else f", or a dict of it as {X!r} with {self._words()}"
                raise InputError(argument, f"a tensor of {size}{also}", describe(data))
            if x.ndim != len(self.shape) + 1 or x.shape[1:] != self.shape or len(x) == 0:
                raise InputError(argument, f"{size}, N > 0", tuple(x.shape))
            if x.dtype != dtype:
                expected = f"a tensor of dtype {dtype} (the networks compute with it)"
                raise InputError(argument, expected, x.dtype)
            entries[X] = x
        if not self.several:
            return Read(x)
        self.check_given(entries, argument)
        n = num_data(entries, argument)
        mask = entries.get(MASK)
        if mask is not None and not (mask.dtype == torch.bool and mask.shape == (n, *self.shape)):
            expected = f"the entry {MASK!r} to be a bool tensor of x's shape {(n, *self.shape)}"
            raise InputError(argument, expected, describe(mask))
        for name, number in self.covariates.items():
            _check_column(name, entries[name], number, dtype, argument)
        if self.exposure is not None:
            _check_column(self.exposure, entries[self.exposure], 1, dtype, argument)
            if not bool((entries[self.exposure] > 0).all()):
                low = entries[self.exposure].min().item()
                raise InputError(argument, f"positive numbers in the entry {self.exposure!r}", f"{low:g}")
        return self.read(entries, dtype)

    def check_given(self, entries: Mapping[str, Any], argument: str = "x") -> None:
        """Refuse entries among which something that p(x|...) is conditioned on is missing."""
        missed = [name for name in self.given if name not in entries]
        if missed:
            raise InputError(argument, f"a dict with {self._words()}", f"no entry {missed[0]!r}")

    def _words(self) -> str:
        """The entries beside x, in words."""
        named = [f"the covariate {name!r}" for name in self.covariates]
        named += [] if self.exposure is None else [f"the exposure {self.exposure!r}"]
        named += [f"a {MASK!r} of the numbers that were observed"] if self.missing else []
        return ", ".join(named)


def _columns(value: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    """An entry as ``(N, number)``: categories ``(N,)`` become columns of 0, and 1 in the column of the category."""
    if value.is_floating_point():
        return value.reshape(len(value), number)
    return (value[:, None] == torch.arange(number, device=value.device)).to(dtype)


def _check_column(name: str, value: Tensor, number: int, dtype: torch.dtype, argument: str) -> None:
    n = len(value)
    codes = value.dtype in (torch.int64, torch.int32, torch.uint8) and value.shape == (n,) and number > 1
    if codes:
        if bool(((value < 0) | (value >= number)).any()):
            expected = f"categories from 0 to {number - 1} in the entry {name!r}"
            raise InputError(argument, expected, f"{value.min().item()} to {value.max().item()}")
        return
    if value.dtype != dtype or value.shape not in ((n, number), (n,) if number == 1 else (n, number)):
        also = f", or integers (N,) from 0 to {number - 1}" if number > 1 else ""
        expected = f"the entry {name!r} to be a tensor (N, {number}) of dtype {dtype}{also}"
        raise InputError(argument, expected, describe(value))
    if not bool(value.isfinite().all()):
        raise InputError(argument, f"finite numbers in the entry {name!r}", "NaN or infinity")


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
