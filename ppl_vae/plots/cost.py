"""Cost of accuracy: the error of estimators against their cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.plots import style

Point: TypeAlias = tuple[float, float, float]
"""Passes through the decoder a datum, root-mean-square error in nats, and the standard error of that."""

_COLUMNS = 3
_EDGE = 0.03  # where errors of 0 and infinity are drawn, as a fraction of the height from below and above
_LINES = ("-", "--", ":", "-.")
_TITLE = 38  # characters of a panel's title in a line
_NAME = 30  # of an estimator's name in the legend
_EDGES = (("0 (at the bottom)", lambda error: error == 0), ("∞ (at the top)", np.isinf))


@rc_context(style.STYLE)
def error_against_cost(
    rows: Mapping[str, Mapping[str, Sequence[Point]]],
    *,
    target: float | None = 0.05,
    facts: str | None = None,
    title: str | None = None,
) -> Figure:
    """Root-mean-square error against cost, both on log scales: a panel for each model, a line for each estimator.

    Bars are 2 standard errors of the root-mean-square error on either side; a bar that reaches zero ends at the bottom
    of the panel. An error of zero is drawn at the bottom and an infinite one at the top, with hollow markers.

    Args:
        rows: by model and estimator, triples of the cost (passes through the decoder a datum, above 0), the
            root-mean-square error of log p(x) in nats (from 0 to infinity), and that error's own standard error
            (NaN if unknown).
        target: a target error in nats, drawn as a line; None for none.
        facts: a line of text under the title, such as N, the seeds, and the set of the errors.
        title: the title, instead of the default.

    Raises:
        InputError: if an argument does not fit.
    """
    models = _checked(rows)
    names = list(dict.fromkeys(name for estimators in models.values() for name in estimators))
    if target is not None:
        check_positive_float("target", target)
    if facts is not None and not isinstance(facts, str):
        raise InputError("facts", "words, or None", describe(facts))
    columns = 2 if len(models) == 4 else min(len(models), _COLUMNS)
    lines = math.ceil(len(models) / columns)
    width = max(6.0, 1.2 + 3.4 * columns)
    per_row = max(1, int(width / 2.6))
    deep = math.ceil((len(names) + (target is not None)) / per_row)
    figure = style.new_figure(width, 1.3 + 3.0 * lines + 0.22 * deep)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)

    points = np.concatenate([values for estimators in models.values() for values in estimators.values()])
    span_x, span_y = _spans(points, target)
    for axes in panels.flat[len(models) :]:
        axes.axis("off")
    for index, (axes, (model, estimators)) in enumerate(zip(panels.flat, models.items(), strict=False)):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*span_x)
        axes.set_ylim(*span_y)
        for name, values in estimators.items():
            _draw(axes, values, _look(names.index(name)), span_y)
        if target is not None:
            axes.axhline(target, color=style.BLACK, linestyle=(0, (2, 2)), linewidth=1.2, zorder=1)
        axes.set_title(textwrap.fill(model, _TITLE), fontsize=10)
        axes.tick_params(labelbottom=True)
        if index + columns >= len(models):
            axes.set_xlabel("passes through the decoder a datum")
        if index % columns == 0:
            axes.set_ylabel("RMS error of log p(x) (nats)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=7))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(which="major", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        style.finish(axes)
    handles: list[Any] = [
        Line2D([], [], label=textwrap.fill(name, _NAME), **_look(index)) for index, name in enumerate(names)
    ]
    if target is not None:
        dotted: Any = {"color": style.BLACK, "linestyle": (0, (2, 2)), "linewidth": 1.2}
        handles.append(Line2D([], [], label=f"target: {target:g} nats", **dotted))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(per_row, len(handles)))
    errors = "bars: ± 2 standard errors of the RMS error"
    stated = f"{facts}; {errors}" if facts else errors
    hollow = [words for words, there in _EDGES if there(points[:, 1]).any()]
    stated += f"\nhollow: {', '.join(hollow)}" if hollow else ""
    style.heading(figure, f"{title or 'Error against cost'}\n{stated}")
    return figure


def _checked(rows: Any) -> dict[str, dict[str, NDArray[np.float64]]]:
    """By model and estimator ``(P, 3)``: cost, error and its error, in the order of cost."""
    if not isinstance(rows, Mapping) or not rows:
        raise InputError("rows", "a mapping of model -> estimator -> points, not empty", describe(rows))
    models: dict[str, dict[str, NDArray[np.float64]]] = {}
    for model, estimators in rows.items():
        if not isinstance(estimators, Mapping) or not estimators:
            expected = "a mapping of estimator -> points, not empty"
            raise InputError(f"rows[{model!r}]", expected, describe(estimators))
        models[str(model)] = {
            str(name): _points(f"rows[{model!r}][{name!r}]", points) for name, points in estimators.items()
        }
    return models


def _points(argument: str, points: Any) -> NDArray[np.float64]:
    expected = "at least one (cost, error, standard error), cost above 0, error 0 or above"
    try:
        values = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(argument, expected, describe(points)) from None
    if values.ndim != 2 or values.shape[1] != 3 or not len(values):
        raise InputError(argument, expected, describe(points))
    cost, error, stderr = values.T
    good = np.isfinite(cost) & (cost > 0) & (error >= 0) & ~(stderr < 0)
    if not good.all():
        raise InputError(argument, expected, tuple(values[~good][0].tolist()))
    return values[np.argsort(cost, kind="stable")]


def _spans(
    points: NDArray[np.float64], target: float | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes, with room for what is drawn at the bottom and the top."""
    cost, error, stderr = points.T
    heights = error[np.isfinite(error) & (error > 0)]
    bars = np.concatenate([error - 2 * stderr, error + 2 * stderr])
    # A bar that nearly reaches zero would stretch a log scale beyond use.
    least = heights.min() / 10 if heights.size else 1e-3
    seen = np.concatenate([heights, bars[np.isfinite(bars) & (bars > least)], [target or 1.0]])
    return _widened(cost, 0.06), _widened(seen, 0.1)


