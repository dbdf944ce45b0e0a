"""Vectorised particles of programs that a sample axis does not suit: the same losses and gradients."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import ppl_vae as pv
from ppl_vae.errors import ProgramWarning
from ppl_vae.objectives.particles import suited

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Pair(nn.Module):
    def __init__(self, axis):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.A = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.W = nn.Parameter(0.3 * torch.randn(4, 6, generator=generator, dtype=torch.float64))
        self.axis = axis

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.softmax(z, self.axis) @ self.A, 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = (x @ self.W).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Other(Trace_ELBO):
    """An objective of a user's own: its particles run one after the other."""


OBJECTIVES = {
    "elbo": lambda: Trace_ELBO(num_particles=5, vectorize_particles=True),
    "mean field": lambda: TraceMeanField_ELBO(num_particles=5, vectorize_particles=True),
    "graph": lambda: TraceGraph_ELBO(num_particles=5, vectorize_particles=True),
    "iwae": lambda: RenyiELBO(alpha=0.0, num_particles=5, vectorize_particles=True),
    "renyi": lambda: RenyiELBO(alpha=0.5, num_particles=5, vectorize_particles=True),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("compiled", slow_but([False], [False, True]))
def test_training_of_two_spellings_is_the_same(name, compiled):
    if compiled and name == "graph":
        pytest.skip("TraceGraph_ELBO reads numbers out of tensors")
    found = []
    for axis in (1, -1):
        pair = Pair(axis)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProgramWarning)
            history = pv.fit(
                pv.Program(pair.model, pair.guide), X, epochs=3, lr=0.01, batch_size=20,
                objective=OBJECTIVES[name](), compile=compiled, progress=False,
            )  # fmt: skip
        found.append((torch.tensor([epoch.train_elbo for epoch in history.epochs]), pair.A.detach()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_particles_stay_as_they_are_where_a_sample_axis_suits():
    pair = Pair(-1)
    objective = OBJECTIVES["iwae"]()
    assert suited(objective, pv.Program(pair.model, pair.guide), X) is objective


def test_an_objective_that_is_not_known_runs_its_particles_one_after_the_other():
    pair = Pair(1)
    program = pv.Program(pair.model, pair.guide)
    with pytest.warns(ProgramWarning):
        found = suited(Other(num_particles=5, vectorize_particles=True), program, X)
    assert isinstance(found, ELBO)
    assert not found.vectorize_particles
    assert found.num_particles == 5
