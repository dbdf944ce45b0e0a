"""The rehearsal on simulated data: it finds what neither guide nor chains visit, and accuses no honest estimate."""

import importlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.validation import MODELS
from ppl_vae.validation.tails import phase_transition

ev = pv.evidence
rehearsal = importlib.import_module("ppl_vae.evidence.running.simulation_check")

ESTIMATORS = {
    "few": lambda m: ev.importance(m.program, m.x, 64),
    "importance": lambda m: ev.importance(m.program, m.x, 1000),
    "psis": lambda m: ev.psis(m.program, m.x, 1000),
    "jackknife": lambda m: ev.jackknife(m.program, m.x, 500),
    "target": lambda m: ev.importance(m.program, m.x, draws=ev.UntilStderr(0.05)),
    "sobol": lambda m: ev.importance(m.program, m.x, 1024, draws=ev.Sobol()),
    "defensive": lambda m: ev.importance(m.program, m.x, 1000, proposal=ev.Defensive()),
    "student-t": lambda m: ev.importance(m.program, m.x, 1000, proposal=ev.StudentT()),
    "annealed": lambda m: ev.annealed(m.program, m.x, 8, 25),
    "annealed from the prior": lambda m: ev.annealed(m.program, m.x, 8, 40, start="prior"),
    "smc": lambda m: ev.smc(m.program, m.x, 64, 25),
}


@pytest.mark.parametrize(
    "name", slow_but(["importance", "annealed", "annealed from the prior", "smc"], ESTIMATORS)
)
def test_no_estimator_is_trusted_beside_a_phase_transition(name):
    """Every one of them is log 10 too low, and agrees with itself."""
    model = phase_transition(6, num_data=8)
    e = ESTIMATORS[name](model)
    assert (e.log_evidence - model.log_evidence < -1).all()
    assert "trust" not in e.status


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 5, 10, 20])
@pytest.mark.parametrize(
    "where",
    [
        {"share": 0.9},
        {"share": 0.99},
        {"width": 0.1},
        {"width": 0.002, "away": 0.5},
        {"centre": 0.5, "away": 0.0},
        {"centre": 0.2, "away": 1.5},
    ],
    ids=str,
)
def test_the_law_of_phase_transitions(dim, where):
    """Wherever the spike is, and however wide, nothing is trusted and wrong by more than 0.2 nat."""
    model = phase_transition(dim, num_data=10, seed=1, **where)
    for name, estimate in ESTIMATORS.items():
        e = estimate(model)
        wrong = (e.log_evidence - model.log_evidence).abs() > 0.2
        assert not (wrong.numpy() & (e.status == "trust")).any(), name


@pytest.mark.parametrize("name", ["importance", "sobol", "student-t", "annealed"])
def test_a_mode_that_the_guide_never_draws_is_found(name):
    model = MODELS["one-mode"](num_data=10)
    e = ESTIMATORS[name](model)
    wrong = (e.log_evidence - model.log_evidence).abs() > 0.2
    assert wrong.any()
    assert not (wrong.numpy() & (e.status == "trust")).any()


HONEST = ("linear-gaussian-10", "decoder-2", "gamma-poisson", "mixture", "gamma-lognormal", "student-t")


@pytest.mark.statistical
@pytest.mark.parametrize("name", slow_but(["decoder-2", "gamma-poisson", "mixture"], HONEST))
def test_no_honest_estimate_is_accused(name):
    """Ten seeds of a guide that covers: an exact sample is out of reach with a probability below 1 in 1,000.

    Two of 32 then are so once in 2,000 rehearsals; 60 rehearsals here.
    """
    model = MODELS[name](num_data=12)
    for seed in range(10):
        found = rehearsal.simulate_data(model.program, Block(model.x, 0, 0), seed, 1000)
        assert int(found.out_of_reach(1000).sum()) < rehearsal.OUT_OF_REACH


def test_a_prior_start_is_not_blamed_for_the_guide():
    """Chains from the prior find both modes, of which the guide knows one."""
    model = MODELS["one-mode"](num_data=10)
    e = ev.annealed(model.program, model.x, 16, 100, start="prior")
    assert not e.unvisited.any()
    assert (e.log_evidence - model.log_evidence).abs().max() < 0.5


def test_no_number_changes_and_the_cost_is_counted():
    model = MODELS["gamma-poisson"](num_data=10)
    e = ev.importance(model.program, model.x, 300, seed=4)
    sums = pv.evidence.results.accumulator.Accumulator(10, 300)
    state = torch.get_rng_state()
    weights = model.program.log_weights(model.x, 300, seed=0)
    sums.add(weights)
    assert torch.equal(torch.get_rng_state(), state)
    again = ev.importance(model.program, model.x, 300, seed=4)
    assert torch.equal(e.log_evidence, again.log_evidence)
    # 1,024 candidates, and 32 data with 64 draws and their exact sample.
    assert (e.density_evals == 300 + (1024 + 32 * 65) / 10).all()


def test_the_cost_is_a_small_part_of_a_large_run():
    model = MODELS["gamma-poisson"](num_data=256)
    e = ev.importance(model.program, model.x, 5000)
    assert e.cost.density < 1.01 * 5000


def test_half_of_the_chosen_data_are_like_the_real_ones():
    """Of data that are spread evenly, 16 come first, and 16 are those beside the real ones, each once."""
    made = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    real = torch.full((3, 1), 0.25, dtype=torch.float64)
    chosen = rehearsal._chosen(made, real)
    assert len(set(chosen.tolist())) == rehearsal.NUM_DATA
    assert chosen[:16].tolist() == list(range(16))
    assert (made[chosen[16:]] - 0.25).abs().max() < 0.009
    several = {"x": real, "label": torch.tensor([True, False, True])}
    simulated = {"x": made, "label": torch.arange(1001) % 2 == 0}
    assert len(set(rehearsal._chosen(simulated, several).tolist())) == rehearsal.NUM_DATA


def test_a_model_that_cannot_be_simulated_is_left_alone():
    """The observed values are computed from the data: there is nowhere to put simulated ones."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("shifted", dist.Normal(z, 1.0), obs=x + 1)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + 1) / 2, 0.75))

    x = torch.zeros(4, dtype=torch.float64)
    program = pv.Program(model, guide)
    assert rehearsal.simulate_data(program, Block(x, 0, 0), 0, 100) is None
    e = ev.importance(program, x, 200)
    assert (e.density_evals == 200).all()
    assert not e.unvisited.any()


def test_what_was_found_is_saved_and_picked(tmp_path):
    model = phase_transition(4, num_data=4)
    e = ev.importance(model.program, model.x, 100)
    e.save(tmp_path / "e.safetensors")
    back = pv.Evidence.load(tmp_path / "e.safetensors")
    assert torch.equal(back.unvisited, e.unvisited)
    assert torch.equal(back.hidden, e.hidden)
    assert e.unvisited.all()
    assert e[1].status.tolist() == ["reject"]
    assert rng.derive(0, "rehearsal", 0) != rng.derive(0, "rehearsal draws", 0)
