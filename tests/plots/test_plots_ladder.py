import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from plot_cases import evidence_of, inside, overlaps, remade, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.evidence import Mean
from ppl_vae.evidence.results.sandwich import Sandwich
from ppl_vae.plots import style

INFINITE = Mean(-math.inf, math.nan, math.nan)


def upper_of(result, shift=0.4, certified=True):
    return result.replace(log_evidence=result.log_evidence + shift, bound="upper", certified=certified)


def markers(axes):
    """By row: where the marker is, which one, and whether it is hollow."""
    found = {}
    for line in axes.lines:
        if line.get_marker() in "<>o":
            x, y = line.get_xydata()[0]
            found[int(y)] = (x, line.get_marker(), to_hex(line.get_markerfacecolor()) == "#ffffff")
    return found


def bars(axes):
    """The ends of the bars of error, by row."""
    lines = [part for c in axes.collections if isinstance(c, LineCollection) for part in c.get_segments()]
    return {int(line[0, 1]): tuple(line[:, 0]) for line in lines}


def row_labels(figure):
    return [" ".join(label.get_text().split()) for label in figure.axes[0].get_yticklabels()]


def test_rows_of_one_result(evidence):
    rows = plots.ladder_rows(evidence)
    assert list(rows) == ["ELBO", "IWAE-4", "IWAE-16", "IWAE-64", "importance, S = 256"]
    assert rows["ELBO"].mean == evidence.mean("elbo")
    assert rows["importance, S = 256"].mean == evidence.mean()
    curve = evidence.curve()
    j = curve.k.tolist().index(16)
    mean = rows["IWAE-16"].mean
    assert (mean.value, mean.mc_stderr) == (float(curve.bound[j]), float(curve.stderr[j]))
    assert {row.bound for row in rows.values()} == {"lower"}
    assert {row.passes for row in rows.values()} == {256.0}
    assert math.isnan(rows["ELBO"].rejected)
    assert rows["importance, S = 256"].rejected == evidence.status_fractions()["reject"]
    assert list(plots.ladder_rows(evidence, k=[2], label="IS")) == ["ELBO", "IWAE-2", "IS"]


def test_rows_without_an_elbo_or_a_curve(evidence):
    none = torch.full((40,), math.nan, dtype=torch.float64)
    chains = remade(evidence, elbo=none, elbo_stderr=none, basis="runs", method="annealed")
    assert list(plots.ladder_rows(chains)) == ["annealed, 256 runs"]
    assert list(plots.ladder_rows(remade(chains, basis="computed"))) == ["annealed"]


def test_markers_are_the_means(evidence):
    results = {
        **plots.ladder_rows(evidence, k=[]),
        "jackknife": Mean(-19.9, 0.02, 0.3),
        "two-sided": Sandwich(evidence, upper_of(evidence)),
        "from approximate samples": upper_of(evidence, 0.5, certified=False),
    }
    figure = plots.evidence_ladder(results, exact=-19.8)
    axes = figure.axes[0]
    assert row_labels(figure) == [
        "ELBO",
        "importance, S = 256",
        "jackknife",
        "two-sided, lower",
        "two-sided, upper",
        "from approximate samples (heuristic)",
    ]
    value = evidence.mean().value
    expected = [
        (evidence.mean("elbo").value, ">", False),
        (value, ">", False),
        (-19.9, "o", False),
        (value, ">", False),
        (value + 0.4, "<", False),
        (value + 0.5, "<", True),
    ]
    found = markers(axes)
    for row, (x, marker, hollow) in enumerate(expected):
        assert found[row] == (pytest.approx(x), marker, hollow)
    assert bars(axes)[2] == pytest.approx((-19.94, -19.86))
    line = next(line for line in axes.lines if line.get_linestyle() != "-" and len(line.get_xdata()) == 2)
    assert list(line.get_xdata()) == [-19.8, -19.8]
    words = texts(figure)
    for share in (
        "exact: −19.8000",
        "N = 40, seed 0",
        "± 2 Monte Carlo standard errors",
        style.with_error(evidence.mean()),
        f"{evidence.status_fractions()['reject']:.0%}",
        "heuristic upper bound, not certified",
        "stochastic lower bound",
        "consistent estimate, no bound",
    ):
        assert share in words
    assert "simulated" not in words
    assert inside(figure)
    assert not overlaps(figure)


def test_rows_that_agree_are_enlarged():
    top = {f"estimator {n}": Mean(-20 + 0.01 * n, 0.005, 0.1) for n in range(5)}
    figure = plots.evidence_ladder({"ELBO": Mean(-25.0, 0.02, 0.1), **top}, title="A ladder")
    whole, enlarged, _ = figure.axes
    assert set(markers(whole)) == set(range(6))
    assert set(markers(enlarged)) == set(range(1, 6))
    low, high = enlarged.get_xlim()
    assert high - low < 0.2
    assert low < -20.01
    assert high > -19.95
    assert "5 of 6 enlarged" in texts(figure)
    assert [text.get_text() for text in enlarged.texts] == ["←"]
    assert whole.get_xlim()[0] < -25 < whole.get_xlim()[1]
    assert inside(figure)
    assert not overlaps(figure)
    assert len(plots.evidence_ladder(top).axes) == 2
    assert len(plots.evidence_ladder({"a": Mean(-25, 1, 1), "b": Mean(-20, 1, 1)}).axes) == 2


