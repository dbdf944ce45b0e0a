"""Parameter stores: a program that is trained, saved by Pyro, and loaded beside new networks.

What is right is what plain Pyro does: `update_module_params=True` puts the store's values into the networks when
`pyro.module` runs; without it the networks keep their own.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from case import Case, gaussian, plate, seeded
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import nn

import ppl_vae as pv

_W, _B = 0.8 * seeded(51, 4, 2), 0.5 * seeded(52, 4)
_X = seeded(53, 6, 2) @ _W.T + _B + 0.5 * seeded(54, 6, 4)
_NAMES = ("z", "x", "decoder", "encoder", "decoder.weight", "encoder.weight", "scale", "loc")


def _linear(inputs, outputs, fill=None):
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(0.3 * seeded(55, outputs, inputs) if fill is None else fill[0])
        layer.bias.copy_(torch.zeros(outputs) if fill is None else fill[1])
    return layer


def _posterior():
    """The weights of the encoder whose mean is that of the exact posterior."""
    covariance = torch.linalg.inv(torch.eye(2) + _W.T @ _W / 0.25)
    slope = covariance @ _W.T / 0.25
    return slope, -slope @ _B


def _pair(decoder, encoder, update, order="module_first"):
    def model(x):
        net = pyro.module("decoder", decoder, update_module_params=update)
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x", dist.Normal((net if order == "module_first" else decoder)(z), 0.5).to_event(1), obs=x
            )

    def guide(x):
        net = pyro.module("encoder", encoder, update_module_params=update)
        with plate(x):
            pyro.sample("z", dist.Normal(net(x), 0.6).to_event(1))

    return model, guide


def _saved():
    """A store as `pyro.get_param_store().get_state()` gives it after training: the right decoder and encoder."""
    with pyro.get_param_store().scope():
        model, guide = _pair(_linear(2, 4, (_W, _B)), _linear(4, 2, _posterior()), False)
        guide(_X)
        model(_X)
        return pyro.get_param_store().get_state()


def _loaded(name, update, *, by_plain_pyro=False, order="module_first", **options):
    def program():
        model, guide = _pair(_linear(2, 4), _linear(4, 2), update, order)
        pyro.get_param_store().set_state(_saved())
        if by_plain_pyro:  # Pyro has run the pair once, and moved the values
            guide(_X)
            model(_X)
        return pv.Program(model, guide)

    untrained = (0.3 * seeded(55, 4, 2), torch.zeros(4))
    exact = gaussian(*((_W, _B) if update else untrained), 0.25)
    return Case(name, program, _X, exact, names=_NAMES, trains=False, **options)


def _whole_class(name, update, **options):
    """One module that registers itself, as the VAE of a tutorial does."""

    class Whole(nn.Module):
        def __init__(self, trained):
            super().__init__()
            self.decoder = _linear(2, 4, (_W, _B) if trained else None)
            self.encoder = _linear(4, 2, _posterior() if trained else None)

        def model(self, x):
            pyro.module("vae", self, update_module_params=update)
            with plate(x):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("vae", self, update_module_params=update)
            with plate(x):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.6).to_event(1))

    def program():
        with pyro.get_param_store().scope():
            trained = Whole(True)
            trained.guide(_X)
            state = pyro.get_param_store().get_state()
        pyro.get_param_store().set_state(state)
        fresh = Whole(False)
        return pv.Program(fresh.model, fresh.guide)

    exact = gaussian(_W, _B, 0.25)
    return Case(name, program, _X, exact, names=(*_NAMES, "vae"), trains=False, **options)


def _plain_parameters():
    """`pyro.param` alone, constrained and not: what the store holds counts, not the first values in the program."""

    def model(x):
        W = pyro.param("W", torch.zeros(4, 2))
        scale = pyro.param("scale", torch.tensor(3.0), constraint=constraints.positive)
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + _B, scale).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.zeros(2, 4))
        with plate(x):
            pyro.sample("z", dist.Normal((x - _B) @ slope.T, 0.6).to_event(1))

    def program():
        with pyro.get_param_store().scope():
            pyro.param("W", _W)
            pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
            pyro.param("slope", _posterior()[0])
            state = pyro.get_param_store().get_state()
        pyro.get_param_store().set_state(state)
        return pv.Program(model, guide)

    exact = gaussian(_W, _B, 0.25)
    return Case("plain_parameters", program, _X, exact, names=(*_NAMES, "W", "slope"), trains=False)


def _pyro_module():
    """A PyroModule with PyroParam: its values are its own."""

    class Decoder(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroParam(_W.clone())
            self.scale = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

        def forward(self, x):
            with plate(x):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ self.weight.T + _B, self.scale).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal((x - _B) @ _posterior()[0].T, 0.6).to_event(1))

    exact = gaussian(_W, _B, 0.25)
    return Case(
        "pyro_module",
        lambda: pv.Program(Decoder(), guide),
        _X,
        exact,
        names=(*_NAMES, "weight"),
        trains=False,
    )


def _another_program_of_the_same_names():
    """The store holds a network of the same name and of another shape, which belongs to another program."""

    def program():
        pyro.module("decoder", nn.Linear(3, 7))
        model, guide = _pair(_linear(2, 4, (_W, _B)), _linear(4, 2, _posterior()), False)
        return pv.Program(model, guide)

    return Case(
        "same_name_other_shape", program, _X, gaussian(_W, _B, 0.25), names=_NAMES, accepts=(), plain=False
    )


CASES = [
    _loaded("loaded_and_updated", True),
    _loaded("loaded_and_updated_after_plain_pyro", True, by_plain_pyro=True),
    _loaded("loaded_and_updated_called_by_closure", True, order="closure"),
    _loaded("loaded_and_not_updated", False, accepts=(), hard=True, plain=False),
    _whole_class("class_loaded_and_updated", True),
    _plain_parameters(),
    _pyro_module(),
    _another_program_of_the_same_names(),
]
