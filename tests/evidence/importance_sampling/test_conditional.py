"""Conditional evidence against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_entries import drawn, exact, gaussian, holes

import ppl_vae as pv
from ppl_vae import InputError

N = 200


@pytest.fixture(scope="module")
def world():
    vae = gaussian()
    x, mask = drawn(vae, N), holes((N, 8), 0.2)
    given = mask & holes((N, 8), 0.5, seed=4)
    data = {"x": torch.where(mask, x, math.nan), "mask": mask}
    truth = exact(vae, x, mask) - exact(vae, x, given)
    return vae, data, given, truth, pv.evidence.conditional(vae.program, data, given, 2000)


def test_it_is_the_exact_difference_within_its_error(world):
    _, data, given, truth, found = world
    some = (given != data["mask"]).any(1)
    assert ((found.stderr > 0) == some).all()
    scores = (found.value - truth)[some] / found.stderr[some]
    assert scores.abs().max() < 5
    assert 0.8 < scores.square().mean().sqrt() < 1.2
    assert abs(found.mean().value - float(truth.mean())) < 4 * found.mean().mc_stderr
    assert found.reliable.double().mean() > 0.95
    torch.testing.assert_close(found.value, found.log_joint - found.log_given)


def test_the_same_draws_make_the_error_small(world):
    vae, data, given, _, found = world
    apart = [
        pv.evidence.importance(vae.program, {**data, "mask": mask}, num_samples=2000).stderr
        for mask in (data["mask"], given)
    ]
    assert found.stderr.mean() < torch.stack(apart).square().sum(0).sqrt().mean()


def test_nothing_more_than_what_is_given_has_the_value_0(world):
    vae, data, *_ = world
    found = pv.evidence.conditional(vae.program, data, data["mask"], 50)
    assert (found.value == 0).all()
    assert (found.stderr == 0).all()


def test_a_tensor_is_data_without_holes(world):
    vae, *_ = world
    x, given = drawn(vae, 20), holes((20, 8), 0.5)
    found = pv.evidence.conditional(vae.program, x, given, 1000)
    whole = {"x": x, "mask": torch.ones_like(x, dtype=torch.bool)}
    assert torch.equal(found.value, pv.evidence.conditional(vae.program, whole, given, 1000).value)
    truth = exact(vae, x, torch.ones_like(given)) - exact(vae, x, given)
    assert ((found.value - truth).abs() < 5 * found.stderr).all()


def test_it_resumes_and_prints(world, tmp_path):
    vae, data, given, _, found = world
    path = tmp_path / "checkpoint"
    again = pv.evidence.conditional(vae.program, data, given, 2000, checkpoint=path)
    assert torch.equal(found.value, again.value)
    assert torch.equal(
        found.value,
        pv.evidence.conditional(vae.program, data, given, 2000, checkpoint=path, resume=True).value,
    )
    assert f"N = {N} data" in str(found)
    assert "nats" in str(found)
    assert len(found) == N


def test_a_program_with_a_mask_of_another_name():
    """Two numbers of a datum share z: x_1 given x_2 is normal with mean x_2 / 2 and variance 3 / 2."""

    def model(data):
        with pyro.plate("data", len(data["y"]), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = dist.Normal(z[..., None], torch.ones(2)).mask(data["seen"]).to_event(1)
            pyro.sample("y", p, obs=data["y"])

    def guide(data):
        with pyro.plate("data", len(data["y"]), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    data = {"y": torch.tensor([[1.0, 2.0], [0.0, -1.0]]), "seen": torch.ones(2, 2, dtype=torch.bool)}
    second = torch.tensor([[False, True]]).expand(2, 2)
    found = pv.evidence.conditional(pv.Program(model, guide), data, {"seen": second}, 4000)
    truth = dist.Normal(data["y"][:, 1] / 2, math.sqrt(1.5)).log_prob(data["y"][:, 0])
    assert ((found.value - truth).abs() < 5 * found.stderr).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.ones(N, 8), ["bool"]),
        (torch.ones(N, 8, dtype=torch.bool), ["observed in x", "datum"]),
        (torch.ones(N, 7, dtype=torch.bool), ["(200, 8)"]),
        (torch.ones(3, 8, dtype=torch.bool), ["200 data"]),
        ({"seen": torch.ones(N, 8, dtype=torch.bool)}, ["'seen'"]),
        ([True], ["given", "[True]"]),
    ],
)
def test_what_is_not_a_part_is_refused(world, given, words):
    vae, data, *_ = world
    with pytest.raises(InputError) as caught:
        pv.evidence.conditional(vae.program, data, given, 10)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(InputError, match="num_samples: expected at least 2"):
        pv.evidence.conditional(vae.program, data, world[2], 1)
