"""Runs, models, results and configurations that somebody else may have written: refused in one line, nothing left."""

import json
import os
import shutil

import pytest
import torch
import yaml
from cli_helpers import TINY, snapshot

from ppl_vae import files
from ppl_vae.cli import main

FEW = ["--num-samples", "16", "--subset", "3"]
LOADING = {
    "evidence": ["evidence", "run", *FEW, "--out", "new"],
    "sandwich": [
        "sandwich",
        "run",
        "--num-data",
        "2",
        "--num-chains",
        "2",
        "--num-steps",
        "2",
        "--out",
        "new",
    ],
    "gaps": ["gaps", "run", "--num-samples", "16", "--subset", "3", "--out", "new"],
    "sample": ["sample", "run", "--num", "2", "--out", "new.npy"],
    "reconstruct": ["reconstruct", "run", "--num", "2", "--out", "new.npy"],
    "interpolate": ["interpolate", "run", "--pairs", "1", "--out", "new.npy"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained):
    """A run with a finished estimate and a stopped one."""
    here = tmp_path_factory.mktemp("finished")
    shutil.copytree(trained, here / "run")
    assert main(["evidence", str(here / "run"), *FEW]) == 0
    return here


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A copy of it, to be spoilt, in the current folder."""
    shutil.copytree(finished / "run", tmp_path / "run")
    marker = tmp_path / "run/evidence/evidence.yaml"
    marker.write_text(marker.read_text().replace(str(finished / "run"), str(tmp_path / "run")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(call, line, *named):
    """The line on standard error; the folder is as it was."""
    before = snapshot(".")
    result = call(*line)
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("ppl-vae"), result.err
    assert "Traceback" not in result.err
    assert "<class" not in result.err
    assert "raised" not in result.err, result.err
    assert result.out == ""
    for word in named:
        assert word in result.err
    assert snapshot(".") == before
    return result.err


def of_class(class_path, role="prior", init_args=None):
    """Make a part of the run's model one of another class."""
    tensors, metadata = files.read_tensors("run/vae.safetensors")
    spec = metadata["config"][role]
    spec |= {"class_path": class_path} | ({} if init_args is None else {"init_args": init_args})
    files.write_tensors("run/vae.safetensors", tensors, metadata)


@pytest.mark.parametrize("command", LOADING)
def test_classes_need_trust(command, call, here, own):
    of_class("own_parts.WidePrior", init_args={"dim": 2})
    named = ("own_parts.WidePrior", "--trust own_parts", "vae.safetensors: prior")
    refused(call, LOADING[command], *named)
    refused(call, [*LOADING[command], "--trust", "own_part"], *named)
    of_class("venv.__main__.X")
    refused(call, LOADING[command], "venv.__main__.X", "--trust venv")
    refused(call, [*LOADING[command], "--trust", "venv"], "venv.__main__.X", "a program")
    of_class("ppl_vae.priors.StandardNormal", init_args={"dim": 2})
    of_class("subprocess.Popen", "encoder", {"args": ["touch", "made"]})
    refused(call, LOADING[command], "subprocess.Popen", "--trust subprocess")
    refused(call, [*LOADING[command], "--trust", "subprocess"], "subprocess.Popen", "no Part")


@pytest.mark.parametrize("name", ["a b", "", "../own_parts", "own_parts.", "-x", "a;b"])
def test_trust_in_what_is_no_name(name, call, here):
    refused(call, [*LOADING["sample"], f"--trust={name}"], "--trust: expected names of packages")


def test_trust_may_be_given_more_than_once(call, here, own):
    of_class("own_parts.NoPrior")
    line = [*LOADING["sample"], "--trust", "json", "--trust", "own_parts"]
    refused(call, line, "own_parts.NoPrior", "no Prior")
    of_class("own_broken.Prior")
    refused(call, [*LOADING["sample"], "--trust", "own_broken"], "own_broken.Prior", "SyntaxError")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def zero(path):
    path.unlink()
    path.symlink_to("/dev/zero")


RUN_FILES = ("run/config.yaml", "run/data.json", "run/vae.safetensors")


@pytest.mark.parametrize("make", [pipe, loop, zero], ids=["pipe", "loop", "device"])
@pytest.mark.parametrize(
    "name", [*RUN_FILES, "run/checkpoint.safetensors", "run/history.jsonl", "run/evidence/RESULT"]
)
def test_no_file_of_a_run_is_waited_for(name, make, call, here):
    path = here / name.replace("RESULT", "evidence.safetensors")
    make(path)
    line = ["reconstruct", "run", "--num", "2", "--out", "new.npy"]
    if name.endswith(("checkpoint.safetensors", "history.jsonl")):
        line = ["train", "--config", "run/config.yaml", "--out", "run", "--resume"]
    if name.endswith("RESULT"):
        line = ["evidence", "run", *FEW, "--resume"]
        if make is not loop and not path.is_file():  # it is computed again, and replaces what is there
            assert call(*line).status == 0
            assert path.is_file()
            return
        if make is loop:
            return
    refused(call, line, "run")


DATA = [
    ("name", "mnist"), ("view", 3), ("values", "real"), ("seed", 1), ("sizes", {"train": 1}), ("shape", [8, 8]),
    ("shape", "64"), ("image_shape", 64), ("image_shape", [64]), ("image_shape", [8, 9]), ("image_shape", ["8", "8"]),
    ("image_shape", [-8, -8]), ("image_shape", {"a": 1}), ("resampled", True), ("test_sha256", None),
    ("total_count", 16),
    ("train_sha256", "0" * 64), ("valid_sha256", "0" * 64),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), DATA)
