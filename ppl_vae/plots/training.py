"""Training curve: the objective and the validation ELBO by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence import Evidence
from ppl_vae.history import Epoch, History
from ppl_vae.plots import style


@rc_context(style.STYLE)
def training_curve(history: History, *, evidence: Evidence | None = None, title: str | None = None) -> Figure:
    """The training objective and the validation ELBO by epoch, in nats a datum.

    The epochs of KL warm-up (beta below 1), in which the objective is not the ELBO, are shaded. The y axis may exclude
    a steep start; the figure then says so.

    Args:
        history: the result of `ppl_vae.fit`, with at least one epoch.
        evidence: an estimate of the trained model, drawn as a level with a band of 2 Monte Carlo standard
            errors on either side.
        title: the title, instead of the default with the epochs and steps.

    Raises:
        InputError: if an argument does not fit.
    """
    if not isinstance(history, History) or not len(history):
        received = "one without epochs" if isinstance(history, History) else describe(history)
        raise InputError("history", "a History of at least one epoch", received)
    epochs = np.array([e.epoch for e in history])
    train = np.array([e.train_elbo for e in history], dtype=np.float64)
    valid = np.array([math.nan if e.valid_elbo is None else e.valid_elbo for e in history], dtype=np.float64)

    figure = style.new_figure(7, 4.2)
    axes = figure.add_subplot()
    marker = "o" if len(history) <= 50 else ""
    for number, (first, last) in enumerate(_warmup(history.epochs)):
        label = "KL warm-up (β < 1)" if number == 0 else None
        axes.axvspan(first - 0.5, last + 0.5, color="#E8E8E8", linewidth=0, zorder=0, label=label)
    axes.plot(epochs, train, marker=marker, markersize=4, color=style.BLUE, label="training objective")
    levels = []
    if not np.isnan(valid).all():
        axes.plot(epochs, valid, marker=marker, markersize=4, color=style.VERMILION, label="validation ELBO")
    _mark_best(axes, history, epochs, valid)
    if evidence is not None:
        style.check_evidence("evidence", evidence)
        mean = evidence.mean()
        levels = [mean.value - 2 * mean.mc_stderr, mean.value, mean.value + 2 * mean.mc_stderr]
        name = f"log evidence ({style.facts(evidence)}):\n{style.with_error(mean)}"
        if math.isfinite(mean.value):
            axes.axhline(mean.value, color=style.GREEN, linestyle="--", label=name)
            if math.isfinite(mean.mc_stderr):
                axes.axhspan(levels[0], levels[-1], color=style.GREEN, alpha=0.25, linewidth=0)
        else:
            axes.plot([], [], color=style.GREEN, linestyle="--", label=name)

    view = _view(np.concatenate([train, valid]), np.array(levels))
    if view is not None:
        axes.set_ylim(*view)
        hidden = sum(bool(t < view[0] or v < view[0]) for t, v in zip(train, valid, strict=True))
        if hidden:
            style.note(
                axes, f"{hidden} of {len(history)} epochs below the axis", 0.98, 0.03, ha="right", va="bottom"
            )
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("ELBO (nats a datum)")
    style.finish(axes)
    figure.legend(loc="outside lower center", ncols=2)
    style.heading(
        figure, title or f"Training: {_count(len(history), 'epoch')}, {_count(history[-1].step, 'step')}"
    )
    return figure


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _warmup(epochs: Sequence[Epoch]) -> list[tuple[int, int]]:
    """The first and last epoch of each run of epochs with beta below 1."""
    runs: list[tuple[int, int]] = []
    for before, epoch in zip((None, *epochs), epochs, strict=False):
        if epoch.beta >= 1:
            continue
        if before is not None and before.beta < 1:
            runs[-1] = (runs[-1][0], epoch.epoch)
        else:
            runs.append((epoch.epoch, epoch.epoch))
    return runs


def _mark_best(axes: Axes, history: History, epochs: NDArray[np.int64], valid: NDArray[np.float64]) -> None:
    """A line at the epoch that was kept, or else at that of the best validation ELBO; a star on the curve."""
    if history.best_epoch is not None:
        best, reason = history.best_epoch, "kept"
    elif np.isfinite(valid).any():
        best, reason = int(epochs[np.nanargmax(valid)]), "best validation"
    else:
        return
    label = f"epoch {best}: {reason}"
    here = valid[epochs == best]
    if here.size and math.isfinite(here[0]):
        label += f", {style.number(float(here[0]), 2)}"
        axes.plot([best], here[:1], "*", color=style.BLACK, markersize=11, zorder=4, label=label)
        axes.axvline(best, color=style.BLACK, linestyle=":", linewidth=1)
    else:
        axes.axvline(best, color=style.BLACK, linestyle=":", linewidth=1, label=label)


def _view(curves: NDArray[np.float64], levels: NDArray[np.float64]) -> tuple[float, float] | None:
    """Limits that show all but the values far below the rest: the first epochs', as a rule."""
    finite = curves[np.isfinite(curves)]
    if finite.size:
        low, high = float(np.quantile(finite, 0.1)), float(finite.max())
        finite = finite[finite >= low - 0.5 * (high - low)]
    return style.limits(np.concatenate([finite, levels]), 0.06, 0.06, 1e-2)
