"""The networks of a program are in evaluation mode while it is evaluated, wherever they are kept."""

import collections
import functools
import types
import weakref

import pyro
import pytest
import torch
from network_programs import EXACT, ROUND_OFF, ByFlag, X, guide, run
from pyro import module as announce
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.nn import functional

from ppl_vae.compiled import LogWeights
from ppl_vae.program import Program
from ppl_vae.program.modules import reachable


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Holder:
    """A plain class."""

    def __init__(self, net):
        self.nets = {"decoder": [net]}

    def model(self, x):
        run(x, self.nets["decoder"][0].decode)

    def __call__(self, x):
        self.model(x)


class Slotted:
    __slots__ = ("holder",)

    def __call__(self, x):
        self.holder.model(x)


class Unregistered(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.nets = [net]

    def forward(self, x):
        run(x, self.nets[0].decode)


class InPyroModule(PyroModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        run(x, self.net)


GLOBAL = ByFlag()


def by_global_name(x):
    run(x, _decode)


def _decode(z):
    return GLOBAL.decode(z)


def announced_and_called(x, net):
    pyro.module("decoder", net)
    run(x, net)


def announced_by_another_name(x, net):
    announce("decoder", net)
    run(x, net)


def announced_only(x, net):
    pyro.module("decoder", net)
    weight, bias = net.layer.weight, net.layer.bias
    run(x, lambda z: functional.dropout(functional.linear(z, weight, bias), 0.5, training=net.training))


def called_only(x, net):
    run(x, net)


def a_method_of_it(x, net):
    run(x, net.decode)


def in_closure(fn):
    def make(net):
        return lambda x: fn(x, net)

    return make


def slotted(net):
    made = Slotted()
    made.holder = Holder(net)
    return made


def class_attribute(net):
    class Kept:
        decoder = net

        @classmethod
        def model(cls, x):
            run(x, cls.decoder.decode)

    return Kept.model


def made_by_the_first_call(net):
    made = {}

    def model(x):
        if not made:
            made["decoder"] = ByFlag()
        run(x, made["decoder"].decode)

    return model


def made_anew_in_every_call(net):
    # Two that live one after the other, at one address perhaps.
    return lambda x: run(x, lambda z: nn.Dropout(0.5)(nn.Dropout(0.5)(net.layer(z))))


def decorated(net):
    def model(x):
        run(x, net.decode)

    @functools.wraps(model)
    def wrapped(*args):
        return model(*args)

    return wrapped


def frozen(net):
    net.layer.weight.requires_grad_(False)  # Pyro warns of it where the module is in training mode
    return lambda x: announced_and_called(x, net)


def mixed_modes(net):
    whole = nn.Sequential(net, nn.Dropout(0.5), nn.Dropout(0.5))
    whole.training, whole[1].training = False, False
    return lambda x: run(x, whole)


def held_by_weak_reference(net):
    made = weakref.ref(net)
    return lambda x: run(x, lambda z: made().decode(z))


def held_by_containers(net):
    held = types.SimpleNamespace(nets=collections.deque([collections.OrderedDict(decoder=(net,))]))
    return lambda x: run(x, held.nets[0]["decoder"][0].decode)


def property_of_an_object(net):
    class Made:
        @property
        def decoder(self):
            return net

        def model(self, x):
            run(x, self.decoder.decode)

    return Made().model


def memoised(net):
    @functools.lru_cache
    def decoder():
        return net

    return lambda x: run(x, decoder().decode)


PLACES = {
    **{
        fn.__name__: fn
        for fn in (held_by_weak_reference, held_by_containers, property_of_an_object, memoised)
    },
    **{
        fn.__name__: in_closure(fn)
        for fn in (announced_and_called, announced_by_another_name, announced_only)
    },
    **{fn.__name__: in_closure(fn) for fn in (called_only, a_method_of_it)},
    "global name": lambda net: by_global_name,
    "method of a plain object": lambda net: Holder(net).model,
    "plain object": Holder,
    "slots": slotted,
    "class attribute": class_attribute,
    "list of a module": Unregistered,
    "partial": lambda net: functools.partial(a_method_of_it, net=net),
    "default": lambda net: lambda x, net=net: run(x, net.decode),
    "handlers": lambda net: poutine.scale(poutine.block(Holder(net).model, hide_types=[]), 1.0),
    "PyroModule": InPyroModule,
    "made by the first call": made_by_the_first_call,
    "made anew in every call": made_anew_in_every_call,
    "decorated": decorated,
    "frozen": frozen,
    "mixed modes": mixed_modes,
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_networks_are_evaluated_in_evaluation_mode_wherever_they_are_kept(place, check):
    net = ByFlag()
    program = Program(PLACES[place](net), guide)
    modes = [(m, m.training) for m in [*net.modules(), *GLOBAL.modules(), *reachable(program._model)]]
    for _ in range(2):
        weights = program.log_weights(X, 3, check=check)
        torch.testing.assert_close(weights, EXACT.expand(3, 7), rtol=0, atol=ROUND_OFF)
        z = program.sample_guide(X, 2)
        joint = program.log_joint(z, X) - program.log_guide(z, X)
        torch.testing.assert_close(joint, EXACT.expand(2, 7), rtol=0, atol=ROUND_OFF)
        assert all(m.training is mode for m, mode in modes)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "made anew in every call"])
def test_graphs_of_them_are_those_of_evaluation_mode_and_outlive_a_change_of_mode(place):
    net = ByFlag()
    program = Program(PLACES[place](net), guide)
    function = LogWeights(program, 3)
    torch.testing.assert_close(function(X), EXACT.expand(3, 7), rtol=0, atol=ROUND_OFF)
    assert not function.cause(X)
    entries = [entry for kept in function._function(X)[0].cache._entries.values() for entry in kept]
    for mode in (False, True):
        net.train(mode)
        torch.testing.assert_close(function(X), EXACT.expand(3, 7), rtol=0, atol=ROUND_OFF)
    assert [entry for kept in function._function(X)[0].cache._entries.values() for entry in kept] == entries
