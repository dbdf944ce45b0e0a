"""Guide check: draws of the guide look for mass that the estimate of another proposal does not hold.

The simulation check looks at the guide. A proposal that was made from the guide may cover less: the best
member of a family by its ELBO lies in one of two modes, and a distribution with the guide's moments hardly ever hits a
narrow spike that the guide knows. Its weights agree with one another then. But the mean of the guide's weights is
unbiased for p(x), too: where it is clearly above the estimate, a part of the posterior is missed.
"""

from __future__ import annotations

import math

import torch

from ppl_vae import rng
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.verdict import LOST_IN_TAIL, ON_EDGE
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.evidence.running.prior_check import clearly_above
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.edges import edge_share

DRAWS, MORE = 256, 2048
"""Draws of the guide for each datum, and for data where these leave a doubt; at most as many as the estimate has."""

_DOUBT = 1.5  # standard errors above the estimate from which on more draws are made
_AT_ONCE = 64


def with_guide_check(figures: Figures, program: Program, block: Block, seed: int) -> Figures:
    """Figures with ``missed`` set where draws of the guide find clearly more mass, and what that took in their cost.

    The rule is that of `ppl_vae.evidence.running.prior_check.with_prior_check`, with the guide in the place of the
    prior. Data where the guide's estimate is above by 1.5 standard errors get more draws, and are judged by these.
    Where rounding puts draws of the guide onto an edge of their support, the guide accuses nobody: its own weights are
    off, and the verdict is about the edge.

    Args:
        figures: of independent weights of a block, from draws of another proposal than the guide.
        program: the program.
        block: the data.
        seed: the user's; the draws have streams of their own.
    """
    if bool((figures.hidden > LOST_IN_TAIL).all()):
        return figures  # rejected in any case
    number = min(DRAWS, figures.num_samples)
    found = _weigh(program, block.x, number, seed, "draws of the guide", block.index)
    missed = clearly_above(found, figures.log_evidence, figures.stderr)
    doubtful = ~missed & clearly_above(found, figures.log_evidence, figures.stderr, _DOUBT)
    spent = torch.full_like(figures.log_evidence, float(number))
    rows = doubtful.nonzero()[:, 0]
    if len(rows):
        x = take(block.x, rows.to(device_of(block.x)))
        more = min(MORE, figures.num_samples)
        found = _weigh(program, x, more, seed, "more draws of the guide", block.index)
        missed[rows] = clearly_above(found, figures.log_evidence[rows], figures.stderr[rows])
        spent[rows] += more
    rows = missed.nonzero()[:, 0]
    if len(rows):
        x = take(block.x, rows.to(device_of(block.x)))
        rng.reseed(device_of(x), seed, "edges of the guide", block.index)
        missed[rows] = (edge_share(program, x, DRAWS) <= ON_EDGE).cpu()
    return figures.replace(missed=figures.missed | missed, density_evals=figures.density_evals + spent)


def _weigh(program: Program, x: Data, number: int, seed: int, purpose: str, index: int) -> Figures:
    """Figures of so many draws of the guide."""
    device = device_of(x)
    sums = Accumulator(num_data(x), number, device)
    rng.reseed(device, seed, purpose, index)
    for draws in torch.arange(number).split(_AT_ONCE):
        weights = program.log_weights(x, len(draws), seed=None, check=False)
        sums.add(torch.where(weights < math.inf, weights, -math.inf))  # what is no number finds nothing
    return sums.finish()
