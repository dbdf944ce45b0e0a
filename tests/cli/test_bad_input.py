"""Bad input: exit status 2, one line on standard error that names what is at fault, and nothing written."""

import os

import bad_evidence_input
import bad_train_input
import pytest
from bad_input_world import make_world
from cli_helpers import TINY, snapshot

CASES = bad_train_input.CASES | bad_evidence_input.CASES


@pytest.fixture(scope="session")
def world(tmp_path_factory, trained):
    """A folder full of good and bad files, for all cases: none may change it."""
    here = tmp_path_factory.mktemp("world")
    make_world(here, trained)
    return here


@pytest.fixture
def in_world(world, own, monkeypatch):
    """The world as the current folder, a user's own file beside it on the path."""
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("name", CASES)
def test_bad_input(call, in_world, name):
    line, named = CASES[name]
    argv = line.split()
    if argv[:1] in (["train"], ["validate"]) and "--out" not in argv:
        argv += ["--out", "new"]
    before = snapshot(in_world)
    result = call(*argv)
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("ppl-vae"), result.err
    assert ": error: " in result.err
    assert named in result.err
    assert "Traceback" not in result.err
    assert "<class" not in result.err
    assert len(result.err) < 500
    assert result.out == ""
    assert snapshot(in_world) == before


def test_there_are_enough_cases():
    assert len(CASES) >= 60
    assert len({line for line, _ in CASES.values()}) == len(CASES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(call, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = call("train", *TINY, "--out", tmp_path / "locked/run")
    assert result.status == 2
    assert "--out" in result.err
    assert result.err.count("\n") == 1


def test_full_disk(call, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "run/config.yaml"))

    monkeypatch.setattr("ppl_vae.files.write_bytes", refuse)
    result = call("train", *TINY, "--out", tmp_path / "run")
    assert result.status == 2
    assert result.err == f"ppl-vae train: error: {tmp_path / 'run/config.yaml'}: No space left on device\n"


def test_divergence_is_told_in_one_line(call, tmp_path):
    result = call(
        "train", *TINY, "--view", "dequantised", "--lr", "1e30", "--epochs", "9", "--out", tmp_path / "run"
    )
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "last good checkpoint" in result.err


def test_debug_shows_the_traceback(call, own):
    result = call("train", "--prior", "own_parts.Broken", "--prior.late", "true", "--out", "new", "--debug")
    assert result.status == 2
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err
    assert not (own / "new").exists()
