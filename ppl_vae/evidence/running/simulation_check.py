"""Simulation check: whether draws and chains go where exact posterior samples of simulated data are.

Mass that neither draws of the guide nor chains visit leaves no trace in their weights: they agree, and the estimate is
too low. But for data x' simulated from the model an exact sample z' of the posterior p(z | x') is known, and exact
samples come from everywhere in proportion. If a share r of the posterior is out of reach, so is a share r of them.

Half of the simulated data that are looked at are taken as they come, half are those of many that are most like the real
ones: which x' are chosen depends on x' alone, so z' stays an exact sample given x'. What is found is a property of the
model and its estimator on such data. It says nothing of data that the model hardly ever makes.
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
"""Simulated data for each block of data."""

FEW, MANY = 64, 128
"""Draws for each simulated datum: at least, and at most."""

CANDIDATES = 1024
"""Simulated data that they are chosen from: each is one run of the model."""

SHARE = 0.02
"""The share of the cost of a block's draws that the check may cost, where that is more than the fewest draws take."""

VISITS = 10
"""A part of the posterior is out of reach if fewer than so many times its share of p(x) of the draws go there."""

OUT_OF_REACH = 2
"""Simulated data out of reach from which on the verdict is that a part of the posterior may be missed."""

_RUN_AGAIN = 8  # simulated data that an estimator with chains is run for, at most
_SHORT, _MOVES = (
    40,
    20,
)  # steps of the pilot that goes first, the shortest there is, and moves that follow it at most
_APART, _ROOM = 3.0, 3.0  # standard deviations of the chains' ends, and nats
_COPIES = 32  # data in a block up to which suspects are repeated to fill one: a compiled pass of that shape is there


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated data, their exact posterior samples, and how these look from the guide.

    Attributes:
        x: the M simulated data.
        z: ``(1, M, *event)`` an exact posterior sample of each.
        sums: figures of draws of the guide for them.
        log_weight: ``(M,)`` log p(x', z') - log q(z' | x').
        density_evals: evaluations of log p(x, z) spent.
    """

    x: Data
    z: Latents
    sums: Figures
    log_weight: Tensor
    density_evals: float

    def beyond(self, num_samples: int) -> Tensor:
        """``(M,)`` bool: where the exact sample weighs as much as so many draws of the guide together."""
        return self.log_weight > self.sums.log_evidence + math.log(num_samples)

    def silent(self, num_samples: int) -> Tensor:
        """``(M,)`` bool: where next to none of S draws go to the exact sample, and the draws made would be trusted.

        Where a posterior share r has weights above c times their mean, the guide has a probability below r / c. With
        c = S / 10 (but no less than the draws made, nor more than S) it gets fewer than 10 r of S draws.
        """
        bar = min(max(num_samples // VISITS, self.sums.num_samples), max(num_samples, 1))
        return self.beyond(bar) & (self.sums.hidden <= HIDDEN)


@dataclass(frozen=True)
class Outcome:
    """What chains made of a simulation check.

    Attributes:
        unvisited: whether they leave out a part of the posterior.
        density_evals: evaluations of log p(x, z) spent.
        gradient_evals: evaluations with a gradient.
    """

    unvisited: bool
    density_evals: float
    gradient_evals: float


class SharedSimulation:
    """One simulation check for all blocks of a run, made when the first of them asks for it: a function of the run.

    Args:
        program: the program.
        x: all of the data.
        seed: the user's.
        num_samples: S, or the number of chains.
        block_size: data in a block of the run.
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
        """What the chains of a run make of its simulation check."""
        if self._outcome is None:
            try:
                self._outcome = _visited(found, chains, self.block_size)
            except Exception:
                # An estimate must not fail because of what looks after it, whatever the user's model raises.
                self._outcome = Outcome(False, found.density_evals, 0.0)
        return self._outcome


