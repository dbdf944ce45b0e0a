import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from cli_helpers import TINY, snapshot

import ppl_vae as pv
from ppl_vae.cli.commands import COMMANDS
from ppl_vae.history import History
from ppl_vae.runs.folder import PICTURES


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from ppl_vae.cli import main; main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # 0.1 s on an idle machine
    assert done.stderr.strip() == "False"
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


def test_module_entry_point_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "ppl_vae", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ppl-vae {pv.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(call, command):
    result = call(command, "--help")
    assert result.status == 0
    assert result.out.startswith(f"usage: ppl-vae {command} ")
    assert f"  ppl-vae {command} " in result.out.partition("examples:")[2]
    assert "Callable" not in result.out
    assert "class_path" not in result.out


def test_help_of_a_class(call):
    result = call("train", "--prior.help", "VampPrior")
    assert result.status == 0
    assert "pseudo-inputs" in result.out


def test_train_writes_a_run_folder(trained):
    vae = pv.load(trained / "vae.safetensors")
    assert vae.latent_dim == 2
    assert len(History.load(trained / "history.jsonl")) == 2
    data = json.loads((trained / "data.json").read_text())
    assert data == json.loads(json.dumps(pv.data.load_digits().describe()))
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["likelihood"]["class_path"].endswith("Bernoulli")
    assert config["network"]["init_args"] == {"hidden": 8, "activation": "tanh"}
    assert config["threads"] == 1
    assert config["device"] in ("cpu", "cuda")
    for name in PICTURES:
        assert (trained / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_same_numbers_as_the_library(trained):
    data = pv.data.load_digits()
    prior, likelihood = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli((64,))
    vae = pv.VAE(prior, likelihood, pv.posteriors.MeanFieldNormal(2), hidden=(8,), seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    history = pv.fit(vae, data.train, x_valid=data.valid, epochs=2, batch_size=500)
    torch.set_num_threads(threads)
    assert history.epochs == History.load(trained / "history.jsonl").epochs


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "digits", "--view", "counts", "--prior", "VampPrior", "--prior.components", "7"],
        ["--data", "digits", "--dynamic", "true", "--patience", "1", "--kl-warmup", "1", "--seed", "3"],
        [
            "--data",
            "digits",
            "--view",
            "dequantised",
            "--objective",
            "TraceMeanField_ELBO",
            "--clip-norm",
            "5",
        ],
        ["--data", "digits", "--network", "ConvNet", "--network.channels", "[4]", "--lr-schedule", "cosine"],
    ],
    ids=["counts", "dynamic", "dequantised", "conv"],
)
def test_config_round_trip_is_bit_identical(call, tmp_path, options):
    base = [argument for argument in TINY if "conv" not in argument]
    assert call("train", *base, *options, "--out", tmp_path / "a").status == 0
    assert call("train", "--config", tmp_path / "a/config.yaml", "--out", tmp_path / "b").status == 0
    for name in ("vae.safetensors", "history.jsonl", "config.yaml", "data.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_print_config_is_what_would_be_written(call, tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("train", "--config", trained / "config.yaml", "--print-config")
    assert result.status == 0
    assert yaml.safe_load(result.out) == yaml.safe_load((trained / "config.yaml").read_text())
    assert snapshot(tmp_path) == {}


def test_default_likelihood_follows_the_data(call, tmp_path):
    table = {
        "binary": ("Bernoulli", {}),
        "counts": ("Binomial", {"total_count": 16}),
        "dequantised": ("Gaussian", {"scale": "learned", "min_scale": 1e-3}),
    }
    for view, (name, arguments) in table.items():
        printed = yaml.safe_load(call("train", "--view", view, "--print-config").out)
        assert printed["likelihood"] == {"class_path": f"ppl_vae.likelihoods.{name}", "init_args": arguments}


def test_users_own_classes(call, own):
    parts = ["--prior", "own_parts.WidePrior", "--prior.width", "1.5", "--likelihood", "own_parts.Geometric"]
    parts += ["--posterior", "own_parts.Laplace"]
    for out in ("a", "b"):
        result = call("train", "--view", "counts", *TINY, *parts, "--out", out)
        assert result.status == 0
        assert result.out.splitlines()[-1].endswith(f"ppl-vae evidence {out} --trust own_parts")
    assert (own / "a/vae.safetensors").read_bytes() == (own / "b/vae.safetensors").read_bytes()
    config = yaml.safe_load((own / "a/config.yaml").read_text())
    assert config["prior"] == {"class_path": "own_parts.WidePrior", "init_args": {"width": 1.5}}
    assert config["posterior"]["init_args"] == {"floor": 0.01}
    line = ["evidence", "a", "--num-samples", "64", "--subset", "5"]
    result = call(*line)  # though this very process has imported the file
    assert result.status == 2
    assert "--trust own_parts" in result.err
    assert "own_parts.WidePrior" in result.err
    assert not (own / "a/evidence").exists()
    result = call(*line, "--trust", "own_parts")
    assert result.status == 0, result.err
    assert "N = 5 data" in result.out


def test_overwrite_keeps_the_users_files_and_drops_stale_ones(call, tmp_path):
    out = tmp_path / "run"
    assert call("train", *TINY, "--out", out).status == 0
    assert call("evidence", out, "--num-samples", "32", "--subset", "4").status == 0
    (out / "notes.txt").write_text("mine")
    assert call("train", *TINY, "--seed", "1", "--out", out, "--overwrite").status == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "evidence/evidence.safetensors").exists()
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 1


