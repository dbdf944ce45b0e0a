"""Table: what ``print(evidence)`` shows."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.evidence.results.curve import Cost, Curve
from ppl_vae.evidence.results.mean import Mean
from ppl_vae.evidence.results.pareto import khat_threshold
from ppl_vae.evidence.results.verdict import FULL, Verdict

BOUNDS = {
    "lower": "stochastic lower bound",
    "upper": "stochastic upper bound",
    "consistent": "consistent estimate, no bound",
}
_WIDTH = 100
_TABLE_DATA = 8


class _Tabulated(Protocol):
    """What the table reads of an `Evidence`; the meaning of each is told there."""

    @property
    def num_samples(self) -> int: ...

    @property
    def method(self) -> str: ...

    @property
    def bound(self) -> str: ...

    @property
    def basis(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def certified(self) -> bool: ...

    @property
    def details(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def elbo(self) -> Tensor: ...

    @property
    def ess(self) -> Tensor: ...

    @property
    def khat(self) -> Tensor: ...

    @property
    def hidden(self) -> Tensor: ...

    @property
    def draws(self) -> Tensor: ...

    def __len__(self) -> int: ...

    @property
    def status(self) -> NDArray[np.str_]: ...

    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...

    @property
    def cost(self) -> Cost: ...

    def mean(self, of: str = ...) -> Mean: ...

    def curve(self) -> Curve: ...

    def status_fractions(self) -> dict[str, float]: ...


def _median(values: Tensor) -> float:
    """The median of what is not NaN (torch would give the lower of the middle two)."""
    numbers = values[~values.isnan()]
    return float(np.median(numbers.numpy())) if len(numbers) else math.nan


def _hidden(e: _Tabulated) -> str:
    """What the tails may hide beyond the errors, over the data that are not rejected."""
    kept = e.hidden[torch.from_numpy(e.status != "reject")]
    kept = kept[kept.isfinite()]
    if not len(kept):
        return "may hide an unknown amount"
    mean, most = float(kept.log1p().mean()), float(kept.log1p().max())
    return f"may hide up to {mean:.2g} nats beyond the errors on average, max {most:.2g}"


def direction(e: _Tabulated) -> str:
    """Which way an estimate errs, in words."""
    if e.certified:
        return BOUNDS[e.bound]
    if e.precision != FULL:
        return f"{BOUNDS[e.bound]}, of a model with products in {e.precision}: not certified"
    return f"HEURISTIC {e.bound} bound, not certified"


def table(e: _Tabulated) -> str:
    """What ``print(evidence)`` shows."""
    N, S = len(e), e.num_samples
    unit = "samples" if e.basis == "weights" else "runs"
    drawn = "" if e.basis == "computed" else f", S = {S} {unit}, seed {e.seed}"
    header = f"{e.method}: N = {N} data{drawn}, {direction(e)}; nats"
    if not N:
        return header
    mean = str(e.mean())
    rows = [("log evidence", mean.replace("Monte Carlo", "numerical") if e.basis == "computed" else mean)]
    if not e.elbo.isnan().all():
        rows += [("ELBO", str(e.mean("elbo"))), ("gap", str(e.mean("gap")))]
    if e.basis != "computed":
        of = f"{S}" if int(e.draws.min()) == S else f"{int(e.draws.min())} to {S}"
        rows.append(("ESS", f"median {_median(e.ess):.1f} [min {float(e.ess.min()):.1f}] of {of}"))
    numbers = e.khat[~e.khat.isnan()]
    if len(numbers) or e.basis == "weights":
        worst = float(numbers.max()) if len(numbers) else math.nan
        # Of a few runs k-hat is that of all weights behind them, and the bar is the number of runs'.
        threshold = khat_threshold(int(e.draws.min()))
        rows.append(("k-hat", f"median {_median(e.khat):.2f}, max {worst:.2f}, threshold {threshold:.2f}"))
    if e.basis == "weights" and not e.hidden.isnan().all():
        rows.append(("tail", _hidden(e)))
    if e.details:
        rows.append(("run", e.details))
    cost = e.cost
    rows.append(
        ("cost", f"{cost.density:,.0f} densities and {cost.gradient:,.0f} gradients of log p(x, z) each")
    )
    fractions = e.status_fractions()
    counts = [f"{status} {round(share * N)} ({share:.1%})" for status, share in fractions.items()]
    rows.append(("status", ", ".join(counts)))
    tally = Counter(e.verdicts)
    rows += [("", f"{v.status} {tally[v]}: {v.message}") for v in Verdict if tally[v] and v.status != "trust"]
    curve = e.curve()
    points = zip(curve.k.tolist(), curve.bound.tolist(), curve.stderr.tolist(), strict=True)
    if len(curve.k):
        rows.append(
            (
                "IWAE-K" if e.basis == "weights" else "K runs",
                ", ".join(f"{k}:\xa0{bound:.3f}\xa0±\xa0{error:.2g}" for k, bound, error in points),
            )
        )
    lines = [header]
    for name, text in rows:
        wrapped = textwrap.fill(text, _WIDTH, initial_indent=f"{name:<14}", subsequent_indent=" " * 14)
        lines.append(wrapped.replace("\xa0", " "))
    if N <= _TABLE_DATA:
        form = "{:>6} {:>14} {:>9} {:>14} {:>9} {:>9} {:>7}  {}"
        lines.append(form.format("datum", "log evidence", "±", "ELBO", "±", "ESS", "k-hat", "status"))
        for n in range(N):
            figures = [f"{float(getattr(e, name)[n]):{spec}}" for name, spec in _COLUMNS]
            lines.append(form.format(n, *figures, e.verdicts[n].status))
    return "\n".join(lines)


_COLUMNS = (
    ("log_evidence", ".4f"),
    ("stderr", ".2g"),
    ("elbo", ".4f"),
    ("elbo_stderr", ".2g"),
    ("ess", ".1f"),
    ("khat", ".2f"),
)
