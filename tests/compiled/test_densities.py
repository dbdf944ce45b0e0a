"""A captured density is the program's: the same numbers from the same draws, whatever changes between two calls."""

import gc
import warnings
import weakref

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import test_conformance as library
import torch
from agreeing import EVERY_PART, S, both, built, check, check_joint, plain
from compiled_programs import CONTINUOUS, PROGRAMS, Net, randn, shrunk
from torch import nn

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.compiled import CompileWarning, LogJoint, LogWeights
from ppl_vae.compiled.cache import _caches
from ppl_vae.compiled.graph import backend, simplify
from ppl_vae.evidence.annealing.path import AnnealingPath
from ppl_vae.program import Coordinates, Program
from ppl_vae.program.agreement import TOLERANCE


@pytest.fixture(autouse=True)
def _quiet():
    """Every fall-back is an error here, unless a test expects it; global state is as before."""
    backend._warned.clear()
    with rng.forked():
        yield
    pyro.clear_param_store()


@pytest.mark.parametrize(("combination", "dtype"), EVERY_PART, ids=library.words)
def test_every_part_of_the_library(combination, dtype):
    vae, x = built(combination, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    check(vae.program, x, tolerance=tolerance)
    if dtype == torch.float64 and library.unconstrained(combination):
        check_joint(vae.program, x, x.flip(0), tolerance, starts=("guide",))


def test_a_graph_that_writes_into_what_it_keeps_is_not_used(monkeypatch):
    """It would be right in its first run alone: every graph is compared in its second one."""
    monkeypatch.setattr(simplify, "_SILENT_VIEWS", ())
    vae = pv.VAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(6), pv.posteriors.LowRankNormal(2)
    ).double()
    path = AnnealingPath(vae.program, pv.sample(vae, 4, seed=0).double(), "guide")
    ours = LogJoint(path.coordinates, "guide")
    u = path.draw(S).detach()
    with pytest.warns(CompileWarning, match="disagrees"):
        ours(u)
    for _ in range(2):
        assert torch.equal(ours(u)[0], path.at(u, gradient=True).log_start)


@pytest.mark.parametrize("combination", library.UNCONSTRAINED, ids=library.words)
def test_the_joint_in_single_precision(combination):
    torch.manual_seed(0)
    vae, x = built(combination, torch.float32)
    check_joint(vae.program, x, x.flip(0), TOLERANCE[torch.float32], starts=("guide",))


@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.__name__)
def test_a_users_own_program(kind):
    own = kind()
    program = Program(own.model, own.guide)
    program.check(own.x)
    check(program, own.x)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=lambda kind: kind.__name__)
def test_the_joint_of_a_users_own_program(kind):
    own = kind()
    other = {k: v.flip(0) for k, v in own.x.items()} if isinstance(own.x, dict) else own.x.flip(0)
    check_joint(Program(own.model, own.guide), own.x, other)


def test_a_binding_draws_anew_and_computes_the_encoder_once():
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    weights(own.x)
    bound = weights.bind(own.x)
    torch.manual_seed(0)
    first, second = bound(), bound()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    torch.testing.assert_close(
        torch.stack([first, second]), torch.stack([plain(program, own.x) for _ in range(2)])
    )
    (entry,) = (e for entries in _caches[program]._entries.values() for e in entries)
    before, body = (str(graph.graph) for graph in (entry._before[0], entry.body))
    assert "addmm" in before
    assert "normal" in body
    assert "normal" not in before
    assert body.count("mm.default") == 1  # the decoder


def test_parameters_that_are_loaded_or_stepped_are_seen():
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    check(program, own.x, weights)
    before = both(program, own.x, weights)[1]
    with torch.no_grad():
        own.decoder.weight.add_(1.0)
        own.shift.mul_(2.0)
    theirs, ours = both(program, own.x, weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours, before)
    optimiser = torch.optim.SGD(own.parameters(), 0.1)
    weights.program.log_weights(own.x, S, seed=None).mean().backward()
    optimiser.step()
    own.load_state_dict({k: v * 1.1 for k, v in own.state_dict().items()})
    theirs, ours = both(program, own.x, weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert len(_caches[program]) == 1  # never captured again


def test_what_replaces_a_parameter_is_seen_too():
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    check(program, own.x, weights)
    own.encoder.weight = nn.Parameter(own.encoder.weight.detach() * 2)
    check(program, own.x, weights)
    own.decoder = nn.Linear(2, 3).double()
    check(program, own.x, weights)
    own.float()
    check(program, own.x.float(), weights, tolerance=1e-5)
    own.double()
    check(program, own.x, weights)


def test_a_parameter_in_pyros_store_is_found_again_after_it_was_replaced():
    own = PROGRAMS[0]()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    check(program, own.x, weights)
    for value in (2.0, 3.0):  # somebody else trains the pair, twice
        pyro.clear_param_store()
        pyro.param("weight", value * randn(2, 3, seed=9))
        check(program, own.x, weights)
    program.params["weight"] = randn(2, 3, seed=10)
    check(program, own.x, weights)


def test_another_number_of_data_is_another_graph_and_few_are_kept(monkeypatch):
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    for n in (6, 5, 6, 1, 5):
        check(program, shrunk(own.x, n), weights)
    assert len(_caches[program]) == 3
    monkeypatch.setattr("ppl_vae.compiled.cache.SIZE", 2)
    weights(shrunk(own.x, 3))
    assert len(_caches[program]) == 2
    check(program, own.x.T.contiguous().T, LogWeights(program, S))  # other strides


def test_threads_and_default_dtype_are_part_of_what_a_graph_is_for():
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    check(program, own.x, weights)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        check(program, own.x, weights)
    finally:
        torch.set_num_threads(threads)
    assert len(_caches[program]) == 2


def test_graphs_die_with_their_program():
    own = Net()
    program = Program(own.model, own.guide)
    LogWeights(program, S)(own.x)
    LogJoint(Coordinates(program, own.x))(randn(S, 6, 2))
    dead = weakref.ref(program), weakref.ref(own)
    del program, own
    gc.collect()
    assert [ref() for ref in dead] == [None, None]


class Programs:
    """Programs that no graph stands for, and the word that the warning must hold."""

    def __init__(self, **state):
        vars(self).update(state)
        self.two = torch.full((), 2.0, dtype=torch.float64)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.mean(z, x), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))


