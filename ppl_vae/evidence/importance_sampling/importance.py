"""Importance sampling: the ELBO, the IWAE-K bounds and log p(x), in one pass over samples.

A `Proposal` draws the samples, `Tiles` divide them into passes, and an `Accumulator` computes the figures from their
weights. This module adds the weights of each tile to the accumulator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.evidence.importance_sampling import rqmc, until_stderr
from ppl_vae.evidence.importance_sampling.draws import IID, Draws, Sobol, UntilStderr, check_draws
from ppl_vae.evidence.importance_sampling.proposal_checks import with_proposal_checks
from ppl_vae.evidence.importance_sampling.proposals import Guide, Proposal, ProposalOnData, check_proposal
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, Plan, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import ALL, RunOptions, takes_run_options
from ppl_vae.evidence.running.prior_check import check_drawable, check_prior_draws, with_prior_check
from ppl_vae.evidence.running.simulation_check import SharedSimulation
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.program import Data, Program, device_of, num_data

SAMPLES = 5000
"""The default number of samples for each datum."""


@takes_run_options(*ALL)
def importance(
    program: Program,
    x: Data,
    num_samples: int | None = None,
    *,
    proposal: Proposal | None = None,
    draws: Draws = IID(),  # noqa: B008  (frozen)
    prior_draws: int = 0,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum by importance sampling.

    With ``log w_s = log p(x, z_s) - log q(z_s|x)`` and ``z_s ~ q(z|x)``, the estimate is
    ``log (1/S) sum_s w_s``. ``(1/S) sum_s w_s`` is unbiased for p(x), so the estimate is a lower bound of log p(x)
    in expectation. It converges to log p(x) as S grows (bias about ``-stderr**2 / 2``), and exceeds log p(x) by b nats
    with probability at most ``exp(-b)``. Each datum has its own weights; nothing is summed over data before the log.
    The same holds for any other proposal instead of q(z|x); the ELBO and the curve are then those of the proposal.

    Memory does not grow with S. The work is divided into tiles of some samples for some data. The size of a tile
    depends on N, S, the program's sites and the type of device, and each tile has its own random stream.

    Args:
        program: a `Program`, such as ``vae.program``.
        x: the data, on the device of the program's parameters.
        num_samples: S, the number of samples for each datum. 5,000 by default; `UntilStderr` chooses it itself.
        proposal: the distribution of the samples: `Guide` (the default), `Defensive`, `Widened`, `StudentT`,
            `Refitted`, or your own.
        draws: how the samples are drawn: `IID` (the default), `Sobol` for points that are spread more evenly than
            independent ones (a smaller error for few latents and smooth weights), or `UntilStderr` for as many
            samples of each datum as a standard error needs.
        prior_draws: the number of draws of the prior that search for mass which the proposal misses. Data for which
            they find such mass are rejected (see `ppl_vae.evidence.running.prior_check`). Useful in few dimensions,
            with 2,048 draws, for example. No other number changes. With `IID` only.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="lower"``: for each datum in nats, ``(N,)`` float64.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` belongs to another run.
        ProgramError: if log p(x) is not defined for each datum; names the site.
        NonFiniteError: if a log weight is NaN; names the datum.

    Sources: Kloek and van Dijk (1978); Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016).
    """
    check_draws(draws)
    proposal = check_proposal(Guide() if proposal is None else proposal)
    how = f"draws={type(draws).__name__}(...)"
    if check_prior_draws(prior_draws) and not isinstance(draws, IID):
        raise InputError("prior_draws", f"0 with {how}", prior_draws)
    if isinstance(draws, UntilStderr):
        if num_samples is not None:
            raise InputError("num_samples", f"none with {how}", describe(num_samples))
        return until_stderr.budgeted(program, x, draws, proposal, seed=seed, **run)
    size = SAMPLES if num_samples is None else num_samples
    if isinstance(draws, Sobol):
        if not isinstance(proposal, Guide):
            raise InputError("proposal", f"Guide() with {how}", describe(proposal))
        return rqmc.scrambled(program, x, size, draws, seed=seed, **run)
    figures = estimate_from_draws(
        program, x, size, proposal, Accumulator, seed=seed, prior_draws=prior_draws, **run
    )
    return evidence_of(
        figures, method="importance", bound="lower", seed=seed, details=describe_proposal(proposal)
    )


