"""Sampling to a target standard error: a pilot gives the number of samples of each datum, fresh draws the estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import with_prefix
from ppl_vae.errors import NonFiniteError, check_seed
from ppl_vae.evidence.importance_sampling.draws import UntilStderr
from ppl_vae.evidence.importance_sampling.proposal_checks import with_proposal_checks
from ppl_vae.evidence.importance_sampling.proposals import Guide, Proposal, ProposalOnData
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Curves
from ppl_vae.evidence.running.blocks import Block, Plan, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import RunOptions
from ppl_vae.evidence.running.simulation_check import SharedSimulation
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.program import Data, Program, device_of, num_data, take

FEWEST = 1024
"""The smallest number of samples of a datum: with fewer, k-hat and the standard error are not reliable."""

SAFETY = 2.0
"""Factor by which the pilot's variance is multiplied: pilots often underestimate it, by much if tails are heavy."""

_READ = ("log_evidence", "stderr", "elbo", "elbo_stderr", "ess", "khat", "hidden")
_UNITS = 1000  # units of the progress bar: the number of samples is only known after the pilot
_PILOT_UNITS = 200


def budgeted(
    program: Program,
    x: Data,
    draws: UntilStderr,
    proposal: Proposal,
    *,
    seed: int,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) to a standard error of ``draws.target``: the result of ``importance(..., draws=UntilStderr(...))``.

    A pilot estimates each datum's relative variance V = Var(w) / p(x)**2. The number of samples of the datum is then
    2 V / target**2, rounded up to a power of two, at least 1,024 and at most ``draws.most``. Only fresh draws are used
    for the estimate: with the pilot's draws, the number of samples would depend on the weights in the mean. The
    estimate is therefore a stochastic lower bound, as with a fixed number of samples. If the pilot missed a heavy tail,
    the error may still be larger than the target: these are the data with ``e.stderr > draws.target``, and
    ``e.details`` gives their number.

    Args:
        program: a `Program`.
        x: the data.
        draws: the target, the largest number of samples of a datum, and the number of pilot samples, which are
            counted in ``density_evals``.
        proposal: as for `importance`.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="lower"``; ``draws`` is the number of samples of each datum, and ``num_samples`` the
        largest of these numbers. It has no curve.

    Raises:
        InputError: if an argument does not fit.
    """
    target, pilot = float(draws.target), draws.pilot
    check_seed(seed)
    program, x, sites = prepare(program, x)
    tiles = Tiles.plan(num_data(x), pilot, sites.numbers_per_datum, device_of(x))
    width = sites.numbers_per_datum
    shared = SharedSimulation(program, x, seed, pilot, tiles.data)
    settings = Settings(program, proposal, pilot, target, draws.most, width, seed, shared)
    identity = {"draws": repr(draws), "proposal": repr(proposal)}
    plan = Plan("importance sampling", tiles.data, _UNITS, identity)
    figures = run_blocks(program, x, plan, lambda block: _Budgeted(settings, block), seed=seed, **run)
    figures = figures.replace(num_samples=int(figures.draws.max()))
    missed = int((~(figures.stderr <= target)).sum())
    details = [f"target {target:g}, missed by {missed} of {len(figures.stderr)}", f"pilot of {pilot}"]
    details += [] if isinstance(proposal, Guide) else [f"proposal {proposal}"]
    return evidence_of(figures, method="importance", bound="lower", seed=seed, details="; ".join(details))


@dataclass(frozen=True)
class Settings:
    """The settings that all blocks of a run have in common.

    Attributes:
        program: the program.
        proposal: the distribution of the samples.
        pilot: the number of pilot samples.
        target: the target standard error, in nats.
        most: the largest number of samples of a datum.
        width: numbers in memory for each sample of a datum.
        seed: the user's seed.
        shared: the simulation check of the run.
    """

    program: Program
    proposal: Proposal
    pilot: int
    target: float
    most: int
    width: int
    seed: int
    shared: SharedSimulation

    def allocate(self, pilot: Figures) -> Tensor:
        """``(N,)`` int64 number of samples for each datum, from the pilot; the largest if all weights are zero."""
        variance = (pilot.stderr**2 * pilot.num_samples).nan_to_num(nan=math.inf)
        wanted = (SAFETY * variance / self.target**2).clamp(min=FEWEST, max=2.0**62)
        return (2 ** wanted.log2().ceil()).clamp(max=self.most).long()

    def stream(self, block: int, group: int) -> int:
        """The index of a group's random stream; group -1 is the block's pilot."""
        groups = self.most.bit_length() + 2  # numbers of samples that there are, and the pilot
        return block * groups + group + 1


class _Budgeted:
    """One block: its pilot, and then groups of data with the same number of samples."""

    def __init__(self, settings: Settings, block: Block) -> None:
        self.settings, self.block, self.device = settings, block, device_of(block.x)
        n = block.num_data
        self.counts = torch.zeros(n, dtype=torch.int64)
        self.found = torch.full((len(_READ), n), math.nan, dtype=torch.float64)
        self.whole = settings.proposal.bind(
            settings.program, block.x, settings.seed, settings.stream(block.index, -1)
        )
        self.spent = torch.zeros(2, n, dtype=torch.float64)  # on binding
        self._spend(self.whole, slice(None))
        self.group, self.units = -1, 0  # group -1 is the pilot
        self.rows, self.bound = torch.arange(n), self.whole
        self._begin(settings.pilot)

    def advance(self) -> int:
        if self.sums.count == self.sums.num_samples and not self._next():
            return 0
        done, most = self.sums.count, max(self.settings.pilot, self.settings.most)
        index = self.settings.stream(self.block.index, self.group) * math.ceil(most / 64) + done // self.tile
        rng.reseed(self.device, self.settings.seed, "importance to a target", index)
        self.sums.add(self.bound.log_weights(min(self.tile, self.sums.num_samples - done)))
        before, self.units = self.units, max(self.units + 1, self._progress())
        return self.units - before

    def state(self) -> State:
        numbers = {"group": torch.tensor(self.group), "units": torch.tensor(self.units)}
        sums = {f"sums/{name}": value for name, value in self.sums.state().items()}
        return sums | numbers | {name: getattr(self, name).clone() for name in ("counts", "found", "spent")}

    def restore(self, state: State) -> int:
        self.counts, self.found = state["counts"].clone(), state["found"].clone()
        self.group, self.units = int(state["group"]), int(state["units"])
        if self.group >= 0:
            self._enter()
        self.spent = state["spent"].clone()
        self.sums = Accumulator.from_state(with_prefix("sums/", state), self.device)
        return self.units

    def figures(self) -> Figures:
        n = self.block.num_data
        drawn = (self.counts + self.settings.pilot).double()
        figures = Figures.of(
            **dict(zip(_READ, self.found, strict=True)),
            num_samples=int(self.counts.max()),
            curves=Curves.none(n),
            draws=self.counts,
            density_evals=drawn * self.whole.per_draw + self.spent[0],
            gradient_evals=self.spent[1],
        )
        settings = self.settings
        return with_proposal_checks(
            figures, settings.program, self.block, settings.seed, settings.shared, settings.proposal
        )

    def _next(self) -> bool:
        """Store the group's figures and start the next group; False if there is none."""
        bad = self.rows[self.sums.nan_data()]
        if len(bad):
            first = self.block.offset + int(bad[0])
            raise NonFiniteError(f"log weights of datum {first}: expected numbers or -inf, got NaN or +inf")
        figures = self.sums.finish()
        if self.group < 0:
            self.counts = self.settings.allocate(figures)
        else:
            self.found[:, self.rows] = torch.stack([getattr(figures, name) for name in _READ])
        if self.group + 1 == len(self.counts.unique()):
            return False
        self.group += 1
        self._enter()
        return True

    def _enter(self) -> None:
        size = int(self.counts.unique()[self.group])
        self.rows = (self.counts == size).nonzero()[:, 0]
        rows, settings = self.rows.to(self.device), self.settings
        bound = self.whole.take(rows)
        if bound is None:
            part, index = take(self.block.x, rows), settings.stream(self.block.index, self.group)
            bound = settings.proposal.bind(settings.program, part, settings.seed, index)
            self._spend(bound, self.rows)
        self.bound = bound
        self._begin(size)

    def _begin(self, num_samples: int) -> None:
        tiles = Tiles.plan(len(self.rows), num_samples, self.settings.width, self.device)
        self.tile = tiles.samples
        self.sums = Accumulator(len(self.rows), num_samples, self.device)

    def _spend(self, bound: ProposalOnData, rows: Tensor | slice) -> None:
        self.spent[0, rows] += bound.density_evals
        self.spent[1, rows] += bound.gradient_evals

    def _progress(self) -> int:
        if self.group < 0:
            return _PILOT_UNITS * self.sums.count // self.settings.pilot
        size = self.sums.num_samples
        done = int(self.counts[self.counts < size].sum()) + self.sums.count * len(self.rows)
        return _PILOT_UNITS + (_UNITS - _PILOT_UNITS) * done // int(self.counts.sum())
