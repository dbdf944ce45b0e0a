"""Pareto k-hat: a diagnostic of whether the number of samples is large enough for a reliable mean of the weights.

A generalised Pareto distribution is fitted to the largest importance weights of each datum. Its shape k gives the
number of moments of the weights (moments of order below 1/k exist). Above a threshold that depends on the number of
samples S, neither the estimate nor its standard error is reliable.

Sources: Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024); the fit
is that of Zhang & Stephens, "A new and efficient estimation method for the generalized Pareto distribution",
Technometrics 51 (2009).

All computations use logarithms. The tails of a poor guide span thousands of nats, and their exceedances would underflow
without logarithms, exactly for the data that need the diagnostic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_positive_int, describe

MIN_TAIL = 5
"""The smallest number of draws for a fit of the tail."""

ROUND_OFF = 1e-6
"""Tail log weights that differ by at most ``ROUND_OFF * max(1, |largest|)`` nats count as equal.

This is about 8 units in the last place of float32: with an exact posterior, the log weights of a float32 network differ
by this much, and a fit to this noise would be meaningless. A real tail of this length changes the estimate by no more
than this.
"""

_PRIOR_DRAWS, _PRIOR_K = 10, 0.5
_TOP = 10  # number of largest weights from which the index at the end of the tail is estimated
_MOST, _MOST_FITTED = 0.9, 0.8  # the largest k with which a tail is continued


def tail_size(num_samples: int) -> int:
    """The number of draws in the tail, M = ceil(min(S / 5, 3 sqrt(S))), in exact integer arithmetic."""
    return min(-(-num_samples // 5), math.isqrt(9 * num_samples - 1) + 1)


def khat_threshold(num_samples: int) -> float:
    """The largest k-hat at which S samples are reliable, min(1 - 1 / log10(S), 0.7); -inf for S = 1."""
    check_positive_int("num_samples", num_samples)
    return -math.inf if num_samples == 1 else min(1 - 1 / math.log10(num_samples), 0.7)


def fit_generalised_pareto(exceedances: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a generalised Pareto distribution to each row by the method of Zhang & Stephens (2009).

    The density is ``(1/sigma) (1 + k x / sigma) ** (-1/k - 1)`` on x > 0: k > 0 is a heavy tail, k = 0 the
    exponential, k < 0 a bounded one. The estimate is a posterior mean over a grid of 30 + sqrt(n) values, and
    consistent for every k; no prior on k is applied here (`khat` does).

    Args:
        exceedances: ``(N, n)``, each draw minus the cut-off; zeros are not exceedances and are left out.

    Returns:
        k and sigma, float64 ``(N,)``; NaN if fewer than 5 exceedances are above zero.
    """
    shape, log_scale = _fit(exceedances.detach().to(torch.float64).log().sort(dim=1).values)
    return shape, log_scale.exp()


def khat(log_tail: Tensor, num_samples: int) -> Tensor:
    """The Pareto shape k-hat of the weights of each datum, from the largest weights.

    ``k-hat = (n k + 10 * 0.5) / (n + 10)``. Here k is fitted to the n exceedances of the M largest weights above the
    next largest, and the other terms are the weak prior of Vehtari et al. The result equals that of R's loo.
    `arviz_stats` rounds M down, while loo and this function round it up; for the same M it agrees to round-off.

    Edge cases for each datum:

    - M < 5 (S <= 20): NaN, since there are too few draws for a diagnostic.
    - The M largest weights are equal within `ROUND_OFF`: -inf. There is no tail, as with an exact posterior.
    - Draws equal to the cut-off (discrete latents, or weights of zero if the cut-off is zero) are not exceedances, and
      are left out. If fewer than 5 are left: NaN. If this is because fewer than 5 of all S weights are above zero:
      +inf, since the estimate depends on very few samples.
    - All weights zero: NaN. NaN among the log weights: NaN.

    Args:
        log_tail: ``(N, min(M + 1, S))`` the largest log weights of each datum, in any order; M is
            ``tail_size(S)``.
        num_samples: S, the total number of samples.

    Returns:
        float64 ``(N,)``, without unit. Compare it with `khat_threshold`.

    Raises:
        InputError: if ``log_tail`` has another shape.
    """
    return diagnose(log_tail, num_samples, log_tail[:, 0].double())[0]


