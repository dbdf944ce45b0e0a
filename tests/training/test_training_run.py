"""A run of fit: the same bits from the same seed, after a kill and from a checkpoint; early stopping."""

import contextlib
import math

import pytest
import torch
from covering import slow_but
from pyro.infer import RenyiELBO, Trace_ELBO
from training_models import V, X, handwritten, make, normalised, program_of, same, state
from training_runs import CASES, Killed, killing, sgd_again, start

import ppl_vae as pv
from ppl_vae import History, InputError, checkpoint, files, rng, training
from ppl_vae.data import binarise
from ppl_vae.priors import VampPrior
from ppl_vae.training.run import Run

pytestmark = pytest.mark.usefixtures("_nothing_leaks")


@pytest.mark.parametrize("target", [make, normalised, handwritten, lambda: make(VampPrior)])
def test_a_seed_is_a_run(target, tmp_path):
    def run(seed, name):
        made = target()
        history = pv.fit(made, X, x_valid=V, epochs=3, batch_size=25, seed=seed, history_path=tmp_path / name)
        return state(made), history, (tmp_path / name).read_bytes()

    first = run(0, "a")
    torch.rand(3)  # whatever happened before in the process
    second, third = run(0, "b"), run(1, "c")
    torch.manual_seed(11)
    assert same(first[0], second[0])
    assert first[1:] == second[1:]
    assert not same(first[0], third[0])
    assert first[1] != third[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("draw", slow_but([0], range(2)))
def test_killed_and_resumed_is_never_killed(case, draw, tmp_path, monkeypatch, eager):
    made, history = start(case, tmp_path / "whole")
    steps = history[-1].step
    # Two kills at random steps: the first run's, then that of the run which resumed it.
    for kill in range(2):
        call = rng.derive(draw, case, kill) % steps + 1
        error = (Killed, KeyboardInterrupt)[kill]
        with monkeypatch.context() as patch, contextlib.suppress(Killed, KeyboardInterrupt):
            killing(patch, "advance", Run, call, error)
            start(case, tmp_path / "killed", resume=True)
    again, resumed = start(case, tmp_path / "killed", resume=True)
    assert resumed == history
    assert same(state(again), state(made))
    for name in ("history", "state"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # A finished run that is resumed once more does nothing, and ends with the same model.
    once_more, unchanged = start(case, tmp_path / "killed", resume=True)
    assert unchanged == history
    assert same(state(once_more), state(made))


@pytest.mark.parametrize("where", ["validation", "record", "history file", "checkpoint"])
def test_killed_between_the_steps(where, tmp_path, monkeypatch, eager):
    owner, name = {
        "validation": (training.loop, "_validate"),
        "record": (Run, "record"),
        "history file": (History, "jsonl"),
        "checkpoint": (files, "write_bytes"),
    }[where]
    made, history = start("patience and warm-up", tmp_path / "whole")
    for call in (2, 3):
        with monkeypatch.context() as patch:
            killing(patch, name, owner, call)
            with pytest.raises(Killed):
                start("patience and warm-up", tmp_path / "killed", resume=True)
    again, resumed = start("patience and warm-up", tmp_path / "killed", resume=True)
    assert resumed == history
    assert same(state(again), state(made))
    for file in ("history", "state"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_old_checkpoint_takes_the_history_file_back_with_it(tmp_path, monkeypatch):
    """Writing is throttled, so a kill may lose epochs that the history file has."""
    made, history = start("validation", tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 3600.0)
    with monkeypatch.context() as patch:
        killing(patch, "advance", Run, 11)
        with pytest.raises(Killed):
            start("validation", tmp_path / "killed")
    assert len(pv.History.load(tmp_path / "killed" / "history")) == 3
    assert len(files.read_tensors(tmp_path / "killed" / "state")[1]["state"]["epochs"]) == 1
    again, resumed = start("validation", tmp_path / "killed", resume=True)
    assert resumed == history == pv.History.load(tmp_path / "killed" / "history")
    assert same(state(again), state(made))


def test_more_epochs_continue_a_finished_run(tmp_path):
    short, _ = start("validation", tmp_path / "a", epochs=2)
    longer, history = start("validation", tmp_path / "a", epochs=5, resume=True)
    whole, expected = start("validation", tmp_path / "b", epochs=5)
    assert history == expected
    assert same(state(longer), state(whole))
    assert not same(state(short), state(whole))


def test_buffers_are_in_checkpoints(tmp_path):
    made, _ = start("batch normalisation", tmp_path)
    tensors, _ = files.read_tensors(tmp_path / "state")
    kept = {name.split("/")[-1]: value for name, value in tensors.items() if name.startswith("now/buffer/")}
    buffers = dict(made.named_buffers())
    assert kept.keys() == buffers.keys()
    assert {"encoder.1.running_mean", "encoder.1.num_batches_tracked"} <= kept.keys()
    assert all(torch.equal(kept[name], buffers[name]) for name in buffers)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 4}, "seed"),
        ({"batch_size": 24}, "batch_size"),
        ({"lr": 2e-2}, "lr"),
        ({"kl_warmup": 1}, "kl_warmup"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"lr_schedule": "cosine"}, "lr_schedule"),
        ({"optimiser": sgd_again}, "optimiser"),
        ({"optimiser": lambda p, lr: torch.optim.Adam(p, lr, eps=1e-4, fused=True)}, "eps"),
        ({"objective": lambda: RenyiELBO(num_particles=2)}, "objective"),
        ({"objective": lambda: Trace_ELBO(num_particles=2)}, "num_particles"),
        ({"transform": binarise}, "transform"),
        ({"patience": 2}, "early stopping"),
        ({"x_train": X[:59]}, "data train"),
        ({"x_train": 1 - X}, "data train"),
        ({"x_valid": 1 - V}, "data valid"),
        ({"x_valid": None}, "data valid"),
        ({"target": lambda: make(hidden=(7,))}, "parameters"),
        ({"target": lambda: make(VampPrior)}, "parameters"),
        ({"target": lambda: make().double(), "x_train": X.double(), "x_valid": V.double()}, "data"),
        ({"target": handwritten}, "parameters"),
    ],
)
def test_another_run_is_refused_by_its_difference(change, word, tmp_path):
    start("validation", tmp_path, epochs=1)
    before = [(tmp_path / name).read_bytes() for name in ("state", "history")]
    with pytest.raises(InputError) as caught:
        start("validation", tmp_path, resume=True, **change)
    message = str(caught.value)
    assert str(tmp_path / "state") in message
    assert word in message
    assert "\n" not in message
    assert [(tmp_path / name).read_bytes() for name in ("state", "history")] == before


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    start("plain", tmp_path, epochs=1)
    before = [(tmp_path / name).read_bytes() for name in ("state", "history")]
    with pytest.raises(InputError, match="exists") as caught:
        start("plain", tmp_path, epochs=1)
    assert caught.value.argument == "checkpoint"
    assert [(tmp_path / name).read_bytes() for name in ("state", "history")] == before


