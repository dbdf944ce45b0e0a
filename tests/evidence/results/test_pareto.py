"""The tail fit against arviz_stats, against tails of known shape, and at its edges."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

from ppl_vae.errors import InputError
from ppl_vae.evidence.results.pareto import fit_generalised_pareto, khat, khat_threshold, tail_size


def tail_of(log_weights):
    """(S, N) log weights -> the input of `khat`."""
    S = len(log_weights)
    return log_weights.topk(min(tail_size(S) + 1, S), dim=0).values.T


def shapes(S, seed=0):
    """(S, N) log weights of many tails, heavy, light and bounded."""
    r = np.random.default_rng(seed)
    columns = [
        *(scale * r.standard_normal(S) for scale in (0.01, 0.3, 1, 2, 5, 30)),
        *(k * r.standard_exponential(S) for k in (0.1, 0.3, 0.5, 0.7, 1.0, 2.0)),  # Pareto weights of shape k
        np.log(r.random(S)),
        np.log(r.gamma(3.0, size=S)),
        -(r.standard_normal(S) ** 2),
        r.standard_t(3, size=S) - 500,
        r.standard_normal(S) + 1e4,
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def test_tail_size_is_the_papers_rule():
    for S in range(1, 3000):
        exact = min(math.ceil(S / 5), math.ceil(math.sqrt(9 * S) - 1e-12))
        assert tail_size(S) == exact
    assert [tail_size(S) for S in (1, 20, 21, 100, 225, 900, 10_000)] == [1, 4, 5, 20, 45, 90, 300]


def test_threshold():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(2200) == pytest.approx(0.7, abs=1e-3)
    assert khat_threshold(10**6) == 0.7
    assert khat_threshold(10) == 0
    assert khat_threshold(1) == -math.inf
    with pytest.raises(InputError):
        khat_threshold(0)


@pytest.mark.parametrize("S", [25, 100, 225, 400, 900, 2500, 10_000])
def test_agrees_with_arviz(S):
    # Sizes at which arviz's floor and our ceiling of M are the same. Its psislw negates what it is given.
    lw = shapes(S)
    reference = array_stats.psislw(-lw.T.numpy())[1]
    np.testing.assert_allclose(khat(tail_of(lw), S).numpy(), reference, rtol=1e-9, atol=1e-9)


def test_differs_from_arviz_by_one_tail_draw_where_it_rounds_down():
    lw = shapes(1000)  # M = 95 here, 94 there
    reference = array_stats.psislw(-lw.T.numpy())[1]
    np.testing.assert_allclose(khat(tail_of(lw), 1000).numpy(), reference, atol=0.1, rtol=0.05)


@pytest.mark.statistical
@pytest.mark.parametrize("k", [-0.5, -0.1, 0.0, 0.3, 0.7, 1.0, 2.0])
def test_the_fit_finds_the_shape_of_generalised_pareto_draws(k):
    """Asymptotic sd of k-hat: (1 + |k|) / sqrt(n) at most. 5 of them for the mean of 50: one seed in 10^6."""
    n, N, sigma = 2000, 50, 3.0
    u = np.random.default_rng(1).random((N, n))
    x = -sigma * np.log(u) if k == 0 else sigma * (u**-k - 1) / k
    fitted, scale = fit_generalised_pareto(torch.from_numpy(x))
    tolerance = 5 * (1 + abs(k)) / math.sqrt(n * N) + 5 / n  # and a bias of order 1 / n
    assert abs(float(fitted.mean()) - k) < tolerance
    assert float(scale.mean()) == pytest.approx(sigma, rel=0.03)
    assert float(fitted.std()) < 2 * (1 + abs(k)) / math.sqrt(n)


@pytest.mark.statistical
def test_khat_finds_the_index_of_pareto_weights():
    """Weights U^-k have tail index k, and the prior pulls it to 0.5. 5 standard errors: one seed in 10^6."""
    S, N = 10_000, 40
    M = tail_size(S)
    generator = torch.Generator().manual_seed(0)
    for k in (0.2, 0.5, 0.9):
        lw = -k * torch.rand(S, N, generator=generator, dtype=torch.float64).log()
        expected = (M * k + 5) / (M + 10)
        assert abs(float(khat(tail_of(lw), S).mean()) - expected) < 5 * (1 + k) / math.sqrt(M * N) + 0.01


def test_the_fit_scales_with_its_unit():
    x = torch.rand(3, 100, dtype=torch.float64) ** -0.5 - 1
    k, sigma = fit_generalised_pareto(x)
    for unit in (1e-200, 1e-5, 1e200):
        k2, sigma2 = fit_generalised_pareto(unit * x)
        torch.testing.assert_close(k, k2, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sigma * unit, sigma2, rtol=1e-9, atol=0)


def test_the_fit_does_not_mix_data_or_mind_zeros_and_order():
    x = torch.rand(4, 60, dtype=torch.float64) ** -0.7 - 1
    together = fit_generalised_pareto(x)
    alone = [fit_generalised_pareto(row[None]) for row in x]
    for part in (0, 1):
        separate = torch.cat([pair[part] for pair in alone])
        torch.testing.assert_close(together[part], separate, rtol=1e-12, atol=0)
    mixed = torch.cat([torch.zeros(4, 9, dtype=torch.float64), x], dim=1)[:, torch.randperm(69)]
    padded = fit_generalised_pareto(mixed)
    torch.testing.assert_close(padded[0], together[0], rtol=1e-10, atol=1e-10)
    few = fit_generalised_pareto(torch.tensor([[0.0, 0, 1, 2, 3, 4]], dtype=torch.float64))
    assert few[0].isnan().all()
    assert few[1].isnan().all()


@pytest.mark.parametrize("c", [1e4, -1e4])
def test_a_constant_factor_changes_nothing(c):
    lw = shapes(400)
    torch.testing.assert_close(khat(tail_of(lw + c), 400), khat(tail_of(lw), 400), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("S", [1, 5, 20])
def test_too_few_samples_for_a_tail(S):
    assert khat(tail_of(shapes(S)), S).isnan().all()


def test_no_tail_at_all():
    for noise in (0.0, 1e-13, 1e-8):
        lw = -90 + noise * torch.randn(1000, 3, dtype=torch.float64)
        assert (khat(tail_of(lw), 1000) == -math.inf).all()
    # A float32 network with the exact posterior: a few units in the last place.
    lw = (torch.full((1000, 3), -90.0) + 1e-5 * torch.randn(1000, 3)).double()
    assert (khat(tail_of(lw), 1000) < 0).all()


def test_tails_that_span_more_than_a_float():
    r = torch.Generator().manual_seed(0)
    lw = torch.tensor([300.0, 1e3, 1e4]).double() * torch.randn(2000, 3, generator=r, dtype=torch.float64)
    k = khat(tail_of(lw), 2000)
    assert k.isfinite().all()
    assert (k > 30).all()


def test_zero_weights_and_ties():
    S = 1000
    M = tail_size(S)
    lw = torch.full((S, 6), -math.inf, dtype=torch.float64)
    r = torch.Generator().manual_seed(0)
    lw[:50, 0] = torch.randn(50, generator=r, dtype=torch.float64)  # a cut-off of zero, 50 above it
    lw[:3, 1] = torch.tensor([0.0, 1.0, -1.0])  # next to nothing above zero
    lw[:, 3] = torch.randn(S, generator=r, dtype=torch.float64)  # column 2 stays without any density
    lw[:, 4] = 0.0
    lw[:3, 4] = torch.tensor([0.1, 0.2, 0.3])  # three above a tie
    lw[:, 5] = torch.where(
        torch.rand(S, generator=r) < 0.5, 0.0, -1.0
    ).double()  # two states, as discrete latents
    k = khat(tail_of(lw), S)
    shape = fit_generalised_pareto(lw[:50, :1].exp().T)[0]
    torch.testing.assert_close(k[:1], (50 * shape + 5) / 60, rtol=1e-9, atol=0)
    assert k[1] == math.inf
    assert k[2].isnan()
    assert k[3].isfinite()
    assert k[4].isnan()
    assert k[5] == -math.inf
    assert M == 95


def test_nan_stays_nan_and_shapes_are_checked():
    tail = tail_of(shapes(100))
    tail[2, 4] = math.nan
    assert khat(tail, 100).isnan().nonzero().tolist() == [[2]]
    with pytest.raises(InputError, match=r"\(N, 21\)"):
        khat(tail[:, :-1], 100)
    with pytest.raises(InputError, match="num_samples"):
        khat(tail, 0)
