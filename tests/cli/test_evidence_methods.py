"""ppl-vae evidence by each method: the library's own numbers, the files that make sense, kills and resumes."""

import inspect
import itertools
import json
import re

import pytest
import torch
import yaml
from cli_helpers import interrupted_then_resumed, snapshot

import ppl_vae as pv
from ppl_vae.cli.commands import evidence as command
from ppl_vae.cli.commands import gaps as gaps_command
from ppl_vae.cli.commands import sandwich as sandwich_command
from ppl_vae.evidence.annealing.ais import annealed
from ppl_vae.evidence.annealing.bdmc import sandwich
from ppl_vae.evidence.annealing.smc import smc
from ppl_vae.evidence.exact.quadrature import quadrature
from ppl_vae.evidence.importance_sampling.draws import Sobol, UntilStderr
from ppl_vae.evidence.importance_sampling.importance import SAMPLES, importance
from ppl_vae.evidence.importance_sampling.jackknife import jackknife
from ppl_vae.evidence.importance_sampling.proposals import Defensive, Refitted, StudentT, Widened
from ppl_vae.evidence.importance_sampling.psis import psis
from ppl_vae.evidence.running.prior_check import DRAWS

CURVE, GAP, LADDER = "evidence_curve.png", "gap_and_khat.png", "evidence_ladder.png"
ESTIMATORS = {
    "importance": importance,
    "psis": psis,
    "jackknife": jackknife,
    "annealed": annealed,
    "smc": smc,
    "quadrature": quadrature,
}

