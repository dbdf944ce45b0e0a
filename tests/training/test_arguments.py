"""Arguments of fit that do not fit, and what it takes besides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import EnergyDistance, Trace_ELBO
from torch import nn
from training_models import GREY, V, X, make, normalised, same, state

import ppl_vae as pv
from ppl_vae import InputError, rng
from ppl_vae.data import binarise

pytestmark = pytest.mark.usefixtures("_nothing_leaks")


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"target": nn.Linear(2, 2)}, "target"),
        ({"target": None}, "target"),
        ({"x_train": X.tolist()}, "x_train"),
        ({"x_train": X[:0]}, "x_train"),
        ({"x_train": X[:, :3]}, "x_train"),
        ({"x_train": GREY}, "x_train"),
        ({"x_train": {"a": X, "b": V}}, "x_train"),
        ({"x_valid": V[:, :3]}, "x_valid"),
        ({"x_valid": V.tolist()}, "x_valid"),
        ({"x_valid": V * 0.5}, "x_valid"),
        ({"objective": "Trace_ELBO"}, "objective"),
        ({"objective": Trace_ELBO}, "objective"),
        ({"objective": EnergyDistance()}, "objective"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "all"}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": "fast"}, "lr"),
        ({"lr_schedule": "linear"}, "lr_schedule"),
        ({"lr_schedule": None}, "lr_schedule"),
        ({"optimiser": "adam"}, "optimiser"),
        ({"optimiser": None}, "optimiser"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"kl_warmup": -1}, "kl_warmup"),
        ({"kl_warmup": 1.5}, "kl_warmup"),
        ({"kl_warmup": True}, "kl_warmup"),
        ({"patience": 2}, "x_valid"),
        ({"patience": 0, "x_valid": V}, "patience"),
        ({"transform": "binarise"}, "transform"),
        ({"x_train": {"x": X}, "transform": binarise}, "transform"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_bad_arguments(options, argument, tmp_path):
    vae = make()
    before = state(vae)
    options = {"target": vae, "x_train": X, "epochs": 1} | options
    files_given = {"checkpoint": tmp_path / "state", "history_path": tmp_path / "history"}
    with pytest.raises(InputError) as caught:
        pv.fit(options.pop("target"), options.pop("x_train"), **options, **files_given)
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert same(state(vae), before)


def test_a_program_without_parameters_cannot_be_trained():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0, 1))
            pyro.sample("x", dist.Normal(z, 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1))

    with pytest.raises(InputError, match="trainable parameter"):
        pv.fit(pv.Program(model, guide), torch.randn(5, generator=rng.generator(0, "test")), epochs=1)


def test_the_optimisers_own_factory():
    made = []

    def factory(parameters, lr):
        made.append((len(parameters), lr))
        return torch.optim.SGD(parameters, lr=lr)

    vae = make()
    pv.fit(vae, X, epochs=1, lr=1e-4, optimiser=factory)
    assert made == [(len(list(vae.parameters())), 1e-4)]
    again = make()
    again.decoder.requires_grad_(False)
    before = state(again.decoder)
    again.started.fill_(True)
    pv.fit(again, X, epochs=1, lr=1e-4, optimiser=factory)
    assert same(state(again.decoder), before)  # frozen parameters are neither handed over nor moved


@pytest.mark.parametrize("objective", [pyro.infer.JitTrace_ELBO(), pyro.infer.ReweightedWakeSleep()])
def test_objectives_that_svi_cannot_step_are_refused_by_name(objective):
    with pytest.raises(InputError, match=rf"objective.*{type(objective).__name__}"):
        pv.fit(make(), X, objective=objective, epochs=1)


def test_a_loaded_model_trains_in_training_mode_and_is_left_as_it_was(tmp_path):
    vae = normalised().eval()
    before = {name: value.clone() for name, value in vae.named_buffers()}
    pv.fit(vae, X, epochs=1, batch_size=20)
    running = [name for name in before if "running_mean" in name]
    assert running
    assert all(not torch.equal(before[name], dict(vae.named_buffers())[name]) for name in running)
    assert not any(module.training for module in vae.modules())
