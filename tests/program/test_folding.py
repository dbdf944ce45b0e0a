"""Programs that a sample axis does not suit: S copies of the data on the data axis give what plain Pyro means."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import slow_but
from torch import nn

import ppl_vae as pv
from ppl_vae.errors import InputError, ProgramError, ProgramWarning
from ppl_vae.program import Program, reference
from ppl_vae.program.unconstrained import Coordinates

torch.manual_seed(0)
A = torch.randn(3, 4, dtype=torch.float64)
X = 0.5 * torch.randn(7, 4, dtype=torch.float64)


def guide(x):
    with pyro.plate("data", len(x)):
        first = pyro.sample("z", dist.Normal(0.3 * x[:, :2], 1.0).to_event(1))
        pyro.sample("scale", dist.LogNormal(0.1 * first.sum(-1), 0.5))


def model_of(decode):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
            pyro.sample("x", dist.Normal(decode(z), 0.5 + scale.unsqueeze(-1)).to_event(1), obs=x)

    return model


def good(z):
    return torch.softmax(z, -1) @ A[:2]


def bad(z):
    return torch.softmax(z, 1) @ A[:2]


@pytest.fixture
def folded(monkeypatch):
    """A program for which both ways are right, run folded all the same."""
    monkeypatch.setattr(reference.Meant, "against_samples", lambda *_: "asked for")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProgramWarning)
        yield


def ignoring(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProgramWarning)
        return run()


ev = pv.evidence
QUIET = {"progress": False}
ESTIMATORS = {
    "importance": lambda p, x: ev.importance(p, x, 50, **QUIET),
    "importance, compiled": lambda p, x: ev.importance(p, x, 50, compile=True, **QUIET),
    "prior draws": lambda p, x: ev.importance(p, x, 50, prior_draws=64, **QUIET),
    "defensive": lambda p, x: ev.importance(p, x, 50, proposal=ev.Defensive(0.2), **QUIET),
    "widened": lambda p, x: ev.importance(p, x, 50, proposal=ev.Widened(1.3), **QUIET),
    "student": lambda p, x: ev.importance(p, x, 50, proposal=ev.StudentT(5), **QUIET),
    "to an error": lambda p, x: ev.importance(p, x, draws=ev.UntilStderr(0.2, pilot=64), **QUIET),
    "sobol": lambda p, x: ev.importance(p, x, 64, draws=ev.Sobol(4), **QUIET),
    "jackknife": lambda p, x: ev.jackknife(p, x, 50, **QUIET),
    "psis": lambda p, x: ev.psis(p, x, 50, **QUIET),
    "annealed": lambda p, x: ev.annealed(p, x, num_chains=4, num_steps=5, **QUIET),
    "annealed from the prior": lambda p, x: ev.annealed(
        p, x, num_chains=4, num_steps=5, start="prior", **QUIET
    ),
    "smc": lambda p, x: ev.smc(p, x, num_particles=8, num_steps=4, **QUIET),
    "quadrature": lambda p, x: ev.quadrature(p, x[:2], nodes=16, **QUIET),
    "sandwich": lambda p, x: ev.sandwich(p, x, num_chains=4, num_steps=4, **QUIET).lower,
}


@pytest.mark.parametrize(
    "name", slow_but(set(ESTIMATORS) - {"quadrature", "importance, compiled"}, ESTIMATORS)
)
def test_estimates_of_decoders_spelled_in_two_ways_are_the_same(name):
    """Counting axes from the left is correct Pyro, and gives the numbers of counting from the right."""
    right = ESTIMATORS[name](Program(model_of(good), guide), X)
    found = ignoring(lambda: ESTIMATORS[name](Program(model_of(bad), guide), X))
    torch.testing.assert_close(found.log_evidence, right.log_evidence, rtol=0, atol=1e-8, equal_nan=True)
    torch.testing.assert_close(found.stderr, right.stderr, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_a_program_that_suits_both_ways_has_the_same_densities(folded):
    program = Program(model_of(good), guide)
    program.check(X)
    assert all(layout.folded for layout in program.layouts(X))
    z = program.sample_guide(X, 3, seed=1)
    plain = {
        name: torch.stack([values[name] for values in _plain_log_probs(model_of(good), z, X)])
        for name in ("joint",)
    }
    torch.testing.assert_close(program.log_joint(z, X), plain["joint"], rtol=1e-12, atol=1e-12)
    u = torch.randn(3, 7, 3, dtype=torch.float64)
    at = Coordinates(program, X).densities(u)
    torch.testing.assert_close(
        at.log_joint, program.log_joint(at.z, X) + at.log_jacobian, rtol=1e-12, atol=1e-12
    )


def _plain_log_probs(model, z, x):
    for s in range(3):
        values = {name: value[s] for name, value in z.items()}
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data=values)).get_trace(x)
        sites = [
            site
            for site in trace.nodes.values()
            if site["type"] == "sample" and "Subsample" not in str(site["fn"])
        ]
        yield {"joint": sum(site["fn"].log_prob(site["value"]) for site in sites)}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 7])
def test_no_coincidence_of_sizes_changes_a_density(size, num_samples):
    """As many samples as data, as latents, as pixels, or one."""
    expected = Program(model_of(good), guide).log_weights(X[:size], num_samples, seed=3)
    found = ignoring(lambda: Program(model_of(bad), guide).log_weights(X[:size], num_samples, seed=3))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_warning_names_half_site_line_and_function_once():
    program = Program(model_of(bad), guide)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            ev.importance(program, X, 20, progress=False)
    assert len(told) == 1
    message = str(told[0].message)
    assert told[0].category is ProgramWarning
    assert "the model runs folded" in message
    assert "site 'x'" in message
    assert "test_folding.py line" in message
    assert "softmax(1)" in message or "softmax(dim=1)" in message
    assert "\n" not in message


def test_a_program_that_suits_a_sample_axis_is_not_folded_and_says_nothing():
    program = Program(model_of(good), guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ev.importance(program, X, 20, progress=False)
    assert not any(layout.folded for layout in program.layouts(X))


DEPENDENT = {
    "mean over the batch": lambda z: z @ A[:2] + z.mean(0).sum(),
    "softmax over the batch": lambda z: torch.softmax(z, 0) @ A[:2],
    "cumulative sum over the batch": lambda z: z.cumsum(0) @ A[:2],
    "sorted batch": lambda z: z.sort(0).values @ A[:2],
    "its neighbour": lambda z: z.roll(1, 0) @ A[:2],
    "batch statistics": lambda z: nn.functional.batch_norm(z @ A[:2], None, None, training=True),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_data_that_depend_on_one_another_are_refused_by_the_sites_name(name):
    program = Program(model_of(DEPENDENT[name]), guide)
    for run in (lambda: program.check(X), lambda: ev.importance(program, X, 20, progress=False)):
        with pytest.raises(
            ProgramError, match=r"model site 'x'.*does not depend on the other data"
        ) as caught:
            run()
        assert "\n" not in str(caught.value)


def test_a_random_density_is_refused_as_random():
    program = Program(model_of(lambda z: nn.functional.dropout(z @ A[:2], 0.5, training=True)), guide)
    with pytest.raises(ProgramError, match=r"model site 'x'.*random"):
        program.check(X)


def test_data_of_the_programs_own_are_refused():
    program = Program(model_of(lambda z: z @ A[:2] + X[: len(z)]), guide)
    with pytest.raises(ProgramError, match="model"):
        program.check(X)


def test_a_plate_of_pixels_beside_that_of_the_data_is_summed_within_the_datum():
    def data_last(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("pixels", x.shape[1], dim=-2):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)

    def data_first(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def events(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).expand((*z.shape, 4)).to_event(1), obs=x)

    def guide_last(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.4))

    def guide_first(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 0.4))

    right = Program(events, guide_last).log_weights(X, 5)
    for model, q in ((data_last, guide_last), (data_first, guide_first)):
        for x in (X, X[:4]):  # as many data as pixels, too
            program = Program(model, q)
            found = ignoring(lambda p=program, x=x: p.log_weights(x, 5))
            if x is X:
                torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
            e = ignoring(lambda p=program, x=x: ev.annealed(p, x, num_chains=4, num_steps=4, progress=False))
            q_exact = ev.quadrature(Program(events, guide_last), x, progress=False).log_evidence
            assert float((e.log_evidence - q_exact).abs().max()) < 1


def test_networks_of_images_run_on_latents_of_a_batch():
    net = nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(-1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2, 2), nn.Flatten()
    )
    net = net.double()
    by_hand = net[0].weight, net[0].bias, net[2].weight, net[2].bias

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    def q(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] - 0.5, 1.0).to_event(1))

    x = (torch.rand(5, 16, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    program = Program(model, q)
    z = ignoring(lambda: program.sample_guide(x, 3))["z"]
    W, b, kernel, bias = by_hand
    hidden = (z @ W.T + b).unflatten(-1, (4, 2, 2))
    image = torch.einsum("sncij,ckl->snikjl", hidden, kernel[:, 0]).reshape(3, 5, 16) + bias
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Bernoulli(logits=image).log_prob(x).sum(-1)
    torch.testing.assert_close(program.log_joint({"z": z}, x), expected.detach(), rtol=1e-10, atol=1e-10)


def test_z_of_another_shape_is_refused_in_both_ways():
    for decode in (good, bad):
        program = Program(model_of(decode), guide)
        ignoring(lambda p=program: p.check(X))
        z = program.sample_guide(X, 2)
        with pytest.raises(InputError, match=r"z\['z'\].*shape \(2, 7, 2\)"):
            program.log_joint({**z, "z": z["z"][..., :1]}, X)
