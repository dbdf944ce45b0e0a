"""Groups of recorded numbers, and how the numbers are read from results.

Names of the library are called in this file and in the other ``golden_`` files beside it only, each in as few places
as can be: after a change of a name, change it there, and the recorded numbers stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from golden_programs import waves

import ppl_vae as pv

SEED = 11
LEVELS = {"plain": False, "compiled": True}
"""What ``compile=`` is at each level."""
BOTH = tuple(LEVELS)
DIGEST = " (digest)"
"""How the name of a digest ends."""

Results = Mapping[str, Any]
"""Numbers of a group by name: tensors, sequences of numbers, or numbers."""


@dataclass(frozen=True)
class Group:
    """A group of numbers.

    Attributes:
        compute: makes them, at a level of `LEVELS`.
        levels: the levels that it is recorded at.
        kind: names their tolerance, see `golden_numbers.TOLERANCES`.
    """

    compute: Callable[[str], Results]
    levels: tuple[str, ...] = ("plain",)
    kind: str = "float64"


GROUPS: dict[str, Group] = {}
"""All groups by name; the other files put theirs in."""


def group(
    name: str, levels: tuple[str, ...] = ("plain",), kind: str = "float64"
) -> Callable[[Callable[[str], Results]], Callable[[str], Results]]:
    """A decorator that makes a group of a function ``level -> results``."""

    def put(compute: Callable[[str], Results]) -> Callable[[str], Results]:
        if name in GROUPS:
            raise ValueError(f"two groups {name!r}")
        GROUPS[name] = Group(compute, levels, kind)
        return compute

    return put


# ---- reading results -----------------------------------------------------------------------------------------------

EVIDENCE = (
    "log_evidence", "stderr", "elbo", "elbo_stderr", "ess", "khat", "expected_ess", "hidden", "on_edge", "missed",
    "unvisited", "draws", "density_evals", "gradient_evals",
)  # fmt: skip
VERDICTS = ("trust", "caution", "reject")
BASES = ("weights", "runs", "computed")
REFIT = ("converged", "steps", "gain", "gain_stderr", "density_evals", "gradient_evals")
EPOCH = ("step", "train_elbo", "valid_elbo", "lr", "beta")


def digests(tensors: Mapping[str, torch.Tensor]) -> Results:
    """A number for all bits of a tensor, which saves room: it tells that they differ, not by how much."""
    return {
        f"{name}{DIGEST}": int.from_bytes(
            hashlib.blake2b(value.numpy().tobytes(), digest_size=6).digest(), "big"
        )
        for name, value in tensors.items()
    }


def of_evidence(e: pv.Evidence) -> Results:
    """All numbers of an Evidence, of curves the averages, and the interval and the verdict as numbers."""
    low, high = e.interval()
    found = {name: getattr(e, name) for name in EVIDENCE}
    curve = e.curve()
    found |= {"curve k": curve.k, "curve": curve.bound}
    found |= digests({"curve": torch.cat([e.curve_bound, e.curve_stderr, curve.stderr[None]])})
    verdicts = [VERDICTS.index(status) for status in e.status]
    kind = [BASES.index(e.basis), int(e.certified), e.num_samples]
    return found | {"low": low, "high": high, "status": verdicts, "kind": kind}


def of_sandwich(s: pv.Sandwich) -> Results:
    """Both bounds, and the data that they are of."""
    sides = {"lower": of_evidence(s.lower), "upper": of_evidence(s.upper)}
    found = {f"{side} {name}": value for side, parts in sides.items() for name, value in parts.items()}
    return found if s.x is None else found | {"x": s.x}


def of_refit(r: pv.evidence.Refit) -> Results:
    """What a refit found."""
    offsets = {f"offset {index}": r.offsets[name] for index, name in enumerate(sorted(r.offsets))}
    return {name: getattr(r, name) for name in REFIT} | offsets


def of_result(result: Any) -> Results:
    """The numbers of what an estimator returned."""
    if isinstance(result, pv.Sandwich):
        return of_sandwich(result)
    return of_refit(result) if isinstance(result, pv.evidence.Refit) else of_evidence(result)


def of_parameters(module: torch.nn.Module) -> Results:
    """A sum over each parameter tensor, and a digest of all."""
    parameters = [parameter.detach().flatten() for parameter in module.parameters()]
    # Weighted, so that no symmetry of a network makes it zero.
    sums = [(part * waves(len(part), phase=2.0, dtype=part.dtype)).sum() for part in parameters]
    return {"parameters": torch.stack(sums), **digests({"parameters": torch.cat(parameters)})}


def of_training(history: pv.History, module: torch.nn.Module) -> Results:
    """The history, and the parameters that training ended with."""
    columns = {name: [getattr(epoch, name) for epoch in history] for name in EPOCH}
    best = -1 if history.best_epoch is None else history.best_epoch
    found = {name: values for name, values in columns.items() if None not in values}
    return {**found, "best_epoch": best, **of_parameters(module)}
