"""Refit: the guide's family fitted to each datum separately, so that the ELBO has no amortisation gap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import with_prefix
from ppl_vae.errors import check_positive_float, check_positive_int, check_seed
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.offsets import carry, carrying_program, make_offsets, path_log_weights

TOLERANCE = 0.01
"""Nats: a datum stalls when 50 steps gain less than this."""

_STRETCH = 50  # steps between two comparisons of the ELBO
_CHECKS = 256  # draws for such a comparison
_SHRINK, _STAGES = 10**0.5, 4  # factor and number of step sizes: 1, 0.3, 0.1, 0.03 times the first
_DECAYS = (0.9, 0.99)
_NUMBERS = (
    2**22
)  # numbers in a pass: a gradient needs more memory than a density, but one pass has few samples
_DATA = 512  # in a block on a CPU, at most


@dataclass(frozen=True, eq=False, repr=False)
class Refit:
    """A guide refitted to each of N data, and the figures of the optimisation.

    Estimators take it instead of ``(program, x)``: ``importance(refit.program, refit.x)``, for example.

    Attributes:
        program: a `Program` of the model and the refitted guide, for the data `x`.
        x: a dict of the data and the offsets of their guides. ``take(refit.x, index)`` selects some of the data.
        offsets: ``(N, *shape)`` each, by "site.parameter"; see `ppl_vae.program.offsets`.
        converged: ``(N,)`` bool: True if the rule of `refit` stopped the datum, False if ``max_steps`` did.
        steps: ``(N,)`` int64, the number of steps.
        gain: ``(N,)`` the gain of the last 50 steps, in nats; the gain that is left is of this size.
        gain_stderr: ``(N,)`` its Monte Carlo standard error.
        density_evals: ``(N,)`` evaluations of log p(x, z).
        gradient_evals: ``(N,)`` evaluations of log p(x, z) with its gradient in z.
        seed: the seed of the random numbers.
    """

    program: Program
    x: dict[str, Tensor]
    offsets: dict[str, Tensor]
    converged: Tensor
    steps: Tensor
    gain: Tensor
    gain_stderr: Tensor
    density_evals: Tensor
    gradient_evals: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.converged)

    def __repr__(self) -> str:
        return f"Refit(N={len(self)}, {int(self.converged.sum())} converged)"

    def __str__(self) -> str:
        steps = self.steps.double()
        return (
            f"guide refitted to each of {len(self)} data: {int(self.converged.sum())} converged, "
            f"{float(steps.mean()):.0f} steps on average [max {int(steps.max())}], last gain at most "
            f"{float(self.gain.max()):.2g} nats, {float(self.gradient_evals.mean()):,.0f} gradients each, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True)
class Settings:
    """The arguments of `refit` with their defaults; raises `InputError` for an argument that does not fit."""

    num_samples: int = 16
    step_size: float = 0.1
    max_steps: int = 2000
    tolerance: float = TOLERANCE
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive_int("num_samples", self.num_samples)
        check_positive_float("step_size", self.step_size)
        check_positive_int("max_steps", self.max_steps)
        check_positive_float("tolerance", self.tolerance)
        check_seed(self.seed)


@takes_run_options(*KEPT)
def refit(
    program: Program,
    x: Data,
    num_samples: int = Settings.num_samples,
    *,
    step_size: float = Settings.step_size,
    max_steps: int = Settings.max_steps,
    tolerance: float = Settings.tolerance,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Refit:
    """Fit the guide's own family to each datum separately, by gradients of its ELBO; networks do not change.

    Each parameter of each guide site gets an offset for each datum, in unconstrained space (see
    `ppl_vae.program.offsets`, also for the family that this spans). Offsets are zero at first, so the start is the
    guide itself. Adam updates all data of a block at once, each with its own step size. The gradients use
    ``num_samples`` pathwise draws (Roeder et al. 2017); they have no noise if the guide is the exact posterior.

    Convergence: every 50 steps, the mean of the last 25 iterates is compared with the best offsets so far, on the same
    256 draws, and the better of the two becomes the best. The start is replaced only if the gain exceeds a standard
    error and a tenth of ``tolerance``. A datum whose gain is below ``max(tolerance, 2 standard errors)`` has stalled,
    and continues from its best offsets with a step size smaller by sqrt(10); when it stalls for the fourth time, it has
    converged. At the last step size a parameter moves by at most about 0.15 standard deviations in 50 steps, so a datum
    that could gain much more than ``tolerance`` does not stall. On linear-Gaussian models of 2 to 50 latent dimensions
    the ELBO is about 0.0005 nats for each dimension below the best of the family.

    The draws of these comparisons are not used again: an ELBO of the refitted guide comes from new draws, and is not
    biased by the selection.

    Args:
        program: a `Program` whose guide is reparameterised.
        x: the data, on the device of the program's parameters.
        num_samples: the number of draws in a gradient.
        step_size: Adam's first step size: in standard deviations for a location, in units for a log scale.
        max_steps: the largest number of steps for a datum.
        tolerance: in nats; see above.
        seed: seed of all random numbers. Results also depend on which data are in the same block.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` belongs to another run.
        ProgramError: if log p(x) is not defined for each datum, or the guide cannot be refitted (because it is
            discrete, for example); names the site.

    Source: Cremer, Li & Duvenaud, "Inference suboptimality in variational autoencoders" (2018).
    """
    return run_refit(program, x, Settings(num_samples, step_size, max_steps, tolerance, seed), run)


def run_refit(program: Program, x: Data, settings: Settings, run: RunOptions, *, keep: bool = False) -> Refit:
    """`refit` with checked arguments; ``keep`` does not remove the finished checkpoint (see `block_files.forget`)."""
    program, x, sites = prepare(program, x)
    n, device = num_data(x), device_of(x)
    offsets = make_offsets(program, take(x, slice(0, 1)))  # refuses before any work is done
    size = max(1, _NUMBERS // (sites.numbers_per_datum * settings.num_samples))
    size = min(size, n if device.type == "cuda" else _DATA)
    identity = {**vars(settings), "block_size": size}

    def compute(block: Block) -> Rows:
        return _Block(program, block.x, block.index, settings).run()

    plan = Plan("refit", size, 1, identity, unit="datum")
    rows = run_rows(program, x, plan, compute, _columns(offsets), seed=settings.seed, run=run, keep=keep)
    found = {name: value.to(device) for name, value in with_prefix("offset/", rows).items()}
    figures = {name: value for name, value in rows.items() if not name.startswith("offset/")}
    return Refit(carrying_program(program), carry(x, found), found, **figures, seed=settings.seed)


def _columns(offsets: Mapping[str, Tensor]) -> dict[str, Column]:
    """The columns of the result; ``offsets`` give the shapes of the guide's offsets."""
    columns = {
        "converged": Column(dtype=torch.bool),
        "steps": Column(0, dtype=torch.int64),
        "gain": Column(nan=True),
        "gain_stderr": Column(0, nan=True),
        "density_evals": Column(0),
        "gradient_evals": Column(0),
    }
    for name, value in offsets.items():
        largest = torch.finfo(value.dtype).max
        columns[f"offset/{name}"] = Column(-largest, largest, tuple(value.shape[1:]), value.dtype)
    return columns


@dataclass
class _Adam:
    """Adam (Kingma & Ba 2015) for independent data with different step sizes."""

    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def step(self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor], size: Tensor) -> None:
        """Move ``values`` up ``gradients``, in place; ``size`` ``(n,)``."""
        self.count += 1
        slow, slower = _DECAYS
        for name, value in values.items():
            gradient = gradients[name].nan_to_num(0.0, 0.0, 0.0)
            first = self.first.setdefault(name, torch.zeros_like(value))
            second = self.second.setdefault(name, torch.zeros_like(value))
            first.lerp_(gradient, 1 - slow)
            second.lerp_(gradient**2, 1 - slower)
            rate = _rows(size, value)
            # No step is longer than its gradient: offsets are in standard deviations, so curvatures are about 1. If the
            # guide is exact, Adam's usual 1e-8 would turn rounding errors into full steps.
            scale = (second / (1 - slower**self.count)).sqrt() + rate
            value += rate * (first / (1 - slow**self.count)) / scale

    def keep(self, rows: Tensor) -> None:
        """Keep only the data ``rows``."""
        for moments in (self.first, self.second):
            for name in moments:
                moments[name] = moments[name][rows]


class _Block:
    """The refit of one block of data; converged data leave it."""

    def __init__(self, program: Program, x: Data, index: int, settings: Settings) -> None:
        self.program, self.x, self.settings = program, x, settings
        self.carrying = carrying_program(program)
        self.best = make_offsets(program, x)
        n, self.device = num_data(x), device_of(x)

        def zeros(dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=self.device)

        self.converged, self.steps, self.stage = zeros(torch.bool), zeros(torch.int64), zeros(torch.int64)
        self.moved = zeros(torch.bool)
        self.gain, self.gain_stderr = zeros() + math.nan, zeros() + math.nan
        self.looks = zeros(torch.int64)
        self.start = index * settings.max_steps  # of the block's streams

    def run(self) -> dict[str, Tensor]:
        """Offsets and figures of all data."""
        active = torch.arange(len(self.steps), device=self.device)
        current = {name: value.clone() for name, value in self.best.items()}
        adam, x = _Adam(), self.x
        taken = 0
        while taken < self.settings.max_steps and len(active):
            stretch = min(_STRETCH, self.settings.max_steps - taken)
            candidate = self._climb(x, current, adam, self.stage[active], taken, stretch)
            taken += stretch
            self.steps[active] = taken
            stalled = self._look(x, active, candidate, taken)
            for name, value in current.items():
                value[stalled] = self.best[name][active[stalled]]
            self.stage[active[stalled]] += 1
            going = self.stage[active] < _STAGES
            self.converged[active[~going]] = True
            if not bool(going.all()):
                rows = going.nonzero()[:, 0]
                active, x = active[rows], take(x, rows)
                current = {name: value[rows] for name, value in current.items()}
                adam.keep(rows)
            give_way()
        M, S = _CHECKS, self.settings.num_samples
        figures = {
            "converged": self.converged,
            "steps": self.steps,
            "gain": self.gain,
            "gain_stderr": self.gain_stderr,
            "density_evals": (2 * M * self.looks).double(),
            "gradient_evals": (S * self.steps).double(),
            **{f"offset/{name}": value for name, value in self.best.items()},
        }
        return {name: value.cpu() for name, value in figures.items()}

    def _climb(
        self, x: Data, current: dict[str, Tensor], adam: _Adam, stage: Tensor, taken: int, stretch: int
    ) -> dict[str, Tensor]:
        """Make ``stretch`` steps; returns the mean of the iterates of the second half."""
        size = self.settings.step_size / _SHRINK ** stage.double()
        mean = {name: torch.zeros_like(value) for name, value in current.items()}
        averaged = (stretch + 1) // 2
        for step in range(stretch):
            self._reseed("refit steps", taken + step)
            leaves = {name: value.detach().requires_grad_() for name, value in current.items()}
            with torch.enable_grad():
                weights = path_log_weights(self.program, x, leaves, self.settings.num_samples)
                # An offset of a latent that is masked for all of the data changes nothing.
                found = torch.autograd.grad(
                    weights.mean(0).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
                )
            adam.step(current, dict(zip(leaves, found, strict=True)), size)
            if step >= stretch - averaged:
                for name, value in current.items():
                    mean[name] += value / averaged
        return mean

    def _look(self, x: Data, active: Tensor, candidate: dict[str, Tensor], taken: int) -> Tensor:
        """Compare the candidate with the best offsets, and keep the better of them; returns the stalled data."""
        weights = []
        for offsets in (candidate, {name: value[active] for name, value in self.best.items()}):
            self._reseed("refit looks", taken - 1)
            with torch.no_grad():
                weights.append(self.carrying.log_weights(carry(x, offsets), _CHECKS, seed=None, check=False))
        difference = weights[0] - weights[1]
        gain, error = difference.mean(0), difference.std(0) / math.sqrt(_CHECKS)
        # The start is replaced only for a clear gain: if it is the optimum, each candidate is a little worse.
        reason = error.clamp(min=self.settings.tolerance / 10)
        better = gain > torch.where(self.moved[active], 0.0, reason)
        self.moved[active] |= better
        for name, value in candidate.items():
            self.best[name][active[better]] = value[better]
        self.gain[active], self.gain_stderr[active] = gain, error
        self.looks[active] += 1
        # NaN (a candidate without density) is no gain.
        return ~(gain >= (2 * error).clamp(min=self.settings.tolerance))

    def _reseed(self, purpose: str, step: int) -> None:
        rng.reseed(self.device, self.settings.seed, purpose, self.start + step)


def _rows(size: Tensor, like: Tensor) -> Tensor:
    """``(n,)`` as ``(n, 1, ...)``, of the dtype of ``like``."""
    return size.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))
