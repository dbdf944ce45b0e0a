"""Data and latents simulated from the model."""

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs_by_hand import CASES, X1, N, OneLatent, split_guide, split_model

from ppl_vae import Program, ProgramError


def test_simulated_latents_are_exact_posterior_draws():
    """z standardised by p(z|x') is standard normal and knows nothing of x'. 4 errors, 3 figures: 2 in 10,000 seeds."""
    n = 20_000
    exact = models.normal_normal(torch.zeros(n))
    z, x = exact.program.simulate(exact.x, seed=2)
    assert z["z"].shape == (1, n)
    variance = 1 / (1 / 2.0**2 + 1 / 0.8**2)
    score = (z["z"][0] - variance * (0.5 / 2.0**2 + x / 0.8**2)) / variance**0.5
    assert abs(score.mean()) < 4 / n**0.5
    assert abs(score.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((score * (x - x.mean()) / x.std()).mean()) < 4 / n**0.5
    assert abs(x.var() - (2.0**2 + 0.8**2)) < 4 * (2 / n) ** 0.5 * (2.0**2 + 0.8**2)


def test_simulation_keeps_covariates_and_replaces_observations():
    case = CASES["Covariates"]
    before = {name: value.clone() for name, value in case.x.items()}
    z, x = Program(case.model, case.guide).simulate(case.x, seed=1)
    assert z["z"].shape == (1, N, 2)
    assert torch.equal(x["size"], case.x["size"])
    assert torch.equal(x["label"], case.x["label"])
    assert not torch.equal(x["counts"], case.x["counts"])
    assert x["counts"].shape == case.x["counts"].shape
    assert all(
        torch.equal(case.x[name], before[name]) for name in before
    )  # the data given are not written to
    assert torch.isfinite(Program(case.model, case.guide).log_joint(z, x)).all()


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "part of a larger tensor"])
def test_slices_observed_apart_are_written_back_to_their_places(layout):
    x = {
        "contiguous": torch.zeros(N, 5),
        "transposed": torch.zeros(5, N).T,
        "part of a larger tensor": torch.zeros(3 * N, 9)[N : 2 * N, 2:7],
    }[layout].double()
    z, drawn = Program(split_model, split_guide).simulate(x)
    assert drawn.shape == (N, 5)
    torch.testing.assert_close(drawn[:, :3] - 100, z["z"][0][:, None].expand(N, 3), rtol=0, atol=0.6)
    torch.testing.assert_close(drawn[:, 3:] + 100, z["z"][0][:, None].expand(N, 2), rtol=0, atol=0.6)
    assert (x == 0).all()


def test_entries_that_share_memory_are_told_apart():
    both = torch.zeros(2, N, 3).double()

    def model(x):
        with pyro.plate("data", N, dim=-1):
            z = pyro.sample("z", dist.Normal(x["covariate"].new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z.unsqueeze(-1) + x["covariate"], 1.0).to_event(1), obs=x["seen"])

    def guide(x):
        with pyro.plate("data", N, dim=-1):
            pyro.sample("z", dist.Normal(x["seen"][:, 0], 1.0))

    _, drawn = Program(model, guide).simulate({"covariate": both[0], "seen": both[1]})
    assert (drawn["covariate"] == 0).all()
    assert (drawn["seen"] != 0).all()


def test_simulation_refuses_observations_that_it_cannot_find():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("logs", dist.Normal(z, 1.0), obs=x.exp())

    with pytest.raises(ProgramError, match=r"observed site 'logs'.*computed"):
        Program(model, OneLatent().guide).simulate(X1)
