"""Guide check: draws of the guide search for mass that the estimate of another proposal misses.

The simulation check tests the guide only. A proposal that was made from the guide may cover less than the guide: a
refitted guide may cover only one of two modes, and a distribution with the guide's moments may miss a narrow spike that
the guide covers. The weights of such a proposal do not show this. But the mean of the guide's weights is unbiased for
p(x), too. If it is clearly above the estimate, a part of the posterior is missed.
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
"""Draws of the guide for each datum, and for doubtful data; at most as many as the estimate has."""

_DOUBT = 1.5  # a datum is doubtful if the guide's estimate is above by this number of standard errors
_AT_ONCE = 64


def with_guide_check(figures: Figures, program: Program, block: Block, seed: int) -> Figures:
    """Figures with ``missed`` set if draws of the guide find clearly more mass, and with the cost of the check added.

    The rule is that of `ppl_vae.evidence.running.prior_check.with_prior_check`, with the guide instead of the prior.
    If the guide's estimate is above by 1.5 standard errors, the datum gets more draws, and these decide. If rounding
    puts draws of the guide onto an edge of their support, its weights are wrong, and ``missed`` is not set; the datum
    then gets the verdict about the edge.

    Args:
        figures: the figures of independent weights of a block, from another proposal than the guide.
        program: the program.
        block: the data.
        seed: the user's seed; the check has its own random streams.
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
    """The figures of ``number`` draws of the guide."""
    device = device_of(x)
    sums = Accumulator(num_data(x), number, device)
    rng.reseed(device, seed, purpose, index)
    for draws in torch.arange(number).split(_AT_ONCE):
        weights = program.log_weights(x, len(draws), seed=None, check=False)
        sums.add(torch.where(weights < math.inf, weights, -math.inf))  # NaN and +inf count as zero mass
    return sums.finish()
