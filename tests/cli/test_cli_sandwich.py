"""ppl-vae sandwich: the library's bounds, and the word "heuristic" wherever they are not certified."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from cli_helpers import TINY, as_json, interrupted_then_resumed, snapshot

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.evidence import Sandwich, sandwich

FILES = {"sandwich.safetensors", "sandwich.txt", "summary.json", "sandwich.png", "sandwich.yaml"}
METHODS = {
    "annealed": {"num_chains": 3, "num_steps": 3, "start": "guide", "schedule": "pilot"},
    "importance": {"num_samples": 40},
}


def line(trained, method, *more):
    options = METHODS[method].items()
    given = [word for name, value in options for word in (f"--{name.replace('_', '-')}", value)]
    return ["sandwich", trained, "--method", method, *given, "--num-data", "3", "--threads", "1", *more]


def check_files(out, bounds, text):
    assert {path.name for path in out.iterdir()} == FILES
    saved = Sandwich.load(out / "sandwich.safetensors")
    assert torch.equal(saved.gap, bounds.gap)
    assert (out / "sandwich.txt").read_text() == text + "\n"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["certified"] is bounds.certified
    for name, mean in (
        ("lower", bounds.lower.mean()),
        ("upper", bounds.upper.mean()),
        ("gap", bounds.mean_gap()),
    ):
        assert summary[name] == as_json(mean)
    return summary


@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_simulated_data(call, drawn, trained, tmp_path, method):
    out = tmp_path / "out"
    result = call(*line(trained, method, "--seed", "4", "--out", out))
    assert result.status == 0, result.err
    program = pv.load(trained / "vae.safetensors").program
    like = pv.data.load_digits().test[:3]
    bounds = sandwich(program, like, method=method, **METHODS[method], seed=4)
    assert result.out.startswith(f"{bounds}\n")
    summary = check_files(out, bounds, str(bounds))
    assert summary["note"] is None
    marker = yaml.safe_load((out / "sandwich.yaml").read_text())
    assert marker["num_data"] == 3
    assert marker["real"] is False
    assert METHODS[method].items() <= marker.items()
    before = snapshot(out)
    (out / "sandwich.png").unlink()
    (out / "sandwich.txt").unlink()
    assert call(*line(trained, method, "--seed", "4", "--out", out, "--resume")).status == 0
    assert snapshot(out) == before


@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_real_data_are_called_heuristic_everywhere(call, trained, tmp_path, monkeypatch, method):
    from ppl_vae import plots

    titles = []
    draw = plots.sandwich_curve
    monkeypatch.setattr(
        plots, "sandwich_curve", lambda *a, title, **k: titles.append(title) or draw(*a, title=title, **k)
    )
    out = tmp_path / "out"
    result = call(*line(trained, method, "--real", "--out", out))
    assert result.status == 0, result.err
    x, _ = pv.data.load_digits().subset("test", 3)
    program = pv.load(trained / "vae.safetensors").program
    seed = rng.derive(0, "heuristic posterior")
    start = program.sample_guide(x, 3 if method == "annealed" else 1, seed=seed)
    bounds = sandwich(program, x, method=method, **METHODS[method], posterior=start)
    assert not bounds.certified
    note, rest = result.out.split("\n", 1)
    assert note.startswith("HEURISTIC: ")
    assert rest.startswith(f"{bounds}\n")
    summary = check_files(out, bounds, f"{note}\n{bounds}")
    assert summary["note"] == note
    assert summary["data"] == "test split"
    assert yaml.safe_load((out / "sandwich.yaml").read_text())["real"] is True
    assert titles == ["HEURISTIC bounds from both sides: the upper one is not certified"]


def test_more_data_than_the_split_has_and_the_default_folder(call, trained, tmp_path):
    """Simulated data have the shapes of the test data, which are taken in turn as often as needed."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    command = ["sandwich", run, "--method", "importance", "--num-samples", "2", "--num-data", "260"]
    assert call(*command).status == 0
    assert len(Sandwich.load(run / "sandwich/sandwich.safetensors")) == 260
    assert call(*command).status == 2
    assert call(*command, "--overwrite").status == 0
    # Bounds of a model do not outlive it.
    assert call("train", *TINY, "--out", run, "--overwrite").status == 0
    assert not list(run.rglob("sandwich.*"))


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_and_resumed(call, trained, tmp_path, monkeypatch, method):
    """Stopped on the way up, and on the way down: the same bits."""
    assert call(*line(trained, method, "--out", tmp_path / "whole")).status == 0
    stops = interrupted_then_resumed(call, line(trained, method), tmp_path / "halves", monkeypatch)
    assert stops >= 2
    assert snapshot(tmp_path / "halves") == snapshot(tmp_path / "whole")


def test_a_table_of_saved_bounds_is_that_of_the_bounds():
    """What the command relies on when only pictures are left to draw: x is all that a file does not hold."""
    program = pv.Program(*_normal())
    bounds = sandwich(program, torch.zeros(4), 2, 2, seed=1)
    assert str(replace(bounds, x=None)) != str(bounds)
    assert torch.equal(program.simulate(torch.zeros(4), seed=1)[1], bounds.x)


def _normal():
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.5))

    return model, guide
