"""Parts of the gap between log p(x) and the ELBO: approximation (the guide's family) and amortisation."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from ppl_vae.analysis.gaps import Gaps
from ppl_vae.errors import InputError, describe
from ppl_vae.evidence import Mean
from ppl_vae.evidence.results.verdict import STATUSES
from ppl_vae.plots import style

_PARTS = {"approximation": (style.BLUE, "", -0.15), "amortisation": (style.ORANGE, "//", 0.15)}
_FORMULAS = {
    "approximation": "approximation: log p(x) − ELBO(q*), the family",
    "amortisation": "amortisation: ELBO(q*) − ELBO(q), the network",
}
_COLUMNS = ((0.0, "gap"), (0.27, "approximation"), (0.54, "amortisation"), (0.81, "refits\nconverged"))
_LABEL = 26  # characters of a row's label in a line
_LEAST = 1e-2  # nats: the smallest span drawn
_DIAMOND: Any = {
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.2,
    "color": style.BLACK,
    "linestyle": "none",
}
_RASTER = 5000  # points from which on a vector file would be too heavy


@rc_context(style.STYLE)
def gap_decomposition(gaps: Gaps | Mapping[str, Gaps], *, title: str | None = None) -> Figure:
    """The mean gap log p(x) - ELBO as a bar of two parts, approximation and amortisation, in nats.

    The bars of the parts are stacked, and end at their sum, the gap (a diamond). A part below zero, which noise can
    cause, is drawn to the left of zero. Error bars are 2 Monte Carlo standard errors on either side; numbers after ±
    are one standard error. For a single result, there are also panels for its data: amortisation against approximation,
    by the verdict on log p(x), and both as histograms.

    Args:
        gaps: one result; or results by label, to compare models or sets of data.
        title: the title, instead of the default; N, S and the seed are added to it.

    Raises:
        InputError: if an argument does not fit.
    """
    results = _checked(gaps)
    single = isinstance(gaps, Gaps)
    sizes = {len(result) for result in results.values()}
    labels = [
        textwrap.wrap(label if len(sizes) == 1 else f"{label} (N\u00a0=\u00a0{len(result)})", _LABEL)
        for label, result in results.items()
    ]
    tallest = max(map(len, labels))
    height = max(0.62, 0.1 + 0.17 * tallest) * len(labels)
    figure = style.new_figure(11, 2.3 + height + 3.6 * single)
    halves: Any = figure.subfigures(2, 1, height_ratios=[0.9 + height, 4.2]) if single else (figure, None)
    top, bottom = halves
    axes, table = top.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [5.2, 5.0]})
    _bars(axes, results)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(results))))
    axes.set_yticklabels(["\n".join(label) for label in labels])
    axes.set_xlabel("mean over data (nats a datum)")
    style.finish(axes)
    _tabulate(table, results)
    if single:
        first = next(iter(results.values()))
        scatter, histogram = bottom.subplots(1, 2)
        _scatter(scatter, first)
        _histograms(histogram, first)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    style.heading(figure, f"{title or 'Where the gap to the ELBO comes from'}\n{_facts(results)}")
    return figure


def _checked(gaps: Any) -> dict[str, Gaps]:
    if isinstance(gaps, Gaps):
        results = {"all data": gaps}
    elif isinstance(gaps, Mapping) and gaps:
        results = {str(label): result for label, result in gaps.items()}
    else:
        received = "an empty mapping" if isinstance(gaps, Mapping) else describe(gaps)
        raise InputError("gaps", "a Gaps, or at least one by label", received)
    for label, result in results.items():
        name = "gaps" if isinstance(gaps, Gaps) else f"gaps[{label!r}]"
        if not isinstance(result, Gaps):
            raise InputError(name, "a Gaps", describe(result))
        if not len(result):
            raise InputError(name, "a Gaps of at least one datum", "one of no data")
    return results


def _facts(results: Mapping[str, Gaps]) -> str:
    """What the numbers are: sizes, seeds, errors, which way log p(x) errs and how much of it is rejected."""
    kinds = {
        "N": {len(result) for result in results.values()},
        "S": {result.num_samples for result in results.values()},
    }
    known = [f"{name} = {kind.pop()}" for name, kind in kinds.items() if len(kind) == 1]
    seeds = sorted({result.seed for result in results.values()})
    known.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    lines = [f"{', '.join(known)}; error bars: ± 2 Monte Carlo standard errors; numbers: ± 1"]
    methods: dict[str, list[str]] = {}
    for label, result in results.items():
        methods.setdefault(f"{result.evidence.method}, {result.evidence.origin.direction}", []).append(label)
    rejected = {label: r.evidence.status_fractions()["reject"] for label, r in results.items()}
    for words, labels in methods.items():
        whose = "" if len(methods) == 1 else f" of {', '.join(labels)}"
        shares = [
            f"{rejected[label]:.0%}{f' {label}' if len(results) > 1 else ''}"
            for label in labels
            if rejected[label] > 0
        ]
        told = f"; rejected: {', '.join(shares)}" if shares else "; none rejected"
        lines.append(f"log p(x){whose}: {words}{told}")
    return "\n".join(lines)


def _bars(axes: Axes, results: Mapping[str, Gaps]) -> None:
    """The stacked bars, with an error for each part and for the whole."""
    axes.axvline(0.0, color="#404040", linewidth=0.8, zorder=1)
    seen = [0.0]
    for y, result in enumerate(results.values()):
        ends = {1: 0.0, -1: 0.0}  # what is laid to the right and to the left so far
        for part, (colour, hatch, lane) in _PARTS.items():
            mean = result.mean(part)
            if not math.isfinite(mean.value):
                continue
            side = 1 if mean.value >= 0 else -1
            look: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
            axes.barh(y, mean.value, 0.6, left=ends[side], zorder=2, **look)
            ends[side] += mean.value
            seen += _error(axes, ends[side], y + lane, mean, elinewidth=1.2, capsize=2.5)
        gap = result.mean()
        if math.isfinite(gap.value):
            axes.plot(gap.value, y, zorder=5, **_DIAMOND)
            seen += _error(axes, gap.value, y, gap, elinewidth=1.6, capsize=4)
        else:
            style.note(
                axes,
                f"gap {style.number(gap.value)}: not drawn",
                0.98,
                1 - (y + 0.5) / len(results),
                ha="right",
            )
    low, high = min(seen), max(seen)
    unfinished = not all(math.isfinite(result.mean().value) for result in results.values())
    span = max(high - low, _LEAST)
    axes.set_xlim(
        low - 0.04 * span if low < 0 else 0.0, max(high, low + span) + (0.45 if unfinished else 0.06) * span
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))


def _legend() -> list[Any]:
    handles: list[Any] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.4, label=_FORMULAS[part])
        for part, (colour, hatch, _) in _PARTS.items()
    ]
    return [*handles, Line2D([], [], label="gap: log p(x) − ELBO(q)", **_DIAMOND)]


def _error(axes: Axes, x: float, y: float, mean: Mean, **options: Any) -> list[float]:
    """A bar of error at x, if the error is known; returns its ends."""
    if not math.isfinite(mean.mc_stderr):
        return [x]
    error = 2 * mean.mc_stderr
    axes.errorbar(x, y, xerr=error, color=style.BLACK, linestyle="none", zorder=4, **options)
    return [x - error, x + error]


def _tabulate(axes: Axes, results: Mapping[str, Gaps]) -> None:
    """Beside each bar: the numbers, the parts' shares of the gap, and how the refit went."""
    axes.axis("off")
    for x, words in _COLUMNS:
        axes.text(x, 1.02, words, transform=axes.transAxes, va="bottom", fontsize=style.SMALL)
    for y, result in enumerate(results.values()):
        whole = result.mean().value
        cells = [_cell(result.mean())]
        for part in _PARTS:
            mean = result.mean(part)
            share = f"\n{mean.value / whole:.0%}".replace("-", "−") if 0 < whole < math.inf else ""
            cells.append(_cell(mean) + share)
        worse = int(result.worsened.sum())
        converged = f"{int(result.converged.sum())} of {len(result)}"
        rounded = int(result.rounded.sum())
        converged += f"\n{worse} worse off" if worse else ""
        cells.append(converged + (f"\n{rounded} off by rounding" if rounded else ""))
        for (x, _), words in zip(_COLUMNS, cells, strict=True):
            axes.text(x, y, words, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)


