"""Evidence estimates: from the ELBO to log p(x), and the diagnostics of the estimate."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence import Evidence
from ppl_vae.evidence.results.pareto import khat_threshold
from ppl_vae.evidence.results.verdict import INFINITE_VARIANCE, STATUSES
from ppl_vae.plots import style

Exact: TypeAlias = float | Tensor | Evidence
"""An exact log evidence: its mean over data, or one number a datum, in nats, or the result of an exact method."""

_KHAT_RANGE = (-1.0, 2.0)
_LEGEND = 84  # characters that fit the width
_PANEL = 46
_ARROW = 0.66  # where the gap is marked, as a fraction of the width


@rc_context(style.STYLE)
def evidence_curve(
    evidence: Evidence | Mapping[str, Evidence],
    *,
    exact: Exact | Mapping[str, Exact] | None = None,
    title: str | None = None,
) -> Figure:
    """From the ELBO (K = 1) through the IWAE-K bounds to the log evidence (K = S): means over data, in nats.

    Bands are 2 Monte Carlo standard errors on either side; they do not include the variation over data. Numbers after
    ± are one standard error. If most of the data are rejected, the log evidence is not known: the curve has no bands,
    there is no line of the log evidence, and the text says "at least".

    Args:
        evidence: one result, whose ELBO, log evidence and gap are marked; or results by label, to compare
            models on the same data.
        exact: the exact log evidence if it is known: the mean over data (nats), or ``(N,)``, or an Evidence;
            with several results, by label or one for all.
        title: the title, instead of N, S and the seed, which are then in the line below.

    Raises:
        InputError: if an argument does not fit, or the results have different numbers of data.
    """
    several = isinstance(evidence, Mapping)
    results: dict[str, Evidence] = dict(evidence) if isinstance(evidence, Mapping) else {"": evidence}
    if not results:
        raise InputError("evidence", "an Evidence, or at least one by label", "an empty mapping")
    for label, result in results.items():
        style.check_evidence(f"evidence[{label!r}]" if several else "evidence", result)
    first = next(iter(results.values()))
    for label, result in results.items():
        if len(result) != len(first):
            expected = f"results of the same data, {len(first)} as for the first"
            raise InputError(f"evidence[{label!r}]", expected, f"{len(result)} data")
    answers = _exact_values(exact, results)

    figure = style.new_figure(7, 4.6 + 0.4 * len(results) * several)
    axes = figure.add_subplot()
    most = max(max(result.num_samples, *result.curve_k.tolist(), 2) for result in results.values())
    axes.set_xscale("log", base=2)
    axes.set_xlim(2**-0.35, most * 2**0.35)
    seen = []
    for index, (label, result) in enumerate(results.items()):
        colour = style.MODELS[index % len(style.MODELS)]
        marker = style.MARKERS[index % len(style.MARKERS)]
        seen += _draw_curve(axes, result, colour, marker, _row(label, result) if several else None)
    for index, (label, value) in enumerate(answers.items()):
        for_label = (
            style.MODELS[list(results).index(label) % len(style.MODELS)] if len(answers) > 1 else style.BLACK
        )
        name = f"exact{f', {label}' if len(answers) > 1 else ''}: {style.number(value, 4)}"
        axes.axhline(value, color=for_label, linestyle=(index, (2, 2)), linewidth=1.4, zorder=4, label=name)
        seen.append(value)
    view = style.limits(np.array(seen), *((0.06, 0.06) if several else (0.2, 0.2)), least=1e-2)
    if view is None:
        axes.set_yticks([])
    else:
        axes.set_ylim(*view)
    if not several:
        _annotate(axes, first, max(answers.values(), default=math.nan))
    infinite = [label for label, result in results.items() if not math.isfinite(result.mean().value)]
    if infinite:
        _note_infinite(axes, results, infinite)

    axes.xaxis.set_major_locator(FixedLocator(_ticks(results, most)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("K, samples inside the logarithm (K = 1: ELBO; K = S: log evidence)")
    axes.set_ylabel("mean over data (nats a datum)")
    style.finish(axes)
    errors = "bands: ± 2 Monte Carlo standard errors; numbers: ± 1"
    default = "From the ELBO to the log evidence"
    if several:
        same = len({(result.num_samples, result.seed) for result in results.values()}) == 1
        stated = style.facts(first) if same else f"N = {len(first)}"
        axes.set_title(f"{stated + '; ' if title else ''}{errors}", fontsize=style.SMALL)
    else:
        stated = style.facts(first)
        lines = [f"{first.method}, {first.origin.direction}; {style.shares(first)}"]
        lines.append(f"{stated}; {errors}" if title else errors)
        axes.set_title("\n".join(textwrap.fill(line, _LEGEND) for line in lines), fontsize=style.SMALL)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=1 if several else 3, fontsize=style.SMALL)
    style.heading(figure, title or f"{default}: {stated}")
    return figure


@rc_context(style.STYLE)
def gap_and_khat(evidence: Evidence, *, title: str | None = None) -> Figure:
    """Two histograms over data: the gap log p(x) - ELBO, in nats, and the tail diagnostic k-hat.

    Bars are coloured by status. Infinite values and NaN are counted beside the histogram, and k-hat outside [-1, 2] is
    counted in the outermost bar.

    Args:
        evidence: the result.
        title: the title, instead of N, S and the seed, which are then added to it.

    Raises:
        InputError: if ``evidence`` is not an Evidence of at least one datum.
    """
    style.check_evidence("evidence", evidence)
    figure = style.new_figure(8.5, 4.2)
    left, right = figure.subplots(1, 2)
    status = evidence.status

    gap = evidence.gap.numpy()
    finite = gap[np.isfinite(gap)]
    _bars(left, gap, status, _gap_edges(finite))
    mean = evidence.mean("gap")
    if math.isfinite(mean.value):
        left.axvline(mean.value, color=style.BLACK, linestyle="--", linewidth=1.2)
    lines = [f"mean {style.with_error(mean)} nats (dashed)"]
    lines += [f"{count} data have a gap of {what}" for what, count in _not_finite(gap)]
    left.set_title("\n".join(lines), fontsize=style.SMALL)
    left.set_xlabel("gap log p(x) − ELBO (nats)")
    left.set_ylabel("number of data")

    khat = evidence.khat.numpy()
    low, high = _KHAT_RANGE
    width = 0.05 if len(evidence) >= 200 else 0.1
    edges = np.linspace(low, high, round((high - low) / width) + 1)
    _bars(right, np.where(np.isfinite(khat), khat.clip(low, high), khat), status, edges)
    threshold = khat_threshold(evidence.num_samples)
    bounded = khat[np.isfinite(khat)].clip(low, high)
    shown = [*bounded, 0.0, 1.0]
    right.set_xlim(
        max(low, math.floor(min(shown) * 10) / 10) - 0.05, min(high, math.ceil(max(shown) * 10) / 10) + 0.05
    )
    right.axvline(
        INFINITE_VARIANCE, color=style.BLACK, linestyle=":", label=f"{INFINITE_VARIANCE}: no variance above"
    )
    if threshold > low:
        right.axvline(
            threshold, color=style.BLACK, linestyle="--", label=f"{threshold:.2f}: heavy tail above"
        )
    right.set_title("\n".join(_khat_lines(khat, threshold)), fontsize=style.SMALL)
    right.set_xlabel("k-hat (no unit)")
    right.set_ylabel("number of data")
    for axes in (left, right):
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        style.finish(axes)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    default = "Gap to the ELBO, and can the estimate be believed?"
    style.heading(figure, f"{title or default}\n{evidence.method}, {style.facts(evidence)}")
    return figure


def _exact_values(
    exact: Exact | Mapping[str, Exact] | None, results: Mapping[str, Evidence]
) -> dict[str, float]:
    """The mean exact log evidence by label; a single one under the first label."""
    if exact is None:
        return {}
    if not isinstance(exact, Mapping):
        label, result = next(iter(results.items()))
        return {label: _exact_value("exact", exact, len(result))}
    for label in exact:
        if label not in results:
            raise InputError("exact", "labels that evidence has", repr(label))
    return {label: _exact_value(f"exact[{label!r}]", exact[label], len(results[label])) for label in exact}


def _exact_value(argument: str, exact: object, N: int) -> float:
    value, count = math.nan, N
    if isinstance(exact, Evidence):
        value, count = exact.mean().value, len(exact)
    elif isinstance(exact, Tensor) and exact.ndim <= 1:
        value, count = float(exact.double().mean()), len(exact) if exact.ndim else N
    elif isinstance(exact, int | float) and not isinstance(exact, bool):
        value = float(exact)
    if not math.isfinite(value) or count != N:
        raise InputError(
            argument, f"a finite number, a tensor ({N},) or an Evidence of {N} data", describe(exact)
        )
    return value


def _draw_curve(axes: Axes, result: Evidence, colour: str, marker: str, label: str | None) -> list[float]:
    """The curve and the level of the log evidence, with their bands; returns the heights to be seen.

    If most of the data are rejected, neither a level nor bands are drawn: the errors are not known.
    """
    curve, mean = result.curve(), result.mean()
    k, bound = curve.k.numpy(), curve.bound.numpy()
    error = 2 * curve.stderr.numpy()
    good = np.isfinite(bound)
    k, bound, error = k[good], bound[good], np.where(np.isfinite(error[good]), error[good], 0.0)
    if mean.limit:
        error = np.zeros_like(error)
    axes.fill_between(k, bound - error, bound + error, color=colour, alpha=0.3, linewidth=0)
    name = label if label is not None else "IWAE-K bound"
    name = f"{name} (errors unknown)" if mean.limit and label is None else name
    axes.plot(k, bound, marker=marker, color=colour, zorder=3, label=name)
    level = 2 * mean.mc_stderr if math.isfinite(mean.mc_stderr) else 0.0
    # Where most estimates are rejected the log evidence is not known: no line may say that it is.
    if math.isfinite(mean.value) and not mean.limit:
        axes.axhspan(mean.value - level, mean.value + level, color=colour, alpha=0.15, linewidth=0)
        name = "_" if label is not None else "log evidence"
        axes.axhline(mean.value, color=colour, linestyle="--", linewidth=1.1, label=name)
    return [
        *(bound - error),
        *(bound + error),
        mean.value - level,
        mean.value + level,
        result.mean("elbo").value,
    ]


def _row(label: str, result: Evidence) -> str:
    """One model's entry in the legend: two lines, or more if its label is long."""
    numbers = f"log evidence {style.with_error(result.mean())}, gap {style.with_error(result.mean('gap'))}"
    drawn = f"S = {result.num_samples}, seed {result.seed}; {result.method}; {style.shares(result)}"
    return "\n".join([*textwrap.wrap(f"{label}: {numbers}", _LEGEND), *textwrap.wrap(drawn, _LEGEND)])


