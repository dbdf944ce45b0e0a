"""Flat names: the fields of a result's parts, read from the result itself."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Generic, TypeVar, overload

from torch import Tensor

T = TypeVar("T")
W = TypeVar("W", bound="OfParts")


class Flat(Generic[T]):
    """A read-only attribute of a dataclass: the field ``field`` of its part ``part``."""

    def __init__(self, part: str, field: str) -> None:
        self.part, self.field = part, field

    @overload
    def __get__(self, whole: None, owner: type) -> Flat[T]: ...

    @overload
    def __get__(self, whole: object, owner: type) -> T: ...

    def __get__(self, whole: Any, owner: type) -> Any:
        return self if whole is None else getattr(getattr(whole, self.part), self.field)


class OfParts:
    """A frozen dataclass whose fields are frozen dataclasses (parts); it is made and changed by flat names."""

    _parts: ClassVar[dict[str, type]] = {}

    @classmethod
    def flat_names(cls) -> dict[str, Flat[Any]]:
        """The flat names of all parts, in the order of their definition."""
        owners = reversed(cls.__mro__)
        return {
            name: flat for owner in owners for name, flat in vars(owner).items() if isinstance(flat, Flat)
        }

    @classmethod
    def of(cls: type[W], **values: Any) -> W:
        """An object whose parts have these values, by flat names; other names are fields of the object itself."""
        return cls._of(cls._parts, values)

    @classmethod
    def _of(cls: type[W], kinds: dict[str, type], values: dict[str, Any]) -> W:
        given, own = cls._by_part(values)
        return cls(
            **own, **{part: kind(**given.get(part, {})) for part, kind in kinds.items() if part not in own}
        )

    def replace(self: W, **changes: Any) -> W:
        """A copy with some values changed, by flat names or names of fields."""
        given, own = self._by_part(changes)
        parts = {part: dataclasses.replace(getattr(self, part), **values) for part, values in given.items()}
        return dataclasses.replace(self, **own, **parts)  # type: ignore[type-var]  # every subclass is one

    @classmethod
    def _by_part(cls, values: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """The values of each part, from values by flat names; and the values that belong to no part."""
        names, given, own = cls.flat_names(), dict[str, dict[str, Any]](), dict[str, Any]()
        for name, value in values.items():
            if name in names:
                given.setdefault(names[name].part, {})[names[name].field] = value
            else:
                own[name] = value
        return given, own


class EstimateParts(OfParts):
    """The flat names of the parts of an estimate of log p(x); see `Evidence` for their meaning."""

    log_evidence = Flat[Tensor]("estimate", "value")
    stderr = Flat[Tensor]("estimate", "stderr")
    elbo = Flat[Tensor]("guide_elbo", "value")
    elbo_stderr = Flat[Tensor]("guide_elbo", "stderr")
    ess = Flat[Tensor]("diagnostics", "ess")
    khat = Flat[Tensor]("diagnostics", "khat")
    curve_k = Flat[Tensor]("curves", "k")
    curve_bound = Flat[Tensor]("curves", "bound")
    curve_stderr = Flat[Tensor]("curves", "stderr")
    draws = Flat[Tensor]("diagnostics", "draws")
    density_evals = Flat[Tensor]("cost", "density_evals")
    gradient_evals = Flat[Tensor]("cost", "gradient_evals")
    missed = Flat[Tensor]("diagnostics", "missed")
    expected_ess = Flat[Tensor]("diagnostics", "expected_ess")
    on_edge = Flat[Tensor]("diagnostics", "on_edge")
    hidden = Flat[Tensor]("diagnostics", "hidden")
    unvisited = Flat[Tensor]("diagnostics", "unvisited")
    unconfirmed = Flat[Tensor]("diagnostics", "unconfirmed")

    def per_datum(self) -> dict[str, Tensor]:
        """All tensors with one row for each datum, by flat names."""
        return {name: getattr(self, name) for name in EstimateParts.flat_names() if name != "curve_k"}