def hidden_share(log_tail: Tensor, num_samples: int, log_sum: Tensor) -> Tensor:
    """The mass that the tail of the weights may hide because S draws have not seen it, as a share of the estimate.

    k-hat gives the number of moments of the weights, but not the mass of their tail: a tail with a thousandth of p(x)
    and a tail with all of p(x) may both have a k-hat above 1. If the weights beyond the largest one follow a power law
    of index k, they add to the sum of the weights

        h = w_max / sum(w) * k / (1 - k).

    k is estimated from the logarithms of the m largest weights, for m = 10 and for half of the tail (Hill 1975). One
    standard error is added, k (1 + 1 / sqrt(m)), and k is at most 0.9, because the weights have a mean and so a k below
    1. A third estimate of h comes from the generalised Pareto distribution of `khat`, with its standard error added and
    k at most 0.8: the mean excess above its quantile at 1 - 1 / S, times k. The largest of the three is returned.

    On the exact models of `ppl_vae.validation` it is one to five times the deficit of a typical estimate. Of the
    intervals that it widens (`Evidence.interval`), 92 to 98 % contain log p(x), for light and for heavy tails.

    Args:
        log_tail: as for `khat`.
        num_samples: S.
        log_sum: ``(N,)`` the log of the sum of all S weights.

    Returns:
        float64 ``(N,)``, at least 0; infinite if fewer than 5 weights are above zero; NaN if a log weight is NaN or
        S <= 20.

    Raises:
        InputError: if ``log_tail`` has another shape.

    Source: Hill, "A simple general approach to inference about the tail of a distribution" (1975).
    """
    return diagnose(log_tail, num_samples, log_sum)[1]


