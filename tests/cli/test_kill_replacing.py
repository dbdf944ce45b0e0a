"""Killed (SIGKILL) at random moments while it replaces, a command leaves the old files or the new ones, and goes on."""

import random
import shutil
import signal
import subprocess

import pytest
from cli_helpers import snapshot
from test_kill import check_folder, finish, start

from ppl_vae.outputs import COMPLETE, NEW

SEED = 20261126
TRAIN = "train --data digits --latent-dim 4 --hidden 100 --batch-size 64 --epochs 20 --threads 1"
MODEL = ("vae.safetensors", "history.jsonl", "config.yaml", "data.json")
ESTIMATE = ("evidence.safetensors", "summary.json", "evidence.txt", "evidence.yaml")


def bits(folder, names):
    return tuple((folder / name).read_bytes() for name in names)


def kill_replacements(line, old, new, names, kills, seconds, rng):
    """Replace ``old`` by what ``new`` is, kill, resume, compare; again from ``old`` on whenever it is done.

    Returns how many of the kills were followed by a resumption.
    """
    out = old.with_name("out")
    shutil.copytree(old, out)
    done = resumed = 0
    finished = False
    while done < kills or not finished:
        pending = (out / NEW).is_dir() and any((out / NEW / name).exists() for name in (names[-2], names[-1]))
        begun = pending and any((out / NEW).glob("*.yaml"))
        how = "--resume" if begun or (out / NEW / COMPLETE).exists() else "--overwrite"
        resumed += how == "--resume"
        process = start(f"{line} --out {out} {how}")
        finished = False
        try:
            process.wait(timeout=rng.uniform(0.3, 1.1) * seconds if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done += 1
            check_folder(out)
            if not (out / NEW / COMPLETE).exists():  # not in the middle of the moves
                assert bits(out, names) in (bits(old, names), bits(new, names))
            continue
        err = process.communicate()[1]
        assert process.returncode == 0, err
        finished = True
        assert bits(out, names) == bits(new, names)
        assert snapshot(out).keys() == snapshot(new).keys()
        shutil.rmtree(out)
        shutil.copytree(old, out)
    shutil.rmtree(out)
    return resumed


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    old, new = tmp_path / "old", tmp_path / "new"
    finish(f"{TRAIN} --seed 1 --out {old}")
    seconds = finish(f"{TRAIN} --seed 2 --out {new}")
    assert kill_replacements(f"{TRAIN} --seed 2", old, new, MODEL, 15, seconds, rng) > 0

    line = f"evidence {new} --num-samples 4000 --threads 1"
    old, other = tmp_path / "old_estimate", tmp_path / "new_estimate"
    finish(f"{line} --seed 1 --out {old}")
    seconds = finish(f"{line} --seed 2 --out {other}")
    assert kill_replacements(f"{line} --seed 2", old, other, ESTIMATE, 15, seconds, rng) > 0
