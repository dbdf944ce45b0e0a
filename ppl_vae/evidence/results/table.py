"""Table: the text of ``print(evidence)``."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.evidence.results.diagnostics import Judge
from ppl_vae.evidence.results.mean import Mean
from ppl_vae.evidence.results.parts import Cost, Curve, Estimate, Origin
from ppl_vae.evidence.results.verdict import Verdict

_WIDTH = 100
_TABLE_DATA = 8


class _Tabulated(Protocol):
    """The attributes of an `Evidence` that the table uses."""

    @property
    def estimate(self) -> Estimate: ...

    @property
    def guide_elbo(self) -> Estimate: ...

    @property
    def diagnostics(self) -> Judge: ...

    @property
    def cost(self) -> Cost: ...

    @property
    def origin(self) -> Origin: ...

    def __len__(self) -> int: ...

    @property
    def status(self) -> NDArray[np.str_]: ...

    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...

    def mean(self, of: str = ...) -> Mean: ...

    def curve(self) -> Curve: ...

    def status_fractions(self) -> dict[str, float]: ...


def table(e: _Tabulated) -> str:
    """The text of ``print(evidence)``."""
    N, origin, known = len(e), e.origin, e.diagnostics
    drawn = f", S = {origin.num_samples} {known.unit}, seed {origin.seed}" if known.drawn else ""
    header = f"{origin.method}: N = {N} data{drawn}, {origin.direction}; nats"
    if not N:
        return header
    rows = [("log evidence", str(e.mean()).replace("Monte Carlo", known.error))]
    if not e.guide_elbo.value.isnan().all():
        rows += [("ELBO", str(e.mean("elbo"))), ("gap", str(e.mean("gap")))]
    rows += known.table_rows(origin.num_samples, torch.from_numpy(e.status == "reject"))
    if origin.details:
        rows.append(("run", origin.details))
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
                known.curve,
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
        columns = [
            (e.estimate.value, ".4f"),
            (e.estimate.stderr, ".2g"),
            (e.guide_elbo.value, ".4f"),
            (e.guide_elbo.stderr, ".2g"),
            (known.ess, ".1f"),
            (known.khat, ".2f"),
        ]
        for n in range(N):
            figures = [f"{float(values[n]):{spec}}" for values, spec in columns]
            lines.append(form.format(n, *figures, e.verdicts[n].status))
    return "\n".join(lines)
