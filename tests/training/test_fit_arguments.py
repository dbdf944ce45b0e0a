"""What people bring to `fit` from Pyro's and torch's own loops: it works, or one line says what to give instead."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceGraph_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae as pv
from ppl_vae.compiled.elbo import CompiledELBO

X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def vae():
    prior, likelihood = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(6)
    return pv.VAE(prior, likelihood, pv.posteriors.MeanFieldNormal(2), hidden=(8,))


def fit(x=X, **options):
    return pv.fit(vae(), x, **({"epochs": 1, "progress": False} | options))


def refused(argument, words, x=X, **options):
    with pytest.raises(pv.InputError) as error:
        fit(x, **options)
    assert error.value.argument == argument
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO])
def test_particles_are_counted_from_one(kind, number):
    options = {"alpha": 0.5} if kind is RenyiELBO else {}
    objective = kind(**options)
    objective.num_particles = number  # whatever its constructor would say
    refused("objective.num_particles", "a positive integer", objective=objective)


def test_particles_of_a_compiled_objective_are_counted_too():
    refused("objective.num_particles", "received 0", objective=CompiledELBO(Trace_ELBO(num_particles=0)))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (JitTrace_ELBO(), "not jitted"),
        (JitTraceGraph_ELBO(), "not jitted"),
        (TraceTailAdaptive_ELBO(num_particles=5, vectorize_particles=True), "infinite"),
        (Trace_ELBO, "make one: Trace_ELBO()"),
        ("Trace_ELBO", "a pyro.infer.ELBO"),
    ],
)
def test_objectives_that_do_not_fit(objective, words):
    refused("objective", words, objective=objective)


def test_enumeration_without_discrete_latents_is_the_plain_elbo():
    numbers = [fit(objective=objective)[0].train_elbo for objective in (Trace_ELBO(), TraceEnum_ELBO())]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)


@pytest.mark.parametrize(
    ("optimiser", "words"),
    [
        (pyro.optim.Adam({"lr": 1e-3}), "Pyro's Adam"),
        (pyro.optim.ClippedAdam({"lr": 1e-3}), "Pyro's ClippedAdam"),
        (torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]), "made already: Adam"),
        (torch.optim.LBFGS, "LBFGS"),
        (lambda parameters: torch.optim.Adam(parameters), "raised"),
        (lambda parameters, lr: None, "returned None"),
        (lambda parameters, lr: pyro.optim.Adam({"lr": lr}), "returned"),
        ("Adam", "'Adam'"),
    ],
)
def test_optimisers_that_do_not_fit(optimiser, words):
    refused("optimiser", words, optimiser=optimiser)


def test_a_class_of_torch_is_an_optimiser():
    assert fit(optimiser=torch.optim.SGD)[0].step == 1


@pytest.mark.parametrize("argument", ["x_train", "x_valid"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(TensorDataset(X), batch_size=20), "fit makes the batches itself), received a DataLoader"),
        (TensorDataset(X), "received a TensorDataset"),
        (X.numpy(), "torch.from_numpy"),
        ([X], "a tensor"),
    ],
)
def test_data_that_do_not_fit(argument, data, words):
    refused(argument, words, **({"x": data} if argument == "x_train" else {"x_valid": data}))


def test_a_baseline_with_the_shape_of_a_batch_needs_even_batches():
    logits = torch.nn.Linear(2, 3)
    means = torch.nn.Parameter(torch.randn(3, 2))

    def model(x):
        pyro.param("means", means)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(3)))
            pyro.sample("x", dist.Normal(means[k], 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("logits", logits)
        baseline = {"use_decaying_avg_baseline": True}
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits(x)), infer={"baseline": baseline})

    program, x = pv.Program(model, guide), torch.randn(30, 2)
    options = {"objective": TraceGraph_ELBO(), "epochs": 2, "progress": False, "compile": False}
    with pytest.raises(pv.InputError, match="batch_size: expected a divisor of the number of data"):
        pv.fit(program, x, batch_size=20, **options)
    pyro.clear_param_store()  # where Pyro keeps the baseline
    assert len(pv.fit(program, x, batch_size=15, **options)) == 2
