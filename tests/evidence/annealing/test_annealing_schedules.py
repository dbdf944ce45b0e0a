"""Schedules rise from 0 to 1, and the equalised one does what it says."""

import pytest
import torch

from ppl_vae import InputError
from ppl_vae.evidence.annealing import schedules


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid])
def test_rise_from_0_to_1(make, num_steps):
    beta = make(num_steps)
    assert beta.shape == (num_steps + 1,)
    assert beta.dtype == torch.float64
    assert float(beta[0]) == 0
    assert float(beta[-1]) == 1
    assert (beta.diff() > 0).all()


def test_the_sigmoid_is_dense_at_both_ends_and_symmetric():
    beta = schedules.sigmoid(100)
    steps = beta.diff()
    torch.testing.assert_close(steps, steps.flip(0), rtol=1e-6, atol=1e-12)
    assert steps[0] < steps[50] / 5
    assert schedules.sigmoid(100, delta=1.0).diff()[0] > steps[0]


def test_equalised_steps_have_the_same_spread():
    """sd(b) = 1 / (b + 0.01), known at 200 temperatures: the integral of sd over every step is the same."""
    at = schedules.sigmoid(200)
    spread = (1 / (at + 0.01))[:, None].expand(-1, 3)
    beta = schedules.equalised(spread, at, 20)
    assert beta.shape == (21, 3)
    assert (beta.diff(dim=0) > 0).all()
    # The floor under the spread adds a twentieth of its mean.
    floor = 0.05 * float(spread[:, 0].mean())
    cost = torch.log((beta[1:] + 0.01) / (beta[:-1] + 0.01)) + floor * beta.diff(dim=0)
    assert float(cost.std() / cost.mean()) < 0.02


def test_a_pilot_that_saw_nothing_gives_equal_steps():
    beta = schedules.equalised(torch.zeros(11, 2), schedules.linear(10), 5)
    torch.testing.assert_close(beta[:, 0], schedules.linear(5), rtol=0, atol=1e-9)


def test_resolve():
    at, rising = schedules.sigmoid(200), torch.tensor([0.0, 0.2, 0.2, 1.0])
    spread = (1 / (at + 0.01))[:, None].expand(-1, 3)
    for given, expected in (
        ("linear", schedules.linear(3)),
        ("sigmoid", schedules.sigmoid(3)),
        (schedules.Sigmoid(2.0), schedules.sigmoid(3, 2.0)),
        ("pilot", schedules.equalised(spread, at, 3)),
        (rising, rising.double()),
    ):
        assert torch.equal(schedules.resolve(given, 3).temperatures(3, spread, at), expected)
    tensors = (rising[:3], rising.flip(0), rising * 0.5)
    for bad in ("wave", *tensors, 4, None, [0.0, 1.0], schedules.Linear, object()):
        with pytest.raises(InputError, match="schedule"):
            schedules.resolve(bad, 3)
    for bad in (0, -1.0, float("inf"), True, "4"):
        with pytest.raises(InputError, match="delta"):
            schedules.sigmoid(3, bad)
        with pytest.raises(InputError, match="delta"):
            schedules.Sigmoid(bad)
