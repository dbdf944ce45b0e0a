"""A folder of output has one owner, and the lock goes with the process."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from cli_helpers import TINY, snapshot

from ppl_vae import locks
from ppl_vae.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from ppl_vae import locks
with locks.{kind}(Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold():
    """Own a folder, or read it, in another process; returns the process."""
    processes = []

    def begin(folder, kind="owned"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(kind=kind), str(folder)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path, hold):
    process = hold(tmp_path / "run")
    with pytest.raises(InputError, match=f"in use by process {process.pid}"), locks.owned(tmp_path / "run"):
        pass
    with pytest.raises(InputError, match="in use"), locks.read(tmp_path / "run", "RUN"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "run")  # another name of the same folder
    with pytest.raises(InputError, match="in use"), locks.owned(tmp_path / "link"):
        pass


def test_a_killed_owner_leaves_no_lock(tmp_path, hold):
    process = hold(tmp_path / "run")
    process.kill()
    process.wait()
    assert (tmp_path / "run" / locks.LOCK).exists()
    with locks.owned(tmp_path / "run"):
        assert (tmp_path / "run" / locks.LOCK).read_text() == f"{os.getpid()}\n"
    assert snapshot(tmp_path) == {"run": None}  # the other process had made it


def test_readers_share_and_keep_writers_out(tmp_path, hold):
    (tmp_path / "run").mkdir()
    process = hold(tmp_path / "run", "read")
    with locks.read(tmp_path / "run", "RUN"):
        pass
    with pytest.raises(InputError, match="no other command is using"), locks.owned(tmp_path / "run"):
        pass
    process.kill()
    process.wait()
    with locks.owned(tmp_path / "run"):
        pass


def test_what_was_made_for_nothing_is_removed(tmp_path):
    with locks.owned(tmp_path / "a/b/c"):
        assert (tmp_path / "a/b/c" / locks.LOCK).exists()
    assert snapshot(tmp_path) == {}
    with locks.owned(tmp_path / "a/b/c"):
        (tmp_path / "a/b/c/file").write_text("kept")
    assert list(snapshot(tmp_path)) == ["a", "a/b", "a/b/c", "a/b/c/file"]


def test_a_thread_owns_once_more_and_another_does_not(tmp_path):
    refused = []

    def other():
        try:
            with locks.owned(tmp_path):
                refused.append(False)
        except InputError:
            refused.append(True)

    with locks.owned(tmp_path), locks.owned(tmp_path), locks.read(tmp_path, "RUN"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [True]


def test_a_file_has_one_writer(tmp_path):
    with locks.owned_file(tmp_path / "a.png"), locks.owned_file(tmp_path / "b.png"):
        assert sorted(snapshot(tmp_path)) == [".a.png.lock", ".b.png.lock"]
    assert snapshot(tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_does_not_hold_the_lock(tmp_path):
    """A child that outlives its killed parent must not go on owning the folder."""
    code = """
import os, sys, time
from pathlib import Path
from ppl_vae import locks
with locks.owned(Path(sys.argv[1])):
    if os.fork() == 0:
        print("child", flush=True)
        time.sleep(20)
        os._exit(0)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "child\n"
    process.kill()
    process.wait()
    with locks.owned(tmp_path):
        pass
    process.stdout.close()


@pytest.mark.parametrize("command", ["train", "evidence", "sandwich", "gaps", "validate", "demo"])
def test_a_command_needs_its_folder_for_itself(call, tmp_path, trained, hold, command):
    hold(tmp_path / "out")
    before = snapshot(tmp_path)
    run = [] if command in ("train", "validate", "demo") else [trained]
    for how in ([], *([["--resume"], ["--overwrite"]] if command != "demo" else [])):
        result = call(command, *run, *(TINY if command == "train" else []), "--out", tmp_path / "out", *how)
        assert result.status == 2
        assert result.err.count("\n") == 1
        assert "--out: expected a folder that no other command is using" in result.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["evidence", "sandwich", "gaps", "sample", "reconstruct", "interpolate"])
def test_a_run_that_is_being_written_is_not_read(call, tmp_path, trained, hold, command):
    shutil.copytree(trained, tmp_path / "run")
    process = hold(tmp_path / "run")
    before = snapshot(tmp_path)
    result = call(command, tmp_path / "run", "--out", tmp_path / "new.png")
    assert result.status == 2
    assert f"in use by process {process.pid}" in result.err
    assert snapshot(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_two_that_start_at_once(tmp_path, resume):
    """Of many pairs of commands that start at once, each ends with one winner whose files are its own."""
    options = "--data digits --latent-dim 2 --hidden 64 --batch-size 64 --threads 1 --epochs 40"
    for pair in range(5):
        out = tmp_path / f"run{pair}"
        if resume:
            line = f"train {options} --seed 1 --out {out}"
            first = subprocess.Popen(
                [sys.executable, "-m", "ppl_vae", *line.split()], stderr=subprocess.DEVNULL
            )
            while not (out / "checkpoint.safetensors").exists():
                assert first.poll() is None
                time.sleep(0.05)
            first.kill()
            first.wait()
        seeds = (1, 1) if resume else (1, 2)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "ppl_vae", *options_of(options, seed, out, resume)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in seeds
        ]
        errors = [process.communicate()[1] for process in processes]
        statuses = [process.returncode for process in processes]
        assert sorted(statuses) == [0, 2], errors
        loser = errors[statuses.index(2)]
        assert loser.count("\n") == 1
        assert "--out" in loser
        winner = seeds[statuses.index(0)]
        assert f"\nseed: {winner}\n" in (out / "config.yaml").read_text()
        assert len((out / "history.jsonl").read_text().splitlines()) == 40
        alone = tmp_path / f"alone{winner}"
        if not alone.exists():
            line = options_of(options, winner, alone, False)
            subprocess.run([sys.executable, "-m", "ppl_vae", *line], check=True, capture_output=True)
        for name in ("vae.safetensors", "history.jsonl", "config.yaml"):
            assert (out / name).read_bytes() == (alone / name).read_bytes()


def options_of(options, seed, out, resume):
    """The arguments of a training command."""
    return f"train {options} --seed {seed} --out {out}{' --resume' * resume}".split()
