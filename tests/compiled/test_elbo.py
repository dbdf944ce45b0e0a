"""`CompiledELBO` under plain `pyro.infer.SVI`: step for step what its objective does."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiled_programs import PROGRAMS, Discrete, Net, Params, Wandering, randn, shrunk
from pyro.infer import SVI, JitTrace_ELBO, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO

import ppl_vae as pv
from ppl_vae import InputError, rng
from ppl_vae.compiled import CompiledELBO, CompileWarning
from ppl_vae.compiled.graph import backend


@pytest.fixture(autouse=True)
def _quiet():
    backend._warned.clear()
    pyro.clear_param_store()
    with rng.forked():
        yield
    pyro.clear_param_store()


def trained(kind, objective, steps=12):
    """Losses, the state of the generator and all parameters after some steps with batches of two sizes."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    own = kind()
    svi = SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
    torch.manual_seed(1)
    losses = [svi.step(shrunk(own.x, 6 if step % 3 else 4)) for step in range(steps)]
    values = {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}
    if isinstance(own, torch.nn.Module):
        values |= {f"own {name}": value.detach().clone() for name, value in own.named_parameters()}
    return torch.tensor(losses), torch.get_rng_state(), values


def agree(kind, objective, compiled, **options):
    losses, state, values = trained(kind, objective, **options)
    ours, our_state, our_values = trained(kind, compiled, **options)
    torch.testing.assert_close(ours, losses, rtol=1e-10, atol=1e-10)
    assert torch.equal(our_state, state)
    assert values.keys() == our_values.keys()
    for name, value in values.items():
        torch.testing.assert_close(our_values[name], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "kind", [kind for kind in PROGRAMS if kind is not Wandering], ids=lambda kind: kind.__name__
)
def test_a_users_own_program_trains_to_the_same_numbers(kind):
    ours = CompiledELBO(compile=False)
    agree(kind, Trace_ELBO(), ours)
    assert ours.cause == ""


@pytest.mark.parametrize(
    "objective",
    [
        TraceMeanField_ELBO(),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        Trace_ELBO(num_particles=2),
    ],
    ids=["mean field", "vectorised", "particles"],
)
def test_other_objectives(objective):
    agree(Params, copy.copy(objective), CompiledELBO(copy.copy(objective), compile=False), steps=7)


def vae_steps(objective):
    vae = pv.VAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), pv.posteriors.MeanFieldNormal(2), hidden=(4,)
    )
    svi = SVI(vae.double().model, vae.guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
    torch.manual_seed(1)
    losses = [svi.step(randn(6, 3)) for _ in range(8)]
    return losses, [p.detach().clone() for p in vae.parameters()]


def test_a_vae_whose_modules_keep_their_parameters():
    ours = CompiledELBO(compile=False)
    (losses, values), (our_losses, our_values) = vae_steps(Trace_ELBO()), vae_steps(ours)
    assert losses == pytest.approx(our_losses, rel=1e-12)
    for a, b in zip(values, our_values, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)
    assert ours.cause == ""
    assert not pyro.get_param_store().keys()


class Loose(Net):
    """A network that Pyro is not told of: ``backward`` reaches it all the same."""

    def __init__(self):
        super().__init__()
        self.hidden = [torch.nn.Linear(3, 3).double()]

    def guide(self, x):
        super().guide(self.hidden[0](x))


class Tensors(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [torch.ones(3).double().requires_grad_()]

    def guide(self, x):
        super().guide(self.hidden[0] * x)


def test_what_pyro_is_not_told_of_gets_its_gradient_too():
    own, elbo = Loose(), CompiledELBO(compile=False)
    found = []
    for objective in (Trace_ELBO(), elbo):
        own.hidden[0].zero_grad()
        for seed in (1, 2, 3, 3):
            torch.manual_seed(seed)
            objective.loss_and_grads(own.model, own.guide, own.x)
        found.append([p.grad.clone() for p in own.hidden[0].parameters()])
    assert elbo.cause == ""
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    own = Tensors()
    elbo.loss_and_grads(own.model, own.guide, own.x)
    with pytest.warns(CompileWarning, match="requires a gradient"):
        elbo.loss_and_grads(own.model, own.guide, own.x)
    assert own.hidden[0].grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Params, Discrete, Net], ids=lambda kind: kind.__name__)
