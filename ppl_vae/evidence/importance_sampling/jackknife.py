"""Jackknife: removes the bias of order 1 / S of importance sampling, by estimates that leave samples out."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.importance_sampling.importance import describe_proposal, estimate_from_draws
from ppl_vae.evidence.importance_sampling.proposals import Guide, Proposal
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import evidence_of
from ppl_vae.evidence.running.options import ALL, RunOptions, takes_run_options
from ppl_vae.program import Data, Program

_EXACT = 32  # number of largest weights that are summed exactly
_POWERS = (
    14  # power sums of the others: a pair of them is at most 2/34 of all weights, and (2/34)**15 < 1e-18
)
_k = torch.arange(1, _POWERS + 1, dtype=torch.float64)[:, None]


@takes_run_options(*ALL)
def jackknife(
    program: Program,
    x: Data,
    num_samples: int = 5000,
    order: int = 1,
    *,
    proposal: Proposal | None = None,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum by jackknifed importance sampling, JVI-1 or JVI-2 of Nowozin (2018).

    Let L be the log of the mean of all S weights, L' the mean over i of the log of the mean without w_i, and L'' the
    mean over i < j of the log of the mean without w_i and w_j. The estimate is

        order 1:  S L - (S - 1) L'
        order 2:  S**2 / 2 L - (S - 1)**2 L' + (S - 2)**2 / 2 L''

    The bias of L, -Var(w) / (2 S p(x)**2) + O(S**-2), becomes O(S**-2) with order 1 and O(S**-3) with order 2, for
    weights with enough moments; the variance hardly grows. The estimate is no longer a bound. The weights are those of
    `importance` with the same arguments. The standard error (by the delta method, correct to first order), the ELBO,
    the diagnostics and the curve are also those of `importance`, so the curve ends at L, not at the estimate.

    The work is O(S), and the memory is that of `importance`, although L'' is a mean over S (S - 1) / 2 pairs. With
    p = w / sum w, L'' is a sum of log(1 - p_i - p_j). It is exact for the 32 largest weights. For the others it is
    computed from power sums of p up to p**14, with a relative error below 1e-17.

    If at most ``order`` weights are above zero, no weight would be left, and L itself is returned.

    Args:
        program: as for `importance`.
        x: the data.
        num_samples: S, more than ``order``.
        order: 1 or 2.
        proposal: as for `importance`.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="consistent"``: for each datum in nats, ``(N,)`` float64.

    Raises:
        InputError, ProgramError, NonFiniteError: as for `importance`; InputError also if ``order`` is not 1 or 2.

    Source: Nowozin, "Debiasing evidence approximations: on importance-weighted autoencoders and jackknife variational
    inference" (2018), eq. 21; Sharot, "The generalized jackknife" (1976).
    """
    if isinstance(order, bool) or order not in (1, 2):
        raise InputError("order", "1 or 2", describe(order))
    if not isinstance(num_samples, int) or num_samples <= order:
        expected = f"an integer above {order}, since {order} samples are left out"
        raise InputError("num_samples", expected, describe(num_samples))
    proposal = Guide() if proposal is None else proposal
    sums = LeaveOneOut if order == 1 else LeaveTwoOut
    figures = estimate_from_draws(
        program,
        x,
        num_samples,
        proposal,
        sums,
        name=f"jackknife of order {order}",
        seed=seed,
        **run,
    )
    details = ", ".join(filter(None, (f"order {order}", describe_proposal(proposal))))
    return evidence_of(figures, method="jackknife", bound="consistent", seed=seed, details=details)


class LeaveOneOut(Accumulator):
    """An accumulator whose log evidence is JVI-1.

    Its tail has at least the 32 largest weights. Weights that are removed from the tail are added to power sums, which
    are scaled by the largest removed weight. They are computed without subtraction, so nothing cancels if a few weights
    dominate.
    """

    _tensors = (*Accumulator._tensors, "bulk", "bulk_max")
    _least_tail = _EXACT
    order: ClassVar[int] = 1

    def __init__(self, num_data: int, num_samples: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_data, num_samples, device)
        self._bulk = torch.zeros(_POWERS, num_data, dtype=torch.float64, device=device)
        self._bulk_max = torch.full((num_data,), -math.inf, dtype=torch.float64, device=device)

    def _shorten_tail(self) -> None:
        ordered = self._tail[: self._tail_fill].sort(dim=0, descending=True).values
        self._tail[: self._tail_keep] = ordered[: self._tail_keep]
        self._tail_fill = self._tail_keep
        self._drop(ordered[self._tail_keep :])

    def _drop(self, rows: Tensor) -> None:
        """Add log weights, the largest first, to the power sums."""
        if not len(rows):
            return
        largest = torch.maximum(self._bulk_max, rows[0])
        reference = torch.where(largest == -math.inf, 0.0, largest)
        self._bulk *= (_k.to(rows.device) * (self._bulk_max - reference)).exp()
        self._bulk_max = largest
        scaled = (rows - reference).exp()
        power = scaled
        for sums in self._bulk:
            sums += power.sum(dim=0)
            power = power * scaled

    def _read(self) -> Figures:
        figures = super()._read()
        S = self.count
        if self.order >= S:
            return figures
        ordered = self._tail[: self._tail_fill].sort(dim=0, descending=True).values
        exact = ordered[:_EXACT]
        self._drop(ordered[_EXACT:])
        enough = exact[self.order] > -math.inf
        log_total = torch.where(enough, self._max + self._mean.log() + math.log(S), 0.0)
        log_share = torch.where(enough, exact - log_total, -math.inf)
        scale = torch.where(enough, self._bulk_max - log_total, -math.inf)
        log_powers = _k.to(scale.device) * scale + self._bulk.log()
        shares = Shares(log_share, log_powers, S)
        change = -(S - 1) / S * shares.excess()
        if self.order == 2:
            change = change * (S - 1) + (S - 2) ** 2 / (S * (S - 1)) * shares.excess_of_pairs()
        estimate = figures.log_evidence.to(change.device) + torch.where(enough, change, 0.0)
        return figures.replace(log_evidence=estimate.cpu())


