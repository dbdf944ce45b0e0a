"""Imputation: weighted draws of missing numbers against the exact conditional distribution."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_entries import drawn, gaussian, holed, holes

import ppl_vae as pv
from ppl_vae import InputError
from ppl_vae.imputation import Imputed


def exact_means(vae, x, mask):
    """E[x_missing | x_observed] of a linear Gaussian model."""
    with torch.no_grad():
        origin = vae.decode(torch.zeros(vae.latent_dim).double())
        W = (vae.decode(torch.eye(vae.latent_dim).double()).mean - origin.mean).T
        b, covariance = origin.mean, W @ W.T + torch.diag(origin.variance)
        found = x.clone()
        for row, seen, out in zip(x, mask, found, strict=True):
            gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
            out[~seen] = b[~seen] + gain @ (row[seen] - b[seen])
    return found


@pytest.fixture(scope="module")
def world():
    vae = gaussian()
    data = holed(vae, 600, 0.4)
    return vae, drawn(vae, 600), data, pv.impute(vae, data, 1000)


def test_shapes_and_what_was_observed(world):
    _, x, data, found = world
    mask = data["mask"]
    assert found.draws.shape == (1000, 600, 8)
    assert found.log_weights.shape == (1000, 600)
    assert torch.equal(found.mask, mask)
    assert torch.equal(found.draws[:, mask], x[mask].expand(1000, -1))
    assert found.draws.isfinite().all()
    torch.testing.assert_close(found.weights.sum(0), torch.ones(600).double())
    assert (found.ess >= 1).all()
    assert (found.ess <= 1000 + 1e-6).all()


def test_means_are_the_conditional_means(world):
    vae, x, data, found = world
    error = found.mean - exact_means(vae, x, data["mask"])
    weights = found.weights[..., None]
    stderr = (weights.square() * (found.draws - found.mean).square()).sum(0).sqrt()
    assert not error[data["mask"]].any()
    scores = (error / stderr)[~data["mask"]]
    assert abs(scores.square().mean() - 1) < 0.3  # numbers of one datum share their latents
    assert scores.abs().max() < 5.5


def test_intervals_cover(world):
    _, x, data, found = world
    low, high = found.interval(0.95)
    inside = ((low <= x) & (x <= high))[~data["mask"]].double().mean()
    assert 0.93 <= inside <= 0.97
    assert torch.equal(low[data["mask"]], x[data["mask"]])
    narrow = found.interval(0.5)
    assert ((low <= narrow[0]) & (narrow[1] <= high)).all()
    assert 0.45 <= ((narrow[0] <= x) & (x <= narrow[1]))[~data["mask"]].double().mean() <= 0.55


def test_resampled_draws_have_the_weighted_mean(world):
    _, _, data, found = world
    draws = found.resample(800, seed=1)
    assert draws.shape == (800, 600, 8)
    error = ((draws.mean(0) - found.mean) / (draws.std(0) / math.sqrt(800)))[~data["mask"]]
    assert error.abs().max() < 5.5
    assert torch.equal(draws, found.resample(800, seed=1))


def test_data_are_cut_into_parts(monkeypatch):
    vae = gaussian()
    data = holed(vae, 9)
    monkeypatch.setattr("ppl_vae.imputation._NUMBERS", 20 * 10 * 4)
    found = pv.impute(vae, data, 20)
    assert found.draws.shape == (20, 9, 8)
    again = pv.impute(vae, data, 20)
    assert torch.equal(found.draws, again.draws)
    assert not torch.equal(found.draws, pv.impute(vae, data, 20, seed=1).draws)


def test_a_program_by_hand():
    """x ~ N(z, 1) for two numbers of a datum, of which the second is missing at times."""

    def model(data):
        with pyro.plate("data", len(data["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=data["y"])
            p = dist.Normal(z[..., None], torch.ones(2)).mask(data["mask"]).to_event(1)
            pyro.sample("x", p, obs=data["x"])

    def guide(data):
        with pyro.plate("data", len(data["x"]), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    mask = torch.tensor([[True, False], [True, True], [False, False]])
    x = torch.tensor([[1.0, math.nan], [0.5, 0.2], [math.nan, math.nan]])
    program = pv.Program(model, guide)
    found = pv.impute(program, {"x": x, "mask": mask, "y": torch.zeros(3)}, 20000)
    assert torch.equal(found.mask, mask)
    assert torch.equal(found.mean[mask], x[mask])
    expected = torch.tensor([1 / 3, 0.0, 0.0])
    torch.testing.assert_close(found.mean[~mask], expected, atol=0.06, rtol=0)
    whole = pv.impute(program, {"x": x, "mask": mask, "y": torch.zeros(3)}, 5, site="y")
    assert whole.mask.all()
    with pytest.raises(InputError, match="site: expected an observed site of the model: y, x"):
        pv.impute(program, {"x": x, "mask": mask, "y": torch.zeros(3)}, 5, site="z")


def test_refusals(world):
    vae, _, data, found = world
    with pytest.raises(InputError, match="target"):
        pv.impute(len, data)
    with pytest.raises(InputError, match="num_samples"):
        pv.impute(vae, data, 0)
    with pytest.raises(InputError, match="level"):
        found.interval(95)
    with pytest.raises(InputError, match="bool"):
        pv.impute(vae, {**data, "mask": holes((600, 8)).double()})


def test_weights_decide():
    """Two draws of unequal weight: mean, interval and resampling follow the weights."""
    draws = torch.tensor([[[0.0]], [[1.0]]])
    found = Imputed(
        draws, torch.tensor([[0.0], [math.log(3.0)]]).double(), torch.zeros(1, 1, dtype=torch.bool)
    )
    assert found.mean.item() == 0.75
    assert found.ess.item() == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert [end.item() for end in found.interval(0.4)] == [1.0, 1.0]
    assert [end.item() for end in found.interval(0.6)] == [0.0, 1.0]
    assert abs(found.resample(4000).mean() - 0.75) < 0.04
