"""Evidence ladder: estimates of one model's log evidence, from the ELBO to upper bounds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.errors import InputError, check_one_of, describe
from ppl_vae.evidence import Sandwich
from ppl_vae.evidence.results.evidence import Evidence, Mean
from ppl_vae.evidence.results.parts import BOUNDS
from ppl_vae.plots import style
from ppl_vae.plots.evidence import Exact, _exact_value

_COLOURS = {"lower": style.BLUE, "upper": style.VERMILION, "consistent": style.GREEN}
_MARKERS = {"lower": ">", "upper": "<", "consistent": "o"}  # which way log p(x) lies
_COMPUTED = "computed value"
_LABEL = 32  # characters of a row's label in a line
_JUMP = 2.0
_ENLARGE = 4.0  # from which enlargement on a second panel is worth its room
_LEAST = 1e-3  # nats: the smallest span drawn
_HEADINGS = (
    (0.0, "mean ± s.e.\n(nats)", "left"),
    (0.74, "caution,\nrejected", "right"),
    (1.0, "passes\na datum", "right"),
)


@dataclass(frozen=True)
class Rung:
    """A row of the ladder: a mean over data, its direction, and its cost.

    Attributes:
        mean: the mean over data, in nats, with its errors.
        bound: "lower", "upper" or "consistent", as in `Evidence`.
        certified: whether ``bound`` is proved.
        rejected: the fraction of the data whose estimate is rejected; NaN without verdicts.
        passes: passes through the decoder for each datum, as in `Cost`; NaN if unknown.
        num_data: N, if it is known.
        seed: the seed, if there is one.
        computed: whether nothing was drawn, so that the error is the numerical error.
        caution: the fraction of the data whose estimate gets caution; NaN without verdicts.

    Raises:
        InputError: if ``mean`` is not a `Mean`, or ``bound`` is another name.
    """

    mean: Mean
    bound: str = "consistent"
    certified: bool = True
    rejected: float = math.nan
    passes: float = math.nan
    num_data: int | None = None
    seed: int | None = None
    computed: bool = False
    caution: float = math.nan

    def __post_init__(self) -> None:
        if not isinstance(self.mean, Mean):
            raise InputError("mean", "a Mean", describe(self.mean))
        check_one_of("bound", self.bound, tuple(BOUNDS))

    @classmethod
    def of(cls, evidence: Evidence) -> Rung:
        """The row of a result's log evidence."""
        return cls(
            evidence.mean(),
            evidence.bound,
            evidence.certified,
            evidence.status_fractions()["reject"],
            evidence.cost.passes,
            len(evidence),
            evidence.seed if evidence.diagnostics.drawn else None,
            not evidence.diagnostics.drawn,
            evidence.status_fractions()["caution"],
        )

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if self.computed and self.bound == "consistent":
            return _COMPUTED
        if self.certified:
            return BOUNDS[self.bound]
        noun = "estimate" if self.bound == "consistent" else f"{self.bound} bound"
        return f"heuristic {noun}, not certified"

    @property
    def style(self) -> dict[str, Any]:
        """The marker, as matplotlib's settings: hollow if the bound is a heuristic."""
        if self.kind == _COMPUTED:
            return {"marker": "D", "color": style.BLACK, "markerfacecolor": style.BLACK, "markersize": 5}
        colour = _COLOURS[self.bound]
        face = colour if self.certified else "white"
        return {"marker": _MARKERS[self.bound], "color": colour, "markerfacecolor": face, "markersize": 6.5}

    @property
    def ends(self) -> tuple[float, float]:
        """The mean less and plus 2 standard errors (none where they are unknown)."""
        error = 2 * self.mean.mc_stderr if math.isfinite(self.mean.mc_stderr) else 0.0
        return self.mean.value - error, self.mean.value + error


Row: TypeAlias = Evidence | Sandwich | Mean | Rung


