"""`validate` finds what is right and, above all, what is wrong: estimators that are broken on purpose."""

import json
import math
from dataclasses import replace

import pytest
import torch

import ppl_vae as pv
from ppl_vae.evidence.running import simulation_check as rehearsal
from ppl_vae.validation import ESTIMATORS, MODELS, Report, Row, validate


def honest(program, x, seed):
    return pv.evidence.importance(program, x, 300, seed=seed, progress=False)


def forgot_a_constant(program, x, seed):
    """Half a nat too high, with an error that knows nothing of it."""
    evidence = honest(program, x, seed)
    return evidence.replace(log_evidence=evidence.log_evidence + 0.5)


def overconfident(program, x, seed):
    """Errors five times too small."""
    evidence = honest(program, x, seed)
    return evidence.replace(stderr=evidence.stderr / 5)


def slightly_biased(program, x, seed):
    """Three hundredths: within the errors of any one estimate, not of all of them."""
    evidence = honest(program, x, seed)
    return evidence.replace(log_evidence=evidence.log_evidence + 0.03)


def random_walk_needs_a_normal(program, x, seed):
    raise pv.InputError("program", "what it has not", "what it has")


def breaks(program, x, seed):
    raise pv.NonFiniteError("log weights of datum 0: NaN")


BROKEN = {
    "honest": honest,
    "forgot a constant": forgot_a_constant,
    "overconfident": overconfident,
    "slightly biased": slightly_biased,
    "does not apply": random_walk_needs_a_normal,
    "breaks": breaks,
}


@pytest.fixture(scope="module")
def report():
    return validate(["gamma-poisson"], BROKEN, num_data=20, repetitions=20, progress=False)


def test_an_honest_estimator_has_no_problems(report):
    """400 estimates: a coverage of 95 % is counted between 91 and 99 % for all but 1 seed in 10,000."""
    row = report.row("gamma-poisson", "honest")
    assert row.applies
    assert row.unbiased is True
    assert row.problems == ()
    assert (row.num_data, row.repetitions, row.bound, row.basis) == (20, 20, "lower", "weights")
    assert abs(row.bias) < 4 * row.bias_stderr + 1e-3
    assert 0.91 < row.coverage < 0.99
    assert row.rmse < 0.05
    assert row.silent < 0.005
    density = 300 + rehearsal.densities(20, 300) / 20
    assert math.isclose(row.density, density)
    assert (row.gradient, row.passes) == (0, row.density)
    assert row.trust > 0.9
    assert math.isclose(row.trust + row.caution + row.reject, 1)
    assert row.seconds > 0


def test_a_forgotten_constant_shows_everywhere(report):
    row = report.row("gamma-poisson", "forgot a constant")
    assert abs(row.bias - 0.5) < 0.01
    assert abs(row.ratio - math.exp(0.5)) < 0.02
    assert row.unbiased is False
    assert row.coverage_trusted == 0
    assert row.silent > 0.9
    text = " ".join(row.problems)
    for part in ("not 1, and is trusted", "trusted 95 % intervals cover 0.0%", "are trusted and far off"):
        assert part in text


def test_errors_that_are_too_small_show_in_the_coverage(report):
    row = report.row("gamma-poisson", "overconfident")
    assert row.unbiased is True
    assert row.coverage < 0.5
    assert any("intervals cover" in problem for problem in row.problems)


def test_a_bias_below_each_error_shows_in_the_mean(report):
    row = report.row("gamma-poisson", "slightly biased")
    assert row.unbiased is False
    assert any("not 1, and is trusted" in problem for problem in row.problems)


def test_what_does_not_apply_is_said_and_what_breaks_is_a_problem(report):
    row = report.row("gamma-poisson", "does not apply")
    assert not row.applies
    assert row.reason == "program: expected what it has not, received what it has"
    assert math.isnan(row.bias)
    assert row.unbiased is None
    assert row.problems == ()
    row = report.row("gamma-poisson", "breaks")
    assert row.problems == ("breaks on gamma-poisson: failed: log weights of datum 0: NaN",)
    with pytest.raises(pv.InputError, match="row: expected a model and an estimator"):
        report.row("gamma-poisson", "none")


def test_the_table_says_it_all(report):
    for text in (str(report), report.table(), report.markdown()):
        for name in BROKEN:
            assert name in text
        assert "gamma-poisson" in text
        assert "n/a" in text
        assert "±" in text
        assert "are trusted and far off" in text
    assert "| estimator | bias |" in report.markdown()
    alone = replace(report, rows=report.rows[:1])
    assert "no problems in 1 pairs" in alone.table()