def test_resume_of_a_finished_run_changes_nothing(call, tmp_path):
    out = tmp_path / "run"
    assert call("train", *TINY, "--out", out).status == 0
    before = snapshot(out)
    assert call("train", *TINY, "--out", out, "--resume").status == 0
    assert snapshot(out) == before


def test_interrupt_says_how_to_go_on(call, tmp_path, monkeypatch):
    from ppl_vae import training

    monkeypatch.setattr(training, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    result = call("train", *TINY, "--out", tmp_path / "run")
    assert result.status == 130
    assert result.err.count("\n") == 1
    assert result.err.strip().endswith(
        f"ppl-vae train --config {tmp_path / 'run/config.yaml'} --out {tmp_path / 'run'} --resume"
    )
    monkeypatch.undo()
    command = result.err.partition("ppl-vae train ")[2].split()
    assert call("train", *command).status == 0


def test_evidence(call, drawn, trained, tmp_path):
    out = tmp_path / "evidence"
    result = call(
        "evidence", trained, "--num-samples", "200", "--subset", "20", "--subset-seed", "4", "--out", out
    )
    assert result.status == 0, result.err
    evidence = pv.Evidence.load(out / "evidence.safetensors")
    assert str(evidence) in result.out
    assert (out / "evidence.txt").read_text().startswith(str(evidence))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["log_evidence"]["value"] == evidence.mean().value
    assert summary["gap"]["mc_stderr"] == evidence.mean("gap").mc_stderr
    assert summary["negative_log_likelihood"]["value"] == -evidence.mean().value
    assert summary["bits_per_dim"]["value"] == evidence.bits_per_dim(64).value
    assert summary["base_measure"] == "counting"
    assert summary["status"] == evidence.status_fractions()
    assert summary["test_set"]["subset"] == 20
    assert summary["test_set"]["subset_seed"] == 4
    x, _ = pv.data.load_digits().subset("test", 20, 4)
    again = pv.evidence.importance(pv.load(trained / "vae.safetensors").program, x, 200)
    assert torch.allclose(again.log_evidence, evidence.log_evidence)
    for name in ("evidence_curve.png", "gap_and_khat.png"):
        assert (out / name).stat().st_size > 1000
    assert not (out / "checkpoint.safetensors").exists()
    # Once more, with only the pictures left to draw.
    before = snapshot(out)
    (out / "gap_and_khat.png").unlink()
    options = ["--num-samples", "200", "--subset", "20", "--subset-seed", "4", "--out", out, "--resume"]
    assert call("evidence", trained, *options).status == 0
    assert snapshot(out) == before


def test_bits_per_dim_of_real_numbers(call, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    options = ["--data", "array", "--path", tmp_path / "x.npy", *TINY, "--out", tmp_path / "run"]
    assert call("train", *options).status == 0
    assert call("evidence", tmp_path / "run", "--num-samples", "64").status == 0
    summary = json.loads((tmp_path / "run/evidence/summary.json").read_text())
    assert summary["bits_per_dim"] is None
    assert summary["base_measure"] == "lebesgue"
    # No image shape: numbers in the place of pictures.
    assert call("sample", tmp_path / "run", "--num", "5").status == 0
    assert np.load(tmp_path / "run/samples.npy").shape == (5, 3)
    assert call("reconstruct", tmp_path / "run", "--num", "2", "--out", tmp_path / "r.csv").status == 0
    assert np.loadtxt(tmp_path / "r.csv", delimiter=",").shape == (4, 3)


def test_pictures(call, drawn, trained, tmp_path):
    for command, name in (("sample", "s.png"), ("reconstruct", "r.pdf"), ("interpolate", "i.svg")):
        result = call(command, trained, "--out", tmp_path / name)
        assert result.status == 0, result.err
        assert result.out == f"{tmp_path / name}\n"
        assert (tmp_path / name).stat().st_size > 1000
    numbers = tmp_path / "n.npy"
    assert call("sample", trained, "--num", "3", "--mean", "--seed", "5", "--out", numbers).status == 0
    vae = pv.load(trained / "vae.safetensors")
    assert torch.allclose(torch.from_numpy(np.load(numbers)), pv.sample(vae, 3, seed=5, mean=True))
    assert (
        call("interpolate", trained, "--pairs", "2", "--steps", "4", "--out", numbers, "--overwrite").status
        == 0
    )
    assert np.load(numbers).shape == (2, 4, 64)


def test_demo_twice(call, tmp_path, drawn):
    out = tmp_path / "demo"
    for _ in range(2):
        result = call("demo", "--quick", "--out", out)
        assert result.status == 0, result.err
        assert "log p(x): " in result.out
        assert "gap: the ELBO is " in result.out
        assert "trusted: " in result.out
        for line in result.out.partition("pictures:\n")[2].partition("numbers:")[0].split():
            assert (tmp_path / line).is_file()
    assert call("sample", out, "--out", tmp_path / "s.png").status == 0
