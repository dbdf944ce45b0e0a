import math

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from plot_cases import evidence_of, inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.pareto import khat_threshold
from ppl_vae.plots import style


def curves(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def heights(axes):
    return sum(bar.get_height() for bar in axes.patches)


def test_the_curve_is_that_of_the_evidence(evidence):
    figure = plots.evidence_curve(evidence)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert "nats" in axes.get_ylabel()
    assert axes.get_xlabel().startswith("K")
    assert axes.get_xscale() == "log"
    expected = evidence.curve()
    (line,) = curves(axes)
    np.testing.assert_array_equal(line.get_xdata(), expected.k)
    np.testing.assert_array_equal(line.get_ydata(), expected.bound)
    band = next(c for c in axes.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(float((expected.bound - 2 * expected.stderr).min()))
    assert band.max() == pytest.approx(float((expected.bound + 2 * expected.stderr).max()))
    level = next(line for line in axes.lines if line.get_label() == "log evidence")
    assert level.get_ydata()[0] == evidence.mean().value
    words = texts(figure)
    for of in ("log_evidence", "elbo", "gap"):
        assert style.with_error(evidence.mean(of)) in words
    for share in ("N = 40, S = 256, seed 0", "stochastic lower bound", style.shares(evidence)):
        assert share in words
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("kind", ["number", "tensor", "evidence"])
def test_exact_is_a_line(evidence, kind):
    value = -19.5
    per_datum = torch.full((40,), value, dtype=torch.float64)
    exact = {"number": value, "tensor": per_datum, "evidence": evidence.replace(log_evidence=per_datum)}[kind]
    (axes,) = plots.evidence_curve(evidence, exact=exact).axes
    line = next(line for line in axes.lines if str(line.get_label()).startswith("exact"))
    assert line.get_ydata()[0] == pytest.approx(value)
    assert axes.get_ylim()[1] > value


def test_several_models(evidence):
    other = evidence_of(seed=1, spread=0.5, shift=-19)
    models = {"first": evidence, "a second one, with a label that is longer than a legend is wide": other}
    figure = plots.evidence_curve(models, exact={"first": -19.7}, title="Two models")
    lines = curves(figure.axes[0])
    assert len(lines) == 2
    assert len({line.get_color() for line in lines}) == 2
    for line, result in zip(lines, models.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), result.curve().bound)
    words = texts(figure)
    assert "Two models" in words
    assert "seed 1" in words
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("S", [1, 2, 12, 100])
def test_few_data_few_samples(N, S):
    result = evidence_of(N, S)
    figure = plots.evidence_curve(result, title="A title that is not the usual one")
    assert f"N = {N}, S = {S}, seed 0" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)
    figure = plots.gap_and_khat(result)
    assert heights(figure.axes[0]) == N
    assert heights(figure.axes[1]) == (0 if S <= 20 else N)
    assert (f"{N} NaN (no tail fit)" in texts(figure)) == (S <= 20)
    assert inside(figure)
    assert not overlaps(figure)


def test_exact_posterior(evidence):
    zero = torch.zeros(40, dtype=torch.float64)
    result = evidence.replace(
        elbo=evidence.log_evidence,
        stderr=zero,
        elbo_stderr=zero,
        khat=zero - math.inf,
        curve_bound=evidence.log_evidence[:, None].expand(-1, len(evidence.curve_k)),
        curve_stderr=zero[:, None].expand(-1, len(evidence.curve_k)),
    )
    assert "gap 0.0000" in texts(plots.evidence_curve(result))
    figure = plots.gap_and_khat(result)
    assert heights(figure.axes[0]) == 40
    assert heights(figure.axes[1]) == 0
    assert "40 −∞ (no tail)" in texts(figure)


