"""Accumulator: streaming sums of log weights, from which all figures of an estimate are computed.

Log weights are added in chunks of samples and are not kept. The memory does not grow with the number of samples S,
except for the tail, which is O(sqrt(S)), and the curve, which is O(log S).

Samples enter the sums in blocks of 1,024, at multiples of 1,024, for any size of chunk. The order of all sums therefore
does not depend on the chunks, and the figures are the same to the last bit (on one device, with one number of threads).
Adding a block takes about a hundred small operations for any size of block, so blocks are large. Up to 1,024 numbers
for each datum wait until their block is complete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ppl_vae.errors import InputError, NonFiniteError, check_positive_int, describe
from ppl_vae.evidence.results.diagnostics import Diagnostics
from ppl_vae.evidence.results.flat import EstimateParts
from ppl_vae.evidence.results.pareto import diagnose, tail_size
from ppl_vae.evidence.results.parts import Cost, Curves, Estimate
from ppl_vae.evidence.results.verdict import FULL

_BLOCK_LEVEL = 10
_BLOCK = 2**_BLOCK_LEVEL
_MIN_BLOCKS = 8
_TENSORS = ("max", "mean", "m2", "level_mean", "level_m2", "level_zero", "half", "tail", "pending", "bad")
_NUMBERS = ("num_samples", "count", "tail_fill")


@dataclass(frozen=True, eq=False)
class Figures(EstimateParts):
    """The figures of S log weights for each of N data: CPU float64 tensors ``(N,)``, in nats unless noted.

    The parts are those of an `Evidence`, and their fields are also attributes of the whole.

    Attributes:
        estimate: log (1/S) sum_s w_s. The mean is unbiased for p(x), so by Jensen its log is a lower bound of log p(x)
            in expectation, with bias about -stderr**2 / 2. Its standard error is that of the delta method,
            sd(w) / (sqrt(S) mean(w)) with the S - 1 variance: NaN for S = 1 and if all weights are zero, and not
            reliable if ``khat`` is high.
        guide_elbo: (1/S) sum_s log w_s, unbiased for the ELBO: -inf if any weight is zero. Its standard error is
            sd(log w) / sqrt(S), NaN for S = 1 and if any weight is zero.
        diagnostics: ``ess`` is (sum w)**2 / sum w**2, from 1 to S, and 0 if all weights are zero; for ``khat`` and
            ``hidden`` see `ppl_vae.evidence.results.pareto`. The checks of a block fill in the others.
        curves: for K = 1, 2, 4, ... up to S, and S itself, unbiased estimates of the IWAE-K bound (Burda et al. 2016):
            the mean of the log-mean-exps of the floor(S / K) complete blocks of K consecutive samples. The first column
            is the ELBO and the last the log evidence, exactly. Standard errors come from the spread over blocks if
            there are at least 8 (and at K = 1); otherwise from all weights by the delta method,
            sd(w) / (sqrt(B K) mean(w)) for B blocks of K.
        cost: one evaluation of log p(x, z) for each weight.
        num_samples: S, the number of samples that were added.
        precision: the precision of the matrix products; "full" here.
    """

    estimate: Estimate
    guide_elbo: Estimate
    diagnostics: Diagnostics
    curves: Curves
    cost: Cost
    num_samples: int
    precision: str = FULL

    _parts: ClassVar[dict[str, type]] = {
        "estimate": Estimate,
        "guide_elbo": Estimate,
        "diagnostics": Diagnostics,
        "curves": Curves,
        "cost": Cost,
    }

    def __len__(self) -> int:
        return len(self.estimate.value)


class Accumulator:
    """Running sums of the importance weights of N data, in float64, in memory that does not grow with S.

    For each datum it keeps the largest log weight; the mean and the sum of squared deviations of the weights, scaled by
    the largest; the same moments (merged as by Chan, Golub & LeVeque) of the log-mean-exps of blocks of K = 1, 2, 4...
    consecutive samples, which are combined as in a binary counter; and the M + 1 largest log weights.

    -inf is a valid log weight. NaN and +inf are not. `add` does not wait for the device, so it only records them;
    `check` and `finish` raise the error.

    A subclass may compute another estimate from the same weights: it keeps a longer tail (``_least_tail``), handles the
    weights that leave it (`_shorten_tail`), lists its own tensors (``_tensors``) and computes the figures (`_read`).

    Args:
        num_data: N.
        num_samples: S, the total number of samples that will be added; it determines the size of the tail.
        device: the device of the sums; log weights may come from any device.

    Raises:
        InputError: if a number is not a positive integer.
    """

    _tensors: ClassVar[tuple[str, ...]] = _TENSORS
    _least_tail: ClassVar[int] = 0

    def __init__(self, num_data: int, num_samples: int, device: torch.device | str = "cpu") -> None:
        self.num_data = check_positive_int("num_data", num_data)
        self.num_samples = check_positive_int("num_samples", num_samples)
        self.count = 0
        levels = num_samples.bit_length()
        self._tail_keep = min(max(tail_size(num_samples) + 1, self._least_tail), num_samples)
        self._tail_fill = 0

        def make(*rows: int, value: float = 0.0) -> Tensor:
            return torch.full((*rows, num_data), value, dtype=torch.float64, device=device)

        self._max = make(value=-math.inf)
        self._mean, self._m2 = make(), make()
        self._level_mean, self._level_m2 = make(levels), make(levels)
        self._level_zero = make(levels).bool()
        # Blocks that wait for their other half; smaller blocks are combined inside of `_absorb`.
        self._half = make(max(levels - _BLOCK_LEVEL, 0))
        self._tail = make(min(2 * self._tail_keep + _BLOCK, num_samples), value=-math.inf)
        self._pending = make(min(_BLOCK, num_samples), value=-math.inf)
        self._bad = make().bool()

    @torch.no_grad()
    def add(self, log_weights: Tensor) -> None:
        """Add the next samples of all data.

        Args:
            log_weights: ``(s, N)`` log w in nats, of any floating dtype and any s.

        Raises:
            InputError: if the shape or dtype is wrong, or there would be more than ``num_samples`` samples.
        """
        if (
            log_weights.ndim != 2
            or log_weights.shape[1] != self.num_data
            or not log_weights.is_floating_point()
        ):
            expected = f"a floating tensor of shape (s, {self.num_data})"
            raise InputError("log_weights", expected, describe(log_weights))
        number = log_weights.shape[0]
        if self.count + number > self.num_samples:
            expected = f"at most {self.num_samples} samples in all"
            raise InputError("log_weights", expected, f"{number} samples after {self.count}")
        start = 0
        while start < number:
            fill = self.count % _BLOCK
            take = min(_BLOCK - fill, number - start)
            new = self._pending[fill : fill + take]
            new.copy_(log_weights[start : start + take])
            self._bad |= ~(new < math.inf).all(dim=0)
            start += take
            self.count += take
            if fill + take == _BLOCK:
                self._absorb(self._pending, self.count - _BLOCK)

    def nan_data(self) -> Tensor:
        """Indices, on the CPU, of the data with a NaN or +inf log weight. Waits for the device."""
        return self._bad.nonzero()[:, 0].cpu()

    def check(self, offset: int = 0) -> None:
        """Raise if any log weight was NaN or +inf. Waits for the device.

        Args:
            offset: the index of this accumulator's first datum in the user's data.

        Raises:
            NonFiniteError: naming the first such datum (``offset`` + its index here), and how many there are.
        """
        bad = self.nan_data()
        if len(bad):
            raise NonFiniteError(
                f"log weights of datum {offset + int(bad[0])}: expected numbers or -inf, got NaN or +inf, "
                f"as for {len(bad)} of the {self.num_data} data from {offset} on"
            )

    def state(self) -> dict[str, Tensor]:
        """Everything as CPU tensors; `from_state` continues from them to the same bits. Their size is fixed."""
        tensors = {name: getattr(self, f"_{name}").detach().cpu().clone() for name in self._tensors}
        numbers = (self.num_samples, self.count, self._tail_fill)
        return tensors | {name: torch.tensor(value) for name, value in zip(_NUMBERS, numbers, strict=True)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: torch.device | str = "cpu") -> Accumulator:
        """The inverse of `state`.

        Raises:
            InputError: if tensors are missing or have wrong shapes.
        """
        missing = [name for name in (*cls._tensors, *_NUMBERS) if name not in state]
        if missing:
            raise InputError(
                "state", "the tensors of Accumulator.state()", f"none called {', '.join(missing)}"
            )
        num_samples, count, tail_fill = (int(state[name]) for name in _NUMBERS)
        made = cls(state["max"].numel(), num_samples, device)
        made.count, made._tail_fill = count, tail_fill
        for name in cls._tensors:
            own: Tensor = getattr(made, f"_{name}")
            if own.shape != state[name].shape or own.dtype != state[name].dtype:
                raise InputError(f"state[{name!r}]", describe(own), describe(state[name]))
            own.copy_(state[name])
        return made

    @torch.no_grad()
    def finish(self, offset: int = 0) -> Figures:
        """The figures of all samples added so far. The accumulator does not change; more samples may be added.

        Args:
            offset: as in `check`.

        Raises:
            NonFiniteError: as for `check`.
            InputError: if no sample has been added.
        """
        self.check(offset)
        if not self.count:
            raise InputError("log_weights", "at least one sample", "none")
        whole = type(self).from_state(self.state(), self._max.device)
        rest = whole.count % _BLOCK
        if rest:
            whole._absorb(whole._pending[:rest], whole.count - rest)
        return whole._read()

    def _absorb(self, rows: Tensor, before: int) -> None:
        """Add up to one block of rows to the sums, after ``before`` other rows (a multiple of the block)."""
        number = rows.shape[0]
        largest = torch.maximum(self._max, rows.amax(dim=0))
        # If all weights are zero so far, there is no scale: -inf - -inf would be NaN.
        reference = torch.where(largest == -math.inf, 0.0, largest)
        shrink = (self._max - reference).exp()
        self._mean *= shrink
        self._m2 *= shrink**2
        self._max = largest
        _merge(self._mean, self._m2, before, (rows - reference).exp())

        if self._tail_fill + number > self._tail.shape[0]:
            self._shorten_tail()
        self._tail[self._tail_fill : self._tail_fill + number] = rows
        self._tail_fill += number

        level, values = 0, rows
        while True:
            zero = values == -math.inf
            self._level_zero[level] |= zero.any(dim=0)
            finite = torch.where(zero, 0.0, values)
            _merge(self._level_mean[level], self._level_m2[level], before >> level, finite)
            blocks = values.shape[0]
            if blocks >= 2:
                values = _log_mean_pair(values[0 : blocks // 2 * 2 : 2], values[1::2])
            elif level < _BLOCK_LEVEL:
                return
            else:
                half = self._half[level - _BLOCK_LEVEL]
                if not before >> level & 1:
                    half.copy_(values[0])
                    return
                values = _log_mean_pair(half, values[0])[None]
            level += 1

    def _shorten_tail(self) -> None:
        """Keep only the largest weights of the tail."""
        self._tail[: self._tail_keep] = self._tail[: self._tail_fill].topk(self._tail_keep, dim=0).values
        self._tail_fill = self._tail_keep

    def _read(self) -> Figures:
        """The figures, after all rows have been added."""
        S = self.count
        log_evidence = self._max + self._mean.log()
        deviation = stderr_of_mean(self._m2, S) / self._mean  # relative error of the mean of S weights
        stderr = torch.where(self._max == -math.inf, math.nan, deviation)
        ess = torch.where(self._max == -math.inf, 0.0, S / (1 + self._m2 / (S * self._mean**2)))
        ks, bounds, errors = [], [], []
        for level in range(S.bit_length()):
            K, blocks = 2**level, S >> level
            zero = self._level_zero[level]
            ks.append(K)
            bounds.append(torch.where(zero, -math.inf, self._level_mean[level]))
            if level == 0 or blocks >= _MIN_BLOCKS:
                error = stderr_of_mean(self._level_m2[level], blocks)
            else:
                error = stderr * math.sqrt(S / (blocks * K))
            errors.append(torch.where(zero, math.nan, error))
        elbo, elbo_stderr = bounds[0], errors[0]
        if ks[-1] != S:
            ks.append(S)
            bounds.append(log_evidence)
            errors.append(stderr)
        elif S > 1:
            bounds[-1], errors[-1] = log_evidence, stderr
        width = min(tail_size(S) + 1, S)
        tail = self._tail[: self._tail_fill].topk(width, dim=0).values.T
        k, hidden = diagnose(tail, S, log_evidence + math.log(S))
        return Figures(
            Estimate(log_evidence.cpu(), stderr.cpu()),
            Estimate(elbo.cpu(), elbo_stderr.cpu()),
            Diagnostics(ess.cpu(), k.cpu(), torch.full((self.num_data,), S), hidden.cpu()),
            Curves(torch.tensor(ks), torch.stack(bounds, dim=1).cpu(), torch.stack(errors, dim=1).cpu()),
            Cost(torch.full((self.num_data,), float(S), dtype=torch.float64)),
            num_samples=S,
        )


def _merge(mean: Tensor, m2: Tensor, before: int, rows: Tensor) -> None:
    """Update, in place, the mean and squared deviations of ``before`` rows by more (Chan et al. 1979)."""
    number = rows.shape[0]
    new_mean = rows.mean(dim=0)
    difference = new_mean - mean
    m2 += ((rows - new_mean) ** 2).sum(dim=0) + difference**2 * (before * number / (before + number))
    mean += difference * (number / (before + number))


def stderr_of_mean(m2: Tensor, number: int) -> Tensor:
    """The standard error of a mean of ``number`` values from their squared deviations; NaN for one value."""
    return (m2 / (number * (number - 1))).sqrt() if number > 1 else torch.full_like(m2, math.nan)


def _log_mean_pair(first: Tensor, second: Tensor) -> Tensor:
    """log((exp a + exp b) / 2)."""
    return torch.logaddexp(first, second) - math.log(2)
