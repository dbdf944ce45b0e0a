import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from plot_cases import evidence_of, inside, overlaps, remade, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.sandwich import Sandwich

LOWER = remade(evidence_of(), basis="runs", ess=torch.full((40,), 250.0))
NOISE = 2 * float((2 * LOWER.stderr**2).sum().sqrt()) / 40  # 2 standard errors of the mean gap


def sandwich_of(gap, *, certified=True, x=None, stderr=1.0, lower=LOWER):
    upper = lower.replace(
        log_evidence=lower.log_evidence + gap,
        stderr=lower.stderr * stderr,
        bound="upper",
        certified=certified,
    )
    return Sandwich(lower, upper, x)


GAPS = {1000: 0.5 * NOISE, 10: 6.0, 100: 4 * NOISE}


def curve_of(axes, linestyle):
    return next(
        line for line in axes.lines if line.get_linestyle() == linestyle and len(line.get_xdata()) > 1
    )


def diamonds(axes):
    lines = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    return {x: y for line in lines for x, y in line.get_xydata()}


def arrows(axes):
    return {text.xy[0]: text.xy[1] for text in axes.texts if isinstance(text, Annotation)}


def test_bounds_and_gaps_are_those_of_the_results():
    bounds = {steps: sandwich_of(gap) for steps, gap in GAPS.items()}
    figure = plots.sandwich_curve(bounds, exact=-19.5)
    above, below = figure.axes
    assert below.get_xscale() == below.get_yscale() == "log"
    for side, linestyle in (("lower", "-"), ("upper", "--")):
        line = curve_of(above, linestyle)
        np.testing.assert_array_equal(line.get_xdata(), [10, 100, 1000])
        expected = [getattr(bounds[steps], side).mean().value for steps in (10, 100, 1000)]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    bands = [c.get_paths()[0].vertices[:, 1] for c in above.collections if isinstance(c, PolyCollection)]
    mean = LOWER.mean()
    assert bands[0].min() == pytest.approx(mean.value - 2 * mean.mc_stderr)
    assert bands[0].max() == pytest.approx(mean.value + 2 * mean.mc_stderr)
    assert bands[1].max() == pytest.approx(mean.value + 6 + 2 * mean.mc_stderr)
    exact = next(line for line in above.lines if str(line.get_label()).startswith("exact"))
    assert exact.get_ydata()[0] == -19.5
    assert diamonds(below) == pytest.approx({10: 6.0, 100: 4 * NOISE})
    errors = [s for c in below.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    assert errors[1][:, 1] == pytest.approx([3 * NOISE, 5 * NOISE])
    words = texts(figure)
    for share in ("lower bound", "upper bound", "N = 40, seed 0", "exact: −19.5000", "± 2 Monte Carlo"):
        assert share in words
    assert "heuristic" not in words
    assert "simulated" not in words
    assert inside(figure)
    assert not overlaps(figure)


def test_a_gap_within_its_noise_is_an_upper_limit():
    bounds = {10: sandwich_of(0.5 * NOISE), 20: sandwich_of(-0.5 * NOISE), 40: sandwich_of(-2 * NOISE)}
    figure = plots.sandwich_curve(bounds)
    below = figure.axes[1]
    assert not diamonds(below)
    assert arrows(below) == pytest.approx({10: 1.5 * NOISE, 20: 0.5 * NOISE})
    words = texts(figure)
    assert "mean gap at most (gap + 2 s.e.)" in words
    assert "steps with gap + 2 s.e. below 0: 40" in words
    assert inside(figure)
    assert not overlaps(figure)


def test_pairs_do_as_well():
    pairs = [(steps, sandwich_of(gap)) for steps, gap in GAPS.items()]
    line = curve_of(plots.sandwich_curve(pairs).axes[0], "--")
    np.testing.assert_array_equal(line.get_xdata(), [10, 100, 1000])


def test_heuristics_are_hollow_and_named():
    bounds = {
        10: sandwich_of(6.0, certified=False),
        100: sandwich_of(5.0),
        1000: sandwich_of(0.0, certified=False),
    }
    figure = plots.sandwich_curve(bounds)
    words = texts(figure)
    for share in (
        "upper bound (heuristic)",
        "mean gap (heuristic)",
        "mean gap at most (gap + 2 s.e.) (heuristic)",
    ):
        assert share in words
    assert "lower bound (heuristic)" not in words
    hollow = [
        x
        for line in figure.axes[0].lines
        if line.get_marker() == "v" and to_hex(line.get_markerfacecolor()) == "#ffffff"
        for x in line.get_xdata()
    ]
    assert hollow == [10, 1000]
    assert inside(figure)
    assert not overlaps(figure)


def test_notes():
    x = torch.zeros(40, 2)
    rejected = evidence_of().replace(khat=torch.where(torch.arange(40) < 10, 3.0, 0.1))
    bounds = {
        10: sandwich_of(6.0, x=x, lower=rejected),
        20: sandwich_of(2.0, x=x, stderr=math.nan, lower=evidence_of()),
    }
    figure = plots.sandwich_curve(bounds, title="Both sides")
    words = texts(figure)
    for share in (
        "data simulated from the model",
        "lower bound rejected, by samples: 25% at 10",
        "Both sides",
    ):
        assert share in words
    assert "samples without errors: 20" in words
    assert figure.axes[1].get_xlabel() == "samples (log scale)"
    assert diamonds(figure.axes[1]) == pytest.approx({10: 6.0, 20: 2.0})
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("N", [1, 3])
def test_one_point(N):
    result = sandwich_of(1.0, lower=remade(evidence_of(N, 16), basis="runs"))
    figure = plots.sandwich_curve({7: result})
    assert f"N = {N}" in texts(figure)
    assert [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert figure.axes[1].get_xlabel() == "steps (log scale)"
    assert inside(figure)
    assert not overlaps(figure)


def test_infinite_bounds_are_said():
    broken = LOWER.log_evidence.clone()
    broken[0] = -math.inf
    result = Sandwich(LOWER.replace(log_evidence=broken), sandwich_of(1.0).upper)
    figure = plots.sandwich_curve({1: result, 5: sandwich_of(1.0)})
    assert "steps with an infinite gap: 1" in texts(figure)
    assert diamonds(figure.axes[1]) == pytest.approx({5: 1.0})
    figure = plots.sandwich_curve({1: result})
    assert not diamonds(figure.axes[1])
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda s: plots.sandwich_curve(s), "sandwiches"),
        (lambda s: plots.sandwich_curve({}), "sandwiches"),
        (lambda s: plots.sandwich_curve([s]), "sandwiches"),
        (lambda s: plots.sandwich_curve({0: s}), "sandwiches"),
        (lambda s: plots.sandwich_curve({"a": s}), "sandwiches"),
        (lambda s: plots.sandwich_curve({1: s.lower}), r"sandwiches\[1\]"),
        (lambda s: plots.sandwich_curve([(1, s), (1, s)]), r"sandwiches\[1\]"),
        (lambda s: plots.sandwich_curve({1: s, 2: sandwich_of(1.0, lower=LOWER[:3])}), r"sandwiches\[2\]"),
        (lambda s: plots.sandwich_curve({1: sandwich_of(1.0, lower=LOWER[:0])}), r"sandwiches\[1\]"),
        (lambda s: plots.sandwich_curve({1: s}, exact="x"), "exact"),
    ],
)
def test_refuses(call, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        call(sandwich_of(1.0))
    assert "\n" not in str(caught.value)
