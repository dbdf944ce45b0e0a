import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from plot_cases import evidence_of, inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.analysis.gaps import Gaps
from ppl_vae.errors import InputError
from ppl_vae.plots import style


def gaps_of(N=40, approximation=0.5, amortisation=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    evidence = evidence_of(N, 256, seed)
    parts = torch.rand(2, N, generator=generator, dtype=torch.float64) * 2
    refitted = evidence.log_evidence - approximation * parts[0]
    small = torch.full((N,), 0.02, dtype=torch.float64)
    return Gaps(
        evidence=evidence,
        elbo=refitted - amortisation * parts[1],
        elbo_stderr=small,
        refitted_elbo=refitted,
        refitted_elbo_stderr=small,
        amortisation_stderr=small,
        converged=torch.arange(N) > 0,
        steps=torch.full((N,), 100),
        num_samples=256,
        seed=seed,
    )


def bars(axes):
    """From where to where each part goes, row by row: approximation, then amortisation."""
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]


def test_parts_are_laid_end_to_end():
    results = {"first": gaps_of(), "second": gaps_of(amortisation=0.2, seed=1)}
    figure = plots.gap_decomposition(results, title="Two guides")
    axes = figure.axes[0]
    for row, result in enumerate(results.values()):
        approximation, amortisation = (result.mean(part).value for part in ("approximation", "amortisation"))
        assert bars(axes)[2 * row] == pytest.approx((0, approximation))
        assert bars(axes)[2 * row + 1] == pytest.approx((approximation, approximation + amortisation))
        diamond = [line for line in axes.lines if line.get_marker() == "D"][row]
        assert diamond.get_xydata()[0] == pytest.approx((result.mean().value, row))
    segments = [s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    ends = [tuple(segment[:, 0]) for segment in segments]
    for end, part in zip(ends[:3], ("approximation", "amortisation", "gap"), strict=True):
        assert end[1] - end[0] == pytest.approx(4 * results["first"].mean(part).mc_stderr)
    assert len({bar.get_hatch() for bar in axes.patches}) == 2
    words = texts(figure)
    for share in ("first", "second", "Two guides", "N = 40, S = 256, seeds 0, 1", "39 of 40", "the family"):
        assert share in words
    for part in ("approximation", "amortisation", "gap"):
        assert style.with_error(results["second"].mean(part)) in words
    share = results["first"].mean("approximation").value / results["first"].mean().value
    assert f"{share:.0%}" in words
    assert "stochastic lower bound" in words
    assert inside(figure)
    assert not overlaps(figure)


def test_a_negative_part_goes_to_the_left():
    result = gaps_of(amortisation=-0.1)
    figure = plots.gap_decomposition({"a": result})
    first, second = bars(figure.axes[0])
    assert second == pytest.approx((0, result.mean("amortisation").value))
    assert second[1] < 0 < first[1]
    diamond = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert diamond.get_xdata()[0] == pytest.approx(result.mean().value)
    assert f"{int(result.worsened.sum())} worse off" in texts(figure)


def test_one_result_shows_its_data():
    result = gaps_of()
    figure = plots.gap_decomposition(result)
    _, _, scatter, histogram = figure.axes
    shown = np.concatenate([c.get_offsets() for c in scatter.collections])
    order = np.argsort(shown[:, 0])
    expected = np.array(sorted(zip(result.approximation.tolist(), result.amortisation.tolist(), strict=True)))
    np.testing.assert_allclose(shown[order], expected)
    for status in ("trust", "caution", "reject"):
        count = int((result.evidence.status == status).sum())
        assert (f"{status} ({count})" in texts(figure)) == (count > 0)
    assert sum(bar.get_height() for bar in histogram.patches) == 80
    assert "nats" in scatter.get_xlabel()
    assert inside(figure)
    assert not overlaps(figure)


def test_sizes_that_differ_are_told():
    figure = plots.gap_decomposition({"train": gaps_of(), "test": gaps_of(10)})
    words = texts(figure).replace("\u00a0", " ")
    assert "train (N = 40)" in words
    assert "test (N = 10)" in words


@pytest.mark.parametrize("N", [1, 3])
def test_few_data(N):
    figure = plots.gap_decomposition(gaps_of(N))
    assert f"N = {N}" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def test_round_off_is_not_spread_out():
    figure = plots.gap_decomposition(gaps_of(approximation=1e-9, amortisation=1e-9))
    for axes in (figure.axes[0], *figure.axes[2:]):
        low, high = axes.get_xlim()
        assert high - low >= 0.01
    assert not overlaps(figure)


def test_infinities_are_counted():
    result = gaps_of()
    elbo = torch.where(torch.arange(40) < 3, -math.inf, result.elbo)
    broken = replace(result, elbo=elbo, amortisation_stderr=result.gap_stderr * math.nan)
    figure = plots.gap_decomposition(broken)
    words = texts(figure)
    for share in ("gap ∞: not drawn", "3 not finite", "not finite: 3 amortisation", "∞\n± unknown"):
        assert share in words
    assert len(bars(figure.axes[0])) == 1
    assert inside(figure)
    assert not overlaps(figure)
    nothing = replace(result, elbo=result.elbo - math.inf, refitted_elbo=result.elbo - math.inf)
    figure = plots.gap_decomposition(nothing)
    assert "40 not finite" in texts(figure)
    assert inside(figure)


@pytest.mark.parametrize(
    ("given", "argument"),
    [(3, "gaps"), ({}, "gaps"), ({"a": 3}, r"gaps\['a'\]")],
)
def test_refuses(given, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        plots.gap_decomposition(given)
    assert "\n" not in str(caught.value)


def test_refuses_no_data():
    result = gaps_of()
    tensors = {name: value[:0] for name, value in vars(result).items() if isinstance(value, torch.Tensor)}
    with pytest.raises(InputError, match=r"^gaps: "):
        plots.gap_decomposition(replace(result, evidence=result.evidence[:0], **tensors))
