"""--precision: what the library is told, what is recorded, and what files say of it."""

import json

import pytest
import yaml
from covering import slow_but

from ppl_vae.evidence import Evidence, Sandwich

METHODS = {
    "importance": ["--num-samples", "8"],
    "annealed": ["--num-chains", "2", "--num-steps", "2"],
    "smc": ["--num-particles", "8", "--num-steps", "2"],
    "psis": ["--num-samples", "64"],
    "jackknife": ["--num-samples", "8"],
}


@pytest.mark.parametrize("method", slow_but(["importance", "smc"], METHODS))
def test_evidence_in_a_lower_precision_says_so(call, trained, tmp_path, method):
    line = ["evidence", trained, "--method", method, *METHODS[method], "--subset", "3", "--threads", "1"]
    full = call(*line, "--precision", "full", "--out", tmp_path / "full")
    assert full.status == 0, full.err
    assert Evidence.load(tmp_path / "full/evidence.safetensors").certified
    assert call(*line, "--precision", "bfloat16", "--out", tmp_path / "low").status == 0
    saved = Evidence.load(tmp_path / "low/evidence.safetensors")
    assert saved.precision == "bfloat16"
    assert json.loads((tmp_path / "low/summary.json").read_text())["certified"] is False
    table = (tmp_path / "low/evidence.txt").read_text()
    assert "matrix products in bfloat16" in " ".join(table.split())
    assert yaml.safe_load((tmp_path / "low/evidence.yaml").read_text())["precision"] == "bfloat16"


def test_bounds_in_a_lower_precision_say_so(call, trained, tmp_path):
    line = ["sandwich", trained, "--num-chains", "2", "--num-steps", "2", "--num-data", "2", "--threads", "1"]
    done = call(*line, "--precision", "bfloat16", "--out", tmp_path / "low")
    assert done.status == 0, done.err
    assert not Sandwich.load(tmp_path / "low/sandwich.safetensors").certified
    summary = json.loads((tmp_path / "low/summary.json").read_text())
    assert summary["note"].startswith("ROUNDED: ")
    assert "HEURISTIC: " not in done.out
    assert "ROUNDED: " in done.out


def test_other_words_and_methods_are_refused(call, trained, tmp_path):
    for more, words in (
        (["--precision", "half"], "--precision: expected one of 'full', 'bfloat16', 'tf32'"),
        (["--method", "quadrature", "--precision", "full"], "--precision: expected none with --method quadrature"),
    ):  # fmt: skip
        refused = call("evidence", trained, *more, "--out", tmp_path / "none")
        assert refused.status == 2
        assert refused.err.startswith(f"ppl-vae evidence: error: {words}")
        assert not (tmp_path / "none").exists()
