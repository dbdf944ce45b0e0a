"""Simulation-based calibration: the ranks of true latents among draws of the guide, or of the reweighted guide."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import files, rng
from ppl_vae.analysis.active_units import flat, labels_of
from ppl_vae.errors import InputError, NonFiniteError, check_one_of, check_positive_int, check_seed, describe
from ppl_vae.evidence.results.pareto import ROUND_OFF
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.program import Data, Latents, Program, device_of, num_data, take
from ppl_vae.stored import Stored

POSTERIORS = ("guide", "reweighted")
JOINT = "log p(x, z)"
"""The label of the last quantity: it detects errors that no single latent shows, such as a guide equal to the prior."""

_KIND = "ppl_vae.Calibration"
_TENSORS = ("ranks", "reweighted_ranks", "ess")
_SETTINGS = ("labels", "num_draws", "num_importance", "bins", "alpha", "seed")
_DATA = 64  # in a block
_BINS = 20
_NUMBERS = 2**20  # in a pass


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Ranks of N true latents among draws from approximate posteriors, and their tests, for D + 1 quantities.

    The quantities are the D latent dimensions and log p(x, z). If the draws come from p(z|x), all ranks are uniform on
    0, ..., L. The `reweighted_ranks` are ranks among L draws that are resampled from K weighted draws. They are uniform
    only in the limit of large K. With few effective draws there are more ranks at both ends, as for a narrow posterior
    (a share of about 1 / (2 ESS) more at each end), so a verdict on them is a verdict on reweighting with K draws.

    Attributes:
        labels: a name for each quantity.
        ranks: ``(D + 1, N)`` int64: the number of L draws from the guide that are below the true value.
        reweighted_ranks: ``(D + 1, N)`` int64: the same for the reweighted guide.
        ess: ``(N,)`` effective sample size of the K weighted draws.
        num_draws: L.
        num_importance: K.
        bins: B, the number of bins of tests and histograms, with the same number of ranks each.
        alpha: the probability that a calibrated posterior fails in any quantity.
        seed: the seed of simulated data and draws.
    """

    labels: tuple[str, ...]
    ranks: Tensor
    reweighted_ranks: Tensor
    ess: Tensor
    num_draws: int
    num_importance: int
    bins: int
    alpha: float
    seed: int

    def __len__(self) -> int:
        return self.ranks.shape[1]

    def ranks_of(self, of: str = "guide") -> Tensor:
        """``(D + 1, N)`` the ranks among draws from the "guide" or the "reweighted" guide."""
        return {"guide": self.ranks, "reweighted": self.reweighted_ranks}[check_one_of("of", of, POSTERIORS)]

    def counts(self, of: str = "guide") -> Tensor:
        """``(D + 1, B)`` int64, the number of ranks in each bin; N / B are expected."""
        binned = self.ranks_of(of) * self.bins // (self.num_draws + 1)
        return torch.stack([row.bincount(minlength=self.bins) for row in binned])

    def p_values(self, of: str = "guide") -> Tensor:
        """``(D + 1,)`` p-values of the hypothesis that a quantity's ranks are uniform, for each quantity.

        The p-value is 3 times the smallest of three tests: Pearson's chi-square test on `counts` (B - 1 degrees of
        freedom), which detects any deviation, and normal tests of `shift` and `spread`, which are more powerful for
        these two.
        """
        expected = len(self) / self.bins
        statistic = ((self.counts(of) - expected) ** 2 / expected).sum(1)
        found = [stats.chi2.sf(statistic.numpy(), self.bins - 1)]
        found += [2 * stats.norm.sf(moment.abs().numpy()) for moment in self._moments(of)]
        return torch.from_numpy(np.minimum(1.0, len(found) * np.min(found, axis=0)))

    def shift(self, of: str = "guide") -> Tensor:
        """``(D + 1,)`` the shift of the mean rank, in standard deviations under uniformity: above 0, ranks are high."""
        return self._moments(of)[0]

    def spread(self, of: str = "guide") -> Tensor:
        """``(D + 1,)`` the same for the variance of the ranks: above 0, more at the ends; below 0, in the middle."""
        return self._moments(of)[1]

    def verdicts(self, of: str = "guide") -> NDArray[np.str_]:
        """``(D + 1,)`` "calibrated", or the error of the posterior of each quantity.

        "too narrow" (many ranks at the ends), "too wide" (many in the middle), "too low" or "too high" (draws are below
        or above the true value), "misshapen" (none of these). log p(x, z) of the draws is too high for a guide that is
        too narrow, and too low for a guide that is too wide or in the wrong place.

        A quantity is not calibrated if Holm's procedure rejects its `p_values` at level `alpha` over the D + 1
        quantities. If all are calibrated, the probability of any rejection is at most alpha (up to the normal
        approximations).
        """
        p = self.p_values(of)
        order = p.argsort()
        allowed = self.alpha / torch.arange(len(p), 0, -1)
        rejected = torch.zeros(len(p), dtype=torch.bool)
        rejected[order] = (p[order] <= allowed).cummin(0).values
        shift, spread = self._moments(of)
        words = np.where(
            (spread.abs() >= shift.abs()).numpy(),
            np.where((spread > 0).numpy(), "too narrow", "too wide"),
            np.where((shift > 0).numpy(), "too low", "too high"),
        )
        plain = (torch.maximum(spread.abs(), shift.abs()) < _CLEARLY).numpy()
        return np.where(rejected.numpy(), np.where(plain, "misshapen", words), "calibrated")

    def calibrated(self, of: str = "guide") -> bool:
        """Whether the posteriors of all quantities are calibrated."""
        return bool((self.verdicts(of) == "calibrated").all())

    def _moments(self, of: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of the ranks, standardised by their exact values under uniformity on 0..L."""
        N, L = len(self), self.num_draws
        centred = self.ranks_of(of).double() - L / 2
        grid = torch.arange(L + 1, dtype=torch.float64) - L / 2
        second, fourth = (grid**2).mean(), (grid**4).mean()
        shift = centred.mean(1) / (second / N).sqrt()
        return shift, ((centred**2).mean(1) - second) / ((fourth - second**2) / N).sqrt()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; `load` reads it without any change."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        files.write_tensors(
            path, {name: getattr(self, name) for name in _TENSORS}, {"kind": _KIND, **settings}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, damaged, or another kind of file.
        """
        tensors, metadata = files.read_kind(path, _KIND, "a file written by Calibration.save")
        stored = Stored(os.fspath(path), tensors, metadata)
        found: dict[str, Any] = {
            name: stored.number(name, 1, 2**31) for name in ("num_draws", "num_importance", "bins")
        }
        found["alpha"] = stored.number("alpha", 0, 1, whole=False)
        found["seed"] = stored.number("seed", 0, 2**63 - 1)
        found["labels"] = tuple(stored.entry("labels", list))
        if not all(isinstance(label, str) for label in found["labels"]) or not found["labels"]:
            raise stored.wrong("labels", "a list of names", describe(found["labels"]))
        L, N = (
            found["num_draws"],
            stored.tensor("ess", low=0, high=found["num_importance"] * (1 + 1e-6)).numel(),
        )
        if (L + 1) % found["bins"]:
            raise stored.wrong("bins", f"a number that divides {L + 1}", found["bins"])
        stored.tensor("ess", (N,))
        for name in ("ranks", "reweighted_ranks"):
            stored.tensor(name, (len(found["labels"]), N), torch.int64, low=0, high=L)
        found |= {name: tensors[name] for name in _TENSORS}
        return cls(**found)

    def __repr__(self) -> str:
        words = ", ".join(f"{of} {'passes' if self.calibrated(of) else 'fails'}" for of in POSTERIORS)
        return f"Calibration({len(self.labels)} quantities, N={len(self)}: {words})"

    def __str__(self) -> str:
        title = f"simulation-based calibration: N = {len(self)} simulated data, L = {self.num_draws} draws, "
        lines = [f"{title}{self.bins} bins, seed {self.seed}"]
        for of in POSTERIORS:
            verdicts, p = self.verdicts(of), self.p_values(of)
            wrong = int((verdicts != "calibrated").sum())
            word = f"{wrong} of {len(p)} quantities are not" if wrong else f"all {len(p)} quantities are"
            note = "" if of == "guide" else f"; {self.num_importance} weighted draws, ESS median "
            note += (
                "" if of == "guide" else f"{float(self.ess.median()):.0f} [min {float(self.ess.min()):.1f}]"
            )
            lines.append(f"{of}: {word} calibrated (family-wise level {self.alpha:g}){note}")
            shift, spread = self._moments(of)
            shown = p.argsort()[:_SHOWN].tolist()
            lines += [
                f"  {self.labels[d]:<12} p = {float(p[d]):<8.2g} shift {float(shift[d]):>6.1f}, spread "
                f"{float(spread[d]):>6.1f}  {verdicts[d]}"
                for d in shown
            ]
            if len(p) > _SHOWN:
                lines.append(f"  ... and {len(p) - _SHOWN} with larger p")
        return "\n".join(lines)


_CLEARLY = 2.0  # standard deviations of shift or spread above which a verdict is named after them
_SHOWN = 12


@takes_run_options(*KEPT)
def calibration(
    program: Program,
    x_like: Data,
    num_data: int = 1000,
    *,
    num_draws: int = 99,
    num_importance: int = 1000,
    bins: int | None = None,
    alpha: float = 0.01,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Calibration:
    """Ranks of the latents of simulated data among draws from the guide, and from the reweighted guide.

    For each of ``num_data`` pairs (z, x') from p(z) p(x|z), there are L draws from q(z|x'), and L draws with
    replacement from ``num_importance`` draws with weights p(x', z) / q(z|x'). z is an exact draw from p(z|x'), so its
    rank among L draws from p(z|x') is uniform for each quantity and any model. The first L of the weighted draws are
    the draws of the guide. Ties (discrete latents) are broken at random.

    This tests the posterior for data from the *model*. Real data may differ from them; for real data, use k-hat and the
    bounds of `ppl_vae.evidence.sandwich`.

    Args:
        program: the program.
        x_like: data that determine shapes and covariates; they are repeated if there are fewer than ``num_data``.
        num_data: N.
        num_draws: L; ``bins`` must divide L + 1.
        num_importance: K, at least L.
        bins: B, the number of bins of the test; N / B must be at least 5 for correct p-values. By default the largest
            possible number up to 20.
        alpha: the family-wise level of each posterior's D + 1 tests.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: as for `Program.check` and `Program.simulate`.
        NonFiniteError: if a log density is NaN.

    Sources: Cook, Gelman & Rubin (2006); Talts et al., "Validating Bayesian inference algorithms with simulation-based
    calibration" (2018); Yao et al., "Yes, but did it work? Evaluating variational inference" (2018); for log p(x, z)
    as a quantity, Modrák et al. (2023).
    """
    check_positive_int("num_data", num_data)
    check_positive_int("num_draws", num_draws)
    if check_positive_int("num_importance", num_importance) < num_draws:
        raise InputError("num_importance", f"at least num_draws, {num_draws}", num_importance)
    fitting = [b for b in range(2, num_draws + 2) if (num_draws + 1) % b == 0]
    if bins is None:
        bins = max((b for b in fitting if b <= _BINS and num_data >= 5 * b), default=fitting[0])
    if check_positive_int("bins", bins) not in fitting:
        raise InputError("bins", f"a divisor of num_draws + 1 = {num_draws + 1}, at least 2", bins)
    if num_data < 5 * bins:
        raise InputError("num_data", f"at least 5 for each of {bins} bins", num_data)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise InputError("alpha", "a number between 0 and 1", describe(alpha))
    check_seed(seed)
    program, x_like, sites = prepare(program, x_like)
    device = device_of(x_like)
    have = _num_data(x_like)
    like = take(x_like, torch.arange(num_data, device=device) % have)
    z, x = program.simulate(like, seed=rng.derive(seed, "calibration data"))

    def compute(block: Block) -> Rows:
        rows = slice(block.offset, block.offset + block.num_data)
        truth = {name: value[:, rows] for name, value in z.items()}
        rng.reseed(device, seed, "calibration", block.index)
        step = max(1, _NUMBERS // (sites.numbers_per_datum * block.num_data))
        drawn = _draw(program, block.x, truth, num_importance, step, block.offset)
        ranks, reweighted, ess = _rank(*drawn, num_draws)
        return {"ranks": ranks.T, "reweighted": reweighted.T, "ess": ess}

    labels = (*labels_of(sites), JOINT)
    rank = Column(0, num_draws, (len(labels),), torch.int64)
    columns = {"ranks": rank, "reweighted": rank, "ess": Column(0, num_importance * (1 + 1e-6))}
    identity = {"num_draws": num_draws, "num_importance": num_importance}
    plan = Plan("calibration", _DATA, 1, identity, unit="datum")
    found = run_rows(program, x, plan, compute, columns, seed=seed, run=run)
    return Calibration(
        labels,
        found["ranks"].T.contiguous(),
        found["reweighted"].T.contiguous(),
        found["ess"],
        num_draws,
        num_importance,
        bins,
        float(alpha),
        seed,
    )


_num_data = num_data  # for functions with an argument of this name


def _draw(
    program: Program, x: Data, truth: Latents, num_samples: int, step: int, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether draws are below or equal to the true value, ``(K, n, D + 1)`` bool, and their log weights ``(K, n)``."""
    true, true_joint = flat(truth), program.log_joint(truth, x)
    below, equal, weights = [], [], []
    for start in range(0, num_samples, step):
        z = program.sample_guide(x, min(step, num_samples - start), seed=None)
        values, log_joint = flat(z), program.log_joint(z, x)
        # The same latents have the same density up to rounding: a tie, which rounding must not break.
        close = (log_joint - true_joint).abs() <= ROUND_OFF * true_joint.abs().clamp(min=1)
        close |= log_joint == true_joint
        lower = (log_joint < true_joint) & ~close
        below.append(torch.cat([values < true, lower[..., None]], dim=-1))
        equal.append(torch.cat([values == true, close[..., None]], dim=-1))
        weights.append(log_joint - program.log_guide(z, x))
    log_weights = torch.cat(weights)
    bad = log_weights.isnan().any(0)
    if bool(bad.any()):
        raise NonFiniteError(f"log weight: NaN at simulated datum {offset + int(bad.nonzero()[0])}")
    return torch.cat(below), torch.cat(equal), log_weights


def _rank(below: Tensor, equal: Tensor, log_weights: Tensor, L: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks ``(D + 1, n)`` of the true value among L draws and among L resampled draws, and ESS ``(n,)``."""
    largest = log_weights.amax(0)
    # If all draws have zero density, they are resampled with equal weights, and the ESS is 0.
    none = largest == -math.inf
    weights = torch.where(none, 1.0, (log_weights - largest).exp())
    ess = torch.where(none, 0.0, weights.sum(0) ** 2 / (weights**2).sum(0))
    chosen = torch.multinomial(weights.T, L, replacement=True).T  # (L, n)
    index = chosen[..., None].expand(-1, -1, below.shape[-1])

    def rank(smaller: Tensor, same: Tensor) -> Tensor:
        ties = same.sum(0)
        return (smaller.sum(0) + (torch.rand_like(ties, dtype=torch.float64) * (ties + 1)).long()).T

    return rank(below[:L], equal[:L]), rank(below.gather(0, index), equal.gather(0, index)), ess
