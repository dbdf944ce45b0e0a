"""What the tail of the weights may hide: little where a tail holds nothing, however heavy, and much where it does."""

import math

import pytest
import torch
from covering import slow_but

from ppl_vae.evidence.results.accumulator import Accumulator
from ppl_vae.evidence.results.pareto import diagnose, hidden_share, khat, tail_size
from ppl_vae.validation import MODELS


def of(log_weights):
    S = len(log_weights)
    tail = log_weights.topk(min(tail_size(S) + 1, S), dim=0).values.T
    return hidden_share(tail, S, log_weights.logsumexp(0))


def draws(S, n, seed=0):
    return torch.randn(S, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_a_pareto_tail_it_is_what_lies_beyond():
    """w = u**-k: beyond the largest of S lies S**(k - 1) of the sum, and k / (1 - k) times w_max / S."""
    u = torch.rand(4000, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for k in (0.3, 0.5, 0.7):
        found = of(-k * u.log()).median()
        truth = (1 - k) * 4000 ** (k - 1) * k / (1 - k)
        # One standard error is added, and the largest of three estimates taken.
        assert truth / 2 < found < 5 * truth, (k, found, truth)


def test_scale_and_order_do_not_matter():
    log_weights = 0.8 * draws(1000, 5)
    found = of(log_weights)
    torch.testing.assert_close(of(log_weights + 500.0), found)
    torch.testing.assert_close(of(log_weights.flip(0)), found)
    sums = Accumulator(5, 1000)
    sums.add(log_weights)
    torch.testing.assert_close(sums.finish().hidden, found)


@pytest.mark.parametrize("chunk", [1, 7, 640, 1000])
def test_it_is_the_same_whatever_the_chunks(chunk):
    log_weights = draws(1000, 3)
    sums = Accumulator(3, 1000)
    for part in log_weights.split(chunk):
        sums.add(part)
    whole = Accumulator(3, 1000)
    whole.add(log_weights)
    assert torch.equal(sums.finish().hidden, whole.finish().hidden)


def test_edge_cases():
    assert of(torch.zeros(1000, 2)).tolist() == [0.0, 0.0]  # no tail
    assert of(draws(20, 1)).isnan().all()  # too few for one
    nothing = torch.full((1000, 1), -math.inf, dtype=torch.float64)
    nothing[:4] = 0.0
    assert of(nothing).tolist() == [math.inf]
    bad = draws(1000, 1)
    bad[3] = math.nan
    assert of(bad).isnan().all()
    one = draws(1000, 1)
    one[0] = 50.0
    assert float(of(one)) > 1  # a single weight is all
    two_values = torch.where(torch.arange(1000) % 2 == 0, 0.0, -1.0).double()[:, None]
    assert float(of(two_values)) == 0.0


def test_one_fit_gives_both():
    log_weights = draws(2000, 6) * torch.linspace(0.2, 2.5, 6, dtype=torch.float64)
    tail = log_weights.topk(tail_size(2000) + 1, dim=0).values.T
    k, hidden = diagnose(tail, 2000, log_weights.logsumexp(0))
    assert torch.equal(k, khat(tail, 2000))
    assert torch.equal(hidden, hidden_share(tail, 2000, log_weights.logsumexp(0)))
    assert (hidden.diff() > 0).all()


@pytest.mark.statistical
def test_khat_rejects_what_hides_nothing():
    """A log-normal guide of a gamma posterior: k-hat far above 1, an error of 0.004, and a hidden share below 0.01."""
    model = MODELS["gamma-lognormal"](num_data=20)
    log_weights = model.program.log_weights(model.x, 5000, seed=0)
    tail = log_weights.topk(tail_size(5000) + 1, dim=0).values.T
    assert khat(tail, 5000).median() > 1
    assert of(log_weights).max() < 0.01


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name",
    slow_but(["narrower-guide"], ["narrow-guide", "narrower-guide", "gamma-lognormal", "student-t"]),
)
def test_it_covers_what_a_typical_estimate_is_short_of(name):
    """Means over 20 data and 20 seeds: the median shortfall is below the median of what may be hidden, and like it."""
    model = MODELS[name](num_data=20)
    short, hidden = [], []
    for seed in range(20):
        log_weights = model.program.log_weights(model.x, 1000, seed=seed)
        short.append(model.log_evidence - (log_weights.logsumexp(0) - math.log(1000)))
        hidden.append(of(log_weights).log1p())
    shortfall, bound = torch.cat(short).median(), torch.cat(hidden).median()
    print(f"{name}: short of {shortfall:.4f}, hidden {bound:.4f}")
    assert shortfall < bound < 0.003 + 12 * max(float(shortfall), 0.0)