@pytest.mark.parametrize("content", [b"", b"text", "vae"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    if content == "vae":
        pv.save(make(), tmp_path / "state")
    else:
        (tmp_path / "state").write_bytes(content)
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(InputError, match="state"):
        start("plain", tmp_path, resume=True)
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.parametrize("target", [make, normalised, handwritten])
def test_early_stopping_leaves_the_best_epoch(target):
    made = target()
    history = pv.fit(made, X, x_valid=V, epochs=200, batch_size=20, lr=0.05, patience=3, seed=1)
    values = [epoch.valid_elbo for epoch in history]
    assert len(history) < 200
    assert history.best_epoch == 1 + max(range(len(values)), key=values.__getitem__)
    assert len(history) == history.best_epoch + 3
    assert training.elbo(program_of(made), V, seed=1) == max(values)


def test_patience_waits_for_the_end_of_warm_up():
    history = pv.fit(make(), X, x_valid=V, epochs=40, batch_size=20, lr=0.2, patience=1, kl_warmup=6)
    assert len(history) > 6


def test_without_patience_the_last_epoch_stays():
    vae = make()
    history = pv.fit(vae, X, x_valid=V, epochs=6, lr=0.2)
    assert history.best_epoch is None
    assert training.elbo(vae.program, V) == history[-1].valid_elbo


def test_a_validation_elbo_that_is_no_number_is_never_the_best(monkeypatch):
    values = iter([math.nan, -3.0, math.nan, -5.0, -4.0])
    monkeypatch.setattr(training.loop, "_validate", lambda *_: next(values))
    history = pv.fit(make(), X, x_valid=V, epochs=5, patience=5)
    assert history.best_epoch == 2