def _annotate(axes: Axes, result: Evidence, exact: float) -> None:
    """Mark the ELBO, the log evidence and the gap, where a rising, concave curve leaves room."""
    evidence, elbo, gap = result.mean(), result.mean("elbo"), result.mean("gap")
    sideways = axes.get_yaxis_transform()

    def label(
        text: str, x: float, y: float, shift: tuple[float, float], ha: str, va: str, colour: str = style.BLACK
    ) -> None:
        axes.annotate(
            text,
            xy=(x, y),
            xytext=shift,
            xycoords=sideways,
            textcoords="offset points",
            ha=ha,
            va=va,
            zorder=5,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
        )

    low, high = axes.get_ylim()
    if math.isfinite(evidence.value):
        # Above the exact line too, if that would run through the words.
        above = exact if 0 < exact - evidence.value < 0.12 * (high - low) else evidence.value
        words = f"log evidence {style.with_error(evidence)}"
        label(words, 0.02, above, (0, 6), "left", "bottom", style.MODELS[0])
    if math.isfinite(elbo.value):
        axes.axhline(elbo.value, color=style.GREY, linestyle=":", linewidth=1.2)
        label(f"ELBO {style.with_error(elbo)}", 0.98, elbo.value, (0, -6), "right", "top")
    if not math.isfinite(gap.value):
        return
    if abs(gap.value) > 0.12 * (high - low):
        ends = {"arrowstyle": "<->", "color": style.BLACK, "shrinkA": 0, "shrinkB": 0}
        top, bottom = (_ARROW, evidence.value), (_ARROW, elbo.value)
        axes.annotate("", xy=top, xytext=bottom, xycoords=sideways, textcoords=sideways, arrowprops=ends)
        label(f"gap {style.with_error(gap)}", _ARROW, elbo.value + 0.4 * gap.value, (7, 0), "left", "center")
    else:  # no room for an arrow
        label(
            f"gap {style.with_error(gap)}", 0.98, max(evidence.value, elbo.value), (0, 6), "right", "bottom"
        )


