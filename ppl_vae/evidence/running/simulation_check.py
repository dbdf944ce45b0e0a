"""Simulation check: whether draws and chains reach the exact posterior samples of simulated data.

If neither draws of the guide nor chains visit some mass, their weights do not show this: they agree, and the estimate
is too low. But for data x' simulated from the model, an exact sample z' of the posterior p(z | x') is known. If a share
r of the posterior is out of reach, a share r of the exact samples is out of reach, too.

Half of the simulated data are used without selection. The other half are those of many that are most similar to the
real data. The selection depends on x' alone, so z' is still an exact sample given x'. The result is a property of the
model and the estimator on such data. It does not apply to data that the model hardly ever generates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.verdict import HIDDEN, LOST_IN_TAIL
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.evidence.running.mode_search import FEW_STARTS, MOST_STARTS, DensityPath, with_mode_search
from ppl_vae.evidence.running.proposal import Proposal
from ppl_vae.program import Data, Latents, Program, device_of, num_data, take

NUM_DATA = 32
"""The number of simulated data in a check."""

FEW, MANY = 64, 128
"""The smallest and the largest number of draws for each simulated datum."""

CANDIDATES = 1024
"""The number of simulated data from which they are selected; each takes one run of the model."""

SHARE = 0.02
"""The cost of the check as a share of the cost of a block's draws, with at least ``FEW`` draws."""

VISITS = 10
"""A part of the posterior with share r of p(x) is out of reach if fewer than ``VISITS`` r draws are expected there."""

OUT_OF_REACH = 2
"""With this number of simulated data out of reach, a part of the posterior may be missed."""

