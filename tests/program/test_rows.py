"""Guides with parameters for each datum, and auxiliary sites: what goes with a datum, in blocks, copies and batches."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch.distributions import constraints

import ppl_vae as pv
from ppl_vae.errors import InputError, ProgramError
from ppl_vae.program import Program
from ppl_vae.program.data import take
from ppl_vae.program.rows import with_rows

N = 300  # more than a block
X = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOC = 0.8 * X + 0.05 * torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def by_rows(x):
    loc = pyro.param("loc", lambda: LOC.clone())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5))


def by_plate(x):
    with pyro.plate("data", len(x)):
        loc = pyro.param("loc", lambda: LOC.clone(), event_dim=0)
        pyro.sample("z", dist.Normal(loc, 0.5))


def by_index(d):
    loc = pyro.param("loc", lambda: LOC.clone())
    with pyro.plate("data", len(d["x"])):
        pyro.sample("z", dist.Normal(loc[d["i"]], 0.5))


@pytest.fixture(autouse=True)
def _own_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.mark.parametrize("guide", [by_rows, by_plate])
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_are_those_of_an_index_in_the_data(guide, compiled):
    indexed = Program(lambda d: model(d["x"]), by_index)
    right = pv.evidence.importance(indexed, {"x": X, "i": torch.arange(N)}, 40, progress=False)
    found = pv.evidence.importance(Program(model, guide), X, 40, compile=compiled, progress=False)
    torch.testing.assert_close(found.log_evidence, right.log_evidence, rtol=0, atol=1e-9)


def test_rows_in_any_order_and_several_times():
    program, x = with_rows(Program(model, by_rows), X)
    z = torch.randn(2, 5, dtype=torch.float64)
    for rows in ([0, 1, 2, 3, 4], [7, 7, 3, 299, 0]):
        index = torch.tensor(rows)
        expected = dist.Normal(LOC[index], 0.5).log_prob(z)
        found = program.log_guide({"z": z}, take(x, index))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    whole = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    z = torch.randn(1, N, dtype=torch.float64)
    found = program.log_guide({"z": z}, take(x, whole))
    torch.testing.assert_close(found, dist.Normal(LOC[whole], 0.5).log_prob(z), rtol=1e-12, atol=1e-12)


def test_a_part_of_the_data_is_refused_with_the_parameter_and_the_way_round():
    program = Program(model, by_rows)
    pv.evidence.importance(program, X, 5, progress=False)
    with pytest.raises(
        ProgramError, match=r"all 300 data for which parameter 'loc' has rows.*received 10 data"
    ):
        pv.evidence.importance(program, X[:10], 5, progress=False)


def test_rows_that_are_not_those_of_the_data_are_refused():
    def guide(x):
        loc = pyro.param("loc", lambda: LOC.clone())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.roll(1, 0)[: len(x)], 0.5))

    with pytest.raises(ProgramError, match="guide"):
        pv.evidence.importance(Program(model, guide), X, 5, progress=False)


def test_training_moves_the_rows_of_a_batch_to_their_own_data():
    def guide(x):
        loc = pyro.param("loc", torch.zeros(len(x), dtype=x.dtype))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, math.sqrt(0.2)))

    program = Program(model, guide)
    pv.fit(program, X, epochs=60, batch_size=50, lr=0.05, progress=False)
    found = program.params["loc"].detach()
    assert found.shape == (N,)
    # The posterior's means, up to the noise of one draw a step; rows of other data would have no correlation.
    assert float(torch.corrcoef(torch.stack([found, X]))[0, 1]) > 0.97
    assert float((found - 0.8 * X).abs().mean()) < 0.15
    with pytest.raises(InputError, match=r"x_valid.*by an index in the data"):
        pv.fit(Program(model, guide), X, x_valid=X, epochs=1, progress=False)


def test_an_automatic_guide_with_a_site_for_each_datum():
    guide = AutoNormal(model)
    program = Program(model, guide)
    pv.fit(program, X, epochs=40, batch_size=100, lr=0.05, progress=False)
    e = pv.evidence.importance(program, X, 400, progress=False)
    exact = dist.Normal(0.0, math.sqrt(1.25)).log_prob(X)
    assert bool(((e.log_evidence - exact).abs() < 5 * e.stderr + 0.03).all())
    with pytest.raises(
        ProgramError, match=r"'_AutoDiagonalNormal_latent'.*AutoNormal has a site for each datum"
    ):
        pv.evidence.importance(Program(model, AutoDiagonalNormal(model)), X, 5, progress=False)


def auxiliary(factor=1.0, log_density=0.0):
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0), infer={"is_auxiliary": True})
            claimed = torch.full_like(a, log_density)
            pyro.sample("z", dist.Delta(0.8 * x + factor * a, log_density=claimed))

    return guide


def test_an_auxiliary_site_that_a_delta_is_computed_from_is_a_change_of_variables():
    program = Program(model, auxiliary(0.6, -math.log(0.6)))
    direct = Program(model, lambda x: _normal_guide(x, 0.6))
    found, right = (pv.evidence.importance(p, X, 100, progress=False) for p in (program, direct))
    torch.testing.assert_close(found.log_evidence, right.log_evidence, rtol=0, atol=1e-9)
    assert set(program.sample_guide(X, 2)) == {"z"}
    with pytest.raises(ProgramError, match=r"'a'.*auxiliary"):
        pv.evidence.annealed(program, X[:5], num_chains=2, num_steps=2, progress=False)
    prior = pv.evidence.annealed(program, X[:5], num_chains=2, num_steps=2, start="prior", progress=False)
    assert bool(prior.log_evidence.isfinite().all())


def test_an_auxiliary_site_is_refitted_with_what_is_computed_from_it():
    program = Program(model, AutoNormal(model))  # untrained: N(0, 0.1^2) for every datum
    refitted = pv.evidence.refit(program, X[:20], progress=False)
    elbo = pv.evidence.importance(refitted.program, refitted.x, 400, progress=False).elbo
    torch.testing.assert_close(elbo, dist.Normal(0.0, math.sqrt(1.25)).log_prob(X[:20]), rtol=0, atol=0.05)


def test_the_guide_of_rows_is_refitted():
    # The family holds the posterior: the gap is that of the rows alone.
    gaps = pv.analysis.gaps(Program(model, by_rows), X, 200, progress=False)
    assert bool((gaps.refitted_elbo - gaps.evidence.log_evidence > -0.05).all())
    assert bool((gaps.elbo - gaps.refitted_elbo <= 5 * gaps.amortisation_stderr + 0.01).all())


def test_simulated_data_are_given_back_as_the_data_are():
    sandwich = pv.evidence.sandwich(Program(model, by_rows), X, num_chains=2, num_steps=4, progress=False)
    assert isinstance(sandwich.x, torch.Tensor)
    assert sandwich.x.shape == X.shape


def test_a_support_that_a_delta_declares_is_not_compared():
    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    program = Program(counts, AutoNormal(counts))
    with pytest.raises(ProgramError, match=r"'z_unconstrained'.*auxiliary"):
        pv.evidence.sandwich(program, X.abs().round(), num_chains=2, num_steps=4, progress=False)


def _normal_guide(x, scale):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, scale))


@pytest.mark.parametrize(("factor", "log_density"), [(0.6, 0.0), (0.6, math.log(0.6)), (0.0, 0.0)])
def test_a_delta_whose_log_density_is_not_that_of_its_map_is_refused(factor, log_density):
    with pytest.raises(ProgramError, match=r"guide site 'z'.*log \|dz/da\|"):
        Program(model, auxiliary(factor, log_density)).check(X)


def test_an_auxiliary_site_that_nothing_is_computed_from_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.8 * x + 0.3 * a, 0.5))

    with pytest.raises(ProgramError, match="guide site 'a'"):
        Program(model, guide).check(X)


@pytest.mark.parametrize("where", ["distribution", "event", "handler"])
def test_nan_under_a_mask_leaves_densities_and_gradients_alone(where):
    seen = torch.rand(N, 3, generator=torch.Generator().manual_seed(5)) > 0.3
    filled = torch.randn(N, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def masked(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            there = ~x.isnan() if where != "handler" else ~x[:, 0].isnan()
            scale = pyro.param("scale", torch.tensor(1.0, dtype=x.dtype), constraint=constraints.positive)
            if where == "handler":
                with pyro.poutine.mask(mask=there):
                    pyro.sample("x", dist.Normal(z, scale), obs=x[:, 0])
            elif where == "event":
                pyro.sample(
                    "x", dist.Normal(z[..., None], scale).expand((*z.shape, 3)).mask(there).to_event(1), obs=x
                )
            else:
                whole = dist.Normal(z[..., None], scale).expand((*z.shape, 3)).to_event(1)
                pyro.sample("x", whole.mask(there.all(-1)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z",
                dist.Normal(x.nan_to_num(0.0).mean(-1), pyro.param("s", torch.tensor(0.7, dtype=x.dtype))),
            )

    x = torch.where(seen, filled, math.nan)
    program = Program(masked, guide)
    history = pv.fit(program, x, epochs=3, lr=0.05, progress=False)
    assert all(math.isfinite(epoch.train_elbo) for epoch in history.epochs)
    assert float(program.params["scale"].detach()) != 1.0
    e = pv.evidence.annealed(program, x[:20], num_chains=8, num_steps=20, progress=False)
    right = pv.evidence.quadrature(program, x[:20], progress=False).log_evidence
    assert bool(((e.log_evidence - right).abs() < 5 * e.stderr + 0.1).all())


def test_nan_that_is_not_masked_is_found():
    x = X.clone()
    x[3] = math.nan
    with pytest.raises((InputError, pv.errors.NonFiniteError), match="datum 3"):
        Program(model, lambda x: _normal_guide(x.nan_to_num(0.0), 0.6)).check(x)
