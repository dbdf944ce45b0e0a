"""Checks of an estimate from independent draws: on simulated data, and against the guide for other proposals."""

from __future__ import annotations

from ppl_vae.evidence.importance_sampling.proposals import Defensive, Guide
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.evidence.running.guide_check import with_guide_check
from ppl_vae.evidence.running.proposal import Proposal
from ppl_vae.evidence.running.simulation_check import SharedSimulation, with_simulation_check
from ppl_vae.program import Program


def with_proposal_checks(
    figures: Figures, program: Program, block: Block, seed: int, shared: SharedSimulation, proposal: Proposal
) -> Figures:
    """Figures with the results of the checks, and with their cost added.

    Args:
        figures: the figures of one block.
        program: the program.
        block: the data.
        seed: the user's seed.
        shared: the simulation check of the run.
        proposal: the distribution of the draws. A proposal that contains the guide covers all that the guide covers;
            any other proposal is compared with the guide.
    """
    other = None if isinstance(proposal, Guide) else proposal
    figures = with_simulation_check(figures, program, block, seed, shared, other)
    if isinstance(proposal, Guide | Defensive):
        return figures
    return with_guide_check(figures, program, block, seed)
