"""The jackknife against its definition in extended precision, and its bias against exact expectations."""

import math
from itertools import pairwise

import exact_models as models
import numpy as np
import pytest
import torch
from scipy import stats

from ppl_vae import files
from ppl_vae.evidence import importance, jackknife
from ppl_vae.evidence.importance_sampling.jackknife import LeaveOneOut, LeaveTwoOut
from ppl_vae.evidence.results.accumulator import Accumulator

ORDERS = {1: LeaveOneOut, 2: LeaveTwoOut}


def draws(S, N=2, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(S, N, generator=generator, dtype=torch.float64) - 30


def estimate(log_weights, order, cuts=()):
    S, N = log_weights.shape
    sums = ORDERS[order](N, S)
    for start, stop in pairwise([0, *sorted(cuts), S]):
        sums.add(log_weights[start:stop])
    return sums.finish().log_evidence


def log_mean_exp(log_weights):
    largest = log_weights.max(0)
    return largest + np.log(np.exp(log_weights - largest).mean(0))


def by_definition(log_weights, order):
    """Every subset left out, in 80 bits: the sums cancel to S**2 times fewer digits than they have."""
    lw = log_weights.numpy().astype(np.longdouble)
    S = np.longdouble(len(lw))
    without = np.mean([log_mean_exp(np.delete(lw, i, 0)) for i in range(len(lw))], axis=0)
    if order == 1:
        return S * log_mean_exp(lw) - (S - 1) * without
    pairs = [(i, j) for i in range(len(lw)) for j in range(i + 1, len(lw))]
    without_two = np.mean([log_mean_exp(np.delete(lw, pair, 0)) for pair in pairs], axis=0)
    return S**2 / 2 * log_mean_exp(lw) - (S - 1) ** 2 * without + (S - 2) ** 2 / 2 * without_two


def close(ours, exact, tolerance=1e-12):
    np.testing.assert_allclose(ours.numpy(), exact.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("S", [2, 3, 4, 20, 33, 65, 100])
@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_definition(order, S, scale):
    """At a scale of 100 nats one weight is all of the sum but for 1e-20, and what is left without it still counts."""
    if order >= S:
        return
    lw = draws(S, scale=scale)
    close(estimate(lw, order, cuts=[S // 3]), by_definition(lw, order))


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_equals_the_definition_where_most_weights_are_in_power_sums(scale):
    """1,500 weights, a million pairs, written out: log(1 - p_i - p_j) in 80 bits."""
    lw = draws(1500, N=1, scale=scale)
    S = np.longdouble(len(lw))
    w = lw[:, 0].numpy().astype(np.longdouble)
    w = np.exp(w - w.max())
    L = np.log(w.mean()) + np.longdouble(lw.max().item())
    p = w / w.sum()
    without = np.log1p(-p).mean() - np.log1p(-1 / S)  # less L, as the next
    pairs = sum(np.log1p(-p[i] - p[i + 1 :]).sum() for i in range(len(p) - 1))
    without_two = pairs / (S * (S - 1) / 2) - np.log1p(-2 / S)
    close(estimate(lw, 1), np.array([L - (S - 1) * without]))
    close(estimate(lw, 2), np.array([L - (S - 1) ** 2 * without + (S - 2) ** 2 / 2 * without_two]))


@pytest.mark.parametrize("order", ORDERS)
def test_any_chunking_and_a_state_give_the_same_bits(order, tmp_path):
    lw = draws(1000, N=3, scale=3.0)
    whole = estimate(lw, order)
    assert torch.equal(estimate(lw, order, cuts=[1, 77, 500, 501]), whole)
    sums = ORDERS[order](3, 1000)
    sums.add(lw[:450])
    files.write_tensors(tmp_path / "state.safetensors", sums.state())
    again = ORDERS[order].from_state(files.read_tensors(tmp_path / "state.safetensors")[0])
    again.add(lw[450:])
    assert torch.equal(again.finish().log_evidence, whole)
    assert torch.equal(again.finish().log_evidence, whole)


@pytest.mark.parametrize("order", ORDERS)
def test_all_but_the_estimate_is_what_importance_sampling_gives(order):
    lw = draws(700, N=4, scale=2.0)
    plain, ours = Accumulator(4, 700), ORDERS[order](4, 700)
    plain.add(lw)
    ours.add(lw)
    a, b = plain.finish(), ours.finish()
    for name in ("stderr", "elbo", "elbo_stderr", "ess", "khat", "curve_bound", "curve_stderr"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
    assert (a.log_evidence != b.log_evidence).all()


def test_memory_is_flat():
    def numbers(S):
        return sum(value.numel() for value in LeaveTwoOut(1, S).state().values())

    assert numbers(10**7) < 40 * numbers(10**4)


@pytest.mark.parametrize("c", [1e4, -1e4])
@pytest.mark.parametrize("order", ORDERS)
def test_a_constant_factor_shifts_and_nothing_else(order, c):
    lw = draws(300, scale=2.0)
    torch.testing.assert_close(estimate(lw + c, order), estimate(lw, order) + c, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_weights_of_zero(order):
    """Zeros count as samples; where leaving out leaves nothing, the plain estimate is what there is."""
    lw = draws(90, N=5)
    lw[:40, 1] = -math.inf
    lw[3:, 2] = -math.inf
    lw[1:, 3] = -math.inf  # one weight
    lw[:, 4] = -math.inf  # none
    found = estimate(lw, order)
    finite = lw[:, :3].clamp(min=-1e4)  # zero in 80 bits as well
    close(found[:3], by_definition(finite, order))
    assert float(found[3]) == pytest.approx(float(lw[0, 3]) - math.log(90), abs=1e-12)
    assert found[4] == -math.inf


def exact_bias(S, order, a=0.9):
    """E[estimate] - log E[w] for weights 1 - a and 1 + a, each with probability 1/2: a sum over S + 1 cases."""
    high = torch.arange(S)[:, None] < torch.arange(S + 1)
    lw = torch.where(
        high, torch.tensor(1 + a, dtype=torch.float64), torch.tensor(1 - a, dtype=torch.float64)
    ).log()
    if order:
        values = estimate(lw, order)
    else:
        sums = Accumulator(S + 1, S)
        sums.add(lw)
        values = sums.finish().log_evidence
    return float(stats.binom(S, 0.5).pmf(np.arange(S + 1)) @ values.numpy())


def test_the_bias_is_of_order_one_two_and_three():
    """No sampling: expectations over all outcomes. Twice the samples make it 2, 4 and 8 times smaller."""
    sizes = (64, 128, 256)
    for order in (0, 1, 2):
        biases = [exact_bias(S, order) for S in sizes]
        print(
            f"order {order}:",
            ", ".join(f"S = {S}: {bias:+.2e}" for S, bias in zip(sizes, biases, strict=True)),
        )
        for before, after in pairwise(biases):
            assert math.log2(before / after) == pytest.approx(order + 1, abs=0.15)
    assert exact_bias(64, 0) == pytest.approx(-(0.9**2) / (2 * 64), rel=0.05)


@pytest.mark.statistical
def test_the_bias_of_a_program_is_removed():
    """40,000 estimates of 16 samples: the plain bias is 15 standard errors, the jackknife's no more than 4.

    Beyond 4 standard errors (6 seeds in 100,000) the tolerance has the size of the next order: (V / S)**2, (V / S)**3.
    """
    exact = models.normal_normal([1.7], widen=1.3, shift=0.8)
    x = exact.x.expand(40_000).clone()
    V = 1.3**2 / math.sqrt(2 * 1.3**2 - 1) * math.exp(0.8**2 / (2 * 1.3**2 - 1)) - 1
    S = 16
    errors = {}
    for order in (0, 1, 2):
        found = (
            importance(exact.program, x, S, seed=3)
            if order == 0
            else jackknife(exact.program, x, S, order, seed=3)
        )
        error = found.log_evidence - exact.log_evidence
        errors[order] = float(error.mean()), float(error.std()) / 200
        print(
            f"order {order}: bias {errors[order][0]:+.5f} ± {errors[order][1]:.5f}, sd {float(error.std()):.4f}"
        )
    assert errors[0][0] == pytest.approx(-V / (2 * S), rel=0.25)
    assert errors[0][0] < -10 * errors[0][1]
    assert abs(errors[1][0]) < 4 * errors[1][1] + (V / S) ** 2
    assert abs(errors[2][0]) < 4 * errors[2][1] + 2 * (V / S) ** 3
