"""The contestants of the benchmarks compute the same thing, and the harness refuses those that do not."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pyro
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import __main__ as command
from benchmarks import handwritten, jax_peer, machine, ours, pyro_recipe, scaling, timing, training
from benchmarks import setting as harness
from benchmarks import workloads as w


@pytest.fixture(autouse=True)
def no_parameters_stay():
    """Pyro's own recipe trains what is in the store of the whole process."""
    yield
    pyro.clear_param_store()


ARCHITECTURES = [w.Architecture(30, (16,), 3, "softplus"), w.Architecture(30, (12, 10), 3, "tanh")]
both = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)


def problem(architecture, num_data=6):
    """A trained VAE, its numbers, and data that it has not seen."""
    x = w.binary_data(400 + num_data, architecture.data)
    model = ours.trained(architecture, x[:400], 3)
    return model, ours.parameters(model), x[400:]


def close(value, reference):
    torch.testing.assert_close(value.double(), reference.double(), rtol=1e-5, atol=1e-4)


# ---- one arithmetic ------------------------------------------------------------------------------------------


@both
def test_every_peer_has_our_log_weights_at_given_noise(architecture):
    model, parameters, x = problem(architecture)
    eps = w.noise(4, len(x), 3)
    expected = ours.log_weights(model, x, eps)
    by_hand = handwritten.Evidence(parameters, architecture.activation, x, 4, 2, compiled=False)
    close(by_hand.check(eps), expected)
    recipe = pyro_recipe.RecipeVAE(parameters, architecture.activation)
    close(torch.stack([recipe.log_weight(x, e) for e in eps]), expected)
    train = handwritten.Training(parameters, architecture.activation, x, 2, compiled=False)
    close(train.check(x, eps[0]), expected[:1].sum(1))


@both
def test_every_peer_estimates_our_evidence(architecture):
    """Z of 6 data against 40,000 weights, 4 standard errors: a false alarm in about 1 of 1,000 seeds."""
    model, parameters, x = problem(architecture)
    reference, stderr = ours.importance(model, x, 40_000, ours.PLAIN)
    peers = {
        "by hand": handwritten.Evidence(parameters, architecture.activation, x, 4000, 500, compiled=False),
        "Pyro": pyro_recipe.RecipeEvidence(parameters, architecture.activation, x, 4000, 500),
    }
    torch.manual_seed(0)
    for name, peer in peers.items():
        ratio = (peer.estimate() - reference).exp()
        # A tenth of the samples: an error sqrt(10) times as large, besides the reference's own.
        assert ((ratio - 1).abs() < 4 * 11**0.5 * stderr).all(), name


@both
def test_annealing_by_hand_is_unbiased(architecture):
    """Mean weight of 2,000 chains against Z, 4 standard errors for 6 data: a false alarm in about 1 of 2,000 seeds."""
    model, parameters, x = problem(architecture)
    reference, stderr = ours.importance(model, x, 40_000, ours.PLAIN)
    chains = handwritten.Annealing(parameters, architecture.activation, x, 2000, step=0.5)
    generator = torch.Generator().manual_seed(0)
    shape = (2000, len(x), 3)

    def noise(_):
        return torch.randn(shape, generator=generator), torch.rand(shape[:2], generator=generator)

    ratio = (chains.estimate(5, torch.randn(shape, generator=generator), noise).double() - reference).exp()
    error = (ratio.var(0) / len(ratio) + stderr**2).sqrt()
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()
    assert float(error.max()) < 0.1
    # It anneals: its weights spread less than those of importance sampling, which one step is.
    plain = chains.estimate(1, torch.randn(shape, generator=generator), noise).double() - reference
    assert float(ratio.var(0).mean()) < 0.7 * float(plain.exp().var(0).mean())


def test_annealing_counts_its_gradients(monkeypatch):
    _, parameters, x = problem(ARCHITECTURES[0], num_data=2)
    chains = handwritten.Annealing(parameters, "softplus", x, 4, step=0.3, leapfrog=3)
    calls = []
    at = chains._at
    monkeypatch.setattr(chains, "_at", lambda z: calls.append(z.shape[0]) or at(z))
    chains.random(6)
    assert sum(calls) == chains.gradients(6) == 4 * (1 + 5 * 3)


