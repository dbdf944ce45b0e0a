"""ppl-vae validate: the library's report, a user's own model and estimator in it, and what a kill leaves of it."""

import json

import yaml
from cli_helpers import interrupted_then_resumed, snapshot

from ppl_vae.cli.commands.validate import _QUICK
from ppl_vae.evidence.running.simulation_check import densities
from ppl_vae.validation import ESTIMATORS, MODELS, Report, validate

FILES = {"report.json", "report.md", "report.txt", "error_against_cost.png", "validation.yaml"}
PAIRS = ["--models", "beta-binomial", "mixture", "--estimators", "importance-64", "quadrature"]
SIZES = ["--num-data", "3", "--repetitions", "2", "--threads", "1"]


def rows(report):
    """Everything but the clock's."""
    return [repr(row.replace(seconds=0.0)) for row in report.rows]


def test_report(call, drawn, tmp_path):
    out = tmp_path / "out"
    line = ["validate", *PAIRS, *SIZES, "--seed", "4", "--out", out]
    result = call(*line)
    assert result.status == 0, result.err
    assert {path.name for path in out.iterdir()} == FILES
    report = Report.load(out / "report.json")
    chosen = ["beta-binomial", "mixture"], ["importance-64", "quadrature"]
    assert rows(report) == rows(validate(*chosen, num_data=3, repetitions=2, seed=4, progress=False))
    assert result.out.startswith(f"{report.table()}\n")
    assert (out / "report.txt").read_text() == f"{report.table()}\n"
    assert (out / "report.md").read_text() == report.markdown()
    marker = yaml.safe_load((out / "validation.yaml").read_text())
    assert marker == {
        "models": chosen[0],
        "estimators": chosen[1],
        "model": [],
        "model_sha256": [],
        "estimator": [],
        "estimator_sha256": [],
        "num_data": 3,
        "repetitions": 2,
        "seed": 4,
        "threads": 1,
    }
    before = snapshot(out)
    for name in ("report.md", "report.txt", "error_against_cost.png"):
        (out / name).unlink()
    assert call(*line, "--resume").status == 0
    assert snapshot(out) == before
    assert call(*line).status == 2
    assert call(*line, "--overwrite").status == 0


def test_a_model_and_an_estimator_of_ones_own(call, own):
    mine = own / "my_validation.py"  # a name that no other test imports: Python reads a module once
    mine.write_text("from own_parts import coin, fewer, ready\n")
    options = ["--model", "my_validation.coin", "my_validation.ready", "--estimator", "my_validation.fewer"]
    result = call("validate", *options, "--models", "gamma-poisson", *SIZES, "--out", "out")
    assert result.status == 0, result.err
    report = Report.load(own / "out/report.json")
    pairs = [(row.model, row.estimator, row.num_data) for row in report.rows]
    assert pairs == [
        ("gamma-poisson", "my_validation.fewer", 3),
        ("my_validation.coin", "my_validation.fewer", 3),
        ("my_validation.ready", "my_validation.fewer", 4),  # made already: as many data as it has
    ]
    for row in report.rows:
        assert row.applies
        assert row.density == 32 + densities(row.num_data, 32) / row.num_data
    assert all(row.rmse < 0.5 for row in report.rows)
    # With other code in the file, what was begun is not gone on with.
    mine.write_text(mine.read_text() + "# other code\n")
    more = ["--models", "gamma-poisson", *SIZES, "--out", "out", "--resume"]
    result = call("validate", *options, *more)
    assert result.status == 2
    assert "--model-sha256" in result.err


def test_what_is_tried_unless_it_is_said(call, tmp_path, monkeypatch, own):
    """All of ours; but where only one's own is named on one side, only that."""
    from ppl_vae import validation

    asked = []

    def seen(models, estimators, **sizes):
        asked.append((list(models), list(estimators), sizes["num_data"], sizes["repetitions"]))
        return Report((), 0)

    monkeypatch.setattr(validation, "validate", seen)
    assert call("validate", "--quick", "--out", tmp_path / "a").status == 0
    assert call("validate", "--estimator", "own_parts.fewer", "--out", tmp_path / "b").status == 0
    options = ["--model", "own_parts.coin", "--quick", "--repetitions", "7"]
    assert call("validate", *options, "--out", tmp_path / "c").status == 0
    assert asked == [
        (list(MODELS), list(ESTIMATORS), *_QUICK.values()),
        (list(MODELS), ["own_parts.fewer"], 20, 10),
        (["own_parts.coin"], list(ESTIMATORS), _QUICK["num_data"], 7),
    ]
    assert not (tmp_path / "a/error_against_cost.png").exists()  # there are no rows to draw


def test_an_estimator_that_does_not_apply_is_a_row(call, own):
    result = call(
        "validate", "--estimator", "own_parts.refuses", "--models", "mixture", *SIZES, "--out", "out"
    )
    assert result.status == 0, result.err
    assert "n/a, program: expected another, received this one" in result.out


def test_interrupted_and_resumed(call, tmp_path, monkeypatch):
    """Stopped after each pair in turn: the same numbers, but for the seconds."""
    line = ["validate", *PAIRS, *SIZES]
    assert call(*line, "--out", tmp_path / "whole").status == 0
    assert interrupted_then_resumed(call, line, tmp_path / "halves", monkeypatch) == 4
    halves, whole = (Report.load(tmp_path / name / "report.json") for name in ("halves", "whole"))
    assert rows(halves) == rows(whole)
    assert {path.name for path in (tmp_path / "halves").iterdir()} == FILES
    for name in ("validation.yaml", "error_against_cost.png"):
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    content = json.loads((tmp_path / "halves/report.json").read_text())
    assert len(content["rows"]) == 4
