from dataclasses import replace

import numpy as np
import pytest
import torch
from covering import slow_but
from plot_cases import inside, overlaps, texts
from scipy import stats

import ppl_vae.plots as plots
from ppl_vae.analysis.calibration import Calibration
from ppl_vae.errors import InputError


def calibration_of(D=3, N=400, seed=0, narrow=(0,)):
    """Uniform ranks 0 to 99 of D quantities, but for the guide's that are named: theirs crowd at the ends."""
    rng = np.random.default_rng(seed)
    ranks, reweighted = (torch.from_numpy(rng.integers(0, 100, size=(D, N))) for _ in range(2))
    for d in narrow:
        ranks[d] = torch.from_numpy(np.where(rng.random(N) < 0.5, 0, 99))
    return Calibration(
        labels=tuple(f"z[{d}]" for d in range(D)),
        ranks=ranks,
        reweighted_ranks=reweighted,
        ess=torch.full((N,), 250.0, dtype=torch.float64),
        num_draws=99,
        num_importance=500,
        bins=20,
        alpha=0.01,
        seed=seed,
    )


def panels(figure):
    """By quantity and posterior, in the order that they are in."""
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def heights(axes):
    (bars,) = axes.containers
    return [bar.get_height() for bar in bars]


def test_bars_are_the_counts():
    result = calibration_of()
    figure = plots.calibration_ranks(result, title="Is the guide right?")
    shown = panels(figure)
    assert len(shown) == 6
    for of in ("guide", "reweighted"):
        for d, label in enumerate(result.labels):
            axes = shown[f"{label}, {of}"]
            assert heights(axes) == result.counts(of)[d].tolist()
            assert axes.get_title().split("\n")[1].startswith(f"{result.verdicts(of)[d]}, p ")
            assert axes.get_xlim() == (0, 100)
    # The worst first, and the two of a pair on one scale.
    first = list(shown)[:2]
    assert first == ["z[0], guide", "z[0], reweighted"]
    assert shown[first[0]].get_ylim() == shown[first[1]].get_ylim()
    words = texts(figure)
    for share in (
        "N = 400 simulated data, L = 99, seed 0",
        "K = 500, ESS median 250",
        "not calibrated: guide 1 of 3, reweighted 0 of 3",
        "too narrow",
        "level 0.01",
        "Is the guide right?",
    ):
        assert share in words
    assert inside(figure)
    assert not overlaps(figure)


def test_the_band_is_binomial_and_simultaneous():
    figure = plots.calibration_ranks(calibration_of())
    axes = panels(figure)["z[1], guide"]
    levels = sorted(line.get_ydata()[0] for line in axes.lines)
    low, expected, high = levels
    assert expected == 400 / 20
    tail = 0.01 / (2 * 20 * 3)
    law = stats.binom(400, 1 / 20)
    for outside in (law.cdf(low - 1), law.sf(high)):
        assert outside <= tail
    assert law.cdf(low) >= tail
    assert law.sf(high - 1) >= tail


def test_only_the_worst_are_shown():
    result = calibration_of(D=8, narrow=(6, 3))
    figure = plots.calibration_ranks(result, most=2)
    assert {name.split(",")[0] for name in panels(figure)} == {"z[3]", "z[6]"}
    assert "(the worst 2 shown)" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("D", slow_but([1, 4], [1, 4, 20]))
def test_many_quantities(D):
    result = calibration_of(D, narrow=range(D))
    long = replace(result, labels=tuple(f"a site with a long name[{d}]" for d in range(D)))
    figure = plots.calibration_ranks(long)
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 2 * min(D, 15)
    assert inside(figure)
    assert not overlaps(figure)


def test_one_datum():
    figure = plots.calibration_ranks(calibration_of(1, 1, narrow=()))
    assert "N = 1 simulated data" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda c: plots.calibration_ranks(3), "calibration"),
        (lambda c: plots.calibration_ranks(calibration_of(2, 0, narrow=())), "calibration"),
        (lambda c: plots.calibration_ranks(c, most=0), "most"),
    ],
)
def test_refuses(call, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        call(calibration_of())
    assert "\n" not in str(caught.value)
