"""What all objectives have in common: plain SVI, `fit` and captured graphs come to the same numbers."""

import warnings
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_models import linear_vae
from pyro.infer import SVI
from torch import nn

import ppl_vae as pv
from ppl_vae.compiled import CompiledELBO, TrainingLoss
from ppl_vae.errors import ProgramWarning
from ppl_vae.objectives.particles import suited
from ppl_vae.program import take
from ppl_vae.training import SharedOptim, adam


@dataclass
class Case:
    """How an objective is made, and whether it needs reparameterised latents."""

    options: dict = field(default_factory=dict)
    paths: bool = True


CASES = {
    "BetaELBO": Case({"beta": 2.0, "num_particles": 2}),
    "DReG": Case({"num_particles": 3}),
    "FreeBits": Case({"nats": 0.3, "num_particles": 2}),
    "IWAE": Case({"num_particles": 4, "alpha": 0.2}),
    "Thermodynamic": Case({"num_particles": 3, "num_steps": 2}, paths=False),
    "VIMCO": Case({"num_particles": 3}, paths=False),
    "WakeWake": Case({"num_particles": 3}, paths=False),
}
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(name, **options):
    return getattr(pv.objectives, name)(**CASES[name].options, **options)


def test_every_objective_is_tested():
    assert sorted(CASES) == sorted(pv.objectives.NAMES)


class Two(nn.Module):
    """Two latents of which one depends on the other, in guide and model; an axis that is counted from either end."""

    def __init__(self, axis=-1):
        super().__init__()
        torch.manual_seed(1)
        self.A, self.W, self.V = (nn.Linear(*s) for s in ((3, 4), (4, 6), (7, 4)))
        self.double()
        self.axis = axis

    def model(self, x):
        pyro.module("two", self)
        with pyro.plate("data", len(x), dim=-1):
            v = pyro.sample("v", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z = pyro.sample(
                "z", dist.Normal(v.sum(-1, keepdim=True).expand(*v.shape[:-1], 3), 1.0).to_event(1)
            )
            pyro.sample("x", dist.Normal(self.A(torch.softmax(z, self.axis)), 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("two", self)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = self.W(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            both = torch.cat([z, x.expand(*z.shape[:-1], 4)], -1)
            loc, log_scale = self.V(both).chunk(2, -1)
            pyro.sample("v", dist.Normal(loc, log_scale.exp()).to_event(1))


def trained(step, program, x):
    """The losses of three steps on two batches."""
    torch.manual_seed(4)
    return [float(step(take(x, index))) for index in (slice(0, 6), slice(6, 12), slice(0, 6))]


def by_svi(program, x, objective):
    """Steps of Pyro's own SVI."""
    leaves = program.parameters(x)
    svi = SVI(program.model, program.guide, SharedOptim(adam(list(leaves.values()), 0.01)), loss=objective)
    return trained(svi.step, program, x)


def by_graph(program, x, objective):
    """Steps of a captured graph."""
    leaves = program.parameters(x)
    optim = SharedOptim(adam(list(leaves.values()), 0.01))
    loss = TrainingLoss(program, leaves, objective)

    def step(batch):
        value, gradients = loss(batch)
        assert loss.cause(batch) == ""
        optim.step(gradients)
        return value

    return trained(step, program, x)


def by_compiled(program, x, objective):
    """Steps of Pyro's own SVI around a captured graph."""
    return by_svi(program, x, CompiledELBO(objective, compile=False))


@pytest.mark.parametrize(
    ("vectorised", "way"),
    [(True, by_graph), *(pytest.param(v, by_compiled, marks=pytest.mark.slow) for v in (True, False))],
)
@pytest.mark.parametrize("name", CASES)
def test_svi_and_captured_graphs_give_the_same_steps(name, vectorised, way):
    found = []
    for each in (by_svi, way):
        two = Two()
        program = pv.Program(two.model, two.guide)
        losses = each(program, X, made(name, vectorize_particles=vectorised, max_plate_nesting=1))
        found.append((torch.tensor(losses), [p.detach() for p in two.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_folded_programs_train_as_vectorised_ones(name, compiled):
    found = []
    for axis in (-1, 1):
        two, objective = Two(axis), made(name)
        program = pv.Program(two.model, two.guide)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProgramWarning)
            assert suited(objective, program, X).folded == (axis == 1)
            options = {"epochs": 2, "lr": 0.01, "batch_size": 5, "kl_warmup": 2, "progress": False}
            history = pv.fit(program, X, objective=objective, compile=compiled, **options)
        losses = torch.tensor([epoch.train_elbo for epoch in history.epochs])
        found.append((losses, [p.detach() for p in two.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.paths])
def test_latents_that_are_not_reparameterised_are_refused_by_name(name):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.4)))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Bernoulli(x.sigmoid()))

    with pytest.raises(
        pv.ProgramError, match=rf"guide site 'k': expected a reparameterised .*{name}.* a Bernoulli"
    ):
        made(name).loss_and_grads(model, guide, X[:, 0])


@pytest.mark.parametrize("name", CASES)
def test_the_loss_alone_is_that_of_a_step(name):
    exact = linear_vae(2, 3, 5, widen=1.3)
    found = []
    for method in ("loss", "loss_and_grads"):
        torch.manual_seed(0)
        objective = made(name, max_plate_nesting=1)
        found.append(getattr(objective, method)(exact.program.model, exact.program.guide, exact.x))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_no_requires_grad_is_toggled(name, monkeypatch):
    exact = linear_vae(2, 3, 5)

    def toggled(*_):
        raise AssertionError("requires_grad_ was called")

    monkeypatch.setattr(torch.Tensor, "requires_grad_", toggled)
    monkeypatch.setattr(nn.Module, "requires_grad_", toggled)
    made(name, max_plate_nesting=1).loss_and_grads(exact.program.model, exact.program.guide, exact.x)


class Median(pv.objectives.Objective):
    """An objective of a user's own, as docs/objectives.md has it."""

    def bound(self, log_model, log_guide):
        return (log_model - log_guide).median(0).values


@pytest.mark.parametrize("way", [by_svi, by_graph])
def test_an_objective_of_ones_own_is_a_bound(way):
    two = Two()
    first, *_ = way(pv.Program(two.model, two.guide), X, Median(5, max_plate_nesting=1))
    program = pv.Program(*(getattr(Two(), role) for role in ("model", "guide")))
    torch.manual_seed(4)
    weights = program.log_weights(X[:6], 5, seed=None)
    assert first == pytest.approx(-float(weights.median(0).values.sum().detach()), rel=1e-12)
