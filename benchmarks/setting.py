"""What a run of the benchmarks is given, and what its sections hand back."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from benchmarks.jax_peer import Jax
from benchmarks.timing import Spread, Turns

T = TypeVar("T")

OURS, PLAIN = "ppl_vae", "ppl_vae, not compiled"
PYRO, EAGER, COMPILED, JAX = "Pyro", "PyTorch", "PyTorch, compiled", "JAX"
CEILING, ONEDNN, TRAFFIC = "torch.mm alone", "oneDNN alone", "memory traffic"


@dataclass(frozen=True)
class Setting:
    """How much is to be measured.

    Attributes:
        rounds: that count.
        quick: whether everything is to be small: to see that it runs, not how fast.
        jax: the process of the JAX contestants.
    """

    rounds: int
    quick: bool
    jax: Jax

    def size(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Target:
    """What the figures are to show, decided by the figures.

    Attributes:
        words: of what.
        value: what was measured; None if it was not.
        bound: what it is held against.
        at_least: or at most.
    """

    words: str
    value: Spread | float | None
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it is met, by the median; None if it was not measured."""
        value = self._value
        return None if value is None else (value >= self.bound if self.at_least else value <= self.bound)

    @property
    def _value(self) -> float | None:
        return self.value.median if isinstance(self.value, Spread) else self.value

    def line(self) -> str:
        """A line of a list."""
        asked = f"at {'least' if self.at_least else 'most'} {self.bound:g}"
        value = self._value
        if value is None:
            return f"- *not measured*: {self.words} ({asked})"
        off = 100 * abs(value / self.bound - 1)
        verdict = "met" if self.met else f"missed by {off:.0f} %" if off >= 0.5 else f"missed by {off:.1f} %"
        return f"- **{verdict}**: {self.words}: {figure(self.value, 2)} ({asked})"


@dataclass
class Section:
    """A section of the results: Markdown, and the raw figures."""

    title: str
    intro: str
    parts: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def add(self, label: str, turns: Turns) -> None:
        """Keep the seconds of some rounds, and say who is missing and why."""
        self.data[label] = {"seconds": turns.seconds, "missing": turns.missing}
        self.notes += [f"{label}: {name}: {why}." for name, why in turns.missing.items()]

    def markdown(self) -> str:
        """The section as Markdown."""
        filled = [part if part.startswith("|") else fill(part) for part in (self.intro, *self.parts)]
        blocks = [f"## {self.title}", *filled]
        if self.targets:
            blocks.append("\n".join(["Targets:", "", *(target.line() for target in self.targets)]))
        if self.notes:
            blocks.append("\n".join(f"- {note}" for note in dict.fromkeys(self.notes)))
        return "\n\n".join(blocks) + "\n"


def fill(text: str) -> str:
    """Paragraphs, wrapped anew now that the figures are in."""
    return "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in text.split("\n\n"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: Spread | float | None, digits: int = 0) -> str:
    """A number, with its smallest and largest in brackets where there are any; n/a for None."""
    if value is None:
        return "n/a"
    if isinstance(value, Spread):
        median, low, high = (f"{number:,.{digits}f}" for number in value)
        return f"{median} [{low}, {high}]"
    return f"{value:,.{digits}f}"


def median(value: Spread | None, digits: int = 0) -> str:
    """The median alone."""
    return figure(None if value is None else value.median, digits)


def gate(
    values: Mapping[str, torch.Tensor], reference: torch.Tensor, missing: dict[str, str], relative: float
) -> None:
    """Put out, into ``missing``, every contestant whose values are not the reference up to a relative error."""
    size = float(reference.abs().max())
    for name, value in values.items():
        off = float((value.double() - reference.double()).abs().max())
        if not off <= relative * size:
            missing[name] = f"disagrees: off by {off:.3g} where values are of size {size:.3g}; not timed"
