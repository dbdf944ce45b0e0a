"""Prior check: draws of the prior search for mass that an estimate misses.

If the guide covers only one mode, chains from the guide agree with one another, and so do its importance weights,
although the estimate misses the other modes. The mean of p(x|z) over draws z ~ p(z) is unbiased for p(x), too. In many
dimensions it is very imprecise. But if it is precise and clearly above the estimate, the estimate is wrong. The test is
one-sided: a prior that finds no mass proves nothing.
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
"""The largest number of draws of the prior for each datum."""

FEW = 2048
"""A number of draws whose cost is small compared with that of chains."""

CLEARLY = 3.0
"""Standard errors by which the prior's estimate must be above: by chance this happens for one datum in 1,000."""

_FIRST = 256  # draws at a time
_LOST = ((256, 0.75), (2048, 0.5))  # (number of draws, relative error): with a larger error the check stops
_ROUNDING = 1e-4  # relative difference that rounding of float32 densities may cause
_RESOLVED = 0.05  # with this relative error, a tenth of missed mass shows, and the check stops


def check_prior_draws(value: object) -> int:
    """``value`` if it is an integer of at least 0; raises `InputError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError("prior_draws", "an integer of at least 0", describe(value))
    return value


def check_drawable(program: Program, x: Data) -> None:
    """Refuse a prior that cannot be sampled, by the name of its site."""
    device = device_of(x)
    with torch.no_grad(), rng.seeded(device, 0, "a draw of the prior"), program.evaluating():
        run(program.callable("model"), take(x, slice(0, 1)), 1, PLAIN)


def with_prior_check(figures: Figures, program: Program, block: Block, seed: int, most: int) -> Figures:
    """Figures with ``missed`` filled in, and with the cost of the check added.

    ``missed`` is True if r - 1 > 3 sqrt((r e)² + s²), where r is the ratio of the prior's estimate of p(x) to this one,
    and e and s are their relative standard errors. This requires e < 1/3 for any r. If the prior cannot be sampled, the
    figures do not change.

    Args:
        figures: the figures of a lower bound for one block.
        program: the program.
        block: the data.
        seed: the user's seed; the draws have their own random stream.
        most: the largest number of draws of the prior for each datum; 0 for none.
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
    """``(N,)`` bool: whether independent estimates of p(x) are clearly above others; see `with_prior_check`."""
    ratio = (prior.log_evidence - log_evidence).exp()
    own = stderr.nan_to_num(nan=1.0)
    return ratio - 1 > _ROUNDING + errors * ((ratio * prior.stderr) ** 2 + own**2).sqrt()