def test_infinities_are_counted(evidence):
    log_evidence, elbo, curve = (
        evidence.log_evidence.clone(),
        evidence.elbo.clone(),
        evidence.curve_bound.clone(),
    )
    log_evidence[:2] = elbo[:3] = curve[:2] = curve[2, 0] = -math.inf
    khat = evidence.khat.clone()
    khat[:6] = torch.tensor([math.nan, math.inf, -math.inf, 9.0, 3.0, -2.0])
    result = evidence.replace(log_evidence=log_evidence, elbo=elbo, curve_bound=curve, khat=khat)
    figure = plots.evidence_curve(result)
    assert "mean log evidence −∞: 2 of 40 data are not finite" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)
    figure = plots.gap_and_khat(result)
    words = " ".join(texts(figure).split())
    assert "1 data have a gap of +∞" in words
    assert "2 data have a gap of NaN" in words
    for count in ("1 −∞", "1 +∞", "1 NaN", "2 above 2", "1 below −1"):
        assert count in words
    assert heights(figure.axes[0]) == 37
    assert heights(figure.axes[1]) == 37
    assert inside(figure)
    assert not overlaps(figure)
    elbo = evidence.replace(elbo=elbo, curve_bound=torch.where(curve.isinf(), -math.inf, curve))
    assert "log evidence" in texts(plots.evidence_curve(elbo))


def test_without_a_curve(evidence):
    none = torch.empty(40, 0)
    result = evidence.replace(curve_k=torch.empty(0), curve_bound=none, curve_stderr=none, bound="consistent")
    assert "no bound" in texts(plots.evidence_curve(result))


def test_histograms_hold_the_data(evidence):
    figure = plots.gap_and_khat(evidence)
    left, right = figure.axes
    assert "nats" in left.get_xlabel()
    assert "k-hat" in right.get_xlabel()
    assert left.get_ylabel() == right.get_ylabel() == "number of data"
    assert heights(left) == heights(right) == 40
    gap = evidence.gap.numpy()
    assert left.patches[0].get_x() == pytest.approx(gap.min())
    upright = {line.get_xdata()[0] for line in right.lines}
    assert upright == {0.5, khat_threshold(256)}
    for status, container in zip(("trust", "caution", "reject"), right.containers, strict=True):
        chosen = evidence.khat.numpy()[evidence.status == status]
        counts = np.array([bar.get_height() for bar in container])
        edges = np.array([*(bar.get_x() for bar in container), 2.0])
        np.testing.assert_array_equal(counts, np.histogram(chosen, edges)[0])
        colour = style.STATUS_COLOURS[status]
        assert matplotlib_hex(container[0].get_facecolor()) == colour.lower()
    assert "N = 40, S = 256, seed 0" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def matplotlib_hex(colour):
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour[:3])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda e: plots.evidence_curve(3), "evidence"),
        (lambda e: plots.evidence_curve({}), "evidence"),
        (lambda e: plots.evidence_curve({"a": e, "b": 3}), r"evidence\['b'\]"),
        (lambda e: plots.evidence_curve({"a": e, "b": e[:3]}), r"evidence\['b'\]"),
        (lambda e: plots.evidence_curve(e[:0]), "evidence"),
        (lambda e: plots.evidence_curve(e, exact="x"), "exact"),
        (lambda e: plots.evidence_curve(e, exact=math.inf), "exact"),
        (lambda e: plots.evidence_curve(e, exact=torch.zeros(3)), "exact"),
        (lambda e: plots.evidence_curve({"a": e}, exact={"b": 1.0}), "exact"),
        (lambda e: plots.gap_and_khat(e[:0]), "evidence"),
        (lambda e: plots.gap_and_khat({"a": e}), "evidence"),
    ],
)
def test_refuses(evidence, call, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        call(evidence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        ((-24.00984, 0.0069), "−24.0098 ± 0.0069"),
        ((-24.0, 1.26), "−24.0 ± 1.3"),
        ((-1e-9, 1e-9), "0.0000 (error below 0.0001)"),
        ((1.5, math.nan), "1.500 (error unknown)"),
        ((-math.inf, math.nan), "−∞ (error unknown)"),
        ((math.nan, 1.0), "NaN (error unknown)"),
    ],
)
def test_numbers_with_errors(mean, text):
    from ppl_vae.evidence.results.evidence import Mean

    assert style.with_error(Mean(*mean, 0.0)) == text
