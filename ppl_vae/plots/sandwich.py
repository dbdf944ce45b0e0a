"""Lower and upper bounds of the log evidence against the number of annealing steps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.evidence import Evidence, Mean, Sandwich
from ppl_vae.plots import style
from ppl_vae.plots.evidence import Exact, _exact_value

_SIDES = {
    "lower": (style.BLUE, "^", "-"),  # towards log p(x)
    "upper": (style.VERMILION, "v", "--"),
}
_NARROWEST = 0.12  # between ticks, in the units of log10, per tick
_SIZE = 6.5
_LINE = 84  # characters that fit the width


@rc_context(style.STYLE)
def sandwich_curve(
    sandwiches: Mapping[int, Sandwich] | Sequence[tuple[int, Sandwich]],
    *,
    exact: Exact | None = None,
    title: str | None = None,
) -> Figure:
    """Lower and upper bounds, and the gap between them, against the number of steps: means over data.

    Bands and bars are 2 Monte Carlo standard errors on either side. If a mean gap is not above 2 of its standard
    errors, it cannot be distinguished from zero: an arrow points down from its upper limit, the gap plus 2 standard
    errors. A bound that is not certified has a hollow marker.

    Args:
        sandwiches: the bounds by number of annealing steps (or of samples), or pairs of number and bounds.
        exact: the exact log evidence of the bounded data if it is known: the mean over data (nats), or ``(N,)``,
            or an Evidence.
        title: the title, instead of the default; N and the seed are added to it.

    Raises:
        InputError: if an argument does not fit, or the bounds have different numbers of data.
    """
    bounds = _checked(sandwiches)
    steps, results = list(bounds), list(bounds.values())
    N = len(results[0])
    answer = None if exact is None else _exact_value("exact", exact, N)
    figure = style.new_figure(7, 7)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.4, 1.0]})

    seen = [math.nan if answer is None else answer]
    for side in _SIDES:
        seen += _draw_side(above, steps, [getattr(result, side) for result in results], side)
    if answer is not None:
        name = f"exact: {style.number(answer, 4)}"
        above.axhline(answer, color=style.BLACK, linestyle=(0, (2, 2)), linewidth=1.4, label=name)
    view = style.limits(np.array(seen), 0.08, 0.08, least=1e-3)
    if view is None:
        above.set_yticks([])
    else:
        above.set_ylim(*view)
    above.set_ylabel("mean log p(x) (nats a datum)")
    above.tick_params(labelbottom=False)
    units = {result.upper.diagnostics.unit for result in results}
    unit = "samples" if units == {"samples"} else "steps"
    _draw_gaps(below, steps, results, unit)

    below.set_xscale("log")
    margin = 1.25 if len(steps) == 1 else (max(steps) / min(steps)) ** 0.05
    below.set_xlim(min(steps) / margin, max(steps) * margin)
    below.xaxis.set_major_locator(FixedLocator(_ticks(steps)))
    below.xaxis.set_minor_locator(NullLocator())
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.set_xlabel(f"{unit} (log scale)")
    below.set_ylabel("upper − lower (nats)")
    for axes in (above, below):
        style.finish(axes)
    notes = _notes(results, steps, unit)
    if notes:
        above.set_title("\n".join(notes), fontsize=style.SMALL)
    handles, words = _merged(above, below)
    if handles:
        figure.legend(handles, words, loc="outside lower center", ncols=2)
    seeds = sorted({side.seed for result in results for side in (result.lower, result.upper)})
    stated = f"N = {N}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    errors = "bands and bars: ± 2 Monte Carlo standard errors"
    style.heading(figure, f"{title or 'Bounds from both sides'}\n{stated}; {errors}")
    return figure


def _checked(sandwiches: Any) -> dict[int, Sandwich]:
    """The bounds in the order of their steps."""
    pairs = list(sandwiches.items()) if isinstance(sandwiches, Mapping) else sandwiches
    expected = "a Sandwich by number of steps, or pairs of the two, at least one"
    if not isinstance(pairs, list | tuple) or not pairs:
        raise InputError("sandwiches", expected, describe(sandwiches))
    found: dict[int, Sandwich] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError("sandwiches", expected, describe(pair))
        steps, result = pair
        check_positive_int("sandwiches", steps)
        name = f"sandwiches[{steps}]"
        if steps in found:
            raise InputError(name, "one Sandwich", "two")
        if not isinstance(result, Sandwich) or not len(result):
            raise InputError(name, "a Sandwich of at least one datum", describe(result))
        first = next(iter(found.values()), result)
        if len(result) != len(first):
            raise InputError(name, f"bounds of the same data, {len(first)} as for the first", len(result))
        found[steps] = result
    return dict(sorted(found.items()))


def _draw_side(axes: Axes, steps: list[int], results: list[Evidence], side: str) -> list[float]:
    """One bound against steps, with its band; returns the heights to be seen."""
    colour, marker, line = _SIDES[side]
    x = np.array(steps, dtype=np.float64)
    means = [result.mean() for result in results]
    value = np.array([mean.value for mean in means])
    error = _errors(means)
    certified = np.array([result.certified for result in results])
    good = np.isfinite(value)
    known = good & np.array([math.isfinite(mean.mc_stderr) for mean in means])
    band: Any = {"color": colour, "alpha": 0.25, "linewidth": 0}
    axes.fill_between(x, value - error, value + error, where=known, **band)
    if good.sum() == 1 and known.any():  # a band of one point is nothing
        axes.errorbar(x[known], value[known], error[known], color=colour, capsize=4, linestyle="none")
    axes.plot(x[good], value[good], color=colour, linestyle=line, zorder=3)
    for proved, words in ((True, f"{side} bound"), (False, f"{side} bound (heuristic)")):
        chosen = good & (certified == proved)
        if chosen.any():
            face = colour if proved else "white"
            marks: Any = {"marker": marker, "markersize": _SIZE, "color": colour, "markerfacecolor": face}
            axes.plot(x[chosen], value[chosen], linestyle="none", zorder=4, **marks)
            axes.plot([], [], linestyle=line, label=words, **marks)
    return [*(value - error)[good], *(value + error)[good]]


def _draw_gaps(axes: Axes, steps: list[int], results: list[Sandwich], unit: str) -> None:
    """The mean gaps on a log scale; those that are not told from zero as the upper limits that they are."""
    axes.set_yscale("log")
    gaps = [result.mean_gap() for result in results]
    x = np.array(steps, dtype=np.float64)
    value, error = np.array([gap.value for gap in gaps]), _errors(gaps)
    known = np.array([math.isfinite(gap.mc_stderr) for gap in gaps])
    certified = np.array([result.certified for result in results])
    finite = np.isfinite(value)
    told = finite & (value > error)
    limit = finite & ~told & (value + error > 0)
    shown = np.concatenate([(value - error)[told], (value + error)[told | limit]])
    if not shown.size:
        axes.set_yticks([])
        axes.yaxis.set_minor_locator(NullLocator())
    for proved in (True, False):
        face = style.PURPLE if proved else "white"
        words = "" if proved else " (heuristic)"
        marks: Any = {
            "color": style.PURPLE,
            "linestyle": "none",
            "markerfacecolor": face,
            "markersize": _SIZE,
        }
        chosen = told & (certified == proved)
        for which, bar in ((chosen & known, error), (chosen & ~known, None)):
            if which.any():
                bars = None if bar is None else bar[which]
                axes.errorbar(x[which], value[which], bars, marker="D", capsize=4, elinewidth=1.4, **marks)
                axes.plot([], [], marker="D", label=f"mean gap{words}", **marks)
        which = limit & (certified == proved)
        if which.any():
            top = (value + error)[which]
            axes.plot(x[which], top, marker="_", markeredgewidth=1.6, **(marks | {"markersize": 12}))
            for at, height in zip(x[which], top, strict=True):
                down = _DOWN | {"linestyle": "-" if proved else ":"}
                axes.annotate("", (at, height), (0, -24), textcoords="offset points", arrowprops=down)
            label = f"mean gap at most (gap + 2 s.e.){words}"
            axes.plot([], [], marker="$↓$" if proved else "$⇣$", label=label, **(marks | {"markersize": 9}))
    if shown.size:
        low, high = float(shown.min()), float(shown.max())
        # Room below for an arrow.
        span = math.log10(high / low)
        room = max(0.05 * span, (1 - span) / 2)
        axes.set_ylim(low / 10 ** max(room, 0.3 * span * limit.any()), high * 10**room)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    infinite = [f"{s:,}" for s, good in zip(steps, finite, strict=True) if not good]
    beneath = [f"{s:,}" for s, gone in zip(steps, finite & ~told & ~limit, strict=True) if gone]
    lines = [f"{unit} with an infinite gap: {', '.join(infinite)}"] if infinite else []
    lines += [f"{unit} with gap + 2 s.e. below 0: {', '.join(beneath)}"] if beneath else []
    if lines:
        axes.set_title("\n".join(lines), fontsize=style.SMALL)


_DOWN: Any = {"arrowstyle": "<-", "color": style.PURPLE, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.4}


def _errors(means: list[Mean]) -> NDArray[np.float64]:
    """2 Monte Carlo standard errors; 0 where they are unknown."""
    error = np.array([2 * mean.mc_stderr for mean in means])
    return np.where(np.isfinite(error), error, 0.0)


def _notes(results: list[Sandwich], steps: list[int], unit: str) -> list[str]:
    """Whose data these are, and where estimates are rejected or errors unknown."""
    simulated = {result.x is not None for result in results}
    lines = ["data simulated from the model"] if simulated == {True} else []
    for side in _SIDES:
        shares = {
            number: getattr(result, side).status_fractions()["reject"]
            for number, result in zip(steps, results, strict=True)
        }
        told = [f"{share:.0%} at {number:,}" for number, share in shares.items() if share > 0]
        lines += textwrap.wrap(f"{side} bound rejected, by {unit}: {', '.join(told)}", _LINE) if told else []
    unknown = [n for n, r in zip(steps, results, strict=True) if not math.isfinite(r.mean_gap().mc_stderr)]
    lines += [f"{unit} without errors: {', '.join(f'{n:,}' for n in unknown)}"] if unknown else []
    return lines


def _ticks(steps: list[int]) -> list[int]:
    """The steps, less those too close on a log scale to the one before."""
    kept: list[int] = []
    width = math.log10(max(steps) / min(steps)) if len(steps) > 1 else 1.0
    for number in steps:
        if not kept or math.log10(number / kept[-1]) > _NARROWEST * width:
            kept.append(number)
    return kept


def _merged(*panels: Axes) -> tuple[list[Any], list[str]]:
    """The legends of panels as one, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)