def test_an_evidence_alone(evidence):
    figure = plots.evidence_ladder(evidence)
    assert row_labels(figure) == list(plots.ladder_rows(evidence))
    assert inside(figure)
    assert not overlaps(figure)


def test_simulated_data_are_said_to_be(evidence):
    result = Sandwich(evidence, upper_of(evidence), torch.zeros(40, 2))
    assert "both: bounds of data simulated from the model" in texts(plots.evidence_ladder({"both": result}))


@pytest.mark.parametrize("N", [1, 3])
def test_few_data_few_samples(N):
    figure = plots.evidence_ladder({"one": evidence_of(N, 1), "some": evidence_of(N, 12)})
    assert f"N = {N}" in texts(figure)
    assert "± unknown" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def test_what_cannot_be_drawn_is_said(evidence):
    broken = evidence.log_evidence.clone()
    broken[0] = -math.inf
    results = {
        "none": INFINITE,
        "above": Mean(math.inf, math.nan, math.nan),
        "not a number": Mean(math.nan, math.nan, math.nan),
        "one of 40": evidence.replace(log_evidence=broken),
        "without an error": evidence.replace(stderr=evidence.stderr * math.nan),
        "with hardly one": evidence.replace(stderr=evidence.stderr * 1e-6),
    }
    figure = plots.evidence_ladder(results)
    assert set(markers(figure.axes[0])) == {4, 5}
    assert set(bars(figure.axes[0])) == {5}
    words = texts(figure)
    for share in ("← −∞", "∞ →", "NaN ± unknown", "± < 0.0001"):
        assert share in words
    assert inside(figure)
    assert not overlaps(figure)
    figure = plots.evidence_ladder({"none": INFINITE})
    assert not markers(figure.axes[0])
    assert "−∞ ± unknown" in texts(figure)
    assert inside(figure)


def test_long_labels_are_broken(evidence):
    long = "annealed importance sampling with 16 chains of 1000 steps from the prior, number "
    figure = plots.evidence_ladder({long + str(n): evidence for n in range(3)})
    assert row_labels(figure)[2] == long + "2"
    assert inside(figure)
    assert not overlaps(figure)


def test_a_computed_value_is_a_diamond(evidence):
    computed = remade(evidence, basis="computed", bound="consistent", method="quadrature", seed=7)
    figure = plots.evidence_ladder({"quadrature": computed, "IS": evidence})
    (diamond,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert diamond.get_xydata()[0] == pytest.approx((evidence.mean().value, 0))
    words = texts(figure)
    assert "computed value" in words
    assert "N = 40, seed 0;" in words


def test_exact_must_be_of_the_data(evidence):
    exact = torch.full((40,), -19.7, dtype=torch.float64)
    assert "exact: −19.7000" in texts(plots.evidence_ladder({"a": evidence}, exact=exact))
    assert "exact: −19.7000" in texts(plots.evidence_ladder({"a": evidence.mean()}, exact=exact))
    assert np.isclose(plots.evidence_ladder({"a": evidence}, exact=-10.0).axes[0].get_xlim()[1], -10, atol=2)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda e: plots.evidence_ladder(3), "results"),
        (lambda e: plots.evidence_ladder({}), "results"),
        (lambda e: plots.evidence_ladder(e[:0]), "results"),
        (lambda e: plots.evidence_ladder({"a": e, "b": 3.0}), r"results\['b'\]"),
        (lambda e: plots.evidence_ladder({"a": e, "b": e[:3]}), r"results\['b'\]"),
        (lambda e: plots.evidence_ladder({"a": e[:0]}), r"results\['a'\]"),
        (lambda e: plots.evidence_ladder({"a": Sandwich(e[:0], upper_of(e)[:0])}), r"results\['a'\]"),
        (lambda e: plots.evidence_ladder({"a": e}, exact=math.inf), "exact"),
        (lambda e: plots.evidence_ladder({"a": e}, exact=torch.zeros(3)), "exact"),
        (lambda e: plots.ladder_rows(3), "evidence"),
        (lambda e: plots.ladder_rows(e, k=[3]), "k"),
        (lambda e: plots.Rung(3.0), "mean"),
        (lambda e: plots.Rung(Mean(0, 0, 0), "above"), "bound"),
    ],
)
def test_refuses(evidence, call, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        call(evidence)
    assert "\n" not in str(caught.value)