def _cell(mean: Mean) -> str:
    value = style.with_error(mean).replace(" (error unknown)", "\n± unknown")
    return value.replace(" (error below 0.0001)", "\n± < 0.0001")


def _scatter(axes: Axes, result: Gaps) -> None:
    """Amortisation against approximation, a point for each datum, by the verdict on its log p(x)."""
    x, y = result.approximation.double().numpy(), result.amortisation.double().numpy()
    finite = np.isfinite(x) & np.isfinite(y)
    status = result.evidence.status
    for marker, name in zip(style.MARKERS, STATUSES, strict=False):
        chosen = finite & (status == name)
        if chosen.any():
            axes.scatter(
                x[chosen],
                y[chosen],
                s=18 if len(result) <= 2000 else 6,
                marker=marker,
                color=style.STATUS_COLOURS[name],
                alpha=0.8,
                linewidths=0,
                rasterized=len(result) > _RASTER,
                label=f"{name} ({int((status == name).sum())})",
                zorder=3,
            )
    for line in (axes.axhline, axes.axvline):
        line(0.0, color=style.GREY, linewidth=0.8, zorder=1)
    for values, put in ((x, axes.set_xlim), (y, axes.set_ylim)):
        view = style.limits(np.append(values[finite], 0.0), 0.06, 0.06, least=_LEAST)
        if view is not None:
            put(*view)
    if finite.any():
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handletextpad=0.2, columnspacing=1.2
        )
    gone = int((~finite).sum())
    words = f"each datum, by the verdict on log p(x){f'; {gone} not finite' if gone else ''}"
    axes.set_title(words, fontsize=style.SMALL, pad=22.0)
    axes.set_xlabel("approximation (nats)")
    axes.set_ylabel("amortisation (nats)")
    style.finish(axes)


