"""Estimators on captured and compiled graphs: the same draws, the same numbers, on every exact model."""

import pytest
import torch
from covering import crossed

import ppl_vae as pv
from ppl_vae import InputError
from ppl_vae.compiled.effort import CAPTURE_FROM, COMPILE_FROM, Effort, level_for
from ppl_vae.compiled.execution import executing, sampler
from ppl_vae.evidence import annealed, importance, jackknife, psis, sandwich, smc
from ppl_vae.evidence.running import blocks
from ppl_vae.validation.models import MODELS

ESTIMATORS = {
    "importance": lambda model, **more: importance(model.program, model.x, 300, **more),
    "psis": lambda model, **more: psis(model.program, model.x, 300, **more),
    "jackknife": lambda model, **more: jackknife(model.program, model.x, 300, **more),
    "annealed": lambda model, **more: annealed(model.program, model.x, 6, 8, **more),
    "annealed-prior": lambda model, **more: annealed(model.program, model.x, 6, 8, start="prior", **more),
    "smc": lambda model, **more: smc(model.program, model.x, 16, 8, **more),
}


def estimate(estimator, model, **more):
    try:
        return ESTIMATORS[estimator](model, progress=False, **more)
    except pv.ProgramError:
        pytest.skip("a discrete latent")


@pytest.fixture
def captured(monkeypatch):
    """Whatever the size of a job, its graphs are captured, and no compiler is started."""
    monkeypatch.setattr(blocks, "level_for", lambda compile, *_: "captured" if compile is True else "plain")  # noqa: A006


@pytest.mark.parametrize(("name", "estimator"), crossed(MODELS, ESTIMATORS, strength=1))
def test_captured_graphs_give_the_same_numbers(captured, name, estimator):
    """To 1e-10 nats: statistics, coverage above all, are then those of the plain program, whatever they are."""
    model = MODELS[name](num_data=7)
    plain = estimate(estimator, model, compile=False)
    graph = estimate(estimator, model, compile=True)
    for field in ("log_evidence", "stderr", "ess", "elbo"):
        torch.testing.assert_close(
            getattr(graph, field), getattr(plain, field), rtol=1e-10, atol=1e-10, equal_nan=True
        )
    assert graph.verdicts == plain.verdicts


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["importance", "annealed", "smc"])
@pytest.mark.parametrize("name", ["linear-gaussian-10", "decoder-2", "beta-binomial", "hierarchy"])
def test_compiled_graphs_give_the_same_numbers(name, estimator):
    """To 1e-8 nats for nine in ten; a chain that is accepted by a hair may part, and then to its standard error."""
    model = MODELS[name](num_data=20)
    plain = estimate(estimator, model, compile=False)
    graph = estimate(estimator, model, compile=True)
    error = (graph.log_evidence - plain.log_evidence).abs()
    assert float(error.quantile(0.9)) < 1e-8
    assert (error < 4 * plain.stderr).all()


def test_blocks_of_other_sizes_and_both_sides_of_a_sandwich(captured, monkeypatch):
    model = MODELS["decoder-2"](num_data=11)
    monkeypatch.setattr("ppl_vae.evidence.running.tiles._DATA", 4)
    plain = importance(model.program, model.x, 2000, compile=False, progress=False)
    graph = importance(model.program, model.x, 2000, compile=True, progress=False)
    torch.testing.assert_close(graph.log_evidence, plain.log_evidence, rtol=1e-12, atol=1e-10)
    both = [
        sandwich(model.program, model.x, num_chains=4, num_steps=6, compile=how, progress=False)
        for how in (False, True)
    ]
    torch.testing.assert_close(both[1].upper.log_evidence, both[0].upper.log_evidence, rtol=1e-12, atol=1e-10)


def test_a_checkpoint_of_another_level_is_refused(captured, tmp_path):
    model = MODELS["decoder-2"](num_data=3)
    path = tmp_path / "state"

    class StopError(Exception):
        pass

    def stop(*_, **__):
        raise StopError

    keep = blocks.Checkpoint.due
    try:
        blocks.Checkpoint.due = lambda self: True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "evidence_of", stop)
            patch.setattr(blocks.Checkpoint, "remove", stop)
            with pytest.raises(StopError):
                importance(model.program, model.x, 300, compile=False, checkpoint=path, progress=False)
    finally:
        blocks.Checkpoint.due = keep
    with pytest.raises(InputError, match="checkpoint"):
        importance(model.program, model.x, 300, compile=True, checkpoint=path, resume=True, progress=False)
    importance(model.program, model.x, 300, compile=False, checkpoint=path, resume=True, progress=False)


def test_what_auto_goes_by():
    program = MODELS["decoder-2"](num_data=3).program
    numbers = 10
    each = 50 * numbers / 5e10  # no modules: a nominal second is 5e10 operations, 50 a number
    for seconds, level in (
        (0, "plain"),
        (CAPTURE_FROM * 0.9, "plain"),
        (CAPTURE_FROM * 1.1, "captured"),
        (COMPILE_FROM * 0.9, "captured"),
        (COMPILE_FROM * 1.1, "compiled"),
    ):
        effort = Effort(seconds / each, 0, numbers)
        assert level_for("auto", program, effort) == level
        assert level_for(True, program, effort) == "compiled"
        assert level_for(False, program, effort) == "plain"
    for bad in ("yes", None, 1):
        with pytest.raises(InputError, match=r"^compile: "):
            importance(program, MODELS["decoder-2"](num_data=3).x, 10, compile=bad)


def test_only_the_usual_tile_is_compiled():
    with executing("compiled", [(64, 128)]) as execution:
        assert execution.level_of(64, 128) == "compiled"
        assert execution.level_of(64, 100) == execution.level_of(10, 128) == "captured"
    with executing("compiled") as execution:
        assert execution.level_of(64, 128) == "captured"
    model = MODELS["decoder-2"](num_data=3)
    torch.manual_seed(1)
    outside = sampler(model.program, model.x, 5)()
    torch.manual_seed(1)
    with executing("captured"):
        inside = sampler(model.program, model.x, 5)
        torch.testing.assert_close(inside(), outside, rtol=1e-12, atol=1e-12)
