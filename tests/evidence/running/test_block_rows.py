"""What goes through the block loop without being an estimate: killed and resumed, it gives the same bits."""

import dataclasses
import functools
import importlib
from contextlib import suppress

import pytest
import torch
from exact_models import linear_vae

import ppl_vae as pv
from ppl_vae import checkpoint
from ppl_vae.analysis import active_units, calibration, gaps, surgery
from ppl_vae.checkpoint import Checkpoint
from ppl_vae.evidence import precision_error, refit

QUIET = {"progress": False, "seed": 3}
JOBS = {
    "refit": lambda p, x, **run: refit(p, x, 4, max_steps=30, **QUIET | run),
    "gaps": lambda p, x, **run: gaps(p, x, 40, refitted=fitted(), **QUIET | run),
    "surgery": lambda p, x, **run: surgery(p, x, 4, **QUIET | run),
    "active_units": lambda p, x, **run: active_units(p, x, num_samples=4, **QUIET | run),
    "calibration": lambda p, x, **run: calibration(
        p, x, 25, num_draws=9, num_importance=40, bins=5, **QUIET | run
    ),
    "precision_error": lambda p, x, **run: precision_error(p, x, 40, **QUIET | run),
}


class Killed(BaseException):
    """What nothing catches."""


@functools.cache
def case():
    exact = linear_vae(2, 4, 25, widen=1.3, dtype=torch.float32)
    return exact.program, exact.x


@functools.cache
def fitted():
    return refit(*case(), 4, max_steps=10, **QUIET)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 10 data, and a checkpoint after each."""
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", float("inf"))
    for name in ("analysis.surgery", "analysis.calibration", "evidence.importance_sampling.refit"):
        monkeypatch.setattr(importlib.import_module(f"ppl_vae.{name}"), "_DATA", 10)
    monkeypatch.setattr(importlib.import_module("ppl_vae.evidence.running.tiles"), "_DATA", 10)


def numbers(result):
    """All tensors of a result, those of an estimate within it among them."""
    found = {}
    for name, value in vars(result).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif dataclasses.is_dataclass(value) and not isinstance(value, pv.Program):
            found |= {f"{name} {inner}": tensor for inner, tensor in numbers(value).items()}
    return found


def same(a, b):
    one, other = numbers(a), numbers(b)
    assert one
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value.nan_to_num(7.0), other[name].nan_to_num(7.0)), name


def killed_and_resumed(job, path, monkeypatch):
    """The result of a job that is killed after every write of a checkpoint, and how often it was."""
    kills, write = 0, Checkpoint.write

    def killed(self, tensors, state):
        write(self, tensors, state)
        raise Killed

    monkeypatch.setattr(Checkpoint, "write", killed)
    while kills < 60:
        with suppress(Killed):
            return job(*case(), checkpoint=path, resume=True), kills
        kills += 1
    raise AssertionError("it does not get on")


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_any_write_and_resumed(name, tmp_path, monkeypatch):
    """A kill after every write of a checkpoint in turn: the next run goes on, and the last one gives the same bits."""
    whole = JOBS[name](*case())
    resumed, kills = killed_and_resumed(JOBS[name], tmp_path / "state", monkeypatch)
    assert kills >= 2
    same(whole, resumed)
    assert list(tmp_path.iterdir()) == []


def test_gaps_with_a_refit_of_its_own_killed_and_resumed(tmp_path, monkeypatch):
    """Three runs, each with a checkpoint: the refit, the two ELBOs, and log p(x)."""
    refitted = importlib.import_module("ppl_vae.evidence.importance_sampling.refit")
    defaults = {"num_samples": 4, "max_steps": 3}
    for module in (refitted, importlib.import_module("ppl_vae.analysis.gaps")):
        settings = functools.partial(refitted.Settings, **defaults)
        monkeypatch.setattr(module, "Settings", settings)

    def job(program, x, **run):
        return gaps(program, x, 40, **QUIET, **run)

    whole = job(*case())
    resumed, kills = killed_and_resumed(job, tmp_path / "state", monkeypatch)
    assert kills > 6
    same(whole, resumed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", JOBS)
def test_a_checkpoint_of_another_run_is_refused(name, tmp_path, monkeypatch):
    program, x = case()
    path, write = tmp_path / "state", Checkpoint.write

    def killed(self, tensors, state):
        write(self, tensors, state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", killed)
        with pytest.raises(Killed):
            JOBS[name](program, x, checkpoint=path)
    with pytest.raises(pv.InputError, match="exists"):
        JOBS[name](program, x, checkpoint=path)
    with pytest.raises(pv.InputError, match="a checkpoint of this run, received one of another: seed"):
        JOBS[name](program, x, checkpoint=path, resume=True, seed=4)


def test_a_run_inside_a_block_keeps_to_its_own_process(monkeypatch):
    """A proposal that refits its guide runs the loop within the loop: all of it in the process of the block."""
    from ppl_vae.evidence.running import blocks

    program, x = case()
    seen = []

    def spying(*arguments, **options):
        result = loop(*arguments, **options)
        seen.append((result.num_data, blocks._inside.get()))
        return result

    loop = blocks.work_through
    for module in (blocks, importlib.import_module("ppl_vae.evidence.running.rows")):
        monkeypatch.setattr(module, "work_through", spying)
    proposal = pv.evidence.Refitted(max_steps=3)
    pv.evidence.importance(program, x, 64, proposal=proposal, progress=False)
    *inner, outer = seen
    assert outer == (25, False)
    assert sum(count for count, _ in inner) == 25
    assert all(inside for _, inside in inner)