def test_an_edited_description_of_the_data(key, value, call, here):
    about = json.loads((here / "run/data.json").read_text())
    files.write_json("run/data.json", about | {key: value})
    refused(call, LOADING["reconstruct"], "run/data.json", key)
    del about[key]
    files.write_json("run/data.json", about)
    if key != "image_shape":
        refused(call, LOADING["evidence"], "run/data.json", key)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\ufeff{}"])
def test_a_description_that_is_none(content, call, here):
    (here / "run/data.json").write_text(content, encoding="utf-8")
    refused(call, LOADING["reconstruct"], "data")
    refused(call, LOADING["evidence"], "data")


CONFIG = [
    ("data", ["digits"]), ("data", None), ("data", 3), ("data", "cifar"), ("view", 3), ("view", "grey"),
    ("flat", "yes"),
    ("flat", 1), ("dynamic", 0), ("data_seed", "0"), ("data_seed", True), ("data_seed", -1), ("data_seed", 0.5),
    ("path", 5), ("path", "x.npy"), ("image_shape", 64), ("valid_fraction", "0.1"), ("key", [1]),
    ("data_dir", {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CONFIG)
def test_an_edited_configuration_of_a_run(key, value, call, here):
    settings = yaml.safe_load((here / "run/config.yaml").read_text())
    (here / "run/config.yaml").write_text(yaml.safe_dump(settings | {key: value}))
    refused(call, LOADING["evidence"], "run/config.yaml", f"--{key.replace('_', '-')}")


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
YAMLS = {
    "bomb": BOMB,
    "deep": "hidden: " + "[" * 100_000,
    "deep and closed": "hidden: " + "[" * 60 + "]" * 60,
    "python": "latent_dim: !!python/object/apply:os.system ['touch made']",
    "another file": "config: run/config.yaml\n",
    "two documents": "latent_dim: 1\n---\nlatent_dim: 2\n",
    "binary": "\x00\x01\x02",
    "keys": "1: 2\n",
    "itself": "hidden: &a [*a]\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(name, call, here):
    (here / "x.yaml").write_text(YAMLS[name])
    named = "--hidden" if name == "itself" else "x.yaml"
    refused(call, ["train", "--config", "x.yaml", "--out", "new"], named)
    refused(call, ["train", "--config=x.yaml", "--out", "new"], named)
    (here / "run/config.yaml").write_text(YAMLS[name])
    refused(call, LOADING["evidence"], "run/config.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.mkdir(), lambda p: p.symlink_to(p), lambda p: None])
@pytest.mark.parametrize(
    "line", [["train", "--config"], ["train", "--data", "array", "--path"]], ids=["config", "path"]
)
def test_input_files_that_are_none(line, make, call, here):
    path = here / "x.csv"
    make(path)
    refused(call, [*line, str(path), "--out", "new"], "x.csv")


@pytest.mark.parametrize("value", ["[" * 50_000, "{a: " * 60 + "}" * 60, BOMB, "1" * 100_000, "&a [*a]"])
@pytest.mark.parametrize("option", ["--hidden", "--prior", "--lr"])
def test_values_of_options(option, value, call, here):
    refused(call, ["train", option, value, "--out", "new"], option)
    refused(call, ["train", f"{option}={value}", "--out", "new"], option)


def change(name, index, value):
    def edit(tensors, metadata):
        tensors[name] = tensors[name].clone()
        tensors[name][index] = value

    return edit


RESULTS = {
    "another seed": ("seed", lambda t, m: m.update(seed=5)),
    "a negative error": ("stderr", change("stderr", 0, -1.0)),
    "too large an effective sample size": ("ess", change("ess", 1, 17.0)),
    "fewer data": (
        "number of data",
        lambda t, m: t.update({k: v[:2] for k, v in t.items() if k != "curve_k"}),
    ),
    "another dtype": ("khat", lambda t, m: t.update(khat=t["khat"].float())),
    "no ELBO": ("elbo", lambda t, m: t.pop("elbo")),
    "no number": ("log_evidence", change("log_evidence", 2, float("nan"))),
    "another kind": ("evidence", lambda t, m: m.update(kind="ppl_vae.Gaps")),
}


@pytest.mark.parametrize("name", RESULTS)
def test_an_edited_result_is_not_taken_up(name, call, here):
    field, edit = RESULTS[name]
    path = "run/evidence/evidence.safetensors"
    tensors, metadata = files.read_tensors(path)
    edit(tensors, metadata)
    files.write_tensors(path, tensors, metadata)
    refused(call, ["evidence", "run", *FEW, "--resume"], path, field)


@pytest.mark.parametrize("name", ["vae", "checkpoint", "evidence/evidence"])
def test_a_flipped_bit_is_found(name, call, here):
    path = here / f"run/{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    line = {"vae": LOADING["sample"], "evidence/evidence": ["evidence", "run", *FEW, "--resume"]}.get(
        name, ["train", "--config", "run/config.yaml", "--out", "run", "--resume"]
    )
    refused(call, line, f"run/{name}.safetensors", "digest")


def test_parameters_that_are_no_numbers(call, here):
    tensors, metadata = files.read_tensors("run/vae.safetensors")
    tensors["decoder.output_bias"] = tensors["decoder.output_bias"] * torch.nan
    files.write_tensors("run/vae.safetensors", tensors, metadata)
    for command in LOADING:
        refused(call, LOADING[command], "run/vae.safetensors", "decoder.output_bias", "NaN")


def test_the_history_of_another_run_is_not_continued(call, here):
    lines = (here / "run/history.jsonl").read_text().splitlines(keepends=True)
    (here / "run/history.jsonl").write_text("".join(reversed(lines)))
    refused(
        call,
        ["train", "--config", "run/config.yaml", "--out", "run", "--resume"],
        "run/history.jsonl",
        "line 1",
    )


def test_a_trusted_class_works_from_end_to_end(call, own):
    options = ["--data", "digits", "--view", "counts", *TINY, "--likelihood", "own_parts.Geometric"]
    result = call("train", *options, "--out", "run")
    assert result.status == 0, result.err
    assert result.out.rstrip().endswith("ppl-vae evidence run --trust own_parts")
    for command in ("sample", "evidence"):
        result = call(*LOADING[command], "--trust", "own_parts")
        assert result.status == 0, result.err
