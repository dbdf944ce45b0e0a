"""Whose values a module's parameters have: the module's own, or those of Pyro's global store where the user says so."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.compiled import LogWeights, TrainingLoss
from ppl_vae.errors import ParameterStoreWarning
from ppl_vae.program import Program

with rng.seeded("cpu", 0, "test"):
    X = torch.randn(12, 3) + 2.0


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Pair:
    """A model and a guide with a network each, as in Pyro's tutorials."""

    def __init__(self, seed, update):
        with rng.seeded("cpu", seed, "test"):
            self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)
        self.update = update

    def model(self, x):
        decoder = pyro.module("decoder", self.decoder, update_module_params=self.update)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x):
        encoder = pyro.module("encoder", self.encoder, update_module_params=self.update)
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    def numbers(self):
        return [p.detach().clone() for net in (self.decoder, self.encoder) for p in net.parameters()]

    @property
    def program(self):
        return Program(self.model, self.guide)


def train(model, guide, steps=20):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    with rng.seeded("cpu", 0, "training"):
        for _ in range(steps):
            svi.step(X)


def saved(tmp_path, model, guide):
    """Log weights of a pair as trained by plain Pyro, whose store is in a file, and empty, afterwards."""
    train(model, guide)
    weights = Program(model, guide).log_weights(X, 4)
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    return weights


def load(tmp_path):
    pyro.get_param_store().load(str(tmp_path / "store"))


@pytest.mark.parametrize("update", [True, False])
def test_a_loaded_store_counts_where_the_flag_says_so_as_in_plain_pyro(tmp_path, update):
    pair, other = Pair(0, update), Pair(1, update)
    trained = saved(tmp_path, pair.model, pair.guide)
    own = other.program.log_weights(X, 4)
    load(tmp_path)
    program = other.program
    if update:
        assert torch.equal(program.log_weights(X, 4), trained)
        assert all(map(torch.equal, other.numbers(), pair.numbers()))
    else:
        with pytest.warns(ParameterStoreWarning, match=r"encoder\.weight.*update_module_params=True") as told:
            assert torch.equal(program.log_weights(X, 4), own)
        assert len(told) == 1
        assert "\n" not in str(told[0].message)
    # Once a program; plain Pyro says the same of the values.
    assert torch.equal(program.log_weights(X, 4), trained if update else own)
    before = other.numbers()
    with rng.seeded("cpu", 0, "loss"):
        Trace_ELBO().loss(other.model, other.guide, X)
    assert all(map(torch.equal, other.numbers(), before))
    assert torch.equal(program.log_weights(X, 4), trained if update else own)


@pytest.mark.parametrize("level", ["plain", "captured"])
def test_fit_starts_from_a_loaded_store_and_trains_it(tmp_path, level):
    pair, other = Pair(0, True), Pair(1, True)
    saved(tmp_path, pair.model, pair.guide)
    load(tmp_path)
    program = other.program
    program.check(X)
    loss = TrainingLoss(program, program.parameters(X), level=level)
    assert {*map(id, loss.leaves)} == {*map(id, pyro.get_param_store()._params.values())}
    assert all(map(torch.equal, other.numbers(), pair.numbers()))
    pv.fit(program, X, epochs=1, lr=0.1, progress=False, compile=False)
    moved = other.numbers()
    assert not any(map(torch.equal, moved, pair.numbers()))
    program.log_weights(X, 4)
    assert all(
        map(torch.equal, other.numbers(), moved)
    )  # what was trained is not overwritten by what was loaded


def test_with_the_flag_off_fit_starts_from_the_modules_own_and_says_so(tmp_path):
    pair, other = Pair(0, False), Pair(1, False)
    saved(tmp_path, pair.model, pair.guide)
    load(tmp_path)
    stored = [value.detach().clone() for value in pyro.get_param_store().values()]
    own = other.numbers()
    with pytest.warns(ParameterStoreWarning):
        pv.fit(other.program, X, epochs=1, lr=1e-6, progress=False, compile=False)
    torch.testing.assert_close(other.numbers(), own, rtol=0, atol=1e-4)
    assert all(map(torch.equal, pyro.get_param_store().values(), stored))


@pytest.mark.parametrize("update", [True, False])
def test_graphs_follow_the_store(tmp_path, update):
    pair, other = Pair(0, update), Pair(1, update)
    trained = saved(tmp_path, pair.model, pair.guide)
    function = LogWeights(other.program, 4)

    def weights():
        with rng.seeded("cpu", 0, "log_weights"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ParameterStoreWarning)
            return function(X)

    own = weights()
    assert not function.cause(X)
    load(tmp_path)
    torch.testing.assert_close(weights(), trained if update else own, rtol=0, atol=1e-4)
    torch.testing.assert_close(weights(), trained if update else own, rtol=0, atol=1e-4)


def test_programs_with_the_flag_share_nothing_that_is_not_in_the_store():
    pairs = [Pair(0, True), Pair(1, True)]
    before = pairs[1].numbers()
    programs = [pair.program for pair in pairs]
    for program in programs:
        program.log_weights(X, 2)
    pv.fit(programs[0], X, epochs=1, lr=0.1, progress=False, compile=False)
    assert all(map(torch.equal, pairs[1].numbers(), before))
    assert not list(pyro.get_param_store())


def test_nothing_is_said_where_store_and_module_agree(tmp_path):
    pair, other = Pair(0, False), Pair(1, False)
    saved(tmp_path, pair.model, pair.guide)
    other.decoder.load_state_dict(pair.decoder.state_dict())
    other.encoder.load_state_dict(pair.encoder.state_dict())
    load(tmp_path)
    function = LogWeights(other.program, 2)
    for _ in range(2):
        function(X)  # a warning would be an error
        assert not function.cause(X)
    with torch.no_grad():
        other.encoder.weight += 1
    with pytest.warns(ParameterStoreWarning):
        other.program.log_weights(X, 2)


class Pyros(PyroModule):
    def __init__(self, seed):
        super().__init__()
        with rng.seeded("cpu", seed, "test"):
            self.net = nn.Linear(2, 3)
            self.sd = PyroParam(torch.rand(()) + 0.5, constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.sd).to_event(1), obs=x)


def test_a_store_that_is_not_what_a_pyro_module_holds_is_spoken_of(tmp_path):
    guide = Pair(0, False).guide
    module = Pyros(0)
    trained = saved(tmp_path, module, guide)
    other = Pyros(1)
    load(tmp_path)
    with pytest.warns(ParameterStoreWarning, match="copy them into the module first"):
        Program(other, guide).log_weights(X, 4)
    other.load_state_dict(module.state_dict())
    pyro.clear_param_store()
    assert torch.equal(Program(other, guide).log_weights(X, 4), trained)


def test_a_parameter_that_pyro_put_into_a_module_is_still_the_modules(tmp_path):
    """Pyro may leave a tensor that is no nn.Parameter in a module: a store's own."""
    pair = Pair(0, True)
    store = pyro.get_param_store()
    store["decoder$$$weight"] = torch.full((3, 2), 0.25)
    assert not isinstance(store._params["decoder$$$weight"], nn.Parameter)
    program = pair.program
    first = program.log_weights(X, 2)
    assert (pair.decoder.weight == 0.25).all()
    assert torch.equal(program.log_weights(X, 2), first)
    leaves = program.parameters(X)
    assert any(value is pair.decoder.weight for value in leaves.values())
    assert "decoder$$$weight" not in program.params
