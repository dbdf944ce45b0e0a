"""What people pass to `fit`: it trains, or says in one line which argument is at fault; never anything else."""

from __future__ import annotations

import logging
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from case import normal, plate, seeded
from judge import attempt, check_values, names_something
from pyro import infer, optim
from pyro.contrib.easyguide import EasyGuide
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae as pv

_BITS = (seeded(151, 40, 4) > 0).float()
_X = seeded(152, 16)
_ROWS = seeded(153, 40, 4)


def _vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(4), pv.posteriors.MeanFieldNormal(2)
        return pv.VAE(*parts, hidden=(4,))


def _fit(data=_BITS, target=None, **options):
    return pv.fit(_vae() if target is None else target, data, epochs=2, progress=False, **options)


@pytest.fixture(autouse=True)
def _own_parameter_store():
    with pyro.get_param_store().scope():
        yield


_REFUSED = {
    "pyro_adam": ("optimiser", lambda: _fit(optimiser=optim.Adam({"lr": 1e-3}))),
    "pyro_clipped_adam": (
        "optimiser",
        lambda: _fit(optimiser=optim.ClippedAdam({"lr": 1e-3, "clip_norm": 10.0})),
    ),
    "pyro_adam_class": ("optimiser", lambda: _fit(optimiser=optim.Adam)),
    "pyro_schedule": (
        "optimiser",
        lambda: _fit(
            optimiser=optim.ExponentialLR(
                {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "gamma": 0.9}
            )
        ),
    ),
    "torch_optimiser_made": ("optimiser", lambda: _fit(optimiser=torch.optim.Adam(_vae().parameters()))),
    "optimiser_of_a_name": ("optimiser", lambda: _fit(optimiser="adam")),
    "optimiser_of_nothing": ("optimiser", lambda: _fit(optimiser=lambda parameters, lr: None)),
    "data_loader": ("x_train", lambda: _fit(DataLoader(TensorDataset(_BITS), batch_size=8))),
    "tensor_dataset": ("x_train", lambda: _fit(TensorDataset(_BITS))),
    "list": ("x_train", lambda: _fit(_BITS.tolist())),
    "list_of_tensors": ("x_train", lambda: _fit(list(_BITS))),
    "numpy": ("x_train", lambda: _fit(_BITS.numpy())),
    "loader_for_validation": ("x_valid", lambda: _fit(x_valid=DataLoader(TensorDataset(_BITS)))),
    "tail_adaptive": (
        "objective",
        lambda: _fit(objective=infer.TraceTailAdaptive_ELBO(num_particles=5, vectorize_particles=True)),
    ),
    "jit": ("objective", lambda: _fit(objective=infer.JitTrace_ELBO())),
    "jit_mean_field": ("objective", lambda: _fit(objective=infer.JitTraceMeanField_ELBO())),
    "class_of_an_objective": ("objective", lambda: _fit(objective=infer.Trace_ELBO)),
    "bound_loss": ("objective", lambda: _fit(objective=infer.Trace_ELBO().differentiable_loss)),
    "name_of_an_objective": ("objective", lambda: _fit(objective="elbo")),
    "wake_sleep": ("objective", lambda: _fit(objective=infer.ReweightedWakeSleep())),
    "zero_particles": ("objective", lambda: _fit(objective=infer.Trace_ELBO(num_particles=0))),
    "svi": (
        "target",
        lambda: _fit(target=infer.SVI(_vae().model, _vae().guide, optim.Adam({}), infer.Trace_ELBO())),
    ),
    "model_alone": ("target", lambda: _fit(target=_vae().model)),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_refused_by_the_argument(name):
    argument, call = _REFUSED[name]
    found, error = attempt(call)
    assert error is not None, f"accepted: {found}"
    message = str(error)
    assert "\n" not in message
    assert message.startswith(argument), message


# Either is right: it trains, or it is refused by an argument or by a site.
_EITHER = {
    "float64_data": lambda: _fit(_BITS.double()),
    "bool_data": lambda: _fit(_BITS.bool()),
    "integers": lambda: _fit(_BITS.long()),
    "sparse": lambda: _fit(_BITS.to_sparse()),
    "tail_adaptive_two_particles": lambda: _fit(
        objective=infer.TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True)
    ),
    "negative_particles": lambda: _fit(objective=infer.Trace_ELBO(num_particles=-1)),
    "renyi_of_one_particle": lambda: _fit(objective=infer.RenyiELBO(alpha=0.5, num_particles=1)),
    "energy_distance": lambda: _fit(objective=infer.EnergyDistance()),
    "sgd_without_lr": lambda: _fit(optimiser=lambda parameters, lr: torch.optim.SGD(parameters)),
    "lbfgs": lambda: _fit(optimiser=torch.optim.LBFGS),
}


@pytest.mark.parametrize("name", _EITHER)
def test_trains_or_is_refused(name):
    history, error = attempt(_EITHER[name])
    if error is None:
        assert all(math.isfinite(epoch.train_elbo) for epoch in history)
    else:
        message = str(error)
        assert "\n" not in message
        assert names_something(message, ("x", "z")) or message.startswith("loss"), message


_TRAINS = {
    "torch_adam": lambda: _fit(optimiser=torch.optim.Adam),
    "torch_adamw_of_more": lambda: _fit(
        optimiser=lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.01)
    ),
    "float64_throughout": lambda: _fit(_BITS.double(), _vae().double()),
    "iwae": lambda: _fit(objective=infer.RenyiELBO(alpha=0.0, num_particles=5, vectorize_particles=True)),
    "mean_field": lambda: _fit(objective=infer.TraceMeanField_ELBO()),
    "graph": lambda: _fit(objective=infer.TraceGraph_ELBO()),
    "vectorised": lambda: _fit(objective=infer.Trace_ELBO(num_particles=4, vectorize_particles=True)),
    "enum": lambda: _fit(objective=infer.TraceEnum_ELBO(max_plate_nesting=1)),
    "nesting_of_two": lambda: _fit(objective=infer.Trace_ELBO(max_plate_nesting=2)),
}