def _histograms(axes: Axes, result: Gaps) -> None:
    """Both parts over data, side by side in each bin."""
    parts = {name: getattr(result, name).double().numpy() for name in _PARTS}
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    together = np.concatenate(list(finite.values()))
    edges = _edges(together)
    widths = np.diff(edges) / 2
    for index, (name, values) in enumerate(finite.items()):
        counts = np.histogram(values, edges)[0]
        colour, hatch, _ = _PARTS[name]
        look: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        axes.bar(edges[:-1] + index * widths, counts, widths, align="edge", label=name, **look)
    axes.axvline(0.0, color=style.GREY, linewidth=0.8, zorder=1)
    gone = [f"{len(v) - len(finite[name])} {name}" for name, v in parts.items() if len(v) > len(finite[name])]
    words = f"; not finite: {', '.join(gone)}" if gone else ""
    axes.set_title(f"both parts over data{words}", fontsize=style.SMALL, pad=22.0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("nats")
    axes.set_ylabel("number of data")
    style.finish(axes)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of 5 to 30 bins; round-off is not spread out."""
    if not values.size:
        return np.linspace(0.0, 1.0, 2)
    low, high = float(values.min()), float(values.max())
    if high - low < _LEAST:
        low, high = (low + high - _LEAST) / 2, (low + high + _LEAST) / 2
    return np.linspace(low, high, min(max(math.ceil(math.sqrt(values.size)), 5), 30) + 1)