_RUN_AGAIN = 8  # the largest number of simulated data for which chains are run
_SHORT, _MOVES = (
    40,
    20,
)  # steps of the shortest pilot, which is run first, and the largest number of moves after it
_APART, _ROOM = 3.0, 3.0  # standard deviations of the chains' ends, and nats
_COPIES = (
    32  # in blocks of at most this size, data are repeated to fill the block, whose shape is compiled already
)


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated data, their exact posterior samples, and the weights of both under the guide.

    Attributes:
        x: the M simulated data.
        z: ``(1, M, *event)`` an exact posterior sample of each.
        sums: figures of draws of the guide for them.
        log_weight: ``(M,)`` log p(x', z') - log q(z' | x') of the exact samples.
        density_evals: the number of evaluations of log p(x, z).
    """

    x: Data
    z: Latents
    sums: Figures
    log_weight: Tensor
    density_evals: float

    def outweighs(self, num_samples: int) -> Tensor:
        """``(M,)`` bool: whether the exact sample has more weight than ``num_samples`` draws of the guide together."""
        return self.log_weight > self.sums.log_evidence + math.log(num_samples)

    def out_of_reach(self, num_samples: int) -> Tensor:
        """``(M,)`` bool: whether almost no draws of S go to the exact sample, although the draws would be trusted.

        If a posterior share r has weights above c times the mean weight, the guide's probability there is below r / c.
        With c = S / 10 (at least the number of draws of the check, at most S), fewer than 10 r of S draws go there.
        """
        bar = min(max(num_samples // VISITS, self.sums.num_samples), max(num_samples, 1))
        return self.outweighs(bar) & (self.sums.hidden <= HIDDEN)


@dataclass(frozen=True)
class Outcome:
    """The result of a simulation check of chains.

    Attributes:
        unvisited: whether the chains miss a part of the posterior.
        density_evals: the number of evaluations of log p(x, z).
        gradient_evals: the number of evaluations with a gradient.
    """

    unvisited: bool
    density_evals: float
    gradient_evals: float


class SharedSimulation:
    """The simulation check of a run, which all blocks use. It is made for the first block that needs it.

    Args:
        program: the program.
        x: all of the data.
        seed: the user's seed.
        num_samples: S, or the number of chains.
        block_size: the number of data in a block of the run.
    """

    def __init__(self, program: Program, x: Data, seed: int, num_samples: int, block_size: int) -> None:
        self.num_data, self.block_size = num_data(x), block_size
        self._make = lambda: simulate_data(program, Block(x, 0, 0), seed, num_samples)
        self._found: list[Simulation | None] = []
        self._outcome: Outcome | None = None

    def __call__(self) -> Simulation | None:
        """The simulation check; None as in `simulate_data`."""
        if not self._found:
            self._found.append(self._make())
        return self._found[0]

    def outcome(self, found: Simulation, chains: Chains) -> Outcome:
        """The result of the simulation check for the chains of the run."""
        if self._outcome is None:
            try:
                self._outcome = _visited(found, chains, self.block_size)
            except Exception:
                # An estimate must not fail because of its check, for any exception of the user's model.
                self._outcome = Outcome(False, found.density_evals, 0.0)
        return self._outcome


def simulate_data(program: Program, block: Block, seed: int, num_samples: int) -> Simulation | None:
    """Simulate data like those of a block, and compute the weights of draws of the guide and of the exact samples.

    Args:
        program: the program.
        block: the data; the simulated data have the same covariates.
        seed: the user's seed; the simulation has its own random stream.
        num_samples: S of the estimate that is checked; the check costs about ``SHARE`` of it.

    Returns:
        None if the data cannot be simulated or the samples have no density: if the observed values are computed from
        the data, for example, or if the guide has no density at arbitrary points.
    """
    number = _draws(block.num_data, num_samples)
    device = device_of(block.x)
    rows = torch.arange(CANDIDATES, device=device) % block.num_data
    try:
        with torch.no_grad():
            z, x = program.simulate(take(block.x, rows), seed=rng.derive(seed, "rehearsal", block.index))
            rows = _chosen(x, block.x).to(device)
            z, x = {name: value[:, rows] for name, value in z.items()}, take(x, rows)
            sums = Accumulator(len(rows), number, device)
            draws = rng.derive(seed, "rehearsal draws", block.index)
            with program.laid_like(x, block.x):
                log_weight = (program.log_joint(z, x) - program.log_guide(z, x))[0].cpu()
                sums.add(program.log_weights(x, number, seed=draws, check=False))
            figures = sums.finish()
    except Exception:
        # An estimate must not fail because of its check, for any exception of the user's model.
        return None
    return Simulation(x, z, figures, log_weight, densities(block.num_data, num_samples))


def densities(num_data: int, num_samples: int) -> float:
    """The number of evaluations of log p(x, z) of a simulation check for a block of ``num_data`` data."""
    return CANDIDATES + NUM_DATA * (_draws(num_data, num_samples) + 1.0)


def _draws(num_data: int, num_samples: int) -> int:
    """The number of draws of the guide for each simulated datum."""
    return int(min(max(SHARE * num_samples * num_data / NUM_DATA, FEW), MANY))


def _chosen(simulated: Data, real: Data) -> Tensor:
    """Indices of simulated data: half of `NUM_DATA` without selection, half the nearest to real data.

    For each of up to 16 real data, evenly spread, the nearest simulated datum that is not yet chosen. Distances are
    Euclidean, with each number in units of its spread over the simulated data. In many dimensions data with small
    numbers are close to all others; this is why half of the data are not chosen by distance.
    """
    half = NUM_DATA // 2
    # If there are few real data, some of them are used more than once.
    wanted = torch.arange(NUM_DATA - half, device=device_of(real)) * num_data(real) // (NUM_DATA - half)
    made, given = _numbers(simulated), _numbers(take(real, wanted))
    spread = made.std(0)
    spread = torch.where(spread > 0, spread, 1.0)
    distance = torch.cdist(given / spread, made / spread)
    chosen = list(range(half))
    for row in distance:
        row[chosen] = math.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


def _numbers(x: Data) -> Tensor:
    """All numbers of each datum, ``(N, K)`` float64 on the CPU; numbers that are not finite are set to 0."""
    parts = [x] if isinstance(x, Tensor) else [x[name] for name in sorted(x)]
    flat = [part.detach().cpu().double().reshape(len(part), -1) for part in parts]
    return torch.cat(flat, dim=1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def with_simulation_check(
    figures: Figures,
    program: Program,
    block: Block,
    seed: int,
    shared: SharedSimulation,
    proposal: Proposal | None = None,
    num_samples: int | None = None,
) -> Figures:
    """Figures of independent weights with ``unvisited`` filled in, and with the cost of the check added.

    A simulated datum is out of reach if its exact posterior sample has more weight than a tenth of S draws of the guide
    together, although the draws would be trusted. If two of 32 simulated data are out of reach, all data of the block
    are marked: on simulated data, a part of the posterior of more than about 5 % is missed. For real data that differ
    from the simulated ones, the missed part may be smaller or larger.

    If nothing can be simulated, there is a search for modes instead (see `ppl_vae.evidence.running.mode_search`).

    With another proposal than the guide, a simulated datum counts only if the proposal's estimate is not clearly above
    the guide's estimate, which is known to be too low.

    Args:
        figures: the figures of one block.
        program: the program.
        block: the data.
        seed: the user's seed.
        shared: the simulation check of the run.
        proposal: the distribution of the draws; None for the guide.
        num_samples: S, if it differs from that of the figures.
    """
    S = figures.num_samples if num_samples is None else num_samples
    if bool((figures.hidden > LOST_IN_TAIL).all()):
        return figures  # rejected in any case
    found = shared()
    if found is None:
        return with_mode_search(figures, program, block, seed)
    out_of_reach = found.out_of_reach(S)
    spent = found.density_evals * block.num_data / shared.num_data
    if proposal is not None and int(out_of_reach.sum()) >= OUT_OF_REACH:
        rows = out_of_reach.nonzero()[:, 0]
        x = take(found.x, rows.to(device_of(found.x)))
        index = rng.derive(seed, "rehearsal proposal", block.index) % 2**31
        bound = proposal.bind(program, x, seed, index)
        sums = Accumulator(len(rows), MANY, device_of(x))
        rng.reseed(device_of(x), seed, "rehearsal proposal draws", block.index)
        sums.add(bound.log_weights(MANY))
        theirs = sums.finish()
        error = (theirs.stderr**2 + found.sums.stderr[rows] ** 2).sqrt().nan_to_num(nan=math.inf)
        out_of_reach[rows] = theirs.log_evidence - found.sums.log_evidence[rows] <= _APART * error + 0.1
        spent += len(rows) * MANY * bound.per_draw + float(torch.as_tensor(bound.density_evals).sum())
    return marked(figures, int(out_of_reach.sum()) >= OUT_OF_REACH, spent)


def marked(figures: Figures, unvisited: bool, density: float, gradient: float = 0.0) -> Figures:
    """Figures of a block with ``unvisited`` set, and with the cost divided among the data."""
    n = len(figures.log_evidence)
    return figures.replace(
        unvisited=torch.full((n,), unvisited),
        density_evals=figures.density_evals + density / n,
        gradient_evals=figures.gradient_evals + gradient / n,
    )


class Chains(Protocol):
    """The chains of an estimator for one block, for `with_simulation_check_of_chains`."""

    block: Block
    program: Program
    seed: int

    @property
    def path(self) -> DensityPath:
        """The annealing path."""

    @property
    def differentiable(self) -> bool:
        """Whether the model has gradients in its latents."""

    @property
    def num_chains(self) -> int:
        """Chains of each datum."""

    def again(self, block: Block) -> Chains:
        """The same estimator for other data."""

    def ends(self) -> Tensor:
        """Run the chains; returns log p(x, u) - log f_0(u) at their ends, ``(S, N)``."""

    def cost(self) -> tuple[int, int]:
        """Evaluations of log p(x, z), and of its gradient, for each datum."""

    def pilot_ends(self, num_steps: int) -> Iterator[tuple[Tensor, int, int]]:
        """`ends` and `cost` after a pilot of ``num_steps`` steps, and after each further move at p(x, z)."""


def with_simulation_check_of_chains(figures: Figures, chains: Chains, shared: SharedSimulation) -> Figures:
    """The same for chains from the guide or the prior, and a search for modes, whose cost is small compared with them.

    If exact samples of simulated data outweigh the draws of the guide, the chains are run for up to 8 of these data,
    and must reach the exact samples. A datum is out of reach if log p(x', z) - log f_0(z) of its exact sample is above
    that of the ends of all chains by more than 3 of their standard deviations plus 3 nats, where f_0 is the start
    density of the chains. A short pilot is run first: data for which one of its chains comes as high as the exact
    sample are in reach, and the chains are run for the other data only.

    Args:
        figures: the figures of one block.
        chains: the chains of the block.
        shared: the simulation check of the run.
    """
    if chains.differentiable:
        starts = chains.num_chains if chains.num_chains <= MOST_STARTS else FEW_STARTS
        figures = with_mode_search(figures, chains.program, chains.block, chains.seed, chains.path, starts)
    found = shared()
    if found is None:
        return figures
    outcome = shared.outcome(found, chains)
    part = chains.block.num_data / shared.num_data
    return marked(figures, outcome.unvisited, part * outcome.density_evals, part * outcome.gradient_evals)


def _visited(found: Simulation, chains: Chains, block_size: int) -> Outcome:
    suspects = found.outweighs(MANY).nonzero()[:, 0][:_RUN_AGAIN]
    density, gradient = found.density_evals, 0.0
    for short in (True, False):
        if len(suspects) < OUT_OF_REACH:
            break
        copies = max(len(suspects), block_size if block_size <= _COPIES else 0)
        which = torch.arange(copies) % len(suspects)
        rows = suspects[which].to(device_of(found.x))
        again = chains.again(Block(take(found.x, rows), 0, 0))
        exact = again.path.coordinates.to_vector({name: value[:, rows] for name, value in found.z.items()})
        level = again.path.at(exact, gradient=False).log_ratio()[0]
        reached = torch.zeros(len(suspects), dtype=torch.bool)
        if short:
            for pilot in islice(again.pilot_ends(_SHORT), _MOVES):
                ends, *cost = pilot
                reached.scatter_add_(0, which, (level <= ends.amax(0)).cpu())
                if int((~reached).sum()) < OUT_OF_REACH:
                    break
        else:
            ends = again.ends()
            cost = list(again.cost())
            spread = ends.std(0).nan_to_num(nan=0.0) if len(ends) > 1 else 0.0
            reached.scatter_add_(0, which, (level <= ends.amax(0) + _APART * spread + _ROOM).cpu())
        density, gradient = density + copies * (cost[0] + 1.0), gradient + copies * cost[1]
        suspects = suspects[~reached]
    return Outcome(len(suspects) >= OUT_OF_REACH, density, gradient)