def test_a_report_is_written_and_read_exactly(report, tmp_path):
    path = tmp_path / "r.json"
    report.save(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = Report.load(path)
    assert str(again) == str(report)
    assert again.seed == report.seed
    assert repr(again.rows) == repr(report.rows)
    for broken in ("{}", '{"kind": "ppl_vae.validation.Report", "seed": 0, "rows": [{"a": 1}]}', "x"):
        path.write_text(broken)
        with pytest.raises(pv.InputError, match=r"r\.json"):
            Report.load(path)


def test_the_seed_decides():
    run = {"models": ["beta-binomial"], "estimators": {"honest": honest}, "num_data": 3, "repetitions": 2}
    one, again, other = (validate(**run, seed=seed, progress=False).rows[0] for seed in (0, 0, 1))
    assert one.replace(seconds=0.0) == again.replace(seconds=0.0)
    assert one.bias != other.bias
    # Repetitions differ from one another: a bias without a spread would be one run twice.
    assert validate(**{**run, "repetitions": 1}, progress=False).rows[0].rmse != one.rmse


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_runs_where_it_applies(name):
    models = ["hierarchy", "mixture"]
    report = validate(models, [name], num_data=2, repetitions=2, progress=False)
    assert any(row.applies for row in report.rows)
    for row in report.rows:
        assert not row.reason.startswith("failed")
        if row.applies:
            assert row.rmse < 1


def test_the_bad_guide_is_found_out_and_the_exact_rule_is_not_fooled():
    """Two modes, a guide in one: importance sampling rejects itself, and chains that do not cross are found out."""

    def blind(program, x, seed):
        e = pv.evidence.annealed(program, x, 16, 100, prior_draws=0, seed=seed)
        return e.replace(unvisited=torch.zeros_like(e.unvisited))  # and had nobody rehearsed it

    chosen = {name: ESTIMATORS[name] for name in ("importance-1000", "annealed-16x100", "quadrature")}
    report = validate(["two-modes"], chosen | {"blind": blind}, num_data=20, repetitions=2, progress=False)
    sampled, annealed, exact, blind = report.rows
    assert sampled.bad_guide
    assert sampled.reject > 0.9
    assert sampled.trust == 0
    assert sampled.silent == 0
    assert sampled.problems == ()  # it is far off, and says so
    assert blind.silent > 0.05  # chains that agree with one another, and nobody who has looked elsewhere
    assert any("trusted and far off" in problem for problem in blind.problems)
    assert any("wrong by more than 0.2 nat" in problem for problem in blind.problems)
    assert annealed.bias < -0.3
    assert annealed.reject > 0.5
    assert annealed.silent < 0.05
    assert exact.coverage == 1
    assert exact.rmse < 1e-9
    assert "two-modes (bad guide)" in str(report)


def test_models_of_ones_own():
    mine = MODELS["mixture"](num_data=5, seed=3)
    report = validate({"mine": mine, "built": MODELS["mixture"]}, ["enumeration"], num_data=4, repetitions=1)
    assert [row.model for row in report.rows] == ["mine", "built"]
    assert [row.num_data for row in report.rows] == [5, 4]
    assert all(row.coverage == 1 and row.unbiased is None for row in report.rows)


def test_what_is_not_known_is_refused():
    with pytest.raises(pv.InputError, match="models: expected names out of linear-gaussian-2"):
        validate(["linear"])
    with pytest.raises(pv.InputError, match="estimators: expected names out of importance-64"):
        validate(["mixture"], "importance")
    with pytest.raises(pv.InputError, match="estimators: expected at least one"):
        validate(["mixture"], {})
    for bad in ({"repetitions": 0}, {"num_data": 1.5}, {"seed": -1}):
        with pytest.raises(pv.InputError, match=next(iter(bad))):
            validate(["mixture"], ["enumeration"], **bad)
    with pytest.raises(
        pv.InputError, match=r"estimators\['mine'\]: expected a function that returns an Evidence of 2 data"
    ):
        validate(["mixture"], {"mine": lambda program, x, seed: torch.zeros(2)}, num_data=2)


def test_a_validation_that_was_stopped_goes_on(tmp_path):
    ran = []

    def counted(program, x, seed):
        ran.append(len(x))
        if len(ran) == 4:
            raise KeyboardInterrupt
        return honest(program, x, seed)

    run = {"models": ["mixture", "gamma-poisson"], "num_data": 3, "repetitions": 1, "progress": False}
    estimators = {"one": counted, "two": counted}
    path = tmp_path / "c"
    whole = validate(**run, estimators={"one": honest, "two": honest})
    with pytest.raises(KeyboardInterrupt):
        validate(**run, estimators=estimators, checkpoint=path)
    with pytest.raises(pv.InputError, match="checkpoint: expected a file that does not exist yet"):
        validate(**run, estimators=estimators, checkpoint=path)
    with pytest.raises(pv.InputError, match="a checkpoint of this run"):
        validate(**{**run, "repetitions": 2}, estimators=estimators, checkpoint=path, resume=True)
    resumed = validate(**run, estimators=estimators, checkpoint=path, resume=True)
    assert len(ran) == 5
    assert not path.exists()
    assert [row.replace(seconds=0.0) for row in resumed.rows[:2]] == [
        row.replace(seconds=0.0) for row in whole.rows[:2]
    ]
    assert len(resumed.rows) == 4


def test_a_row_without_figures_is_no_unbiased_one():
    assert Row("m", "e", reason="no").unbiased is None