def _note_infinite(axes: Axes, results: Mapping[str, Evidence], labels: list[str]) -> None:
    """Say whose mean log evidence cannot be drawn, and because of how many data."""
    lines = []
    for label in labels:
        result = results[label]
        count = int((~result.log_evidence.isfinite()).sum())
        name = f"{label}: " if label else ""
        mean = style.number(result.mean().value)
        lines.append(f"{name}mean log evidence {mean}: {count} of {len(result)} data are not finite")
    style.note(axes, "\n".join(lines))


def _ticks(results: Mapping[str, Evidence], most: int) -> list[int]:
    """Powers of 2, every other one if they are many, and the largest K without a neighbour too close to it."""
    powers = [2**i for i in range(most.bit_length())]
    powers = powers[:: math.ceil(len(powers) / 11)]
    largest = max(result.num_samples for result in results.values())
    return [k for k in powers if k * 1.9 <= largest or k == largest] + [largest] * (largest not in powers)


def _bars(
    axes: Axes, values: NDArray[np.float64], status: NDArray[np.str_], edges: NDArray[np.float64]
) -> None:
    """A histogram of the finite values, stacked by status."""
    finite = np.isfinite(values)
    below = np.zeros(len(edges) - 1)
    for name in STATUSES:
        counts = np.histogram(values[finite & (status == name)], edges)[0]
        axes.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            below,
            align="edge",
            color=style.STATUS_COLOURS[name],
            edgecolor="white",
            linewidth=0.4,
            hatch=style.STATUS_HATCHES[name],
            label=f"{name} ({int((status == name).sum())})",
        )
        below += counts
    axes.set_ylim(0, max(1.0, 1.08 * float(below.max())))


