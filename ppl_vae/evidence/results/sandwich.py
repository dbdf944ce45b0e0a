"""Sandwich: a lower and an upper bound of the same log evidences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.checkpoint import with_prefix
from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.results.evidence import Evidence, Mean
from ppl_vae.evidence.results.verdict import RESOLVED
from ppl_vae.program import Data

_KIND = "ppl_vae.Sandwich"
_NOISE = 2.0  # standard errors of a gap beyond which an upper bound is not confirmed
_CLEARLY = 3.0  # the same for a lower bound
_OWN = 4.0  # standard errors of the upper bound alone: a lower one that knows little does not excuse a larger gap
_NEAR = 0.05  # nats: a gap that is no reason for doubt, however small its error


@dataclass(frozen=True, eq=False, repr=False)
class Sandwich:
    """Stochastic bounds of log p(x_n) from both sides, for N data, in nats.

    E[lower] <= log p(x) <= E[upper] for each datum, where ``upper`` is certified: where its chains start from exact
    samples of the posterior, as there are for data simulated from the model and for no others.

    The reversed chains of a datum start around one exact sample, so their spread does not show what other samples, or
    rare ways back to the guide, would give. The lower bound does: a certified upper bound is trusted only where the
    lower one is not rejected and the gap is below 0.05 nats, or within 2 of its own standard errors, 4 of the upper
    bound's, and 0.2 nats. A lower bound, whose chains are independent, is doubted only where both would be trusted and
    the gap is above 3 of its standard errors.

    Attributes:
        lower: the lower bounds, with ``unconfirmed`` filled in.
        upper: the upper bounds of the same data, likewise.
        x: the data that were bounded, if they were simulated; else None.

    Raises:
        InputError: if the two are not of as many data, or ``upper`` is no upper bound.
    """

    lower: Evidence
    upper: Evidence
    x: Data | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if not isinstance(value, Evidence) or value.bound != name:
                raise InputError(name, f'an Evidence with bound="{name}"', describe(value))
        if len(self.lower) != len(self.upper):
            raise InputError("upper", f"an Evidence of {len(self.lower)} data", f"one of {len(self.upper)}")
        for name, value in self._unconfirmed().items():
            object.__setattr__(self, name, getattr(self, name).replace(unconfirmed=value))

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def certified(self) -> bool:
        """Whether both bounds are proved (in expectation): no upper one that is a heuristic, no rounded products."""
        return self.lower.certified and self.upper.certified

    @property
    def gap(self) -> Tensor:
        """``(N,)`` upper - lower, in nats: zero but for noise when the sampler is perfect."""
        return self.upper.log_evidence - self.lower.log_evidence

    @property
    def gap_stderr(self) -> Tensor:
        """``(N,)`` Monte Carlo standard errors of the gap: the two bounds come from independent chains."""
        return (self.lower.stderr**2 + self.upper.stderr**2).sqrt()

    def _unconfirmed(self) -> dict[str, Tensor]:
        """``(N,)`` bool for each side: where the other one does not confirm it. A heuristic confirms nothing."""
        nothing = torch.zeros(len(self), dtype=torch.bool)
        if not self.certified:
            return {"lower": nothing, "upper": nothing}
        lower, upper = (side.replace(unconfirmed=nothing).status for side in (self.lower, self.upper))
        both = torch.from_numpy((lower == "trust") & (upper == "trust"))
        rejected = torch.from_numpy(lower == "reject")
        apart, error = self.gap.abs(), self.gap_stderr
        noise = torch.minimum(_NOISE * error, _OWN * self.upper.stderr).clamp(max=RESOLVED)
        loose = ~(apart <= noise.clamp(min=_NEAR))
        clearly = ~(apart <= (_CLEARLY * error).clamp(min=_NEAR))
        return {"lower": both & clearly, "upper": rejected | loose}

    def mean_gap(self) -> Mean:
        """The gap averaged over data, with its two errors kept apart."""
        return Mean.of(self.gap, self.gap_stderr)

    def summary(self) -> dict[str, Any]:
        """What the averages over data come to, in JSON's types: None where a number is not known."""
        sides = {"lower": self.lower, "upper": self.upper}
        return {
            "certified": self.certified,
            "num_data": len(self),
            "seed": self.lower.seed,
            "unit": "nats a datum, mean over data",
            **{name: side.mean().summary() for name, side in sides.items()},
            "gap": self.mean_gap().summary(),
            "status": {name: side.status_fractions() for name, side in sides.items()},
            "cost": {name: side.cost.summary() for name, side in sides.items()},
            "details": {name: side.details for name, side in sides.items()},
        }

    def interval(self, level: float = 0.99) -> tuple[Tensor, Tensor]:
        """``(N,)`` and ``(N,)``: from the lower bound less its error to the upper bound plus its error.

        Each side is that of the bound's own two-sided interval at ``level``, so log p(x) is inside with a
        probability of at least about ``level``; see `Evidence.interval`.
        """
        return self.lower.interval(level)[0], self.upper.interval(level)[1]

    def contains(self, log_evidence: Tensor, level: float = 0.99) -> Tensor:
        """``(N,)`` bool: whether values ``(N,)`` lie inside `interval`."""
        low, high = self.interval(level)
        return (low <= log_evidence) & (log_evidence <= high)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both bounds (not x) to one file, atomically; `load` gives them back exactly."""
        sides = {"lower": self.lower.pack(), "upper": self.upper.pack()}
        tensors = {f"{side}/{k}": v for side, (packed, _) in sides.items() for k, v in packed.items()}
        settings = {side: metadata for side, (_, metadata) in sides.items()}
        files.write_tensors(path, tensors, {"kind": _KIND, **settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sandwich:
        """Read what `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, broken, or holds anything else.
        """
        tensors, metadata = files.read_kind(path, _KIND, "a file written by Sandwich.save")
        lower, upper = (
            Evidence.unpack(
                with_prefix(f"{side}/", tensors), metadata.get(side, {}), f"{os.fspath(path)}: {side}"
            )
            for side in ("lower", "upper")
        )
        try:
            return cls(lower, upper)
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error.argument}", error.expected, error.received) from None

    def __repr__(self) -> str:
        return f"Sandwich(N={len(self)}, lower {self.lower.mean()}, upper {self.upper.mean()})"

    def __str__(self) -> str:
        gap = self.mean_gap()
        largest = float(self.gap.max())
        trusted = torch.from_numpy((self.lower.status == "trust") & (self.upper.status == "trust"))
        which = "the upper bound is" if self.lower.certified else "the bounds are"
        title = "two-sided" if self.certified else f"HEURISTIC two-sided, {which} not certified"
        data = "simulated from the model" if self.x is not None else "as given"
        return "\n".join(
            [
                f"{title}: {len(self)} data, {data}; nats",
                f"gap           {gap}; largest {largest:.3g}",
                f"both trusted  {int(trusted.sum())} of {len(self)}",
                f"lower: {self.lower}",
                f"upper: {self.upper}",
            ]
        )
