"""Prior check: draws of the prior look for mass that an estimate does not hold.

Chains that start from a guide inside one mode agree with one another, and so do importance weights from it; the
estimate lacks the other modes and looks well. The mean of p(x|z) over draws z ~ p(z) is unbiased for p(x), too. It is
hopelessly imprecise in many dimensions, but where it is precise and clearly above the estimate, the estimate is wrong.
The test has one side: a prior that finds nothing says nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.program import Data, Program, device_of, take
from ppl_vae.program.densities import prior_log_likelihood
from ppl_vae.program.draws import NoSamplerError
from ppl_vae.program.tracing import PLAIN, run

DRAWS = 16_384
"""Draws of the prior a datum, at most."""

FEW = 2048
"""Draws that cost next to nothing beside any chains."""

CLEARLY = 3.0
"""Standard errors by which the prior's estimate has to be above: chance does that for about one datum in 1,000."""

_FIRST = 256  # draws at a time
_LOST = ((256, 0.75), (2048, 0.5))  # draws from which on so large a relative error is given up
_ROUNDING = 1e-4  # a relative difference that float32 densities may have where neither estimate has an error
_RESOLVED = 0.05  # relative error from which on a tenth of the mass that is missed shows


def check_prior_draws(value: object) -> int:
    """``value`` if it is an integer of at least 0; raises `InputError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError("prior_draws", "an integer of at least 0", describe(value))
    return value


def check_drawable(program: Program, x: Data) -> None:
    """Refuse, by the name of its site, a prior that can only be scored: where draws of it are asked for."""
    device = device_of(x)
    with torch.no_grad(), rng.seeded(device, 0, "a draw of the prior"), program.evaluating():
        run(program.callable("model"), take(x, slice(0, 1)), 1, PLAIN)


def with_prior_check(figures: Figures, program: Program, block: Block, seed: int, most: int) -> Figures:
    """Figures with ``missed`` filled in, and what that took in their cost.

    A datum is marked where r - 1 > 3 sqrt((r e)² + s²): r the ratio of the prior's estimate of p(x) to this one, e and
    s their relative standard errors. So it takes e < 1/3, whatever r. A prior that can only be scored tells nothing.

    Args:
        figures: of one block; of a lower bound.
        program: the program.
        block: the data.
        seed: the user's; the draws have a stream of their own.
        most: draws of the prior a datum, 0 for none.
    """
    if most == 0:
        return figures
    device = device_of(block.x)
    sums = Accumulator(block.num_data, most, device)
    while sums.count < most:
        number = min(_FIRST, most - sums.count)
        rng.reseed(
            device, seed, "probe of the prior", block.index * math.ceil(most / _FIRST) + sums.count // _FIRST
        )
        try:
            sums.add(prior_log_likelihood(program, block.x, number))
        except NoSamplerError:
            return figures
        found = sums.finish(offset=block.offset)
        lost = min(limit for draws, limit in _LOST if draws <= max(sums.count, _FIRST))
        if not bool(((found.stderr < lost) & (found.stderr > _RESOLVED)).any()):
            break
    return figures.replace(
        missed=clearly_above(found, figures.log_evidence, figures.stderr),
        density_evals=figures.density_evals + sums.count,
    )


def clearly_above(prior: Figures, log_evidence: Tensor, stderr: Tensor, errors: float = CLEARLY) -> Tensor:
    """``(N,)`` bool: where independent estimates of p(x) are clearly above others; see `with_prior_check`."""
    ratio = (prior.log_evidence - log_evidence).exp()
    own = stderr.nan_to_num(nan=1.0)
    return ratio - 1 > _ROUNDING + errors * ((ratio * prior.stderr) ** 2 + own**2).sqrt()
