"""Sequential Monte Carlo (SMC): annealing with particles that are resampled when their weights are uneven."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.evidence.annealing.ais import Annealing
from ppl_vae.evidence.annealing.kernels import Chains, Transition
from ppl_vae.evidence.annealing.resampling import Resampler, Systematic, check_chosen, check_resampler
from ppl_vae.evidence.annealing.schedules import Schedule
from ppl_vae.evidence.annealing.settings import Settings
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.diagnostics import RunDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import ALL_BUT_CHUNKS, RunOptions, takes_run_options
from ppl_vae.evidence.running.prior_check import DRAWS
from ppl_vae.evidence.running.simulation_check import SharedSimulation
from ppl_vae.program import Data, Program


@takes_run_options(*ALL_BUT_CHUNKS)
def smc(
    program: Program,
    x: Data,
    num_particles: int = 256,
    num_steps: int = 100,
    *,
    num_islands: int = 8,
    ess_threshold: float = 0.5,
    start: str = "guide",
    schedule: Schedule | str | Tensor = "pilot",
    transition: Transition | None = None,
    resampler: Resampler | None = None,
    prior_draws: int = DRAWS,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum by a sequential Monte Carlo sampler with tempering.

    Particles move as the chains of `annealed`, from f_0 to p(x, z) over T temperatures. Before a move, an island is
    resampled if its effective sample size is below ``ess_threshold`` times its number of particles; the weights are
    then set to their mean. The product of these means is unbiased for p(x), because the schedule is fixed in advance or
    frozen after a pilot run, and the decision to resample depends only on weights that are already known.

    The particles are divided among ``num_islands`` independent samplers (islands). Particles that were resampled
    together are dependent, but islands are independent. The mean over islands is the estimate, and their spread gives
    its standard error.

    Args:
        program: as in `annealed`.
        x: the data.
        num_particles: the number of particles for each datum, over all islands; a multiple of ``num_islands``.
        num_steps: T, the number of temperatures.
        num_islands: R, the number of independent samplers; their spread gives the standard error.
        ess_threshold: an island is resampled if its effective sample size is below this share of its particles, from
            0 (never, as `annealed`) to 1 (always).
        start: where particles start: "guide" or "prior".
        schedule: as in `annealed`.
        transition: as in `annealed`.
        resampler: a `Resampler`; default: `Systematic()`, which uses one uniform number.
        prior_draws: as in `annealed`.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="lower"``, ``basis="runs"`` and ``num_samples`` = R: for each datum in nats, ``(N,)``.

    Raises:
        InputError, ProgramError, NonFiniteError: as for `annealed`.

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
    resampler = check_resampler(Systematic() if resampler is None else resampler)
    settings = Settings.of(num_particles, num_steps, start, schedule, transition, prior_draws)
    check_seed(seed)
    plan = settings.plan("sequential Monte Carlo", x, sites)
    plan = replace(
        plan,
        identity={
            **plan.identity,
            "num_islands": num_islands,
            "ess_threshold": ess_threshold,
            "resampler": repr(resampler),
        },
    )
    shared = SharedSimulation(program, x, seed, num_particles, plan.block_size)
    figures = run_blocks(
        program,
        x,
        plan,
        lambda block: _Particles(
            program, block, settings, seed, shared, num_islands, ess_threshold, resampler
        ),
        seed=seed,
        **run,
    )
    details = (
        f"{num_islands} islands of {num_particles // num_islands} particles, {num_steps} steps from the {start}, "
        f"{settings.name} schedule, resampled below {ess_threshold:g}, {settings.transition}"
    )
    details += "" if isinstance(resampler, Systematic) else f", {resampler}"
    return evidence_of(figures, RunDiagnostics, method="smc", bound="lower", seed=seed, details=details)


class _Particles(Annealing):
    """Annealing chains with resampling; the factors of an island's evidence are kept apart from its weights."""

    def __init__(
        self,
        program: Program,
        block: Block,
        settings: Settings,
        seed: int,
        shared: SharedSimulation | None,
        num_islands: int,
        ess_threshold: float,
        resampler: Resampler,
    ) -> None:
        super().__init__(program, block, settings, seed, shared)
        self.num_islands, self.ess_threshold, self.resampler = num_islands, ess_threshold, resampler
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
        options = (self.num_islands, self.ess_threshold, self.resampler)
        return _Particles(self.program, block, self.settings, seed, None, *options)

    def _note(self, increment: Tensor) -> None:
        """Do nothing: the expected spread of islands is computed from their weights at resampling."""

    def _expected_share(self) -> Tensor:
        """1 / (1 + V), ``(N,)``, where V is the relative variance of an island's estimate for independent particles.

        An island's factors are means of M weights: each adds the relative variance of the weights divided by M.
        """
        R, n = self.log_evidence.shape
        weights = self.log_weight.reshape(R, -1, n)
        variance = self.variance + _relative_variance(weights).mean(0)
        return 1 / (1 + variance)

    def _resample(self) -> None:
        """Resample the islands whose weights are too uneven and not all zero."""
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
        some = log_total.isfinite().unsqueeze(1)  # if all weights are zero, the choice is not used
        log_shares = torch.where(some, weights - log_total.unsqueeze(1), -math.log(M))
        chosen = check_chosen(self.resampler.resample(log_shares, generator), log_shares)
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
    """The relative variance of the mean of M weights ``(R, M, N)``: ``(R, N)``; NaN if all are zero."""
    M = log_weights.shape[1]
    log_share = (2 * log_weights).logsumexp(1) - 2 * log_weights.logsumexp(1)
    return (log_share.exp() - 1 / M) * (M / max(M - 1, 1))