# Options after --method; the estimator, its arguments; the options of the marker; the pictures.
CASES = {
    "widened": (
        "importance --num-samples 64 --proposal widened --proposal.scale 1.5",
        (importance, {"num_samples": 64, "proposal": Widened(1.5)}),
        {
            "num_samples": 64,
            "proposal": {"class_path": "ppl_vae.evidence.Widened", "init_args": {"scale": 1.5}},
        },
        {CURVE, GAP},
    ),
    "refitted": (
        "importance --num-samples 32 --proposal Refitted --proposal.max_steps 50",
        (importance, {"num_samples": 32, "proposal": Refitted(max_steps=50)}),
        None,
        {CURVE, GAP},
    ),
    "looking with the prior": (
        "importance --num-samples 32 --prior-draws 100",
        (importance, {"num_samples": 32, "prior_draws": 100}),
        {"num_samples": 32, "prior_draws": 100},
        {CURVE, GAP},
    ),
    "sobol": (
        "importance --num-samples 64 --draws sobol --draws.scrambles 4",
        (importance, {"num_samples": 64, "draws": Sobol(4)}),
        {"num_samples": 64, "draws": {"class_path": "ppl_vae.evidence.Sobol", "init_args": {"scrambles": 4}}},
        {LADDER},
    ),
    "target": (
        "importance --draws until-stderr --draws.target 0.1 --draws.most 512 --proposal defensive",
        (importance, {"draws": UntilStderr(0.1, most=512), "proposal": Defensive()}),
        {
            "proposal": {"class_path": "ppl_vae.evidence.Defensive", "init_args": {"alpha": 0.1}},
            "draws": {
                "class_path": "ppl_vae.evidence.UntilStderr",
                "init_args": {"target": 0.1, "most": 512, "pilot": 512},
            },
        },
        {LADDER, GAP},
    ),
    "psis": (
        "psis --num-samples 64 --proposal=student-t --proposal.df=3",
        (psis, {"num_samples": 64, "proposal": StudentT(df=3.0)}),
        None,
        {CURVE, GAP},
    ),
    "jackknife": (
        "jackknife --num-samples 64 --order 2",
        (jackknife, {"num_samples": 64, "order": 2}),
        {"num_samples": 64, "order": 2},
        {CURVE, GAP},
    ),
    "annealed": (
        "annealed --num-chains 3 --num-steps 4",
        (annealed, {"num_chains": 3, "num_steps": 4}),
        {"num_chains": 3, "num_steps": 4, "start": "guide", "schedule": "pilot", "prior_draws": DRAWS},
        {LADDER},
    ),
    "annealed from the prior": (
        "annealed --num-chains 2 --num-steps 4 --start prior --schedule sigmoid",
        (annealed, {"num_chains": 2, "num_steps": 4, "start": "prior", "schedule": "sigmoid"}),
        None,
        set(),
    ),
    "smc": (
        "smc --num-particles 8 --num-islands 2 --num-steps 3 --schedule linear --prior-draws 0",
        (smc, {"num_particles": 8, "num_islands": 2, "num_steps": 3, "schedule": "linear", "prior_draws": 0}),
        {
            "num_particles": 8,
            "num_islands": 2,
            "num_steps": 3,
            "ess_threshold": 0.5,
            "start": "guide",
            "schedule": "linear",
            "prior_draws": 0,
        },
        {LADDER},
    ),
    "quadrature": (
        "quadrature --nodes 32 --rule gauss_hermite",
        (quadrature, {"nodes": 32, "rule": "gauss_hermite"}),
        {"nodes": 32, "rule": "gauss_hermite"},
        set(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_as_the_library(call, trained, tmp_path, name):
    options, (estimator, arguments), recorded, pictures = CASES[name]
    out = tmp_path / "evidence"
    line = ["--method", *options.split(), "--subset", "3", "--seed", "5", "--threads", "1", "--out", out]
    result = call("evidence", trained, *line)
    assert result.status == 0, result.err
    found = pv.Evidence.load(out / "evidence.safetensors")
    x, _ = pv.data.load_digits().subset("test", 3)
    program = pv.load(trained / "vae.safetensors").program
    expected = estimator(program, x, **arguments, seed=5)
    assert torch.equal(found.log_evidence, expected.log_evidence)
    assert torch.equal(found.gradient_evals, expected.gradient_evals)
    assert str(found) == str(expected)
    assert str(found) in result.out
    assert {path.name for path in out.glob("*.png")} == pictures
    assert not list(out.glob("checkpoint*"))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["basis"] == expected.basis
    assert summary["cost"] == {"densities": expected.cost.density, "gradients": expected.cost.gradient}
    if recorded is not None:
        marker = yaml.safe_load((out / "evidence.yaml").read_text())
        common = ("run", "method", "seed", "split", "subset", "subset_seed", "compile", "threads", "device")
        assert {k: v for k, v in marker.items() if k not in common and "sha256" not in k} == recorded
    # Once more, with only pictures left to draw.
    before = snapshot(out)
    for picture in out.glob("*.png"):
        picture.unlink()
    assert call("evidence", trained, *line, "--resume").status == 0
    assert snapshot(out) == before


def test_figures_that_are_drawn_again_are_the_same(call, drawn, trained, tmp_path):
    out = tmp_path / "e"
    line = ["--method", "smc", "--num-particles", "8", "--num-steps", "3", "--subset", "3", "--out", out]
    assert call("evidence", trained, *line).status == 0
    before = snapshot(out)
    assert (out / LADDER).read_bytes()[:4] == b"\x89PNG"
    (out / LADDER).unlink()
    assert call("evidence", trained, *line, "--resume").status == 0
    assert snapshot(out) == before


def test_the_default_is_plain_importance_sampling(call, trained, tmp_path):
    """And its folder is that of before there were methods, down to the marker's keys (but for --compile)."""
    plain, said = tmp_path / "plain", tmp_path / "said"
    assert call("evidence", trained, "--subset", "3", "--num-samples", "64", "--out", plain).status == 0
    words = ["--method", "importance", "--draws", "iid", "--proposal", "guide", "--prior-draws", "0"]
    assert (
        call("evidence", trained, "--subset", "3", "--num-samples", "64", *words, "--out", said).status == 0
    )
    assert snapshot(plain) == snapshot(said)
    marker = yaml.safe_load((plain / "evidence.yaml").read_text())
    known = (
        "run method num_samples seed split subset subset_seed compile threads device model_sha256 data_sha256"
    )
    assert list(marker) == known.split()
    assert {path.name for path in plain.glob("*.png")} == {CURVE, GAP}


def test_pictures_of_another_method_go(call, trained, tmp_path):
    line = ["evidence", trained, "--subset", "3", "--out", tmp_path / "e"]
    assert call(*line, "--num-samples", "64").status == 0
    few = ["--method", "annealed", "--num-chains", "2", "--num-steps", "2"]
    assert call(*line, *few).status == 2
    assert call(*line, *few, "--overwrite").status == 0
    assert {path.name for path in (tmp_path / "e").glob("*.png")} == {LADDER}


@pytest.mark.parametrize(
    ("module", "table"),
    [
        (command, ESTIMATORS),
        (sandwich_command, dict.fromkeys(("annealed", "importance"), sandwich)),
        (gaps_command, {"annealed": annealed, "importance": importance}),
    ],
    ids=["evidence", "sandwich", "gaps"],
)
def test_the_defaults_that_the_help_tells_are_the_librarys(module, table):
    helps = {action.dest: action.help for action in module.parser()._actions}
    for method, names in module.METHODS.items():
        parameters = inspect.signature(table[method]).parameters
        for name in names.parameters:
            default = parameters[name].default
            if isinstance(default, int | str) and not isinstance(default, bool):
                assert re.search(rf"\b{default}\b", helps[name]), (method, name)


def test_importance_samplings_default():
    assert f"{SAMPLES:,} by default" in (inspect.getdoc(importance) or "")


def test_a_proposal_of_ones_own(call, trained, own):
    """It need not inherit from anything, nor have a repr: a resumed run knows it by its class and options."""
    line = ["evidence", trained, "--proposal", "own_parts.Twice", "--num-samples", "64", "--subset", "3"]
    line += ["--threads", "1", "--proposal.scale", "1.5", "--out", "out"]
    result = call(*line)
    assert result.status == 0, result.err
    assert "proposal own_parts.Twice(scale=1.5)" in result.out
    found = pv.Evidence.load(own / "out/evidence.safetensors")
    x, _ = pv.data.load_digits().subset("test", 3)
    same = importance(pv.load(trained / "vae.safetensors").program, x, 64, proposal=Widened(1.5))
    assert torch.equal(found.log_evidence, same.log_evidence)
    assert call(*line, "--resume").status == 0
    result = call(*line[:-2], "--out", "out", "--resume", "--proposal.scale", "2")
    assert result.status == 2
    assert "--proposal.scale: expected 1.5" in result.err


def test_help_of_a_proposal(call):
    result = call("evidence", "--proposal.help", "student-t")
    assert result.status == 0
    assert "degrees of freedom" in result.out


@pytest.mark.parametrize("name", ["annealed", "smc", "sobol", "quadrature", "psis"])
def test_interrupted_and_resumed(call, trained, tmp_path, monkeypatch, name):
    """Ctrl-C after each checkpoint in turn, and --resume: the bits of a run that was left alone."""
    line = ["evidence", trained, "--method", *CASES[name][0].split(), "--subset", "3", "--threads", "1"]
    assert call(*line, "--out", tmp_path / "whole").status == 0
    assert interrupted_then_resumed(call, line, tmp_path / "halves", monkeypatch) >= 1
    assert snapshot(tmp_path / "halves") == snapshot(tmp_path / "whole")


def test_options_belong_to_methods(call, trained, tmp_path):
    """Every option that a method does not take is refused with it, by name."""
    values = {
        "num_samples": "64",
        "proposal": "defensive",
        "draws": "iid",
        "prior_draws": "64",
        "order": "1",
        "num_chains": "2",
        "num_steps": "2",
        "num_particles": "8",
        "num_islands": "2",
        "ess_threshold": "0.5",
        "start": "guide",
        "schedule": "linear",
        "precision": "full",
        "nodes": "16",
        "rule": "adaptive",
    }
    table = {method: each.parameters for method, each in command.METHODS.items()}
    assert set(values) == set(itertools.chain(*table.values()))
    before = snapshot(trained)
    for method, name in itertools.product(table, values):
        if name in table[method]:
            continue
        option = f"--{name.replace('_', '-')}"
        result = call("evidence", trained, "--method", method, option, values[name], "--out", tmp_path / "e")
        assert result.status == 2
        assert result.err.startswith(
            f"ppl-vae evidence: error: {option}: expected none with --method {method} (it belongs to "
        )
        assert result.err.count("\n") == 1
    assert snapshot(trained) == before
    assert snapshot(tmp_path) == {}
