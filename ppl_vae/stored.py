"""Stored: checks of a file's content: tensors of the right shape, dtype and range, numbers of the right type."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, describe


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:g}"


class Stored:
    """The tensors and metadata of a file, with methods that check them before use.

    Args:
        source: the file, for messages.
        tensors: its tensors.
        numbers: its metadata.
        where: a prefix of the names of fields, in messages.
    """

    def __init__(self, source: str, tensors: Mapping[str, Tensor], numbers: Any, where: str = "") -> None:
        self.source, self.tensors, self.where = source, tensors, where
        if not isinstance(numbers, Mapping):
            raise self.wrong("metadata", "a mapping", describe(numbers))
        self.numbers = numbers

    def wrong(self, name: str, expected: str, received: object) -> InputError:
        """The error about one field."""
        return InputError(self.source, f"{self.where}{name}: {expected}", received)

    def tensor(
        self,
        name: str,
        shape: Collection[int] | None = None,
        dtype: torch.dtype = torch.float64,
        *,
        low: float = -math.inf,
        high: float | Tensor = math.inf,
        nan: bool = False,
    ) -> Tensor:
        """The tensor ``name``, if it has this shape and dtype, and its values are from ``low`` to ``high``.

        Raises:
            InputError: naming the file and the tensor, with the first value that does not fit.
        """
        value = self.tensors.get(name)
        if value is None:
            raise self.wrong(name, "a tensor", "none")
        wanted = tuple(value.shape) if shape is None else tuple(shape)
        if value.dtype != dtype or tuple(value.shape) != wanted:
            raise self.wrong(name, f"a tensor of shape {wanted} and dtype {dtype}", describe(value))
        if dtype == torch.bool:
            return value
        good = (value >= low) & (value <= high)
        if nan and dtype.is_floating_point:
            good |= value.isnan()
        if not bool(good.all()):
            index = tuple(int(i) for i in (~good).nonzero()[0])
            bound = high if isinstance(high, int | float) else "its largest value there"
            words = f"numbers from {low:g} to {bound if isinstance(bound, str) else f'{bound:g}'}"
            words += " or NaN" if nan else ""
            where = f" at {index[0] if len(index) == 1 else index}" if index else ""
            raise self.wrong(name, words, f"{_shown(value[index].item())}{where}")
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf, *, whole: bool = True) -> Any:
        """The number ``name``, if it is a number (an integer if ``whole``) from ``low`` to ``high``."""
        value = self._number(name)
        kinds = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            words = "an integer" if whole else "a number"
            if low > -math.inf or high < math.inf:
                words += f" from {low:g}" + (f" to {high:g}" if high < math.inf else " up")
            raise self.wrong(name, words, describe(value))
        return value

    def text(self, name: str, options: Collection[str] | None = None, *, empty: bool = False) -> str:
        """The text called ``name``, if it is one of ``options``."""
        value = self._number(name)
        if not isinstance(value, str) or not (value or empty):
            raise self.wrong(name, "a text", describe(value))
        if options is not None and value not in options:
            raise self.wrong(name, "one of " + ", ".join(map(repr, options)), describe(value))
        return value

    def flag(self, name: str) -> bool:
        """True or False, called ``name``."""
        value = self._number(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", describe(value))
        return value

    def entry(self, name: str, kind: type) -> Any:
        """The entry called ``name`` of the metadata, if it is of this type."""
        value = self._number(name)
        if not isinstance(value, kind):
            raise self.wrong(name, "a mapping" if kind is dict else "a list", describe(value))
        return value

    def real(self, name: str) -> float:
        """The number ``name``, which may be NaN or infinite."""
        value = self._number(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number", describe(value))
        return value

    def only(self, tensors: Collection[str]) -> None:
        """Refuse tensors of other names."""
        for name in self.tensors:
            if name not in tensors:
                raise self.wrong(name, "no such tensor", describe(self.tensors[name]))

    def _number(self, name: str) -> Any:
        if name not in self.numbers:
            raise self.wrong(name, "a value", "none")
        return self.numbers[name]
