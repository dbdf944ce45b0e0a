"""Style of all figures: colours, sizes, headings, and numbers as text.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any of the common kinds of
colour blindness can distinguish. No information is shown by colour only.
"""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence import Evidence, Mean

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, WINE = "#8C8C8C", "#661100"

MODELS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
"""For lines on white: all but black, which is the exact answer's, and yellow, which is too pale."""

CLASSES = (BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY, VERMILION, YELLOW, GREY, WINE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STATUS_COLOURS = {"trust": BLUE, "caution": ORANGE, "reject": VERMILION}
STATUS_HATCHES = {"trust": "", "caution": "//", "reject": "xx"}

SMALL = 9.0

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.usetex": False,
    "text.color": "black",
    "axes.facecolor": "white",
    "axes.edgecolor": "#404040",
    "axes.labelcolor": "black",
    "axes.labelsize": 10.0,
    "axes.titlesize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "figure.titlesize": 12.0,
    "figure.titleweight": "normal",
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.bbox": None,
    "savefig.facecolor": "auto",
    "savefig.transparent": False,
    "svg.hashsalt": "ppl_vae",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}
"""For `matplotlib.rc_context`, while a figure is built or written: the user's own settings stay as they are."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, laid out when it is drawn."""
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08, wspace=0.04)
    return Figure(figsize=(width, height), layout=layout)


def heading(figure: Figure, title: str) -> None:
    """A title over the whole figure, broken into lines that fit its width."""
    characters = max(20, int(figure.get_figwidth() * 10.5))
    figure.suptitle("\n".join(textwrap.fill(line, characters) for line in title.splitlines()))


def finish(axes: Axes) -> None:
    """Fix what matplotlib would otherwise look up when it draws: tick sizes, and numbers without an offset."""
    axes.tick_params(labelsize=SMALL, colors="#202020")
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), ScalarFormatter):
            axis.set_major_formatter(ScalarFormatter(useOffset=False))


def note(axes: Axes, text: str, x: float = 0.5, y: float = 0.5, **options: Any) -> Text:
    """Small text at a place given in fractions of the axes, on a white ground."""
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.0}
    settings: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "bbox": ground}
    return axes.text(x, y, text, transform=axes.transAxes, **(settings | options))


def number(value: float, decimals: int = 3) -> str:
    """A number with a proper minus sign, and none before zero; infinities as a symbol."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def with_error(mean: Mean) -> str:
    """The mean and its Monte Carlo standard error, to two digits of the error.

    Of a mean of which only a limit is known (most estimates are rejected): "at least" that, error unknown.
    """
    error = mean.mc_stderr
    if mean.limit:
        return f"{mean.limit} {number(mean.value)} (error unknown)"
    if not math.isfinite(error) or not math.isfinite(mean.value):
        return f"{number(mean.value)} (error unknown)"
    if error < 1e-4:
        return f"{number(mean.value, 4)} (error below 0.0001)"
    decimals = min(max(1 - math.floor(math.log10(error)), 1), 5)
    return f"{number(mean.value, decimals)} ± {number(error, decimals)}"


def facts(evidence: Evidence) -> str:
    """N, S and the seed."""
    return f"N = {len(evidence)}, S = {evidence.num_samples}, seed {evidence.seed}"


def shares(evidence: Evidence) -> str:
    """The fraction of the data with each status."""
    return ", ".join(f"{status} {share:.0%}" for status, share in evidence.status_fractions().items())


def check_evidence(argument: str, value: Any) -> Evidence:
    """``value`` if it is an Evidence of at least one datum; raises `InputError` otherwise."""
    if not isinstance(value, Evidence):
        raise InputError(argument, "an Evidence", describe(value))
    if not len(value):
        raise InputError(argument, "an Evidence of at least one datum", "one of no data")
    return value


def limits(
    values: NDArray[np.float64], below: float, above: float, least: float
) -> tuple[float, float] | None:
    """Axis limits around the finite values, with margins.

    Args:
        values: what is to be seen.
        below: the margin below, as a fraction of the span.
        above: the margin above.
        least: the smallest span, so that round-off is not drawn as if it were something.

    Returns:
        the two limits, or None if no value is finite.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    middle, span = (low + high) / 2, max(high - low, least)
    return middle - span * (0.5 + below), middle + span * (0.5 + above)
