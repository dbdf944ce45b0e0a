"""The networks of a program are in evaluation mode while it is evaluated, wherever they are kept.

In every program below p(x) is that of a linear-Gaussian model and the guide is its exact posterior, so the log weight
of any draw is log p(x); dropout, or statistics of a batch, would show at once.
"""

import collections
import copy
import functools
import gc
import threading
import types
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import module as announce
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.compiled import LogWeights
from ppl_vae.program import Program
from ppl_vae.program.modules import reachable

with rng.seeded("cpu", 0, "test"):
    W, B, X = torch.randn(5, 2), torch.randn(5), torch.randn(7, 5)
EXACT = torch.distributions.MultivariateNormal(B, W @ W.T + 0.25 * torch.eye(5)).log_prob(X).double()
ROUND_OFF = 1e-4  # of float32 numbers of 100 or so
_COVARIANCE = torch.linalg.inv(torch.eye(2) + W.T @ W / 0.25)


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal((x - B) @ W @ _COVARIANCE.T / 0.25, _COVARIANCE))


def run(x, decode):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decode(z), 0.5).to_event(1), obs=x)


def linear():
    layer = nn.Linear(2, 5)
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.copy_(B)
    return layer


def network():
    return nn.Sequential(linear(), nn.Dropout(0.5))


class ByFlag(nn.Module):
    """Its dropout is a function that looks at the module's mode, and it need not be called as a module."""

    def __init__(self):
        super().__init__()
        self.layer = linear()

    def decode(self, z):
        return functional.dropout(self.layer(z), 0.5, training=self.training)

    forward = decode


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


@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.spectral_norm,
        pytest.param(
            lambda layer: nn.utils.spectral_norm(layer),
            marks=pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
        ),
        parametrizations.weight_norm,
        lambda layer: nn.Sequential(layer, nn.BatchNorm1d(5)),
    ],
)
@pytest.mark.parametrize("called", [True, False])
def test_buffers_do_not_change_while_a_program_is_evaluated(normalise, called):
    net = normalise(linear())

    def decode(z):
        if called:
            return net(z.reshape(-1, 2)).reshape(*z.shape[:-1], 5)
        layer = net[0] if isinstance(net, nn.Sequential) else net
        return functional.linear(z, layer.weight, layer.bias)

    def model(x):
        pyro.module("decoder", net)
        run(x, decode)

    program = Program(model, guide)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = program.log_weights(X, 3)
    assert torch.equal(program.log_weights(X, 3), first)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training


@pytest.mark.parametrize("how", ["torch.compile", "module.compile", "function"])
def test_modules_that_torch_compiles(how):
    net = ByFlag()
    if how == "torch.compile":
        decode = torch.compile(net, backend="eager")
    elif how == "function":
        decode = torch.compile(lambda z: net(z), backend="eager")
    else:
        net.compile(backend="eager")
        decode = net
    program = Program(lambda x: run(x, decode), guide)
    torch.testing.assert_close(program.log_weights(X, 3), EXACT.expand(3, 7), rtol=0, atol=ROUND_OFF)
    assert net.training


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_modules_that_torch_scripts():
    net = torch.jit.script(network())
    program = Program(lambda x: run(x, net), guide)
    torch.testing.assert_close(program.log_weights(X, 3), EXACT.expand(3, 7), rtol=0, atol=ROUND_OFF)
    assert net.training


def test_modes_are_put_back_after_an_exception():
    net = ByFlag()

    def model(x):
        net(torch.zeros(2))
        assert not net.training
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Program(model, guide).log_weights(X, 2, check=False)
    assert net.training


def test_modules_of_other_threads_are_none_of_the_programs():
    others, inside, seen = network(), [threading.Event(), threading.Event()], []

    def model(x):
        inside[0].set()
        inside[1].wait()
        run(x, linear())

    def call():
        inside[0].wait()
        others(torch.zeros(3, 2))
        seen.append(others.training)
        inside[1].set()

    thread = threading.Thread(target=call)
    thread.start()
    program = Program(model, guide)
    program.log_weights(X, 2, check=False)
    thread.join()
    assert seen == [True]
    assert others not in list(program.modules)


def test_a_program_keeps_no_module_alive():
    program = Program(made_anew_in_every_call(ByFlag()), guide)
    made = weakref.ref(linear())
    for _ in range(3):
        program.log_weights(X, 2)
    gc.collect()
    assert made() is None
    assert not [module for module in program.modules if isinstance(module, nn.Dropout)]


def test_a_copy_of_a_vae_finds_its_own_networks():
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(5), pv.posteriors.MeanFieldNormal(2))
    vae.program.log_weights(X, 2)
    other = copy.deepcopy(vae)
    assert list(other.program.modules) == [other]
    other.program.log_weights(X, 2)
    assert not {*vae.modules()} & {child for module in other.program.modules for child in module.modules()}


def test_training_leaves_the_modes_of_a_functions_networks_to_the_user():
    net = network()
    net[1].eval()
    modes = []

    def model(x):
        pyro.module("decoder", net)
        modes.append([m.training for m in net.modules()])
        run(x, net)

    pv.fit(Program(model, guide), X, epochs=1, progress=False, compile=False)
    assert modes[-1] == [True, True, False]
    assert [m.training for m in net.modules()] == [True, True, False]


def test_the_averages_of_a_functions_batch_normalisation_are_resumed(tmp_path):
    def fit(epochs, resume=False):
        net = nn.Sequential(linear(), nn.BatchNorm1d(5))

        def model(x):
            pyro.module("decoder", net)
            run(x, lambda z: net(z.reshape(-1, 2)).reshape(*z.shape[:-1], 5))

        pv.fit(
            Program(model, guide), X, epochs=epochs, progress=False, compile=False,
            checkpoint=tmp_path / f"{epochs if not resume else 1}", resume=resume,
        )  # fmt: skip
        return {name: value.tolist() for name, value in net.state_dict().items()}

    expected = fit(3)
    fit(1)
    assert fit(3, resume=True) == expected
    assert expected["1.num_batches_tracked"] == 3


def test_a_function_with_a_module_is_captured_once(caplog):
    net = linear()

    def model(x):
        pyro.module("decoder", net)
        run(x, net)

    with caplog.at_level("INFO"):
        loss = pv.compiled.TrainingLoss(program := Program(model, guide), program.parameters(X))
        for _ in range(4):
            loss(X)
    assert not loss.cause(X)
    assert sum("captured" in record.message for record in caplog.records) == 1
