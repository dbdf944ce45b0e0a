"""Sandwich: a lower and an upper bound of the log evidence of the same data."""

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
_NOISE = 2.0  # a gap of more of its standard errors does not confirm an upper bound
_CLEARLY = 3.0  # the same for a lower bound
_OWN = 4.0  # the same in standard errors of the upper bound, since a lower bound may have a large error
_NEAR = 0.05  # nats: a smaller gap confirms both bounds, even if its error is smaller still


@dataclass(frozen=True, eq=False, repr=False)
class Sandwich:
    """Stochastic lower and upper bounds of log p(x_n) for N data, in nats.

    E[lower] <= log p(x) <= E[upper] for each datum if ``upper`` is certified. It is certified if its chains start from
    exact posterior samples, which are known only for data simulated from the model.

    The reversed chains of a datum start from one exact sample, so their spread does not show the variation over other
    samples. The lower bound is used to check them: a certified upper bound is trusted only if the lower bound is not
    rejected and the gap is small. The gap is small if it is below 0.05 nats, or if it is at most 2 of its standard
    errors, 4 standard errors of the upper bound, and 0.2 nats. The chains of a lower bound are independent. It gets
    caution only if both bounds would be trusted and the gap is above 3 of its standard errors.

    Attributes:
        lower: the lower bounds, with ``unconfirmed`` filled in.
        upper: the upper bounds of the same data, with ``unconfirmed`` filled in.
        x: the data, if they were simulated; else None.

    Raises:
        InputError: if the two have different numbers of data, or ``upper`` is not an upper bound.
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
        """Whether both bounds are proved (in expectation), without a heuristic or rounded products."""
        return self.lower.certified and self.upper.certified

    @property
    def gap(self) -> Tensor:
        """``(N,)`` upper - lower, in nats: zero, except for noise, if the sampler is perfect."""
        return self.upper.log_evidence - self.lower.log_evidence

    @property
    def gap_stderr(self) -> Tensor:
        """``(N,)`` Monte Carlo standard errors of the gap: the two bounds come from independent chains."""
        return (self.lower.stderr**2 + self.upper.stderr**2).sqrt()

    def _unconfirmed(self) -> dict[str, Tensor]:
        """``(N,)`` bool for each bound: whether the other one does not confirm it; all False for a heuristic."""
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
        """The gap averaged over data, with its Monte Carlo error and its error over data."""
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
        """``(N,)`` and ``(N,)``: the lower end of the lower bound's interval, the upper end of the upper bound's.

        Both intervals are two-sided at ``level``, so log p(x) is between these ends with a probability of at least
        about ``level``; see `Evidence.interval`.
        """
        return self.lower.interval(level)[0], self.upper.interval(level)[1]

    def contains(self, log_evidence: Tensor, level: float = 0.99) -> Tensor:
        """``(N,)`` bool: whether values ``(N,)`` are inside `interval`."""
        low, high = self.interval(level)
        return (low <= log_evidence) & (log_evidence <= high)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both bounds (not x) to one file, atomically; `load` reads them without any change."""
        sides = {"lower": self.lower.pack(), "upper": self.upper.pack()}
        tensors = {f"{side}/{k}": v for side, (packed, _) in sides.items() for k, v in packed.items()}
        settings = {side: metadata for side, (_, metadata) in sides.items()}
        files.write_tensors(path, tensors, {"kind": _KIND, **settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sandwich:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, damaged, or another kind of file.
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