def _gap_edges(finite: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of 5 to 60 bins over the gaps, by the rule of Freedman and Diaconis; round-off is not spread out."""
    if not finite.size:
        return np.linspace(0.0, 1.0, 2)
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        half = 0.05 * max(abs(middle), 1e-2)
        low, high = middle - half, middle + half
    width = 2 * float(np.subtract(*np.quantile(finite, [0.75, 0.25]))) / finite.size ** (1 / 3)
    number = (high - low) / width if width > 0 else math.sqrt(finite.size)
    return np.linspace(low, high, min(max(math.ceil(number), 5), 60) + 1)


def _not_finite(values: NDArray[np.float64]) -> list[tuple[str, int]]:
    """What a histogram cannot show, with counts."""
    kinds = (("−∞", values == -np.inf), ("+∞", values == np.inf), ("NaN", np.isnan(values)))
    return [(what, int(there.sum())) for what, there in kinds if there.any()]


def _khat_lines(khat: NDArray[np.float64], threshold: float) -> list[str]:
    """What is to be said about k-hat beside its histogram."""
    meaning = {"−∞": "no tail", "+∞": "next to no weight above 0", "NaN": "no tail fit"}
    finite = khat[np.isfinite(khat)]
    lines = [
        f"k-hat of {int((finite > threshold).sum())} of {len(khat)} data above {style.number(threshold, 2)}"
    ]
    lines = lines if finite.size else ["k-hat is finite for none of the data"]
    counted = [f"{count} {what} ({meaning[what]})" for what, count in _not_finite(khat)]
    counted += [f"{n} above 2" for n in [int((finite > _KHAT_RANGE[1]).sum())] if n]
    counted += [f"{n} below −1" for n in [int((finite < _KHAT_RANGE[0]).sum())] if n]
    return lines + textwrap.wrap(", ".join(counted), _PANEL)
