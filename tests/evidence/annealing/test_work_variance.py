"""The variance that steps let expect: of sums of independent and of correlated increments, and where there is none."""

import math

import pytest
import torch

from ppl_vae.evidence.annealing.work_variance import PARTS, Increments


def variance_of(steps):
    tracked = Increments(len(steps))
    for step in steps:
        tracked.add(step)
    return -tracked.expected_share().log()


@pytest.mark.statistical
@pytest.mark.parametrize("num_steps", [7, 100, 1000])
def test_independent_increments(num_steps):
    """2,000 data of 16 chains: the mean of V within 4 standard errors of the variance (fails: 1 seed in 15,000)."""
    generator = torch.Generator().manual_seed(num_steps)
    steps = torch.randn(num_steps, 16, 2000, generator=generator, dtype=torch.float64) / num_steps**0.5
    V = variance_of(steps)
    # V is clamped at 0, which 32 parts of 16 chains each never get to.
    assert abs(float(V.mean()) - 1) < 4 * float(V.std()) / 2000**0.5
    if num_steps >= PARTS:
        assert float(V.std()) < 0.6 * float(steps.sum(0).var(0).std())


@pytest.mark.statistical
def test_correlated_increments():
    """Autoregressive steps, rho = 0.7, 320 of them: V is that of the sum to 5 %, where independence gives a fifth."""
    generator = torch.Generator().manual_seed(3)
    steps, at = [], torch.zeros(16, 2000, dtype=torch.float64)
    for _ in range(320):
        at = 0.7 * at + torch.randn(16, 2000, generator=generator, dtype=torch.float64) / 50
        steps.append(at)
    expected = float(torch.stack(steps).sum(0).var())
    assert float(variance_of(steps).mean()) == pytest.approx(expected, rel=0.05)
    assert float(torch.stack(steps).var(1).sum(0).mean()) < 0.3 * expected


def test_edges_and_state():
    one = Increments(3)
    one.add(torch.ones(1, 2, dtype=torch.float64))
    assert one.expected_share().isnan().all()
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(50, 4, 3, generator=generator, dtype=torch.float64)
    whole, first = Increments(50), Increments(50)
    for step in steps:
        whole.add(step)
    for step in steps[:23]:
        first.add(step)
    second = Increments(50)
    second.restore(
        {name.removeprefix("increments/"): v for name, v in first.state().items()}, torch.device("cpu")
    )
    for step in steps[23:]:
        second.add(step)
    assert torch.equal(second.expected_share(), whole.expected_share())
    steps[4, 1, 2] = -math.inf
    broken = variance_of(steps)
    assert broken[:2].isfinite().all()
    assert not broken[2].isfinite()
