"""Randomised quasi-Monte Carlo: importance sampling at scrambled Sobol points."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import with_prefix
from ppl_vae.errors import InputError, check_positive_int, check_seed
from ppl_vae.evidence.importance_sampling.draws import Sobol
from ppl_vae.evidence.importance_sampling.rqmc_tail import DRAWS, excess_outside
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.diagnostics import RunDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Curves
from ppl_vae.evidence.running.blocks import Block, Plan, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import RunOptions
from ppl_vae.evidence.running.simulation_check import SharedSimulation, with_simulation_check
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.inverse_cdf import log_weights_at, num_uniforms

_BITS = 30  # bits of a Sobol point; the 22 bits below them are random
_LOWER = 22


def scrambled(
    program: Program, x: Data, num_samples: int, draws: Sobol, *, seed: int, **run: Unpack[RunOptions]
) -> Evidence:
    """log p(x) of each datum from scrambled Sobol points: the result of ``importance(..., draws=Sobol())``.

    A scrambling of n = 2**m Sobol points keeps them evenly spread and makes each of them uniform. With F the guide's
    distribution function, z = F^-1(u) is then a draw of the guide, and the mean of n weights is unbiased for p(x). R
    scramblings are independent of one another, so the mean of their R estimates is unbiased, too. Its standard error
    comes from their spread, but is at least the mass that the guide lacks in the region that S points may miss (see
    `ppl_vae.evidence.importance_sampling.rqmc_tail`). For smooth weights the error decreases nearly as n**-1.5; for
    independent draws it decreases as n**-0.5. If weights depend on many latents at once, or are discontinuous, the gain
    is smaller, but there is no relevant loss.

    Each datum has its own digital shifts, so the errors of different data are uncorrelated.

    Args:
        program: a `Program` whose guide can be inverted, see `ppl_vae.program.inverse_cdf`.
        x: the data.
        num_samples: S, the total number of points for each datum; S / R is rounded up to a power of two.
        draws: gives R, the number of scramblings.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="lower"``, ``basis="runs"``: each scrambling is a run. It has no curve. All runs may
        miss the same heavy tail and still agree. k-hat and ``hidden`` are therefore those of all S weights, and are
        used in the verdict.

    Raises:
        InputError: if an argument does not fit.
        ProgramError: naming a guide site that cannot be inverted.

    Sources: Owen, "Scrambled net variance for integrals of smooth functions" (1997); Matousek, "On the L2-discrepancy
    for anchored boxes" (1998), whose linear scrambling this is.
    """
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    D = num_uniforms(program, take(x, slice(0, 1)))
    if D > SobolEngine.MAXDIM:
        raise InputError("program", f"at most {SobolEngine.MAXDIM} latent dimensions for Sobol points", D)
    num_scrambles = draws.scrambles
    points = 2 ** (math.ceil(num_samples / num_scrambles) - 1).bit_length()
    if points > 2**_BITS:
        raise InputError("num_samples", f"at most 2**{_BITS} points in a scrambling", points)
    tiles = Tiles.plan(num_data(x), points, sites.numbers_per_datum + D, device_of(x))
    identity = {"draws": repr(draws), "points": points}
    plan = Plan("quasi-Monte Carlo", tiles.data, points * num_scrambles, identity)
    shared = SharedSimulation(program, x, seed, points * num_scrambles, tiles.data)

    def make(block: Block) -> _Scrambling:
        return _Scrambling(program, block, tiles, D, num_scrambles, seed, shared)

    figures = run_blocks(program, x, plan, make, seed=seed, **run)
    details = f"{num_scrambles} scramblings of {points} Sobol points"
    return evidence_of(
        figures, RunDiagnostics, method="importance", bound="lower", seed=seed, details=details
    )


def sobol(directions: Tensor, start: int, stop: int) -> Tensor:
    """Points ``start`` to ``stop`` of a Sobol sequence, in Gray code order: ``(stop - start, D)`` integers of 30 bits.

    Args:
        directions: ``(D, 30)`` direction numbers, such as those of `SobolEngine`.
        start: index of the first point.
        stop: index after the last point.
    """
    index = torch.arange(start, stop, device=directions.device)
    gray = index ^ (index >> 1)
    points = torch.zeros(len(index), len(directions), dtype=torch.int64, device=directions.device)
    for bit in range(max(stop - 1, 0).bit_length()):
        points ^= (gray >> bit & 1).unsqueeze(-1) * directions[:, bit]
    return points


class _Scrambling:
    """One block: its scramblings one after another, each divided into tiles."""

    def __init__(
        self,
        program: Program,
        block: Block,
        tiles: Tiles,
        dim: int,
        num_scrambles: int,
        seed: int,
        shared: SharedSimulation,
    ) -> None:
        self.program, self.block, self.dim, self.seed = program, block, dim, seed
        self.shared = shared
        self.device = device_of(block.x)
        self.points, self.R = tiles.num_samples, num_scrambles
        self.tile = 2 ** (tiles.samples.bit_length() - 1)
        n = block.num_data
        self.sums = Accumulator(n, self.points * self.R, self.device)
        self.log_sums = torch.full((self.R, n), -math.inf, dtype=torch.float64, device=self.device)
        self.sums_of_logs = torch.zeros(self.R, n, dtype=torch.float64, device=self.device)
        self.current: tuple[int, Tensor, Tensor] | None = None

    def advance(self) -> int:
        done = self.sums.count
        if done == self.points * self.R:
            return 0
        r, start = divmod(done, self.points)
        log_weights = log_weights_at(self.program, self.block.x, self._uniforms(r, start, start + self.tile))
        self.sums.add(log_weights)
        self.log_sums[r] = torch.logaddexp(self.log_sums[r], log_weights.logsumexp(0))
        self.sums_of_logs[r] += log_weights.sum(0)
        return len(log_weights)

    def state(self) -> State:
        runs = {"runs/log_sums": self.log_sums.cpu(), "runs/sums_of_logs": self.sums_of_logs.cpu()}
        return {f"sums/{name}": value for name, value in self.sums.state().items()} | runs

    def restore(self, state: State) -> int:
        self.sums = Accumulator.from_state(with_prefix("sums/", state), self.device)
        self.log_sums = state["runs/log_sums"].to(self.device)
        self.sums_of_logs = state["runs/sums_of_logs"].to(self.device)
        return self.sums.count

    def figures(self) -> Figures:
        n = self.block.num_data
        whole = self.sums.finish(offset=self.block.offset)
        runs = Accumulator(n, self.R)
        runs.add(self.log_sums.cpu() - math.log(self.points))
        elbos = self.sums_of_logs.cpu() / self.points
        figures = runs.finish(offset=self.block.offset)
        spread = elbos.std(0) / math.sqrt(self.R)
        S, log_evidence = self.sums.num_samples, figures.log_evidence
        x, index = self.block.x, self.block.index
        unseen = excess_outside(self.program, x, self.dim, S, log_evidence, self.seed, index).log1p()
        stderr = torch.where(figures.stderr < unseen, unseen, figures.stderr)
        figures = figures.replace(
            stderr=stderr,
            elbo=whole.elbo,
            elbo_stderr=torch.where(spread.isfinite(), spread, math.nan),
            # k-hat and the hidden share are those of all weights: the spread of a few runs does not show a tail.
            khat=whole.khat,
            hidden=whole.hidden,
            curves=Curves.none(n),
            density_evals=whole.density_evals + DRAWS,
        )
        return with_simulation_check(figures, self.program, self.block, self.seed, self.shared, num_samples=S)

    def _uniforms(self, r: int, start: int, stop: int) -> Tensor:
        """Points of scrambling ``r``, shifted for each datum: ``(stop - start, N, D)``, float64, never 0 or 1."""
        if self.current is None or self.current[0] != r:
            stream = self.block.index * self.R + r
            # All data of the block have the same linear scrambling. The digital shift alone makes each point uniform.
            # Given the scrambling the data are independent and have the same mean, so they are uncorrelated.
            directions = SobolEngine(
                self.dim, scramble=True, seed=rng.derive(self.seed, "sobol scrambling", stream)
            ).sobolstate
            generator = rng.generator(self.seed, "sobol shift", stream)
            shape = (self.block.num_data, self.dim)
            shift = torch.randint(2 ** (_BITS + _LOWER), shape, generator=generator)
            self.current = (r, directions.to(self.device), shift.to(self.device))
        _, directions, shift = self.current
        points = sobol(directions, start, stop) << _LOWER
        return ((points.unsqueeze(1) ^ shift).double() + 0.5) * 2.0 ** -(_BITS + _LOWER)
