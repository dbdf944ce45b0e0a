"""What a job needs in memory: bounds that follow from sizes, and messages that say what would fit."""

import re

import pytest

from ppl_vae import memory
from ppl_vae.errors import InputError, option

GIB = 2**30
MODEL = {
    "latent_dim": 8,
    "batch_size": 128,
    "prior": {"class_path": "ppl_vae.priors.VampPrior", "init_args": {"components": 500}},
    "posterior": {"class_path": "ppl_vae.posteriors.MeanFieldNormal", "init_args": {}},
    "network": {"class_path": "ppl_vae.networks.MLP", "init_args": {"hidden": [200, 200]}},
    "encoder": None,
    "decoder": None,
    "objective": {"class_path": "pyro.infer.Trace_ELBO", "init_args": {"num_particles": 1}},
}


@pytest.fixture(params=[1, 16, 1024])
def machine(request, monkeypatch):
    """A machine with so many GiB."""
    monkeypatch.setattr(memory, "available", lambda: request.param * GIB)
    return request.param * GIB


def most(error):
    """What a message says would fit."""
    return int(re.search(r"at most ([\d,]+)", str(error))[1].replace(",", ""))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("each", [3, 1000, 12345.6])
def test_what_is_said_to_fit_does_and_no_more(machine, each, power):
    with pytest.raises(InputError, match="--num: expected at most") as error:
        memory.check("--num", 2**62 if power == 1 else 2**100, each, power=power)
    fits = most(error.value)
    memory.check("--num", fits, each, power=power)
    assert fits ** (1 / power) * each <= memory.SHARE * machine * (1 + 1e-9)
    with pytest.raises(InputError):
        memory.check("--num", (int(fits ** (1 / power)) + 2) ** power, each, power=power)


def test_the_machine_has_memory():
    assert 2**28 < memory.available() < 2**50


def test_a_limit_of_the_process_counts():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    whole = memory.available()
    limit = 2**44
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        assert memory.available() == min(whole, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def changed(**changes):
    """The model's settings, with options of its parts as ``prior_components``."""
    settings = {k: dict(v) if isinstance(v, dict) else v for k, v in MODEL.items()}
    for name, value in changes.items():
        role, _, key = name.partition("__")
        if key:
            settings[role] = {**settings[role], "init_args": {**settings[role]["init_args"], key: value}}
        else:
            settings[name] = value
    return settings


def test_usual_models_pass(machine):
    memory.check_model(MODEL, 784, 50_000)
    memory.check_model(changed(latent_dim=50, objective__num_particles=20), 784, 50_000)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latent_dim": 10**9}, "--latent-dim"),
        ({"network__hidden": [10**6, 10**6]}, "--hidden"),
        ({"network__hidden": 10**10}, "--hidden"),
        ({"prior__components": 10**9}, "--prior.components"),
        ({"objective__num_particles": 10**9}, "--objective.num_particles"),
        ({"network__channels": [10**6, 10**6]}, "--network.channels"),
        (
            {"encoder": {"class_path": "mine.Net", "init_args": {"hidden": [10**7, 10**7]}}},
            "--encoder.hidden",
        ),
    ],
)
def test_a_model_that_cannot_fit_is_refused_by_name(machine, changes, named):
    with pytest.raises(InputError) as error:
        memory.check_model(changed(**changes), 784, 50_000)
    assert error.value.argument == named


def test_an_integer_of_a_users_own_class_may_be_anything(machine):
    own = {"class_path": "mine.Prior", "init_args": {"year": 10**12}}
    memory.check_model(changed(prior=own), 784, 50_000)
    own = {"class_path": "mine.Prior", "init_args": {"components": 10**12}}
    with pytest.raises(InputError, match=r"--prior\.components"):
        memory.check_model(changed(prior=own), 784, 50_000)


def test_a_batch_is_no_larger_than_the_data(machine):
    memory.check_model(changed(batch_size=10**15), 64, 1000)
    with pytest.raises(InputError, match="--batch-size"):
        memory.check_model(changed(batch_size=10**15), 64, 10**12)


def test_usual_estimates_pass(machine):
    usual = {"num_samples": 5000, "num_chains": 16, "num_steps": 10_000, "num_particles": 256}
    usual |= {"num_islands": 8, "prior_draws": 16_384}
    for draws in ({"scrambles": 16}, {"target": 0.1, "most": 2**20, "pilot": 512}):
        memory.check_estimate(usual | {"draws": {"init_args": draws}}, 10_000, 784 + 50, 50)


@pytest.mark.parametrize(
    "name",
    [
        "num_samples",
        "draws.most",
        "draws.pilot",
        "prior_draws",
        "draws.scrambles",
        "proposal.num_samples",
        "num_chains",
        "num_particles",
        "num_steps",
    ],
)
def test_an_estimate_that_cannot_fit_is_refused_by_name(machine, name):
    def settings(value):
        role, dot, inner = name.partition(".")
        return {role: {"init_args": {inner: value}}} if dot else {name: value}

    with pytest.raises(InputError) as error:
        memory.check_estimate(settings(2**62), 250, 72, 8)
    assert error.value.argument == option(name)
    memory.check_estimate(settings(most(error.value)), 250, 72, 8)


def test_sobol_points_have_thirty_bits(machine):
    sobol = {"init_args": {"scrambles": 16}}
    memory.check_estimate({"num_samples": 16 * 2**20, "draws": sobol}, 10, 72, 8)
    with pytest.raises(InputError, match="--num-samples"):
        memory.check_estimate({"num_samples": 16 * 2**30 + 1, "draws": sobol}, 1, 72, 8)
