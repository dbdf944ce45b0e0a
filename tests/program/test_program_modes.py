"""Modes and buffers of a program's networks: evaluated, compiled, trained, copied, beside other threads."""

import copy
import gc
import threading
import weakref

import pyro
import pytest
import torch
from network_programs import EXACT, ROUND_OFF, ByFlag, X, guide, linear, network, run
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import ppl_vae as pv
from ppl_vae.errors import ProgramError
from ppl_vae.program import Program


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


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

    with pytest.raises(ProgramError, match=r"LookupError.*mine"):
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
    made = []

    def decode(z):
        net = network()
        made.append(weakref.ref(net))
        return net(z)

    program = Program(lambda x: run(x, decode), guide)
    for _ in range(3):
        program.log_weights(X, 2)
    gc.collect()
    assert made
    assert not any(ref() for ref in made)
    assert not list(program.modules)


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