@pytest.mark.parametrize("name", _TRAINS)
def test_trains(name):
    history, error = attempt(_TRAINS[name])
    assert error is None, error
    assert len(history) == 2
    assert all(math.isfinite(epoch.train_elbo) for epoch in history)


class _Discrete(nn.Module):
    """A class of three and normal data; baselines of the kinds that Pyro's tutorial has."""

    def __init__(self, registered=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.encoder, self.baseline = nn.Linear(4, 3), nn.Linear(4, 1)
            self.means = nn.Parameter(torch.randn(3, 4))
        self.registered = registered

    def model(self, x):
        if self.registered:
            pyro.module("discrete", self)
        with plate(x):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(self.means[k], 1.0).to_event(1), obs=x)

    def _guide(self, x, infer):
        if self.registered:
            pyro.module("discrete", self)
        with plate(x):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)), infer=infer)

    def guide(self, x):
        self._guide(x, {"baseline": {"use_decaying_avg_baseline": True}})

    def guide_of_a_network(self, x):
        network = {"nn_baseline": lambda value: self.baseline(value).squeeze(-1), "nn_baseline_input": x}
        self._guide(x, {"baseline": network})

    def exact(self, x):
        log_prob = torch.distributions.Normal(self.means.detach().double()[:, None], 1.0).log_prob(x.double())
        return torch.logsumexp(log_prob.sum(-1) - math.log(3), 0)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("guide", ["guide", "guide_of_a_network"])
@pytest.mark.parametrize("objective", [infer.Trace_ELBO, infer.TraceGraph_ELBO])
def test_discrete_latents_with_baselines(objective, guide, registered):
    module = _Discrete(registered)
    program = pv.Program(module.model, getattr(module, guide))
    before = module.means.detach().clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="pyro")
        history, error = attempt(lambda: _fit(_ROWS, program, objective=objective()))
    if error is not None:
        assert names_something(str(error), ("k", "x", "discrete", "means")), error
        return
    assert all(math.isfinite(epoch.train_elbo) for epoch in history)
    assert not torch.equal(before, module.means), "trained for two epochs, and nothing moved"
    evidence = pv.evidence.importance(program, _ROWS, 1000, progress=False)
    check_values(evidence, module.exact(_ROWS))


class _Own(nn.Module):
    """Trained by the user's own loop over torch's optimiser, after Pyro's tutorial."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.encoder, self.weight = nn.Linear(1, 2), nn.Parameter(torch.tensor([1.0]))

    def model(self, x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * self.weight, 0.5), obs=x)

    def guide(self, x):
        with plate(x):
            loc, raw = self.encoder(x[:, None]).unbind(1)
            pyro.sample("z", dist.Normal(loc, raw.exp()))


def test_a_loop_of_ones_own_is_evaluated_as_trained_and_fit_goes_on():
    own, loss = _Own(), infer.Trace_ELBO().differentiable_loss
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(own.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss(own.model, own.guide, _X).backward()
        optimiser.step()
    program = pv.Program(own.model, own.guide)
    evidence, error = attempt(lambda: pv.evidence.importance(program, _X, 1000, progress=False))
    assert error is None, error
    check_values(evidence, normal(0.0, float(own.weight.detach()) ** 2 + 0.25)(_X))
    before = own.weight.detach().clone()
    history, error = attempt(lambda: _fit(_X, program))  # nobody announced the parameters: fit, or a message
    if error is None:
        assert math.isfinite(history[-1].train_elbo)
        assert not torch.equal(before, own.weight), "trained for two epochs, and nothing moved"
    else:
        assert names_something(str(error), ("weight", "encoder.weight", "x", "z")), error


def test_easy_guide():
    """An EasyGuide's group of sites is one site of all data: a value, or a refusal by name."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    class Guide(EasyGuide):
        def guide(self, x):
            group = self.group(match="z")
            with self.plate("data", len(x), dim=-1):
                group.sample("z_auxiliary", dist.Normal(0.8 * x[:, None], 0.5).to_event(1))

    program = pv.Program(model, Guide(model))
    evidence, error = attempt(lambda: pv.evidence.importance(program, _X, 500, progress=False))
    if error is None:
        check_values(evidence, normal()(_X))
    else:
        assert names_something(str(error), ("z", "z_auxiliary", "data")), error


@pytest.mark.slow
def test_a_registered_module_is_captured_once_for_each_batch_size(caplog):
    """`pyro.module` in the program: compiled training captures a graph for each size of batch, not for each step."""
    own = _Discrete(registered=True)

    def model(x):
        pyro.module("means", own)
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ own.means, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("means", own)
        with plate(x):
            pyro.sample("z", dist.Normal(own.encoder(x), 1.0).to_event(1))

    with caplog.at_level(logging.INFO, logger="ppl_vae.compiled"):
        history, error = attempt(lambda: _fit(_ROWS, pv.Program(model, guide), batch_size=12, compile=True))
    assert error is None, error
    assert len(history) == 2
    captured = [record for record in caplog.records if "captur" in record.getMessage()]
    assert len(captured) <= 4, [
        record.getMessage() for record in captured
    ]  # 12 and 4 data; loss and gradients
