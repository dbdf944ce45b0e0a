"""The search for modes: the way up from the guide finds a spike inside a hill, and accuses no honest estimate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but

import ppl_vae as pv
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.evidence.running.mode_search import STEPS, with_mode_search
from ppl_vae.validation import MODELS

ev = pv.evidence


def spiked(dim=8, centre=0.0, width=0.02):
    """A hill, and a spike of 9 times its mass. The likelihood is a factor: nothing can be simulated."""
    hill = -dim / 2 * math.log(2)
    spike = -dim / 2 * math.log(1 + 1 / width**2) - dim * centre**2 / (2 * (1 + width**2))
    height = hill + math.log(9) - spike

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(dim), 1.0).to_event(1))
            narrow = height - ((z - centre) ** 2).sum(-1) / (2 * width**2)
            pyro.factor("likelihood", torch.logaddexp(-(z**2).sum(-1) / 2, narrow))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(dim), 0.75).to_event(1))

    return pv.Program(model, guide), torch.zeros(5, dtype=torch.float64), hill + math.log(10)


@pytest.mark.parametrize("dim", [3, 8, 20])
def test_a_spike_inside_the_hill_is_found(dim):
    program, x, exact = spiked(dim)
    for e in (ev.importance(program, x, 1000), ev.annealed(program, x, 8, 20)):
        wrong = (e.log_evidence - exact).abs() > 0.2
        assert not (wrong.numpy() & (e.status == "trust")).any()
    assert e.missed.all() or not wrong.all()


def test_a_spike_beside_the_way_up_is_not_found():
    """What the documentation says that no verdict can see: if this fails, it can say more."""
    program, x, exact = spiked(8, centre=1.0)
    e = ev.importance(program, x, 1000)
    assert (e.log_evidence - exact < -2).all()
    assert not e.missed.any()


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name",
    slow_but(
        ["gamma-poisson", "decoder-2"],
        ["linear-gaussian-10", "gamma-poisson", "decoder-2", "hierarchy", "beta-binomial"],
    ),
)
def test_no_honest_estimate_is_accused(name):
    """Marked by chance once in 1,000 suspects, and an estimate that holds all of p(x) is none: none of 60 data here."""
    model = MODELS[name](num_data=20)
    for seed in range(3):
        e = ev.importance(model.program, model.x, 500, seed=seed)
        sums = pv.evidence.results.accumulator.Accumulator(20, 500)
        sums.add(model.program.log_weights(model.x, 500, seed=seed))
        figures = with_mode_search(sums.finish(), model.program, Block(model.x, 0, 0), seed)
        assert not figures.missed.any()
        assert (figures.gradient_evals == STEPS + 1).all()
        assert not e.missed.any()


def test_discrete_latents_are_left_alone():
    model = MODELS["mixture"](num_data=4)
    sums = pv.evidence.results.accumulator.Accumulator(4, 50)
    sums.add(model.program.log_weights(model.x, 50, seed=0))
    figures = sums.finish()
    assert with_mode_search(figures, model.program, Block(model.x, 0, 0), 0) is figures