def _widened(values: NDArray[np.float64], part: float) -> tuple[float, float]:
    """The range of positive values, and some more on either side of a log scale: a decade at least in all."""
    low, high = math.log10(values.min()), math.log10(values.max())
    margin = max(part * (high - low), (1.0 - (high - low)) / 2, 0.05)
    return 10 ** (low - margin), 10 ** (high + margin)


def _look(index: int) -> dict[str, Any]:
    """An estimator's colour, marker and line: no two the same among the first 42."""
    return {
        "color": style.MODELS[index % len(style.MODELS)],
        "marker": style.MARKERS[index % len(style.MARKERS)],
        "linestyle": _LINES[index // len(style.MODELS) % len(_LINES)],
    }


def _draw(axes: Axes, values: NDArray[np.float64], look: dict[str, Any], span: tuple[float, float]) -> None:
    """One estimator in one panel."""
    cost, error, stderr = values.T
    drawn = (error > 0) & np.isfinite(error)
    bars = 2 * np.where(np.isfinite(stderr), stderr, 0.0)[drawn]
    heights = error[drawn]
    below = np.where(bars < heights, bars, heights - span[0])
    axes.errorbar(cost[drawn], heights, [below, bars], capsize=2.5, elinewidth=1.0, zorder=3, **look)
    flat: Any = look | {"linestyle": "none", "markerfacecolor": "white", "markersize": 6.5, "zorder": 4}
    for part, chosen in ((_EDGE, error == 0), (1 - _EDGE, np.isinf(error))):
        if chosen.any():
            height = span[0] ** (1 - part) * span[1] ** part
            axes.plot(cost[chosen], np.full(int(chosen.sum()), height), **flat)


def _power(value: float) -> str:
    """A power of ten as people write it."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = round(math.log10(value))
    return f"10$^{{{exponent}}}$"
