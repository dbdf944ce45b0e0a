"""What is printed and drawn of estimates that most data are rejected of: a limit, and no error."""

import math

import pytest
import torch

import ppl_vae as pv
from ppl_vae.evidence.results.evidence import Mean
from ppl_vae.plots.evidence import evidence_curve
from ppl_vae.plots.ladder import Rung, evidence_ladder, ladder_rows
from ppl_vae.validation import MODELS

ev = pv.evidence


@pytest.fixture(scope="module")
def rejected():
    model = MODELS["two-modes"](num_data=10)
    return ev.importance(model.program, model.x, 500)


@pytest.fixture(scope="module")
def trusted():
    model = MODELS["gamma-poisson"](num_data=10)
    return ev.importance(model.program, model.x, 1000)


def with_share(e, share):
    """The same with that share of its data rejected, and no other verdict."""
    hidden = torch.zeros(len(e), dtype=torch.float64)
    hidden[: round(share * len(e))] = 1.0
    clean = torch.zeros(len(e), dtype=torch.bool)
    return e.replace(hidden=hidden, missed=clean, unvisited=clean)


def test_a_rejected_estimate_has_no_error_in_words(rejected):
    mean = rejected.mean()
    assert mean.limit == "at least"
    assert math.isnan(mean.mc_stderr)
    assert f"log evidence  at least {mean.value:.4f}, error unknown" in str(rejected)
    assert "at least" in repr(rejected)
    assert str(rejected.mean("gap")).startswith("at least")
    assert rejected.mean("elbo").limit == ""  # an ELBO is judged by nothing
    assert rejected.bits_per_dim(3).limit == "at most"  # the sign turns the side


def test_the_side_is_that_of_the_bound(rejected):
    assert rejected.replace(bound="upper").mean().limit == "at most"
    assert rejected.replace(bound="consistent").mean().limit == "about"
    assert rejected.replace(certified=False).mean().limit == "about"


def test_half_of_the_data_is_not_most(trusted):
    for share, limit in ((0.0, ""), (0.5, ""), (0.6, "at least"), (1.0, "at least")):
        mean = with_share(trusted, share).mean()
        assert mean.limit == limit
        assert math.isnan(mean.mc_stderr) == bool(limit)
        assert mean.value == trusted.mean().value


def test_what_the_tails_hide_is_in_the_table(rejected, trusted):
    assert "tail          may hide up to" in str(trusted)
    assert "tail          may hide an unknown amount" in str(rejected)


def labels(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_curve_draws_no_line_for_a_rejected_estimate(rejected, trusted):
    """The level is the dashed horizontal line with an area beside it."""
    for e, drawn in ((rejected, False), (trusted, True)):
        figure = evidence_curve(e)
        axes = figure.axes[0]
        level = e.mean().value
        lines = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
        assert any(math.isclose(line.get_ydata()[0], level) for line in lines) == drawn
        assert ("at least" in labels(figure)) == (not drawn)
        assert ("error unknown" in labels(figure)) == (not drawn)
    figure = evidence_curve({"bad": rejected, "worse": rejected})
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert legend.replace("\n", " ").count("at least") == 4  # log evidence and gap of both


def test_the_ladder_draws_no_bar_for_a_rejected_estimate(rejected, trusted):
    rows = ladder_rows(rejected)
    assert all(rung.mean.limit == "at least" for name, rung in rows.items() if name != "ELBO")
    assert rows["ELBO"].mean.limit == ""
    text = labels(evidence_ladder(rows))
    assert text.count("error unknown") == len(rows) - 1
    assert "error unknown" not in labels(evidence_ladder(trusted))
    assert Rung.of(with_share(trusted, 0.4)).rejected == 0.4
    assert "0%, 40%" in labels(evidence_ladder({"some": with_share(trusted, 0.4)}))


def test_a_mean_is_what_it_was_without_a_limit():
    assert str(Mean(1.0, 0.1, 0.2)) == "1.0000 ± 0.1 (Monte Carlo) ± 0.2 (data)"
    assert str(Mean(1.0, math.nan, 0.2, "at most")) == "at most 1.0000, error unknown ± 0.2 (data)"