def simulate_data(program: Program, block: Block, seed: int, num_samples: int) -> Simulation | None:
    """Simulate data like those of a block, and weigh draws of the guide and the exact samples for them.

    Args:
        program: the program.
        block: the data; their covariates are those of the simulated data.
        seed: the user's; the simulation has a stream of its own.
        num_samples: S, of the estimate that the simulation check is for: it costs about ``SHARE`` of that.

    Returns:
        None where nothing can be simulated or scored: the observed values are computed from the data, say, or the
        guide has no density at arbitrary points.
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
        # An estimate must not fail because of what looks after it, whatever the user's model raises.
        return None
    return Simulation(x, z, figures, log_weight, densities(block.num_data, num_samples))


def densities(num_data: int, num_samples: int) -> float:
    """Evaluations of log p(x, z) that a simulation check for a block of so many data takes in all."""
    return CANDIDATES + NUM_DATA * (_draws(num_data, num_samples) + 1.0)


def _draws(num_data: int, num_samples: int) -> int:
    """Draws of the guide for each simulated datum."""
    return int(min(max(SHARE * num_samples * num_data / NUM_DATA, FEW), MANY))


def _chosen(simulated: Data, real: Data) -> Tensor:
    """Indices of simulated data: half of `NUM_DATA` as they come, half the nearest to real ones.

    For each of up to 16 real data, evenly spread, the nearest simulated datum that is left. Distances are Euclidean, of
    all numbers of a datum, each in units of its spread over the simulated data. In many dimensions data with small
    numbers are near to all others: that is why half of the data are not chosen by distance.
    """
    half = NUM_DATA // 2
    # Of few real data, some repeatedly.
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
    """All numbers of each datum, ``(N, K)`` float64 on the CPU; what is not finite is 0."""
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
    """Figures of independent weights with ``unvisited`` filled in, and what that took in their cost.

    A simulated datum is out of reach where its exact posterior sample weighs more than a tenth of S draws of the guide
    together and the weights of the draws would be trusted. All data of the block are marked if two of 32 simulated
    data are: a part of the posterior of more than about 5 % is missed then, on data that the model makes. Real data
    that are unlike them may fare better or worse.

    Where nothing can be simulated, modes are searched instead (see `ppl_vae.evidence.running.mode_search`).

    With another proposal than the guide, a simulated datum counts only if the proposal's estimate is not clearly above
    the guide's, which is known to be too low.

    Args:
        figures: of one block.
        program: the program.
        block: the data.
        seed: the user's.
        shared: the simulation check of the run.
        proposal: where the draws came from; None for the guide.
        num_samples: S, if it is not that of the figures.
    """
    S = figures.num_samples if num_samples is None else num_samples
    if bool((figures.hidden > LOST_IN_TAIL).all()):
        return figures  # rejected in any case
    found = shared()
    if found is None:
        return with_mode_search(figures, program, block, seed)
    silent = found.silent(S)
    spent = found.density_evals * block.num_data / shared.num_data
    if proposal is not None and int(silent.sum()) >= OUT_OF_REACH:
        rows = silent.nonzero()[:, 0]
        x = take(found.x, rows.to(device_of(found.x)))
        index = rng.derive(seed, "rehearsal proposal", block.index) % 2**31
        bound = proposal.bind(program, x, seed, index)
        sums = Accumulator(len(rows), MANY, device_of(x))
        rng.reseed(device_of(x), seed, "rehearsal proposal draws", block.index)
        sums.add(bound.log_weights(MANY))
        theirs = sums.finish()
        error = (theirs.stderr**2 + found.sums.stderr[rows] ** 2).sqrt().nan_to_num(nan=math.inf)
        silent[rows] = theirs.log_evidence - found.sums.log_evidence[rows] <= _APART * error + 0.1
        spent += len(rows) * MANY * bound.per_draw + float(torch.as_tensor(bound.density_evals).sum())
    return marked(figures, int(silent.sum()) >= OUT_OF_REACH, spent)


def marked(figures: Figures, unvisited: bool, density: float, gradient: float = 0.0) -> Figures:
    """Figures of a block with the verdict, and with what it took shared out over the data."""
    n = len(figures.log_evidence)
    return figures.replace(
        unvisited=torch.full((n,), unvisited),
        density_evals=figures.density_evals + density / n,
        gradient_evals=figures.gradient_evals + gradient / n,
    )


class Chains(Protocol):
    """The chains of an estimator for one block, as `with_simulation_check_of_chains` uses them."""

    block: Block
    program: Program
    seed: int

    @property
    def bridge(self) -> DensityPath:
        """What they walk along."""

    @property
    def differentiable(self) -> bool:
        """Whether the model has gradients in its latents."""

    @property
    def num_chains(self) -> int:
        """Chains of each datum."""

    def again(self, block: Block) -> Chains:
        """The same estimator for other data."""

    def ends(self) -> Tensor:
        """log p(x, u) - log f_0(u) where the chains end, ``(S, N)``; runs them."""

    def cost(self) -> tuple[int, int]:
        """Evaluations of log p(x, z), and of its gradient, that they take for a datum."""

    def pilot_ends(self, num_steps: int) -> Iterator[tuple[Tensor, int, int]]:
        """`ends` and `cost` of a pilot of so many steps, and then of as many moves at p(x, z) as are asked for."""


def with_simulation_check_of_chains(figures: Figures, chains: Chains, shared: SharedSimulation) -> Figures:
    """The same for chains, from the guide or from the prior; and a search for modes, which costs little beside them.

    Where exact samples of simulated data outweigh the draws of the guide, whatever these tell, the chains are run for
    some of these data, 8 at most, and must come to where the samples are: a datum is out of reach if
    log p(x', z) - log f_0(z) of its exact sample is above that of all ends of chains by more than 3 of their standard
    deviations and 3 nats, f_0 being what the chains start from. A short pilot goes first: data where one of its chains
    comes as high as the exact sample are in reach, and the chains themselves are run for what is left.

    Args:
        figures: of one block.
        chains: of the block.
        shared: the simulation check of the run.
    """
    if chains.differentiable:
        starts = chains.num_chains if chains.num_chains <= MOST_STARTS else FEW_STARTS
        figures = with_mode_search(figures, chains.program, chains.block, chains.seed, chains.bridge, starts)
    found = shared()
    if found is None:
        return figures
    outcome = shared.outcome(found, chains)
    part = chains.block.num_data / shared.num_data
    return marked(figures, outcome.unvisited, part * outcome.density_evals, part * outcome.gradient_evals)


def _visited(found: Simulation, chains: Chains, block_size: int) -> Outcome:
    suspects = found.beyond(MANY).nonzero()[:, 0][:_RUN_AGAIN]
    density, gradient = found.density_evals, 0.0
    for short in (True, False):
        if len(suspects) < OUT_OF_REACH:
            break
        copies = max(len(suspects), block_size if block_size <= _COPIES else 0)
        which = torch.arange(copies) % len(suspects)
        rows = suspects[which].to(device_of(found.x))
        again = chains.again(Block(take(found.x, rows), 0, 0))
        exact = again.bridge.coordinates.to_vector({name: value[:, rows] for name, value in found.z.items()})
        level = again.bridge.at(exact, gradient=False).log_ratio()[0]
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
