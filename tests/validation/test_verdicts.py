"""The two errors of a verdict over the exact models: trusted and wrong, and right and not trusted."""

import math

import pytest

import ppl_vae as pv
from ppl_vae.validation import ESTIMATORS, MODELS, Report, Row, validate

ev = pv.evidence
QUICK = ("importance-64", "importance-1000", "psis-1000", "jackknife-64", "defensive-1000", "student-t-1000")
HIDDEN_MASS = ("two-modes", "linear-gaussian-50", "one-mode", "rare-tail", "phase-transition", "nested-spike")


def totals(report):
    rows = [row for row in report.rows if row.applies and row.drawn]

    def total(share):
        return sum(share(row) * row.estimates for row in rows)

    trusted = total(lambda row: row.trust)
    covered = total(lambda row: row.coverage_trusted * row.trust if row.trust else 0.0)
    power = 1 - total(lambda row: row.timid) / total(lambda row: row.right)
    return power, total(lambda row: row.silent) / trusted, covered / trusted, trusted


@pytest.mark.slow
@pytest.mark.statistical
def test_both_errors_are_small():
    """Weights on all models but the largest: some 6,000 estimates.

    Power at least 90 % (it is 95 to 96 %). One in 1,000 trusted ones may be outside its 99.99 % interval, which with
    3,000 of them leaves 8 for all but one seed in 200. Coverage of 95 % is counted between 93 and 97 % at 3,000.
    """
    models = [name for name in MODELS if name != "linear-gaussian-50"]
    report = validate(models, QUICK, num_data=20, repetitions=3, progress=False)
    power, silent, covered, trusted = totals(report)
    print(f"power {power:.3f}, silent {silent:.5f}, covered {covered:.3f} of {trusted:.0f}")
    assert power >= 0.9
    assert silent * trusted <= 8
    assert 0.93 <= covered <= 0.97
    for row in report.rows:
        if row.model in HIDDEN_MASS:
            assert row.gross == 0, (row.model, row.estimator)
    assert len(report.totals) == 2
    assert f"{power:.1%} are trusted" in report.totals[0]


@pytest.mark.slow
@pytest.mark.statistical
def test_both_errors_are_small_for_every_estimator():
    report = validate(None, None, num_data=20, repetitions=3, progress=False)
    power, silent, covered, trusted = totals(report)
    print(report)
    assert power >= 0.9
    assert silent <= 0.001 + 4 * math.sqrt(0.001 / trusted)
    assert 0.92 <= covered <= 0.98
    for row in report.rows:
        if row.model in HIDDEN_MASS and row.applies and row.drawn:
            assert row.gross == 0, (row.model, row.estimator)


def row_of(**values):
    return Row.of(model="m", estimator="e", **values)


def test_a_row_counts_both_errors():
    row = row_of(num_data=10, repetitions=10, trust=0.5, right=0.4, timid=0.1, silent=0.0, gross=0.02)
    assert row.estimates == 100
    assert math.isclose(row.power, 0.75)
    assert math.isnan(row_of(right=0.0, timid=0.0).power)
    assert not any("wrong by more" in problem for problem in row.problems)
    bad = row_of(bad_guide=True, num_data=10, repetitions=10, trust=0.5, gross=0.02, silent=0.0)
    assert bad.problems == ("e on m: 2.0% of the estimates are trusted and wrong by more than 0.2 nat",)


def test_computed_values_are_in_no_total():
    assert Report(()).totals == ()
    report = validate(["mixture"], ["enumeration"], num_data=3, repetitions=1, progress=False)
    assert report.totals == ()
    both = validate(["mixture"], ["enumeration", "importance-64"], num_data=3, repetitions=2, progress=False)
    assert "of 6 drawn estimates" in both.totals[1]
    assert "right, trusted" in both.table()
    assert both.totals[0] in both.markdown()


def test_the_estimators_are_all_there():
    assert set(QUICK) <= set(ESTIMATORS)
    assert set(HIDDEN_MASS) <= set(MODELS)
