"""A disk that is full at any moment: status 2, one line that names the file, no half-written file, nothing old lost."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
from cli_helpers import TINY, snapshot
from test_kill import check_folder

from ppl_vae import files
from ppl_vae.outputs import NEW

FULL = OSError(28, "No space left on device")


class Filling:
    """A disk that is full from the k-th file on: what `os.fsync` says, which every file goes through."""

    def __init__(self, monkeypatch, k):
        self.left, self.fsync = k, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor):
        self.left -= 1
        if self.left < 0:
            raise OSError(*FULL.args)
        self.fsync(descriptor)


def refused(result):
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert "No space left on device" in result.err
    assert "Traceback" not in result.err


def moments(fast, number):
    """The moments from 0 on: those that are tried always, and those that are when there is time."""
    return [k if k in fast else pytest.param(k, marks=pytest.mark.slow) for k in range(number)]


@pytest.mark.parametrize("k", moments((0, 1, 6), 11))
def test_while_training(call, drawn, tmp_path, monkeypatch, k):
    """data.json, config.yaml, history, checkpoint, checkpoint, model, pictures: each may be the one."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        Filling(patch, k)
        refused(call("train", *TINY, "--out", out))
    assert not out.exists() or (out / "checkpoint.safetensors").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    check_folder(tmp_path)
    assert call("train", *TINY, "--out", out, "--resume").status == 0


@pytest.mark.parametrize("k", moments((0, 3), 5))
def test_while_estimating(call, tmp_path, trained, monkeypatch, k):
    line = ["evidence", trained, "--num-samples", "32", "--subset", "3", "--out", tmp_path / "e"]
    with monkeypatch.context() as patch:
        Filling(patch, k)
        refused(call(*line))
    assert not list(tmp_path.rglob("*.tmp"))
    check_folder(tmp_path)
    assert call(*line, *(["--resume"] if (tmp_path / "e").exists() else [])).status == 0


@pytest.mark.parametrize("k", moments((4,), 12))
def test_while_replacing(call, drawn, tmp_path, trained, monkeypatch, k):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    before = snapshot(out)
    with monkeypatch.context() as patch:
        Filling(patch, k)
        refused(call("train", *TINY, "--seed", "1", "--out", out, "--overwrite"))
    assert {name: kept for name, kept in snapshot(out).items() if not name.startswith(NEW)} == before


@pytest.mark.parametrize("name", ["s.png", "s.pdf", "s.npy", "s.csv"])
def test_while_a_picture_or_numbers_are_written(call, tmp_path, trained, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")
    with monkeypatch.context() as patch:
        Filling(patch, 0)
        result = call("sample", trained, "--num", "4", "--out", tmp_path / name, "--overwrite")
    refused(result)
    assert str(tmp_path / name) in result.err
    assert snapshot(tmp_path).keys() == {name}
    assert (tmp_path / name).read_bytes() == b"old"


def test_an_append_is_whole_or_not_there(tmp_path):
    """A real limit of the system on a file's size, in the place of a full disk."""
    path = tmp_path / "log"
    path.write_text("first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.append(path, "x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "first\n"
    files.append(path, "second\n")
    assert path.read_text() == "first\nsecond\n"


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 3000, 20_000, 60_000])
def test_by_a_limit_of_the_system(tmp_path, size):
    """Files of no more than so many bytes: whatever is the first that is larger is named and not there."""
    line = ["train", *TINY, "--hidden", "40", "--out", "run"]
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    code = f"{limit}; import sys; from ppl_vae.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    assert "run/" in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    check_folder(tmp_path)
    again = [sys.executable, "-m", "ppl_vae", *line, "--resume"]
    assert subprocess.run(again, cwd=tmp_path, capture_output=True).returncode == 0
