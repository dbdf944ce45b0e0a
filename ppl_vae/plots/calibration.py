"""Simulation-based calibration: histograms of ranks, for the guide and for the reweighted guide."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from ppl_vae.analysis.calibration import POSTERIORS, Calibration
from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.plots import style

_LOOKS = {"guide": (style.BLUE, ""), "reweighted": (style.GREEN, "//")}
_COLUMNS = 3  # pairs of panels in a row
_NAME = 11  # characters of a quantity's name that fit over a panel


@rc_context(style.STYLE)
def calibration_ranks(calibration: Calibration, *, most: int = 15, title: str | None = None) -> Figure:
    """Histograms of the ranks of true values among posterior draws: a pair for each quantity.

    The histogram of a calibrated posterior is flat. There are more ranks at the ends if the posterior is too narrow, in
    the middle if it is too wide, and on one side if it is shifted. If a posterior is calibrated, all bars of all
    quantities are in the grey band with a probability of at least 1 - alpha (binomial quantiles, with Bonferroni's
    correction). The verdict above each panel does not come from the band, but from `Calibration.verdicts`.

    Args:
        calibration: the result.
        most: the number of quantities to show, those with the largest deviations from a flat histogram first.
        title: the title, instead of the default; N, L, K, the seed and the level are added to it.

    Raises:
        InputError: if an argument does not fit.
    """
    if not isinstance(calibration, Calibration):
        raise InputError("calibration", "a Calibration", describe(calibration))
    if not len(calibration) or not len(calibration.labels):
        raise InputError("calibration", "a Calibration of at least one datum and quantity", repr(calibration))
    check_positive_int("most", most)
    N, B, D = len(calibration), calibration.bins, len(calibration.labels)
    counts = {of: calibration.counts(of).numpy() for of in POSTERIORS}
    verdicts = {of: calibration.verdicts(of) for of in POSTERIORS}
    p_values = {of: calibration.p_values(of).tolist() for of in POSTERIORS}
    unevenness = np.max([((counts[of] - N / B) ** 2).sum(axis=1) for of in POSTERIORS], axis=0)
    chosen = np.argsort(-unevenness, kind="stable")[:most].tolist()
    tail = calibration.alpha / (2 * B * D)
    band = tuple(float(stats.binom.ppf(q, N, 1 / B)) for q in (tail, 1 - tail))

    columns = 2 if len(chosen) == 4 else min(len(chosen), _COLUMNS)
    rows = math.ceil(len(chosen) / columns)
    figure = style.new_figure(max(7.6, 3.8 * columns), 1.8 + 1.75 * rows)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat[2 * len(chosen) :]:
        axes.axis("off")
    for index, d in enumerate(chosen):
        pair = grid.flat[2 * index : 2 * index + 2]
        top = 1.1 * max(band[1], *(float(counts[of][d].max()) for of in POSTERIORS))
        for axes, of in zip(pair, POSTERIORS, strict=True):
            _histogram(axes, counts[of][d], calibration.num_draws, of, band)
            axes.set_ylim(0, top)
            name = calibration.labels[d]
            name = name if len(name) <= _NAME else f"{name[: _NAME - 5]}…{name[-4:]}"
            text = f"{name}, {of}\n{verdicts[of][d]}, {_p(p_values[of][d])}"
            axes.set_title(text, fontsize=style.SMALL)
            if index + columns >= len(chosen):
                axes.set_xlabel("rank")
        pair[1].tick_params(labelleft=False)
        if index % columns == 0:
            pair[0].set_ylabel("number of data")
    style.heading(
        figure, f"{title or 'Ranks of the truth among posterior draws'}\n{_facts(calibration, most)}"
    )
    return figure


def _histogram(
    axes: Axes, counts: np.ndarray[Any, Any], num_draws: int, of: str, band: tuple[float, ...]
) -> None:
    """One panel: the counts, the band they should lie in, and what is expected."""
    width = (num_draws + 1) / len(counts)
    colour, hatch = _LOOKS[of]
    axes.axhspan(*band, color=style.GREY, alpha=0.3, linewidth=0, zorder=0)
    bars: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
    axes.bar(width * np.arange(len(counts)), counts, width, align="edge", zorder=2, **bars)
    expected = counts.sum() / len(counts)
    axes.axhline(expected, color=style.BLACK, linestyle="--", linewidth=1.0, zorder=3)
    for edge in band:
        axes.axhline(edge, color=style.BLACK, linestyle=":", linewidth=1.0, zorder=3)
    axes.set_xlim(0, num_draws + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    style.finish(axes)


def _p(value: float) -> str:
    """A p-value in few characters."""
    if value < 1e-99:
        return "p < 1e−99"
    return f"p = {value:.2g}" if value >= 1e-3 else f"p = {value:.0e}".replace("e-0", "e-").replace("-", "−")


def _facts(calibration: Calibration, most: int) -> str:
    D = len(calibration.labels)
    drawn = f"N = {len(calibration)} simulated data, L = {calibration.num_draws}, seed {calibration.seed}"
    ess = style.number(float(np.median(calibration.ess.numpy())), 0)
    wrong = {of: int((calibration.verdicts(of) != "calibrated").sum()) for of in POSTERIORS}
    told = ", ".join(f"{of} {count} of {D}" for of, count in wrong.items())
    return "\n".join(
        [
            f"{drawn}; reweighted: K = {calibration.num_importance}, ESS median {ess}",
            f"not calibrated: {told} quantities{f' (the worst {most} shown)' if most < D else ''}",
            f"dashed: expected; dotted: band for all bars and quantities, level {calibration.alpha:g}",
        ]
    )