def ladder_rows(
    evidence: Evidence, *, k: Sequence[int] | None = None, label: str | None = None
) -> dict[str, Rung]:
    """The rows of one result: its ELBO, some of its IWAE-K bounds, and its log evidence.

    They come from the same samples, so their errors are not independent, and each row has the cost of all of them. The
    ELBO and the IWAE-K bounds have no verdicts.

    Args:
        evidence: the result. There are no rows for an ELBO or IWAE-K bounds that it does not have.
        k: the K, from ``evidence.curve_k``; by default up to three between 1 and S.
        label: the label of the log evidence, instead of the method and S.

    Raises:
        InputError: if ``evidence`` is not an Evidence of at least one datum, or its curve lacks one of ``k``.
    """
    style.check_evidence("evidence", evidence)
    curve = evidence.curve()
    known = curve.k.tolist() if evidence.diagnostics.has_iwae and evidence.bound != "upper" else []
    chosen = _default_k(known, evidence.num_samples) if k is None else list(k)
    cost: dict[str, Any] = {"passes": evidence.cost.passes, "num_data": len(evidence), "seed": evidence.seed}
    rows = {}
    if not evidence.elbo.isnan().all():
        rows["ELBO"] = Rung(evidence.mean("elbo"), "lower", **cost)
    for number in chosen:
        if number not in known:
            raise InputError("k", f"some of the K of the curve, {known}", describe(number))
        j = known.index(number)
        spread = float(evidence.curve_bound[:, j].std()) if len(evidence) > 1 else math.nan
        mean = Mean(float(curve.bound[j]), float(curve.stderr[j]), spread / math.sqrt(len(evidence)))
        if evidence.mostly_rejected and number > 1:  # the same weights, whose errors are not known
            mean = replace(mean, mc_stderr=math.nan, limit="at least")
        rows[f"IWAE-{number}"] = Rung(mean, "lower", **cost)
    rows[label or evidence.method + evidence.diagnostics.counted(evidence.num_samples)] = Rung.of(evidence)
    return rows


@rc_context(style.STYLE)
def evidence_ladder(
    results: Evidence | Mapping[str, Row], *, exact: Exact | None = None, title: str | None = None
) -> Figure:
    """Estimates of one model's mean log evidence on the same data, a row each, from the top in the order given.

    A triangle points towards log p(x): to the right for a lower bound, to the left for an upper bound. A circle is an
    estimate that is not a bound, and a diamond a computed value. A hollow marker is a heuristic; its row says so, too.
    A row with mostly rejected data has no bar, and says "at least" (or "at most"), error unknown. Bars are 2 Monte
    Carlo standard errors on either side. If most of the rows agree much better than the others, a second panel enlarges
    them.

    Args:
        results: by label: an `Evidence`; a `Sandwich`, which makes two rows; a `Mean`, which is not a bound; or a
            `Rung`. An Evidence without a label is replaced by its `ladder_rows`. Show bounds of simulated data together
            with estimates for the same data, ``sandwich.x``.
        exact: the exact log evidence if it is known: the mean over data (nats), or ``(N,)``, or an Evidence.
        title: the title, instead of the default; N and the seed are added to it.

    Raises:
        InputError: if an argument does not fit, or the results have different numbers of data.
    """
    rungs, simulated = _rungs(results)
    N = next((rung.num_data for rung in rungs.values() if rung.num_data is not None), None)
    answer = None if exact is None else _exact_value("exact", exact, _size(exact) if N is None else N)
    values = np.array([rung.mean.value for rung in rungs.values()])
    ends = np.array([rung.ends for rung in rungs.values()])
    seen = np.append(ends, np.nan if answer is None else answer)
    window = _window(values, ends, answer)

    lines = [textwrap.wrap(label, _LABEL) for label in _labels(rungs)]
    tallest = max(len(a) + len(b) for a, b in zip(lines, lines[1:] + lines[:1], strict=True))
    pitch = max(0.33, 0.06 + 0.085 * tallest)  # inches from row to row
    figure = style.new_figure(11.0 if window else 8.6, 2.2 + pitch * len(rungs))
    ratios = [3.2, 2.9, 3.3] if window else [3.8, 3.4]
    *panels, table = figure.subplots(1, len(ratios), sharey=True, gridspec_kw={"width_ratios": ratios})
    views = [style.limits(seen, 0.06, 0.06, least=_LEAST), window]
    for axes, view in zip(panels, views, strict=False):
        _draw(axes, rungs, view, answer)
    if window:
        panels[0].axvspan(*window, color=style.GREY, alpha=0.25, linewidth=0, zorder=0)
        panels[0].set_title("all (grey: enlarged beside)", fontsize=style.SMALL)
        shown = int(((window[0] <= values) & (values <= window[1])).sum())
        panels[1].set_title(f"{shown} of {len(rungs)} enlarged (←, →: outside)", fontsize=style.SMALL)
    panels[0].set_ylim(len(rungs) - 0.4, -0.6)
    panels[0].yaxis.set_major_locator(FixedLocator(range(len(rungs))))
    panels[0].set_yticklabels(["\n".join(line) for line in lines])
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    _tabulate(table, rungs)
    figure.legend(
        *_legend(rungs, answer), loc="outside lower center", ncols=1 if window is None else 2, numpoints=1
    )
    seeds = sorted({rung.seed for rung in rungs.values() if rung.seed is not None})
    facts = [f"N = {N}"] if N is not None else []
    facts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if seeds else []
    stated = f"{', '.join(facts)}; " if facts else ""
    stated += "bars: ± 2 Monte Carlo standard errors; numbers: ± 1"
    if simulated:
        stated += f"\n{', '.join(simulated)}: bounds of data simulated from the model"
    style.heading(figure, f"{title or 'The evidence ladder'}\n{stated}")
    return figure