class LeaveTwoOut(LeaveOneOut):
    """An accumulator whose log evidence is JVI-2."""

    order = 2


class Shares:
    """The shares p_i = w_i / sum w of S weights of N data: the largest one by one, the others as power sums.

    Args:
        log_share: ``(T, N)`` log p of the largest, descending.
        log_powers: ``(K, N)`` log of the sum of p**k over the others, k = 1..K.
        num_samples: S.
    """

    def __init__(self, log_share: Tensor, log_powers: Tensor, num_samples: int) -> None:
        self.log_share, self.log_powers, self.S = log_share, log_powers, num_samples
        self.rest = num_samples - len(log_share)
        self.share, self.powers = log_share.exp(), log_powers.exp()
        # 1 - p is a difference: if p is nearly 1, it is computed as the sum of all others.
        others = torch.cat([log_share[1:], log_powers[:1]])
        beside = torch.where(
            self.share[:1] > 0.5, others.logsumexp(0, keepdim=True), torch.log1p(-self.share[:1])
        )
        self.log_left = torch.cat([beside, torch.log1p(-self.share[1:])])
        self.log_left_of_two = others[1:].logsumexp(0)

    def excess(self) -> Tensor:
        """Sum over i of log(1 - p_i), minus its value for equal weights: ``(N,)``.

        The linear part -p of each log(1 - p) is left out, since the p sum to 1. The rest is of order 1 / S, and is
        computed without the difference of two large numbers.
        """
        exact = (self.log_left + self.share).sum(0)
        k = _k[1:].to(exact.device)
        return exact - (self.powers[1:] / k).sum(0) - self.S * _curved(1 / self.S)

    def excess_of_pairs(self) -> Tensor:
        """Sum over i < j of log(1 - p_i - p_j), minus its value for equal weights: ``(N,)``."""
        total = self._exact_pairs() + self._mixed_pairs() + self._bulk_pairs()
        return total - self.S * (self.S - 1) / 2 * _curved(2 / self.S)

    def _exact_pairs(self) -> Tensor:
        total = torch.zeros_like(self.share[0])
        for i in range(len(self.share) - 1):
            rest = self.log_share[i + 1 :]
            log_left = self.log_left[i] + torch.log1p(-(rest - self.log_left[i]).exp().clamp(max=1.0))
            if i == 0:  # the two largest may leave nearly nothing
                heavy = self.share[0] + self.share[1] > 0.5
                log_left[0] = torch.where(heavy, self.log_left_of_two, log_left[0])
            total = total + (log_left + self.share[i] + self.share[i + 1 :]).sum(0)
        return total

    def _mixed_pairs(self) -> Tensor:
        """One of the largest with each of the others: log(1 - p_i) + log(1 - p_j / (1 - p_i))."""
        if not self.rest:
            return torch.zeros_like(self.share[0])
        total = self.rest * (self.log_left + self.share).sum(0)
        k = _k.to(total.device)
        for log_left in self.log_left:
            relative = (self.log_powers - k * log_left).exp() / k
            total = total + (self.powers[0] - relative[0]) - relative[1:].sum(0)
        return total

    def _bulk_pairs(self) -> Tensor:
        """Two of the others: (p_i + p_j)**k by the binomial theorem, less i = j, halved."""
        sums = [torch.full_like(self.share[0], float(self.rest)), *self.powers]
        total = torch.zeros_like(self.share[0])
        for k in range(2, _POWERS + 1):
            ordered = sum(
                (math.comb(k, m) * sums[m] * sums[k - m] for m in range(k + 1)), torch.zeros_like(total)
            )
            total = total - (ordered - 2**k * sums[k]) / (2 * k)
        return total


def _curved(p: float) -> float:
    """log(1 - p) + p, to its last digits for small p."""
    return math.log1p(-p) + p if p > 0.05 else -sum(p**k / k for k in range(2, 16))