def test_everyone_learns_alike():
    """Mean ELBO of a third epoch, 3 % apart at most: shuffles and noise differ, and make it about 0.5 %."""
    architecture = ARCHITECTURES[1]
    x = w.binary_data(1000, architecture.data)
    model = ours.vae(architecture, x)
    start = ours.parameters(model)
    torch.manual_seed(0)
    by_hand = handwritten.Training(start, "tanh", x, 20, compiled=False)
    recipe = pyro_recipe.Recipe(start, "tanh", x, 20)
    before = by_hand.epochs(2)[1]
    recipe.epochs(2)
    elbos = {
        "ours": ours.fit(model, x, 20, 1, ours.PLAIN, skip=2)[1],
        "by hand": by_hand.epochs(1)[1],
        "Pyro": recipe.epochs(1)[1],
    }
    middle = sorted(elbos.values())[1]
    assert all(abs(elbo / middle - 1) < 0.03 for elbo in elbos.values()), elbos
    assert middle > before


def test_everyone_learns_the_same_bound_of_many_particles():
    """IWAE-8: the loss at given noise is that of our weights; mean bound of a second epoch, 3 % apart at most."""
    architecture = ARCHITECTURES[1]
    model, parameters, x = problem(architecture)
    eps = w.noise(8, len(x), 3)
    by_hand = handwritten.Training(parameters, "tanh", x, 2, compiled=False, particles=8)
    weights = ours.log_weights(model, x, eps)
    close(by_hand.check(x, eps), (weights.logsumexp(0) - math.log(8)).sum().reshape(1))

    x = w.binary_data(1000, architecture.data)
    model = ours.vae(architecture, x)
    start = ours.parameters(model)
    torch.manual_seed(0)
    by_hand = handwritten.Training(start, "tanh", x, 20, compiled=False, particles=8)
    recipe = pyro_recipe.Recipe(start, "tanh", x, 20, particles=8)
    by_hand.epochs(1)
    recipe.epochs(1)
    bounds = {
        "ours": ours.fit(model, x, 20, 1, ours.PLAIN, objective=pyro_recipe.renyi(8))[1],
        "by hand": by_hand.epochs(1)[1],
        "Pyro": recipe.epochs(1)[1],
    }
    middle = sorted(bounds.values())[1]
    assert all(abs(bound / middle - 1) < 0.03 for bound in bounds.values()), bounds
    single = ours.fit(ours.vae(architecture, x), x, 20, 1, ours.PLAIN)[1]
    assert middle > single  # a tighter bound, and not eight times one


def test_steady_epochs_leave_the_first_out():
    x = w.binary_data(40, 30)
    seconds, elbo = ours.fit(ours.vae(ARCHITECTURES[0], x), x, 20, 2, ours.PLAIN)
    assert seconds > 0
    assert elbo < 0


# ---- JAX -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax():
    if not (jax_peer.ENVIRONMENT / ".ready").exists():
        pytest.skip("no .venv-jax: `make bench` sets it up")
    with jax_peer.Jax(1) as child:
        yield child


def test_jax_agrees_at_given_noise(jax):
    architecture = ARCHITECTURES[1]
    model, parameters, x = problem(architecture)
    eps = w.noise(4, len(x), 3)
    jax.send("weights", parameters.named() | {"x": x, "check_eps": eps})
    weights = jax.ask("evidence_check", name="weights", activation="tanh")["value"]
    close(torch.tensor(weights), ours.log_weights(model, x, eps))

    jax.send("training", parameters.named() | {"x": x, "check_x": x, "check_eps": eps[0]})
    run = jax.ask("training_start", name="training", activation="tanh", batch_size=2, seed=0)["run"]
    elbo = jax.ask("training_check", run=run)["value"]
    close(torch.tensor(elbo), ours.log_weights(model, x, eps[:1]).sum(1))
    assert jax.ask("training_epochs", run=run, epochs=1)["seconds"] > 0


def test_jax_anneals_as_by_hand(jax):
    _, parameters, x = problem(ARCHITECTURES[1])
    first, momenta = w.noise(8, len(x), 3), w.noise(4, 8, len(x), 3, seed=2)
    thresholds = torch.rand(4, 8, len(x), generator=torch.Generator().manual_seed(0))
    given = {"check_first": first, "check_momenta": momenta, "check_thresholds": thresholds}
    jax.send("annealing", parameters.named() | {"x": x} | given)
    weights = jax.ask("annealing_check", name="annealing", activation="tanh", step=1.5, leapfrog=3)["value"]
    chains = handwritten.Annealing(parameters, "tanh", x, 8, step=1.5)
    close(torch.tensor(weights), chains.estimate(5, first, lambda t: (momenta[t - 1], thresholds[t - 1])))


def test_jax_tells_what_went_wrong_and_goes_on(jax):
    with pytest.raises(timing.AbsentError, match="KeyError"):
        jax.ask("evidence_check", name="nobody", activation="tanh")
    assert "jax" in jax.ask("versions")["versions"]