def _rungs(results: Any) -> tuple[dict[str, Rung], list[str]]:
    """All rows, and the labels of those whose data were simulated."""
    if isinstance(results, Evidence):
        results = ladder_rows(style.check_evidence("results", results))
    if not isinstance(results, Mapping) or not results:
        received = "an empty mapping" if isinstance(results, Mapping) else describe(results)
        raise InputError("results", "an Evidence, or at least one result by label", received)
    rungs: dict[str, Rung] = {}
    simulated = []
    for label, result in results.items():
        name = f"results[{label!r}]"
        if isinstance(result, Sandwich):
            if not len(result):
                raise InputError(name, "a Sandwich of at least one datum", "one of no data")
            rungs[f"{label}, lower"] = Rung.of(result.lower)
            rungs[f"{label}, upper"] = Rung.of(result.upper)
            simulated += [str(label)] * (result.x is not None)
        elif isinstance(result, Evidence):
            rungs[str(label)] = Rung.of(style.check_evidence(name, result))
        elif isinstance(result, Mean):
            rungs[str(label)] = Rung(result)
        elif isinstance(result, Rung):
            rungs[str(label)] = result
        else:
            raise InputError(name, "an Evidence, a Sandwich, a Mean or a Rung", describe(result))
    counts = [(label, rung.num_data) for label, rung in rungs.items() if rung.num_data is not None]
    for label, number in counts:
        if number != counts[0][1]:
            expected = f"results of the same data, {counts[0][1]} as for the first"
            raise InputError(f"results[{label!r}]", expected, f"{number} data")
    return rungs, simulated


def _size(exact: Exact) -> int:
    """The data that an exact value is of, where the rows do not say of how many they are."""
    if isinstance(exact, Tensor):
        return exact.numel()
    return len(exact) if isinstance(exact, Evidence) else 0


def _labels(rungs: Mapping[str, Rung]) -> list[str]:
    return [
        label if rung.certified or "heuristic" in label else f"{label} (heuristic)"
        for label, rung in rungs.items()
    ]


def _default_k(known: list[int], num_samples: int) -> list[int]:
    """Up to three K strictly between 1 and S, evenly spread on a log scale."""
    between = [k for k in known if 1 < k < num_samples]
    if len(between) <= 3:
        return between
    last = len(between) - 1
    return [between[round(last * part)] for part in (0.2, 0.5, 0.8)]