def test_with_inductor(kind):
    ours = CompiledELBO()
    agree(kind, Trace_ELBO(), ours)
    assert not backend._warned


def test_one_compiled_step_by_default():
    assert CompiledELBO().compile


def test_parameters_that_are_replaced_are_trained():
    own = Params()
    elbo = CompiledELBO(compile=False)
    svi = SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.05}), loss=elbo)
    for _ in range(4):
        svi.step(own.x)
    pyro.clear_param_store()
    svi.step(own.x)
    before = {name: value.clone() for name, value in pyro.get_param_store().named_parameters()}
    for _ in range(3):
        svi.step(own.x)
    for name, value in pyro.get_param_store().named_parameters():
        assert not torch.equal(value, before[name])
    losses, _, values = trained(Params, Trace_ELBO(), steps=3)
    assert len(losses) == 3
    assert set(values) == set(before)


def test_gradients_are_added_to_what_is_there():
    own = Net()
    elbo, plain = CompiledELBO(compile=False), Trace_ELBO()
    found = []
    for objective in (plain, elbo):
        own.zero_grad()
        for seed in (1, 2, 3, 3):
            torch.manual_seed(seed)
            objective.loss_and_grads(own.model, own.guide, own.x)
        found.append([p.grad.clone() for p in own.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Branching(Discrete):
    def model(self, x):
        super().model(x if x.sum() > -1e9 else -x)


def test_control_flow_on_data_stays_with_pyro_and_says_so_once():
    own, elbo = Branching(), CompiledELBO(compile=False)
    svi = SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.05}), loss=elbo)
    svi.step(own.x)
    with pytest.warns(CompileWarning, match=r"read out of a tensor .*test_elbo.py line"):
        svi.step(own.x)
    losses = [svi.step(own.x) for _ in range(3)]
    assert "read out of a tensor" in elbo.cause
    assert all(map(torch.isfinite, map(torch.tensor, losses)))


def test_arguments_that_are_no_tensors():
    def model(x, gain, options=None):
        weight = pyro.param("weight", torch.ones(()).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z * gain * weight + options["shift"], 1.0), obs=x)

    def guide(x, gain, options=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0))

    x = randn(6)
    elbo = CompiledELBO(compile=False)
    for gain in (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0):
        values = []
        for objective in (Trace_ELBO(), elbo):
            torch.manual_seed(4)
            values.append(
                objective.loss_and_grads(model, guide, x, gain, options={"shift": x.mean(), "name": "a"})
            )
        assert values[0] == pytest.approx(values[1], rel=1e-12)
        assert elbo.cause == ""
    strange = object()
    torch.manual_seed(4)
    elbo.loss_and_grads(model, guide, x, 1.0, options={"shift": x.mean(), "name": strange})
    assert "not tensors" in elbo.cause


def test_evaluating_and_differentiating_are_the_objectives_own():
    own = Net()
    values = []
    for objective in (Trace_ELBO(), CompiledELBO()):
        svi = SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
        torch.manual_seed(2)
        slope = objective.differentiable_loss(own.model, own.guide, own.x)
        values.append((svi.evaluate_loss(own.x), slope.item()))
    assert values[0] == values[1]


@pytest.mark.slow
def test_ppl_vae_fit_takes_it():
    results = []
    for objective in (Trace_ELBO(), CompiledELBO(compile=False)):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Gaussian(3),
            pv.posteriors.MeanFieldNormal(2),
            hidden=(4,),
        )
        history = pv.fit(
            vae,
            randn(12, 3).float(),
            objective=objective,
            epochs=3,
            batch_size=5,
            kl_warmup=2,
            progress=False,
        )
        results.append([epoch.train_elbo for epoch in history.epochs])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


@pytest.mark.parametrize("objective", ["Trace_ELBO", ReweightedWakeSleep])
def test_what_is_no_objective_is_refused(objective):
    with pytest.raises(InputError, match=r"objective: expected a pyro.infer.ELBO"):
        CompiledELBO(objective)
    assert JitTrace_ELBO
