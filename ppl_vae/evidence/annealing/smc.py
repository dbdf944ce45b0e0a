"""Sequential Monte Carlo (SMC): annealing with particles that are resampled where their weights have become uneven."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.compiled.effort import Compile
from ppl_vae.compiled.precision import FULL
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.evidence.annealing.ais import Annealing
from ppl_vae.evidence.annealing.kernels import Chains, Transition
from ppl_vae.evidence.annealing.settings import Settings
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.prior_check import DRAWS
from ppl_vae.evidence.running.simulation_check import SharedSimulation
from ppl_vae.program import Data, Program


def smc(
    program: Program,
    x: Data,
    num_particles: int = 256,
    num_steps: int = 100,
    *,
    num_islands: int = 8,
    ess_threshold: float = 0.5,
    start: str = "guide",
    schedule: str | Tensor = "pilot",
    transition: Transition | None = None,
    prior_draws: int = DRAWS,
    seed: int = 0,
    compile: Compile = "auto",  # noqa: A002  (the user's word)
    precision: str = FULL,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Evidence:
    """log p(x) of each datum by a sequential Monte Carlo sampler with tempering.

    Particles go the way of `annealed`, from f_0 to p(x, z) over T temperatures. Before a move, those of an island
    whose effective sample size has fallen below ``ess_threshold`` of its particles are resampled (systematically, with
    one uniform number), and their weights set to their mean. The product of these means is unbiased for p(x): the
    schedule is fixed in advance or frozen from a pilot, and when to resample is decided by particles of the past.

    The particles are shared out among ``num_islands`` independent samplers. Particles that were resampled together
    are not independent, islands are: their spread gives the standard error, and their mean the estimate.

    Args:
        program: a `Program` with continuous latents.
        x: the data, where the program's parameters live.
        num_particles: particles a datum, over all islands; a multiple of ``num_islands``.
        num_steps: T, the number of temperatures.
        num_islands: R, independent samplers, whose spread gives the standard error.
        ess_threshold: the effective sample size, from 0 (never resample: `annealed`) to 1 (always), below which
            an island is resampled, as a share of its particles.
        start: where particles start: "guide" or "prior".
        schedule: as in `annealed`.
        transition: as in `annealed`.
        prior_draws: as in `annealed`.
        seed: the numbers are a function of it.
        compile: whether the program is captured as a tensor graph and compiled (see `ppl_vae.compiled`): "auto" does it
            where there is enough to do for it to pay, by sizes alone. Levels differ in round-off, not in the draws.
        precision: of matrix products (see `ppl_vae.compiled.precision`): "full", or "bfloat16" or "tf32", by which
            log p(x) is off as `precision_error` measures it; such a result is not certified, and trusted nowhere.
        checkpoint: a file that keeps the state as work goes on; removed when it is done.
        resume: continue from ``checkpoint`` if it is there.
        progress: show a bar on a terminal.

    Returns:
        `Evidence` with ``bound="lower"``, ``basis="runs"`` and ``num_samples`` = R: per datum in nats, ``(N,)``.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` is of another run.
        ProgramError: if the evidence of the pair is not defined per datum, or a latent is discrete; names the site.
        NonFiniteError: if a log weight is NaN; names the datum.

    Sources: Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers" (2006); Whiteley, Lee and Heine, "On the
    role of interaction in sequential Monte Carlo algorithms" (2016), for adaptive resampling and islands.
    """
    program, x, sites = prepare(program, x)
    check_positive_int("num_particles", num_particles)
    check_positive_int("num_islands", num_islands)
    if num_particles % num_islands:
        raise InputError("num_particles", f"a multiple of num_islands = {num_islands}", num_particles)
    good = isinstance(ess_threshold, int | float) and not isinstance(ess_threshold, bool)
    if not good or not 0 <= ess_threshold <= 1:
        raise InputError("ess_threshold", "a number from 0 to 1", describe(ess_threshold))
    settings = Settings.of(num_particles, num_steps, start, schedule, transition, prior_draws)
    check_seed(seed)
    plan = settings.plan("sequential Monte Carlo", x, sites)
    plan = replace(
        plan, identity={**plan.identity, "num_islands": num_islands, "ess_threshold": ess_threshold}
    )
    shared = SharedSimulation(program, x, seed, num_particles, plan.block_size)
    figures = run_blocks(
        program,
        x,
        plan,
        lambda block: _Particles(program, block, settings, seed, shared, num_islands, ess_threshold),
        seed=seed,
        compile=compile,
        precision=precision,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    details = (
        f"{num_islands} islands of {num_particles // num_islands} particles, {num_steps} steps from the {start}, "
        f"{settings.name} schedule, resampled below {ess_threshold:g}, {settings.transition}"
    )
    return evidence_of(figures, method="smc", bound="lower", seed=seed, basis="runs", details=details)


class _Particles(Annealing):
    """Annealing chains that are resampled on the way; an island's evidence so far is kept apart from its weights."""

    def __init__(
        self,
        program: Program,
        block: Block,
        settings: Settings,
        seed: int,
        shared: SharedSimulation | None,
        num_islands: int,
        ess_threshold: float,
    ) -> None:
        super().__init__(program, block, settings, seed, shared)
        self.num_islands, self.ess_threshold = num_islands, ess_threshold
        self.log_evidence = torch.zeros(num_islands, block.num_data, dtype=torch.float64, device=self.device)
        self.variance = torch.zeros(block.num_data, dtype=torch.float64, device=self.device)

    def advance(self) -> int:
        if self.chains is not None and self.done < self.settings.num_steps:
            self._resample()
        return super().advance()

    def state(self) -> State:
        state = super().state()
        own = {"log_evidence": self.log_evidence, "variance": self.variance}
        return state | own if state else state

    def restore(self, state: State) -> int:
        self.log_evidence = state["log_evidence"].to(self.device)
        self.variance = state["variance"].to(self.device)
        return super().restore(state)

    def figures(self) -> Figures:
        n = self.block.num_data
        per_island = self.settings.num_chains // self.num_islands
        weights = self.log_weight.reshape(self.num_islands, per_island, n)
        runs = self.log_evidence + weights.logsumexp(1) - math.log(per_island)
        sums = Accumulator(n, self.num_islands, self.device)
        sums.add(runs)
        return self._completed(sums.finish(offset=self.block.offset))

    def again(self, block: Block) -> Annealing:
        seed = rng.derive(self.seed, "rehearsal chains")
        return _Particles(
            self.program, block, self.settings, seed, None, self.num_islands, self.ess_threshold
        )

    def _note(self, increment: Tensor) -> None:
        """Nothing: what is expected of islands is told by the weights that they had when they were resampled."""

    def _expected_share(self) -> Tensor:
        """1 / (1 + V), V the relative variance of an island's estimate if particles were independent, ``(N,)``.

        An island's factors are the means of M weights: each adds the relative variance of the weights over M.
        """
        R, n = self.log_evidence.shape
        weights = self.log_weight.reshape(R, -1, n)
        variance = self.variance + _relative_variance(weights).mean(0)
        return 1 / (1 + variance)

    def _resample(self) -> None:
        """Resample the islands whose weights are too uneven, where they have any weight at all."""
        if self.chains is None:
            raise AssertionError("particles were resampled before they were drawn")
        R, n = self.log_evidence.shape
        M = self.settings.num_chains // R
        weights = self.log_weight.reshape(R, M, n)
        log_total = weights.logsumexp(1)
        ess = (2 * log_total - (2 * weights).logsumexp(1)).exp()
        uneven = (ess < self.ess_threshold * M) & log_total.isfinite()
        if self.ess_threshold >= 1:
            uneven = log_total.isfinite()
        if not bool(uneven.any()):
            return
        generator = self._stream("resampling", self.done)
        chosen = _systematic(weights - log_total.unsqueeze(1), generator)
        stay = torch.arange(M, device=self.device).reshape(1, M, 1)
        index = torch.where(uneven.unsqueeze(1), chosen, stay)
        index = (index + M * torch.arange(R, device=self.device).reshape(R, 1, 1)).reshape(R * M, n)
        point, momentum = self.chains
        if momentum is not None:
            momentum = momentum.gather(0, index.unsqueeze(-1).expand_as(momentum))
        self.chains = Chains(point.rows(index), momentum)
        mean = log_total - math.log(M)
        self.variance = self.variance + torch.where(uneven, _relative_variance(weights), 0.0).mean(0)
        self.log_evidence = torch.where(uneven, self.log_evidence + mean, self.log_evidence)
        self.log_weight = torch.where(uneven.unsqueeze(1), 0.0, weights).reshape(R * M, n)


def _relative_variance(log_weights: Tensor) -> Tensor:
    """Of the mean of M weights ``(R, M, N)``, from their spread: ``(R, N)``; NaN where all are zero."""
    M = log_weights.shape[1]
    log_share = (2 * log_weights).logsumexp(1) - 2 * log_weights.logsumexp(1)
    return (log_share.exp() - 1 / M) * (M / max(M - 1, 1))


def _systematic(log_shares: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling: M indices for each island and datum, ``(R, M, N)``, from one uniform number each.

    Particle i is chosen M w_i times on average, and never more than one time off (Kitagawa 1996).
    """
    R, M, n = log_shares.shape
    ends = log_shares.exp().cumsum(1).transpose(1, 2).contiguous()
    ends = ends / ends[..., -1:]
    offset = torch.rand(R, n, 1, dtype=torch.float64, device=log_shares.device, generator=generator)
    wanted = (torch.arange(M, device=log_shares.device, dtype=torch.float64) + offset) / M
    return torch.searchsorted(ends, wanted, right=True).clamp(max=M - 1).transpose(1, 2)
