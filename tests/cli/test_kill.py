"""Killed (SIGKILL) at random moments and resumed, a command ends with the bits of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from ppl_vae import files

KILLS = {"train": 12, "evidence": 8}
TRAIN = (
    "train --data digits --dynamic true --latent-dim 4 --hidden 200 --batch-size 32 --epochs 25 --patience 20"
)
TRAIN += " --kl-warmup 3 --prior VampPrior --prior.components 20 --lr-schedule cosine --threads 1 --resume"
EVIDENCE = "--num-samples 5000 --threads 1 --resume"
ANNEALED = "--method annealed --num-chains 8 --num-steps 150 --threads 1 --resume"
# Not the decoders: a least squares fit is not the same to the last bit in two processes.
VALIDATE = (
    "validate --models beta-binomial gamma-poisson hierarchy mixture --repetitions 2 --threads 1 --resume"
)
VALIDATE += " --estimators importance-64 annealed-16x100 smc-64x50 refitted-1000"
SEED = 20240607


def start(line):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ppl_vae", *line.split()]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(line):
    """Run to the end; returns the seconds it took."""
    begun = time.monotonic()
    process = start(line)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return time.monotonic() - begun


def check_folder(folder):
    """Whatever is there is whole. Temporary files (hidden, .tmp) may be left; they are swept later."""
    seen = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tmp"]
    for path in seen:
        if path.suffix == ".safetensors":
            files.read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(path.read_text()), dict)
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    return seen


def same_bits(one, other):
    """Whether two files are."""
    return one.read_bytes() == other.read_bytes()


def same_report(one, other):
    """Whether two reports of estimators are, but for the seconds that they took."""
    rows = [json.loads(path.read_text())["rows"] for path in (one, other)]
    return [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]


def kill_and_resume(line, folder, same, kills, seconds, rng, alike=same_bits):
    """Kill and resume until ``kills`` are done, from the start again whenever it came to its end, then compare.

    Returns how often there was a checkpoint to resume from.
    """
    done = resumed = attempt = 0
    finished = False
    while done < kills or not finished:
        out = folder.with_name(f"{folder.name}{attempt}")
        before = (out / "checkpoint.safetensors").exists()
        process = start(f"{line} --out {out}")
        try:
            # None: the kills are used up, and it may come to its end.
            process.wait(timeout=rng.uniform(0.05, 0.9) * seconds if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done += 1
            resumed += before
            check_folder(out)
            finished = False
            continue
        _, err = process.communicate()
        assert process.returncode == 0, err
        resumed += before
        finished = True
        attempt += 1
        check_folder(out)
        assert not list(out.rglob("*.tmp"))
        for name in same:
            assert alike(out / name, folder / name), (name, out)
    return resumed


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    assert sum(KILLS.values()) == 20
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    whole, estimate = tmp_path / "whole", tmp_path / "estimate"
    seconds = finish(f"{TRAIN} --out {whole}")
    same = ("vae.safetensors", "history.jsonl", "config.yaml", "data.json", "figures/training.png")
    assert kill_and_resume(TRAIN, whole, same, KILLS["train"], seconds, rng) > 0

    line = f"evidence {whole} {EVIDENCE}"
    seconds = finish(f"{line} --out {estimate}")
    same = ("evidence.safetensors", "summary.json", "evidence.txt", "evidence.yaml", "gap_and_khat.png")
    assert kill_and_resume(line, estimate, same, KILLS["evidence"], seconds, rng) > 0


@pytest.mark.slow
def test_kills_of_annealing(tmp_path):
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    run, whole = tmp_path / "run", tmp_path / "whole"
    finish(f"train --data digits --latent-dim 4 --hidden 50 --epochs 2 --threads 1 --out {run}")
    line = f"evidence {run} {ANNEALED}"
    seconds = finish(f"{line} --out {whole}")
    same = ("evidence.safetensors", "summary.json", "evidence.txt", "evidence.yaml", "evidence_ladder.png")
    assert kill_and_resume(line, whole, same, 6, seconds, rng) > 0


@pytest.mark.slow
def test_kills_of_validation(tmp_path):
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    whole = tmp_path / "whole"
    seconds = finish(f"{VALIDATE} --out {whole}")
    assert kill_and_resume(VALIDATE, whole, ("report.json",), 6, seconds, rng, same_report) > 0
