"""Nothing is destroyed before its successor is complete, and what fails before any result leaves nothing."""

import os
import shutil

import pytest
from cli_helpers import TINY, snapshot

from ppl_vae import outputs, training
from ppl_vae.errors import InputError
from ppl_vae.outputs import COMPLETE, NEW, OLD, OutputFolder

OWNED = ("a.txt", "figures/b.png", "evidence/c.txt", "marker.yaml")
BEFORE = {"a.txt": "old a", "evidence/c.txt": "old c", "marker.yaml": "old: 1\n", "mine.txt": "mine"}
AFTER = {"a.txt": "new a", "figures/b.png": "new b", "marker.yaml": "new: 1\n", "mine.txt": "mine"}
TRAIN = ["train", *TINY]


def write(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """A folder with old files, whose successors are complete."""
    made = OutputFolder(tmp_path / "out", "marker.yaml", OWNED, "an earlier one")
    write(made.path, BEFORE)
    write(made.path / NEW, {name: text for name, text in AFTER.items() if name != "mine.txt"})
    return made


def test_a_complete_successor_takes_the_place(folder):
    folder.new.commit()
    assert read(folder.path) == AFTER
    assert not (folder.path / "evidence").exists()


@pytest.mark.parametrize("failing", range(6))
def test_a_move_that_fails_puts_everything_back(folder, monkeypatch, failing):
    """Whichever of the moves cannot be done: the old files are as they were, and the new ones are kept."""
    move, calls = outputs._move, []

    def fail(source, target):
        calls.append(source)
        if len(calls) - 1 == failing:
            raise OSError(1, "Operation not permitted", str(source))
        move(source, target)

    before = read(folder.path)
    monkeypatch.setattr(outputs, "_move", fail)
    with pytest.raises(InputError, match="Operation not permitted"):
        folder.new.commit()
    assert len(calls) > failing
    assert read(folder.path) == before
    monkeypatch.undo()
    folder.new.commit()
    assert read(folder.path) == AFTER


@pytest.mark.parametrize("killed", range(7))
def test_a_replacement_that_was_killed_is_ended_by_the_next_command(folder, monkeypatch, killed):
    move, calls = outputs._move, []

    def kill(source, target):
        if len(calls) == killed:
            raise KeyboardInterrupt
        calls.append(source)
        move(source, target)

    monkeypatch.setattr(outputs, "_move", kill)
    if killed < 6:
        with pytest.raises(KeyboardInterrupt):
            folder.new.commit()
        assert folder.began()
        assert folder.interrupted()
    else:
        folder.new.commit()
    monkeypatch.undo()
    with folder.owning(overwrite=True):
        assert read(folder.path) == AFTER | {".lock": f"{os.getpid()}\n"}
    assert read(folder.path) == AFTER


@pytest.fixture
def run(tmp_path, trained):
    """A finished run with an estimate and a file of the user's own."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    (path / "evidence").mkdir()
    (path / "evidence/evidence.txt").write_text("an estimate")
    (path / "notes.txt").write_text("mine")
    return path


def obstacle_figures(run):
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("a file")
    return "figures"


def obstacle_checkpoint(run):
    (run / "evidence/checkpoint.safetensors").mkdir()
    return "evidence/checkpoint.safetensors"


def obstacle_new(run):
    (run / NEW).write_text("a file")
    return NEW


@pytest.mark.parametrize("make", [obstacle_figures, obstacle_checkpoint, obstacle_new])
def test_what_cannot_be_replaced_is_known_before_anything_is_done(call, run, make):
    named = make(run)
    before = snapshot(run)
    result = call(*TRAIN, "--seed", "1", "--out", run, "--overwrite")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert f"{run / named}" in result.err
    assert snapshot(run) == before


def test_the_old_run_is_whole_while_the_new_one_trains(call, run, monkeypatch):
    before, seen = snapshot(run), []
    fit = training.fit

    def look(*args, **kwargs):
        seen.append({k: v for k, v in snapshot(run).items() if not k.startswith((NEW, ".lock"))})
        return fit(*args, **kwargs)

    monkeypatch.setattr(training, "fit", look)
    assert call(*TRAIN, "--seed", "1", "--out", run, "--overwrite").status == 0
    assert seen == [before]
    assert not (run / "evidence").exists()  # of the old model
    assert (run / "notes.txt").read_text() == "mine"
    assert not any((run / name).exists() for name in (NEW, OLD, ".lock"))


@pytest.mark.parametrize(
    "error", [InputError("x", "y", "z"), MemoryError(), SystemExit(0), OSError(28, "No space")]
)
def test_a_replacement_that_fails_changes_nothing(call, run, monkeypatch, error):
    def fail(*_, **__):
        raise error

    before = snapshot(run)
    monkeypatch.setattr(training, "fit", fail)
    result = call(*TRAIN, "--seed", "1", "--out", run, "--overwrite")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert snapshot(run) == before


@pytest.mark.parametrize("error", [InputError("x", "y", "z"), ZeroDivisionError(), SystemExit(0)])
def test_a_new_run_that_fails_before_any_result_leaves_nothing(call, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(training, "fit", fail)
    assert call(*TRAIN, "--out", tmp_path / "some/run").status == 2
    assert snapshot(tmp_path) == {}


def test_an_estimate_that_fails_before_any_result_leaves_nothing(call, tmp_path, trained, monkeypatch):
    def fail(*_, **__):
        raise InputError("x", "y", "z")

    monkeypatch.setattr("ppl_vae.evidence.running.blocks.Checkpoint", fail)
    assert call("evidence", trained, "--num-samples", "32", "--out", tmp_path / "e").status == 2
    assert snapshot(tmp_path) == {}


def test_a_stopped_replacement_is_resumed_and_the_old_run_stays(call, run, tmp_path, monkeypatch):
    before = snapshot(run)
    seeds = ["--seed", "1"]
    fit = training.fit

    def stop(*args, **kwargs):
        fit(*args, **(kwargs | {"epochs": 1}))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stop)
    result = call(*TRAIN, *seeds, "--out", run, "--overwrite")
    assert result.status == 130
    assert f"--config {run / NEW / 'config.yaml'} --out {run} --resume" in result.err
    assert {k: v for k, v in snapshot(run).items() if not k.startswith(NEW)} == before
    monkeypatch.undo()
    other = call(*TRAIN, "--seed", "7", "--out", run, "--resume")  # neither of the two
    assert other.status == 2
    assert "--seed" in other.err
    assert call(*TRAIN, "--out", run, "--resume").status == 0  # the old one, which is finished
    assert (run / NEW).exists()
    line = result.err.partition("ppl-vae train --config")[2].split()
    assert call("train", "--config", *line).status == 0
    assert call(*TRAIN, *seeds, "--out", tmp_path / "alone").status == 0
    for name in ("vae.safetensors", "history.jsonl", "config.yaml"):
        assert (run / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not (run / NEW).exists()


def test_an_interrupted_replacement_is_no_run(call, run, tmp_path):
    write(run / NEW, {COMPLETE: "[]"})
    result = call("sample", run, "--out", tmp_path / "s.png")
    assert result.status == 2
    assert "was being replaced" in result.err