def diagnose(log_tail: Tensor, num_samples: int, log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """`khat` and `hidden_share`, ``(N,)`` each, from one fit.

    Args:
        log_tail: as for `khat`.
        num_samples: S.
        log_sum: ``(N,)`` the log of the sum of all S weights.

    Raises:
        InputError: if ``log_tail`` has another shape.
    """
    ordered = _ordered(log_tail, num_samples)
    nan = torch.full_like(ordered[:, 0], math.nan)
    size = tail_size(num_samples)
    if size < MIN_TAIL:
        return nan, nan
    cut, tail = ordered[:, :1], ordered[:, 1:]
    number = (tail > cut).sum(dim=1)
    shape, log_scale = _fit(_log_exceedances(cut, tail))
    k = _with_prior(shape, number)
    too_few = (number < MIN_TAIL) & (cut[:, 0] == -math.inf)
    equal, bad = _equal(tail), ordered.isnan().any(dim=1)

    largest = (tail[:, -1] - log_sum).exp()
    found = [_power_law(largest, ordered, m) for m in {min(_TOP, size), max(size // 2, 1)}]
    upper = (k + (1 + k.clamp(min=0)) / number.clamp(min=1).sqrt()).clamp(0, _MOST_FITTED)
    beyond = (log_scale - log_sum).exp() * size**upper * upper / (1 - upper)
    found.append(beyond.nan_to_num(nan=0.0))  # NaN without a fit, for a tail of equal weights
    hidden = torch.stack(found).amax(dim=0)
    hidden = torch.where(too_few, math.inf, hidden)

    k = torch.where(too_few & (number > 0), math.inf, k)
    k, hidden = torch.where(equal, -math.inf, k), torch.where(equal, 0.0, hidden)
    return torch.where(bad, nan, k), torch.where(bad, nan, hidden)


def _power_law(largest: Tensor, ordered: Tensor, m: int) -> Tensor:
    """The mass of a power law beyond the largest weight; its index is from the m largest of ``ordered`` log weights."""
    k = (ordered[:, -m:] - ordered[:, -m - 1, None]).mean(dim=1) * (1 + 1 / math.sqrt(m))
    k = k.clamp(max=_MOST).nan_to_num(nan=_MOST)
    return largest * k / (1 - k)


def smooth(log_tail: Tensor, num_samples: int) -> Tensor:
    """The largest log weights of each datum, Pareto smoothed.

    The n weights above the cut-off are replaced, in their order, by the quantiles of the fitted generalised Pareto
    distribution at (j - 1/2) / n, j = 1..n, but none becomes larger than the largest weight. Weights do not change if
    no tail can be fitted (`khat` is NaN or infinite), or if they are equal to the cut-off.

    Args:
        log_tail: as for `khat`.
        num_samples: S.

    Returns:
        ``(N, min(M + 1, S))`` float64, ascending; the first is the cut-off, unchanged.

    Raises:
        InputError: if ``log_tail`` has another shape.
    """
    ordered = _ordered(log_tail, num_samples)
    if tail_size(num_samples) < MIN_TAIL:
        return ordered
    cut, tail = ordered[:, :1], ordered[:, 1:]
    number = (tail > cut).sum(dim=1)
    shape, log_scale = _fit(_log_exceedances(cut, tail))
    k = _with_prior(shape, number)[:, None]
    size = tail.shape[1]
    j = torch.arange(1, size + 1, dtype=torch.float64, device=tail.device) - (size - number)[:, None]
    y = -torch.log1p(
        -(j - 0.5).clamp(min=0.5) / number.clamp(min=1)[:, None]
    )  # of the exponential distribution
    y = torch.where(j > 0, y, 1.0)
    # log of (exp(k y) - 1) / k, which is y where k is zero.
    grown = k.clamp(min=0) * y + (-torch.expm1(-k.abs() * y)).log() - k.abs().log()
    quantile = log_scale[:, None] + torch.where(k.abs() < 1e-12, y.log(), grown)
    smoothed = torch.minimum(torch.logaddexp(cut, quantile), tail[:, -1:])
    fitted = (number >= MIN_TAIL) & ~_equal(tail)
    kept = ~fitted[:, None] | (j <= 0)
    return torch.cat([cut, torch.where(kept, tail, smoothed)], dim=1)


def _ordered(log_tail: Tensor, num_samples: int) -> Tensor:
    """The M + 1 largest log weights, ascending, in float64, after a check of their shape."""
    width = min(tail_size(check_positive_int("num_samples", num_samples)) + 1, num_samples)
    if log_tail.ndim != 2 or log_tail.shape[1] != width:
        raise InputError("log_tail", f"shape (N, {width}) for {num_samples} samples", describe(log_tail))
    return log_tail.detach().to(torch.float64).sort(dim=1).values


def _log_exceedances(cut: Tensor, tail: Tensor) -> Tensor:
    """log(w - cut); -inf for a weight equal to the cut-off, and for zero if the cut-off is zero."""
    return torch.where(tail > cut, tail + (-torch.expm1(cut - tail)).log(), -math.inf)


def _with_prior(shape: Tensor, number: Tensor) -> Tensor:
    return (number * shape + _PRIOR_DRAWS * _PRIOR_K) / (number + _PRIOR_DRAWS)


def _equal(tail: Tensor) -> Tensor:
    """``(N,)`` whether there is no tail: the largest weights are equal up to round-off."""
    largest = tail[:, -1]
    return (largest - tail[:, 0] <= ROUND_OFF * largest.abs().clamp(min=1)) & largest.isfinite()


def _fit(log_x: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and log sigma from ``(N, n)`` log exceedances, ascending, -inf for weights that are not exceedances.

    Zhang & Stephens' grid is over b = -k / sigma. In units of the largest exceedance it reads b = 1 - exp(t)
    with t = log(sqrt(m / (j - 1/2)) - 1) - log(3 x_quartile), so 1 - b x = (1 - x) + x exp(t): a sum of
    positive terms.
    """
    size = log_x.shape[1]
    count = log_x.isfinite().sum(dim=1, keepdim=True)
    enough = count >= MIN_TAIL
    number = count.clamp(min=1).to(torch.float64)
    largest = torch.where(enough, log_x[:, -1:], 0.0)
    log_x = log_x - largest
    log_rest = (-torch.expm1(log_x)).log()

    def mean_log(t: Tensor) -> Tensor:
        # A draw that is no exceedance adds log(1 + 0) = 0.
        return torch.logaddexp(log_rest, log_x + t).sum(dim=1, keepdim=True) / number

    def off_zero(t: Tensor) -> Tensor:
        # At t = 0 (the exponential) k / b is 0 / 0, and close to it lost to cancellation.
        return torch.where(t.abs() < 1e-8, 1e-8, t)

    def log_abs_b(t: Tensor) -> Tensor:
        return t.clamp(min=0) + (-torch.expm1(-t.abs())).log()

    quartile = (size - count + (number / 4 + 0.5).floor().long() - 1).clamp(0, size - 1)
    log_quartile = torch.where(enough, log_x.gather(1, quartile), 0.0)
    points = 30 + number.sqrt().floor()
    j = torch.arange(1, 31 + math.isqrt(size), dtype=torch.float64, device=log_x.device)
    ratio = torch.where(j <= points, (points / (j - 0.5)).sqrt() - 1, 1.0)
    t = off_zero(ratio.log() - math.log(3) - log_quartile)
    # One grid point at a time: all at once would take (N, 47, 300) numbers at S = 10,000.
    k = torch.cat([mean_log(column) for column in t.split(1, dim=1)], dim=1)
    profile = number * (log_abs_b(t) - k.abs().log() - k - 1)
    log_posterior = torch.where(j <= points, profile, -math.inf).log_softmax(dim=1)
    t_mean = off_zero((log_posterior + t).logsumexp(dim=1, keepdim=True))
    shape = mean_log(t_mean)
    log_scale = shape.abs().log() - log_abs_b(t_mean) + largest
    return torch.where(enough, shape, math.nan)[:, 0], torch.where(enough, log_scale, math.nan)[:, 0]
