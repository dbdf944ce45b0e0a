"""Stored rows: checks of the numbers of an estimate that is read from a file.

Verdicts are not stored. They are computed again from these numbers, so an edited file cannot contain a verdict that its
numbers do not support.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ppl_vae.evidence.results.diagnostics import KINDS
from ppl_vae.evidence.results.parts import BOUNDS
from ppl_vae.stored import Stored

_PRECISIONS = ("full", "bfloat16", "tf32")
_ROUNDING = 1 + 1e-6  # an effective sample size is a ratio of sums
_MOST = 2**62


def check_rows(stored: Stored, curve_k: Sequence[int], num_samples: int, prefix: str = "") -> int:
    """Check the tensors with one row for each datum; returns N.

    Args:
        stored: the content of the file.
        curve_k: the K of the curve.
        num_samples: the largest number of weights of a datum.
        prefix: the prefix of the tensors' names.

    Raises:
        InputError: naming the file and the first field that is missing, has another shape or dtype, or is out of range.
    """
    N = stored.tensor(f"{prefix}log_evidence").numel()
    if sorted(set(curve_k)) != list(curve_k) or (
        curve_k and not 1 <= curve_k[0] <= curve_k[-1] <= num_samples
    ):
        raise stored.wrong(
            f"{prefix}curve_k", f"increasing integers from 1 to {num_samples}", str(list(curve_k))
        )
    draws = stored.tensor(f"{prefix}draws", (N,), torch.int64, low=0, high=num_samples)
    most = draws.double() * _ROUNDING
    for name in ("log_evidence", "elbo", "khat"):
        stored.tensor(f"{prefix}{name}", (N,), nan=name != "log_evidence")
    for name in ("stderr", "elbo_stderr"):
        stored.tensor(f"{prefix}{name}", (N,), low=0, nan=True)
    for name in ("ess", "expected_ess"):
        stored.tensor(f"{prefix}{name}", (N,), low=0, high=most, nan=True)
    for name in ("density_evals", "gradient_evals"):
        stored.tensor(f"{prefix}{name}", (N,), low=0, high=torch.finfo(torch.float64).max)
    for name in ("missed", "unvisited"):
        stored.tensor(f"{prefix}{name}", (N,), torch.bool)
    stored.tensor(f"{prefix}hidden", (N,), low=0, nan=True)
    stored.tensor(f"{prefix}on_edge", (N,), low=0, high=1)
    J = len(curve_k)
    stored.tensor(f"{prefix}curve_bound", (N, J), nan=True)
    stored.tensor(f"{prefix}curve_stderr", (N, J), low=0, nan=True)
    return N


def check_settings(stored: Stored) -> None:
    """Check the settings of an `Evidence`; raises `InputError`, naming the file and the field."""
    stored.number("num_samples", 1, _MOST)
    stored.number("seed", 0, 2**63 - 1)
    stored.text("method")
    stored.text("bound", tuple(BOUNDS))
    optional = {"basis": tuple(KINDS), "precision": _PRECISIONS, "details": None}
    for name, options in optional.items():
        if name in stored.numbers:
            stored.text(name, options, empty=options is None)
    if "certified" in stored.numbers:
        rounded = stored.numbers.get("precision", "full") != "full"
        if stored.flag("certified") and rounded:
            raise stored.wrong("certified", "false for products of a lower precision", "true")


def check_agreement(stored: Stored) -> None:
    """Check that the numbers of an `Evidence` are consistent, after `check_rows` and `check_settings`.

    Only an upper bound can be plus infinity, and the curve of independent weights starts at the ELBO.

    Raises:
        InputError: naming the file and the field.
    """
    bound = stored.numbers["bound"]
    if bound != "upper" and bool((stored.tensors["log_evidence"] == math.inf).any()):
        raise stored.wrong("log_evidence", f"numbers below infinity, since bound is {bound!r}", "inf")
    ks, curve, elbo = (stored.tensors[name] for name in ("curve_k", "curve_bound", "elbo"))
    if KINDS[stored.numbers.get("basis", "weights")].has_iwae and len(ks) and ks[0] == 1:
        different = curve[:, 0].nan_to_num(0.5) != elbo.nan_to_num(0.5)
        if bool(different.any()):
            n = int(different.nonzero()[0])
            raise stored.wrong("curve_bound", f"elbo {elbo[n]:g} at K = 1", f"{curve[n, 0]:g} at {n}")