def test_without_jax_its_column_says_so(monkeypatch):
    def fail():
        raise timing.AbsentError("not installed")

    monkeypatch.setattr(jax_peer, "install", fail)
    with jax_peer.Jax(1) as jax:
        assert jax.missing == "not installed"
        turns = timing.interleaved({"JAX": lambda: jax.ask("versions")["seconds"], "us": lambda: 1.0}, 2)
    assert turns.missing == {"JAX": "not installed"}
    assert turns.ratio("us", "JAX") is None
    assert harness.figure(turns.ratio("us", "JAX"), 2) == "n/a"


# ---- the harness ---------------------------------------------------------------------------------------------


def test_turns_are_taken_and_the_first_is_not_counted():
    order = []

    def job(name, seconds):
        return lambda: order.append(name) or seconds

    turns = timing.interleaved({"a": job("a", 1.0), "b": job("b", 2.0)}, 3)
    assert "".join(order) == "abbaabba"
    assert turns.seconds == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert turns.ratio("a", "b") == (2.0, 2.0, 2.0)
    assert turns.ratio("a", "b", 0.5) == (1.0, 1.0, 1.0)
    assert turns.rate("b", 10) == (5.0, 5.0, 5.0)


def test_ratios_are_paired_by_round():
    turns = timing.Turns({"a": [1.0, 10.0, 2.0], "b": [2.0, 20.0, 4.0]})
    assert turns.ratio("a", "b") == (2.0, 2.0, 2.0)


def test_a_contestant_that_fails_is_out_and_the_others_go_on():
    calls = iter([1.0, 1.0])
    turns = timing.interleaved({"late": lambda: next(calls), "fine": lambda: 1.0}, 3)
    assert "StopIteration" in turns.missing["late"]
    assert set(turns.seconds) == {"fine"}
    assert len(turns.seconds["fine"]) == 3


def test_who_disagrees_is_not_timed():
    missing = {}
    reference = torch.tensor([-100.0, -200.0])
    values = {"near": reference + 1e-4, "far": reference + 1.0, "nan": reference * torch.nan}
    harness.gate(values, reference, missing, 1e-5)
    assert set(missing) == {"far", "nan"}
    made = {
        name: training.Contestant(lambda: reference, lambda _, elbo=elbo: (1.0, elbo))
        for name, elbo in {"a": -100.0, "b": -100.5, "c": -120.0}.items()
    }
    missing = {}
    training.same_elbo(made, missing)
    assert set(missing) == {"c"}


def test_verdicts_follow_the_figures():
    spread = timing.Spread(1.1, 1.0, 1.3)
    assert harness.Target("x", spread, 1.0).met
    assert not harness.Target("x", spread, 1.0, at_least=False).met
    assert harness.Target("x", None, 1.0).met is None
    assert "missed by 45 %" in harness.Target("x", spread, 2.0).line()
    assert "not measured" in harness.Target("x", None, 2.0).line()


def test_other_sections_are_kept_under_the_same_header_only():
    old = command.joined("head\n", {"training": "## Training\n\nold\n", "memory": "## Memory\n\nkept\n"}, "")
    new = command.joined("head\n", {"training": "## Training\n\nnew\n"}, old)
    assert "old" not in new
    assert new.index("new") < new.index("kept")
    assert command.joined("head\n", {}, new) == new
    assert "kept" not in command.joined("another head\n", {"training": "## Training\n\nnew\n"}, new)


def test_a_step_is_counted():
    a = w.Architecture(7, (5,), 2, "tanh")
    weights = 7 * 5 + 5 * 4 + 2 * 5 + 5 * 7
    assert a.num_parameters == weights + 5 + 4 + 5 + 7
    assert w.flops(a.step_products(3)) == 3 * 2 * 3 * weights - 2 * 3 * 7 * 5
    encoder = 7 * 5 + 5 * 4
    more = 3 * 2 * 3 * encoder - 2 * 3 * 7 * 5 + 3 * 2 * 3 * 10 * (weights - encoder)
    assert w.flops(a.step_products(3, 10)) == more
    assert a.decoder_flops == 2 * (2 * 5 + 5 * 7)
    machine.products(a.step_products(3))()


@pytest.mark.slow
def test_curves_and_missing_processes_are_reported(monkeypatch):
    def none_yet(*_):
        raise NotImplementedError

    monkeypatch.setattr(ours, "distributed_command", none_yet)
    section = scaling.run(harness.Setting(rounds=1, quick=True, jax=None))
    assert "n/a: no command for it yet" in section.markdown()
    assert all(target.met is not None for target in section.targets)
