"""Proposals that cover less than the guide they were made from: found by draws of the guide, and none other accused."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but

import ppl_vae as pv
from ppl_vae.evidence.results.verdict import Verdict
from ppl_vae.evidence.running.guide_check import DRAWS
from ppl_vae.validation import MODELS

ev = pv.evidence

PROPOSALS = {
    "refitted": ev.Refitted(),
    "refitted guide": ev.Refitted(df=None),
    "student-t": ev.StudentT(),
    "widened": ev.Widened(),
}


def both_signs():
    """x = z² + noise: two modes alike, both under the guide, of which a refitted one keeps one where they are apart."""
    x = torch.tensor([0.1, 2.0, 2.0, 3.0])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0 * x, 1.5))

    z = torch.linspace(-7, 7, 20001, dtype=torch.float64)[:, None]
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.5).log_prob(x.double())
    return pv.Program(model, guide), x, joint.logsumexp(0) + math.log(14 / 20000)


def spike(share=0.5, width=1e-4):
    """A prior with a narrow spike that the guide knows; the likelihood says nothing of which part it is."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def law(x):
        weights = dist.Categorical(x.new_tensor([1 - share, share]))
        parts = dist.Normal(x.new_tensor([0.0, 0.7]), x.new_tensor([1.0, width]))
        return dist.MixtureSameFamily(weights, parts)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", law(x))
            pyro.sample("x", dist.Normal(0.1 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", law(x).expand(x.shape))

    broad = dist.Normal(0.0, math.sqrt(1.01)).log_prob(x) + math.log(1 - share)
    narrow = dist.Normal(0.07, 1.0).log_prob(x) + math.log(share)
    return pv.Program(model, guide), x, torch.logaddexp(broad, narrow)


@pytest.mark.parametrize("name", ["refitted", "refitted guide"])
def test_a_mode_that_the_refit_gives_up_is_missed(name):
    program, x, exact = both_signs()
    e = ev.importance(program, x, 500, proposal=PROPOSALS[name], progress=False)
    lost = e.log_evidence - exact < -0.5
    assert lost[1:].all()
    assert all(verdict is Verdict.MISSED_MASS for verdict in e[lost].verdicts)
    assert (e[~lost].status == "trust").all()
    target = ev.importance(
        program, x, proposal=PROPOSALS[name], draws=ev.UntilStderr(0.05, 2048), progress=False
    )
    assert (target[lost].status == "reject").all()


@pytest.mark.parametrize("name", ["student-t", "widened"])
def test_a_spike_that_the_guide_knows_is_missed(name):
    program, x, exact = spike()
    e = ev.importance(program, x, 1000, proposal=PROPOSALS[name], progress=False)
    assert (e.log_evidence - exact < -0.5).any()
    wrong = (e.log_evidence - exact).abs() > 5 * e.stderr + 0.03
    assert not (wrong.numpy() & (e.status == "trust")).any()
    assert (ev.importance(program, x, 1000, progress=False).status == "trust").all()


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "proposal"),
    slow_but(
        [("linear-gaussian-10", "refitted"), ("gamma-lognormal", "student-t")],
        itertools.product(
            ["linear-gaussian-2", "linear-gaussian-10", "decoder-2", "gamma-lognormal"], PROPOSALS
        ),
    ),
)
def test_no_honest_proposal_is_accused(name, proposal):
    """Five seeds of 20 data each: 1 of 1,000 is accused by chance, so more than 3 of 100 are once in 250,000."""
    model = MODELS[name](num_data=20)
    accused = 0
    for seed in range(5):
        e = ev.importance(
            model.program, model.x, 500, proposal=PROPOSALS[proposal], seed=seed, progress=False
        )
        near = (e.log_evidence - model.log_evidence).abs() < 3 * e.stderr
        accused += int((e.missed & near).sum())
    assert accused <= 3


def test_what_it_costs_is_counted():
    program, x, _ = both_signs()
    few = ev.importance(program, x, 100, proposal=ev.Widened(), progress=False)
    many = ev.importance(program, x, 400, proposal=ev.Widened(), progress=False)
    plain = [ev.importance(program, x, S, progress=False) for S in (100, 400)]
    for e, own, draws, more in ((few, plain[0], 100, 100), (many, plain[1], DRAWS, 400)):
        extra = e.density_evals - own.density_evals - draws
        assert ((extra == 0) | (extra == more)).all()
