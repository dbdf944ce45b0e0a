"""Options that are arguments of functions: types, defaults and texts come from there."""

import pytest
import yaml

from ppl_vae import signatures
from ppl_vae.cli.options import parser
from ppl_vae.cli.options.results import trust_needed
from ppl_vae.data import LOADERS
from ppl_vae.training.loop import fit


def test_types_defaults_and_texts_are_the_functions():
    made = parser.make_parser("train", "Train.", "")
    parser.add_from(made, fit, ("batch_size", "clip_norm", "lr_schedule"), {"lr_schedule": "a word"})
    assert parser.parse(made, []) == {"batch_size": 128, "clip_norm": None, "lr_schedule": "constant"}
    assert parser.parse(made, ["--batch-size", "7"])["batch_size"] == 7
    text = " ".join(made.format_help().split())
    assert "data a step; the last batch of an epoch may be smaller (type: int, default: 128)" in text
    assert "a word" in text


@pytest.mark.parametrize("name", LOADERS)
def test_every_argument_of_a_loader_is_explained(name):
    for argument, known in signatures.read(LOADERS[name]).arguments.items():
        assert known.text, argument
        assert "see above" not in known.text


def test_whose_classes_a_model_needs():
    roles = ("likelihood", "posterior", "network", "encoder", "decoder")
    parts = dict.fromkeys(roles) | {"prior": {"class_path": "mine.Wide"}}
    parts["network"] = {"class_path": "ppl_vae.networks.MLP"}
    assert trust_needed(parts) == " --trust mine"
    assert trust_needed(parts | {"encoder": {"class_path": "mine.Net"}}) == " --trust mine"
    assert (
        trust_needed(parts | {"encoder": {"class_path": "other.nets.Net"}}) == " --trust mine --trust other"
    )


def test_a_chosen_class_keeps_its_own_defaults(call):
    """jsonargparse would give it those of the option's default class, where the two share arguments."""
    printed = yaml.safe_load(call("train", "--network", "ConvNet", "--print-config").out)
    assert printed["network"]["init_args"] == {"channels": [16, 32], "hidden": 128, "activation": "relu"}
    printed = yaml.safe_load(call("train", "--encoder", "ConvNet", "--print-config").out)
    assert printed["network"]["init_args"] == {"hidden": [200, 200], "activation": "tanh"}


@pytest.mark.parametrize("where", ["command line", "file"])
def test_a_chosen_objective_keeps_its_own_defaults(call, tmp_path, where):
    """RenyiELBO's two particles, where Trace_ELBO, the option's default, has one."""
    (tmp_path / "options.yaml").write_text("objective: RenyiELBO\n")
    options = {"command line": ["--objective", "RenyiELBO"], "file": ["--config", tmp_path / "options.yaml"]}
    printed = yaml.safe_load(call("train", *options[where], "--print-config").out)
    assert printed["objective"]["class_path"] == "pyro.infer.RenyiELBO"
    assert printed["objective"]["init_args"]["num_particles"] == 2


@pytest.mark.parametrize("equals", [False, True])
def test_a_class_in_the_place_of_another_in_a_file(call, tmp_path, equals):
    """Nothing of the file's class is left; a class by the same name keeps what the file says."""
    path = tmp_path / "options.yaml"
    made = {"class_path": "ppl_vae.networks.MLP", "init_args": {"hidden": [7], "activation": "elu"}}
    path.write_text(yaml.safe_dump({"network": made, "epochs": 3}))
    line = ["train", f"--config={path}"] if equals else ["train", "--config", path]
    printed = yaml.safe_load(call(*line, "--network", "ConvNet", "--print-config").out)
    assert printed["network"]["init_args"] == {"channels": [16, 32], "hidden": 128, "activation": "relu"}
    assert printed["epochs"] == 3
    printed = yaml.safe_load(call(*line, "--network", "MLP", "--network.hidden", "[9]", "--print-config").out)
    assert printed["network"] == made | {"init_args": {"hidden": [9], "activation": "elu"}}
    assert yaml.safe_load(call(*line, "--print-config").out)["network"] == made


def test_options_of_a_default_class(call):
    given = ["--network.hidden", "[3]", "--objective.num_particles", "5"]
    printed = yaml.safe_load(call("train", *given, "--print-config").out)
    assert printed["network"]["init_args"] == {"hidden": [3], "activation": "tanh"}
    assert printed["objective"]["init_args"]["num_particles"] == 5


PART = """
import math
import torch
import pyro.distributions as dist
from typing import Callable
from ppl_vae.priors import Prior


class Shaped(Prior):
    def __init__(self, dim, shape: Callable = math.sqrt):
        super().__init__(dim)
        self.zeros = torch.nn.Parameter(torch.zeros(dim))

    def forward(self):
        return dist.Normal(self.zeros, 1.0).to_event(1)
"""


@pytest.mark.parametrize("options", [[], ["--prior.shape", "math.exp"]])
def test_what_could_not_be_saved_is_refused_and_not_left_out(call, tmp_path, monkeypatch, options):
    (tmp_path / "own_shaped.py").write_text(PART)
    monkeypatch.chdir(tmp_path)
    result = call("train", "--prior", "own_shaped.Shaped", *options, "--out", "new")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "shape" in result.err
    assert not (tmp_path / "new").exists()