def describe_proposal(proposal: Proposal) -> str:
    """The text about a proposal in the details of a result; empty for the guide."""
    return "" if isinstance(proposal, Guide) else f"proposal {proposal}"


def estimate_from_draws(
    program: Program,
    x: Data,
    num_samples: int,
    proposal: Proposal,
    sums: type[Accumulator],
    *,
    seed: int,
    prior_draws: int = 0,
    name: str = "importance sampling",
    **run: Unpack[RunOptions],
) -> Figures:
    """The figures that ``sums`` computes from the log weights of S independent draws from a proposal.

    Two estimators that differ only in ``sums`` use the same weights.
    """
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    chunk_size = run.get("chunk_size")
    if chunk_size is not None:
        check_positive_int("chunk_size", chunk_size)
    check_proposal(proposal)
    program, x, sites = prepare(program, x)
    if prior_draws:
        check_drawable(program, x)
    tiles = Tiles.plan(num_data(x), num_samples, sites.numbers_per_datum, device_of(x))
    identity = {"num_samples": num_samples, "estimator": sums.__name__, "proposal": repr(proposal)}
    identity |= {"prior_draws": prior_draws} if prior_draws else {}
    effort = tiles.effort(sites.numbers_per_datum)
    plan = Plan(name, tiles.data, num_samples, identity, effort, [(tiles.data, tiles.samples)])

    shared = SharedSimulation(program, x, seed, num_samples, tiles.data)

    def make(block: Block) -> _Sampling:
        bound = proposal.bind(program, block.x, seed, block.index)

        def checked(figures: Figures) -> Figures:
            figures = with_prior_check(figures, program, block, seed, prior_draws)
            return with_proposal_checks(figures, program, block, seed, shared, proposal)

        return _Sampling(bound, block, tiles, sums, seed, chunk_size, checked)

    return run_blocks(program, x, plan, make, seed=seed, **run)


class _Sampling:
    """Importance sampling of one block: adds tiles of samples to an accumulator."""

    def __init__(
        self,
        bound: ProposalOnData,
        block: Block,
        tiles: Tiles,
        sums: type[Accumulator],
        seed: int,
        chunk_size: int | None,
        finish: Callable[[Figures], Figures],
    ) -> None:
        self.bound, self.block, self.tiles, self.seed = bound, block, tiles, seed
        self.chunk_size, self.finish = chunk_size, finish
        self.sums = sums(block.num_data, tiles.num_samples, device_of(block.x))

    def advance(self) -> int:
        chunk = next(self.tiles.chunks(self.sums.count, self.chunk_size), range(0))
        weights = [_tile(self.bound, self.block, self.tiles, self.seed, tile) for tile in chunk]
        if weights:
            self.sums.add(torch.cat(weights))
        return sum(map(len, weights))

    def state(self) -> State:
        return self.sums.state()

    def restore(self, state: State) -> int:
        self.sums = type(self.sums).from_state(state, device_of(self.block.x))
        return self.sums.count

    def figures(self) -> Figures:
        figures, bound = self.sums.finish(offset=self.block.offset), self.bound
        figures = figures.replace(
            density_evals=figures.density_evals * bound.per_draw + bound.density_evals,
            gradient_evals=figures.gradient_evals + bound.gradient_evals,
        )
        return self.finish(figures)


def _tile(bound: ProposalOnData, block: Block, tiles: Tiles, seed: int, tile: int) -> torch.Tensor:
    rng.reseed(device_of(block.x), seed, "importance", block.index * tiles.tiles + tile)
    return bound.log_weights(tiles.size(tile))