class Branch(Programs):
    def mean(self, z, x):
        return z if self.two + x[0] - x[0] > 1 else 2 * z


class Item(Programs):
    def mean(self, z, x):
        return z * (self.two + x[0] - x[0]).item()


class Shape(Programs):
    def mean(self, z, x):
        return z + x[x > -1e9]


class Numpy(Programs):
    def mean(self, z, x):
        return z + torch.from_numpy(x.numpy() * 2)


REFUSED = [
    (Branch, "read out of a tensor"),
    (Item, "test_densities.py line"),
    (Shape, "shape of a result depends on data"),
    (Numpy, "disagrees"),
]


@pytest.mark.parametrize(("kind", "cause"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(kind, cause):
    program, x = Program(kind().model, kind().guide), randn(6)
    weights = LogWeights(program, S)
    with pytest.warns(CompileWarning, match=cause) as caught:
        weights(x)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(5)
        ours = weights(x)
        LogWeights(program, S)(x)
    assert cause in weights.cause(x)
    assert not weights.agree(x)
    torch.manual_seed(5)
    assert torch.equal(ours, plain(program, x))


class Scaled(Programs):
    def mean(self, z, x):
        return z * self.factor[0]


def test_what_python_decides_is_looked_at_once_a_run():
    """A number in a list, which nothing guards: a run that begins after it changed sees it, by the comparison."""
    own = Scaled(factor=[1.0])
    program, x = Program(own.model, own.guide), randn(6)
    check(program, x)
    own.factor[0] = 3.0
    run = LogWeights(program, S)
    assert not LogWeights(program, S).agree(x)
    run(x)
    check(program, x, run)
    assert run.agree(x)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
        self.strength = 1.0

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            mean = self.strength * self.net(z.unsqueeze(-1)).squeeze(-1)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))


def test_modules_the_program_does_not_own_are_followed_from_mode_to_mode():
    own, x = Dropped(), randn(6)
    program = Program(lambda x: own.model(x), lambda x: own.guide(x))
    assert not program.modules
    weights = LogWeights(program, S)
    for training in (True, False, True, False):
        own.train(training)
        check(program, x, weights)
    own.net[1].p = 0.9
    own.train()
    check(program, x, weights)


def test_the_attributes_of_modules_are_guarded():
    own, x = Dropped(), randn(6)
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S)
    check(program, x, weights)
    own.train()
    check(program, x, weights)  # the program evaluates it all the same
    assert len(_caches[program]) == 1
    own.strength = 2.0
    check(program, x, weights)


def test_data_as_a_dict_may_change_their_keys():
    def model(x):
        with pyro.plate("data", len(x["y"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["y"].new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z + x.get("more", 0.0), 1.0), obs=x["y"])

    def guide(x):
        with pyro.plate("data", len(x["y"]), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x["y"], 0.7))

    program = Program(model, guide)
    weights = LogWeights(program, S)
    check(program, {"y": randn(6)}, weights)
    check(program, {"y": randn(6), "more": randn(6, seed=1)}, weights)
    check(program, {"more": randn(6, seed=1), "y": randn(6)}, weights)


@pytest.mark.slow
def test_strides_may_change_between_calls():
    """Chains that start from one expanded sample, and data that are a view, run in code made for others."""
    exact = models.linear_vae(2, 3, 6)
    whole = torch.cat([exact.x, exact.x], 1)
    weights = LogWeights(exact.program, 5, level="compiled")
    first = weights(exact.x)
    torch.manual_seed(1)
    first = weights(exact.x)
    torch.manual_seed(1)
    assert torch.equal(weights(whole[:, :3]), first)
    torch.manual_seed(1)
    assert torch.equal(weights(exact.x.mT.contiguous().mT), first)
    joint = LogJoint(Coordinates(exact.program, exact.x), level="compiled")
    u = torch.randn(1, 6, 2, dtype=torch.float64)
    expected = joint(u.expand(4, -1, -1).contiguous())
    for ours, right in zip(joint(u.expand(4, -1, -1)), expected, strict=True):
        assert torch.equal(ours, right)