def _window(
    values: NDArray[np.float64], ends: NDArray[np.float64], answer: float | None
) -> tuple[float, float] | None:
    """The limits of the second panel: around the half or more of the rows that agree best; None if all agree.

    Rows are ordered by their distance from the exact value, or from the median of the better half if there is none,
    and cut where the distance first doubles, or else where it jumps most.
    """
    finite = np.isfinite(values)
    n = int(finite.sum())
    if n < 3:
        return None
    centre = float(np.median(np.sort(values[finite])[n // 2 :])) if answer is None else answer
    distance = np.where(finite, np.abs(ends - centre).max(axis=1), np.inf)
    order = np.argsort(distance, kind="stable")
    reach = np.maximum(distance[order][:n], _LEAST)
    first = max(2, math.ceil(n / 2))
    jumps = reach[first:] / reach[first - 1 : -1]
    cut = first + int(np.argmax(jumps >= _JUMP if (jumps >= _JUMP).any() else jumps))
    inner = np.append(ends[order[:cut]], centre)
    view = style.limits(inner, 0.12, 0.12, least=_LEAST)
    span = np.ptp(np.append(ends[finite], centre))
    return view if view is not None and span > _ENLARGE * (view[1] - view[0]) else None


def _draw(
    axes: Axes, rungs: Mapping[str, Rung], view: tuple[float, float] | None, answer: float | None
) -> None:
    """The rows within the limits; an arrow for each that is outside."""
    low, high = view or (0.0, 1.0)
    axes.set_xlim(low, high)
    for y, rung in enumerate(rungs.values()):
        axes.axhline(y, color="#E4E4E4", linewidth=0.8, zorder=0)
        value = rung.mean.value
        if math.isfinite(value) and low <= value <= high:
            error = rung.ends[1] - value if math.isfinite(rung.mean.mc_stderr) else None
            look = rung.style | {"capsize": 5, "elinewidth": 1.4, "linestyle": "none"}
            axes.errorbar(value, y, xerr=error, zorder=3, **look)
        elif not math.isnan(value):
            below = value < low
            words = f"← {style.number(value)}" if below and math.isinf(value) else "←"
            words = words if below else f"{style.number(value)} →" if math.isinf(value) else "→"
            axes.text(
                0.01 if below else 0.99,
                y,
                words,
                transform=axes.get_yaxis_transform(),
                ha="left" if below else "right",
                va="center",
                color="#505050",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
    if answer is not None:
        axes.axvline(answer, color=style.BLACK, linestyle=(0, (2, 2)), linewidth=1.4, zorder=2)
    axes.set_xlabel("mean log p(x) over data (nats a datum)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4) if view else NullLocator())
    style.finish(axes)


def _tabulate(axes: Axes, rungs: Mapping[str, Rung]) -> None:
    """Beside each row: the number, the shares of the data with caution and rejected, the cost."""
    axes.axis("off")
    for x, words, side in _HEADINGS:
        place: Any = {"transform": axes.transAxes, "ha": side, "va": "bottom", "fontsize": style.SMALL}
        axes.text(x, 1.01, words, **place)
    for y, rung in enumerate(rungs.values()):
        judged = f"{_share(rung.caution)}, {_share(rung.rejected)}"
        judged = (
            "–"
            if math.isnan(rung.rejected)
            else _share(rung.rejected)
            if math.isnan(rung.caution)
            else judged
        )
        passes = "–" if math.isnan(rung.passes) else f"{rung.passes:,.0f}"
        value = style.with_error(rung.mean).replace("(error unknown)", "± unknown")
        value = value.replace(" ± unknown", ",\nerror unknown") if rung.mean.limit else value
        cells = (value.replace("(error below 0.0001)", "± < 0.0001"), judged, passes)
        for (x, _, side), words in zip(_HEADINGS, cells, strict=True):
            weight = "bold" if words == judged and rung.rejected > 0 else "normal"
            place = {"transform": axes.get_yaxis_transform(), "ha": side, "va": "center"}
            axes.text(x, y, words, fontsize=style.SMALL, fontweight=weight, **place)


def _share(part: float) -> str:
    return "< 1%" if 0 < part < 0.005 else f"{part:.0%}"


def _legend(rungs: Mapping[str, Rung], answer: float | None) -> tuple[list[Any], list[str]]:
    """One entry for each kind of row, and the exact value's."""
    handles, words = [], []
    kinds = {rung.kind: rung for rung in rungs.values()}
    for kind, rung in sorted(kinds.items(), key=lambda item: list(BOUNDS).index(item[1].bound)):
        handles.append(Line2D([], [], linestyle="none", **rung.style))
        words.append(kind)
    if answer is not None:
        handles.append(Line2D([], [], color=style.BLACK, linestyle=(0, (2, 2)), linewidth=1.4))
        words.append(f"exact: {style.number(answer, 4)}")
    return handles, words
