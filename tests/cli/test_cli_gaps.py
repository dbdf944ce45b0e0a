"""ppl-vae gaps: the library's analyses of one subset, in one folder."""

import json

import pytest
import torch
from cli_helpers import as_json, interrupted_then_resumed, snapshot
from covering import slow_but

import ppl_vae as pv
from ppl_vae.analysis import Gaps, active_units, gaps, surgery
from ppl_vae.evidence import annealed

FILES = {"gaps.safetensors", "gaps.txt", "summary.json", "gaps.png", "gaps.yaml"}
ANNEALED = ["--method", "annealed", "--num-chains", "2", "--num-steps", "3"]


def line(trained, *more):
    return ["gaps", trained, "--subset", "4", "--num-samples", "50", "--threads", "1", *more]


@pytest.mark.parametrize("method", slow_but(["annealed"], ["importance", "annealed"]))
def test_gaps(call, drawn, trained, tmp_path, method):
    out = tmp_path / "out"
    more = ANNEALED if method == "annealed" else []
    result = call(*line(trained, "--seed", "3", *more, "--out", out))
    assert result.status == 0, result.err
    assert {path.name for path in out.iterdir()} == FILES
    program = pv.load(trained / "vae.safetensors").program
    x, _ = pv.data.load_digits().subset("test", 4)
    evidence = annealed(program, x, 2, 3, seed=3) if more else None
    expected = gaps(program, x, 50, evidence=evidence, seed=3)
    tables = [expected, surgery(program, x, seed=3), active_units(program, x, seed=3)]
    text = "\n\n".join(map(str, tables))
    assert (out / "gaps.txt").read_text() == text + "\n"
    assert result.out.startswith(text)
    saved = Gaps.load(out / "gaps.safetensors")
    assert torch.equal(saved.approximation, expected.approximation)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == method
    for part in ("gap", "approximation", "amortisation", "elbo", "refitted_elbo"):
        assert summary[part] == as_json(expected.mean(part))
    assert summary["surgery"]["rate"] == as_json(tables[1].mean("rate"))
    assert summary["surgery"]["information"]["data_stderr"] is None
    assert summary["active_units"]["count"] == tables[2].count
    assert summary["test_set"]["subset"] == 4
    before = snapshot(out)
    (out / "gaps.png").unlink()
    (out / "summary.json").unlink()
    assert call(*line(trained, "--seed", "3", *more, "--out", out, "--resume")).status == 0
    assert snapshot(out) == before


def test_interrupted_and_resumed(call, trained, tmp_path, monkeypatch):
    """Stopped while annealing: the same bits, and no file but the five."""
    assert call(*line(trained, *ANNEALED, "--out", tmp_path / "whole")).status == 0
    assert interrupted_then_resumed(call, line(trained, *ANNEALED), tmp_path / "halves", monkeypatch) >= 2
    assert snapshot(tmp_path / "halves") == snapshot(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "halves").iterdir()} == FILES
