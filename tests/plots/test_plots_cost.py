import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from plot_cases import inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError


def points(scale, power=-0.5):
    return [(10.0**k, scale * 10 ** (k * power), 0.1 * scale * 10 ** (k * power)) for k in range(1, 6)]


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 2 and line.get_linestyle() != "None"]


def hollow(axes):
    found = [line for line in axes.lines if to_hex(line.get_markerfacecolor()) == "#ffffff"]
    return {x: axes.transData.transform((x, y))[1] for line in found for x, y in line.get_xydata()}


def test_points_are_where_they_were_given():
    rows = {"first": {"IS": points(1)[::-1], "AIS": points(9, -1)}, "second": {"AIS": points(5, -1)}}
    figure = plots.error_against_cost(rows, facts="N = 40, 10 seeds", title="Which is cheapest?")
    first, second = figure.axes
    assert first.get_xscale() == first.get_yscale() == "log"
    np.testing.assert_allclose(lines(first)[0].get_xydata(), np.array(points(1))[:, :2])
    np.testing.assert_allclose(lines(first)[1].get_xydata(), np.array(points(9, -1))[:, :2])
    # An estimator looks the same in each panel.
    (other,) = lines(second)
    same = lines(first)[1]
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert getattr(other, look)() == getattr(same, look)()
    assert lines(first)[0].get_marker() != same.get_marker()
    (bars,) = [c.get_segments() for c in second.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(bars[0][:, 1], [0.4, 0.6])
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    assert "nats" in first.get_ylabel()
    target = [line for axes in figure.axes for line in axes.lines if set(line.get_ydata()) == {0.05}]
    assert len(target) == 2
    words = texts(figure)
    for share in ("N = 40, 10 seeds; bars: ± 2 standard errors", "Which is cheapest?", "target: 0.05 nats"):
        assert share in words
    assert "hollow" not in words
    assert inside(figure)
    assert not overlaps(figure)


def test_many_estimators_differ():
    rows = {f"model {m}": {f"estimator {n}": points(n + 1) for n in range(20)} for m in range(4)}
    figure = plots.error_against_cost(rows, target=None)
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines(figure.axes[0])}
    assert len(looks) == 20
    assert "target" not in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def test_zero_and_infinite_errors_are_at_the_edges():
    rows = {"m": {"a": [(1, 0.3, 0.01), (10, 0.2, 0.2), (100, 0.0, 0.0), (0.5, math.inf, math.nan)]}}
    figure = plots.error_against_cost(rows)
    (axes,) = figure.axes
    assert "hollow: 0 (at the bottom), ∞ (at the top)" in texts(figure)
    heights = hollow(axes)
    box = axes.get_window_extent()
    assert box.y0 < heights[100] < box.y0 + 0.05 * box.height
    assert box.y1 - 0.05 * box.height < heights[0.5] < box.y1
    (bars,) = [c.get_segments() for c in axes.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(bars[1][:, 1], [axes.get_ylim()[0], 0.6])
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("error", [0.0, 0.1, math.inf])
def test_one_point_alone(error):
    figure = plots.error_against_cost({"m": {"a": [(100, error, math.nan)]}}, target=None)
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("rows", "argument"),
    [
        (3, "rows"),
        ({}, "rows"),
        ({"m": []}, r"rows\['m'\]"),
        ({"m": {}}, r"rows\['m'\]"),
        ({"m": {"a": []}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": [(1, 2)]}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": ["xyz"]}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": [(0, 1, 1)]}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": [(1, -1, 1)]}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": [(1, math.nan, 1)]}}, r"rows\['m'\]\['a'\]"),
        ({"m": {"a": [(1, 1, -1)]}}, r"rows\['m'\]\['a'\]"),
    ],
)
def test_refuses(rows, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        plots.error_against_cost(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("option", "value"), [("target", 0.0), ("target", "x"), ("facts", 3)])
def test_refuses_options(option, value):
    with pytest.raises(InputError, match=f"^{option}: "):
        plots.error_against_cost({"m": {"a": points(1)}}, **{option: value})
