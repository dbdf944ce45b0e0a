"""Enumeration: log evidence as a sum over all values of discrete latents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae.errors import ProgramError
from ppl_vae.evidence.exact.linear_gaussian import computed_evidence, computed_figures
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, Plan, State, prepare, run_blocks
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.program import Data, Program, Sites, device_of, take
from ppl_vae.program.enumerate import SupportValues, without_guide
from ppl_vae.program.sites import refuse_nan

_LIMIT = 2**16  # joint values
_NUMBERS = 2**20  # numbers in one pass


@takes_run_options(*KEPT)
def enumerate_latents(
    program: Program,
    x: Data,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum as the sum of p(x, z) over all z, for latents with finitely many values.

    log sum_z p(x, z), over the product of the values of all latent sites and all their elements: Categorical,
    Bernoulli, OneHotCategorical, Binomial with one total count. Exact up to rounding. The guide is not used, and may be
    empty.

    Args:
        program: a `Program` whose latents are all discrete and finite.
        x: the data.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``basis="computed"`` and ``bound="consistent"``, in nats, ``(N,)`` float64; ``stderr`` bounds
        the rounding error. No ELBO, ESS, k-hat or curve.

    Raises:
        InputError: if the data do not fit, or ``checkpoint`` belongs to another run.
        ProgramError: if a latent is continuous or has infinitely many values (names the site), or if there are more
            than 65,536 joint values.
        NonFiniteError: if a density is NaN; names the datum.
    """
    program, x, sites = prepare(without_guide(program) if isinstance(program, Program) else program, x)
    values = SupportValues(program, take(x, slice(0, 1)))
    if values.count > _LIMIT:
        expected = f"at most {_LIMIT} joint values of the latents (more: importance)"
        raise ProgramError("program", expected, values.count)
    width = max(sites.numbers_per_datum, 1)
    block_size = max(1, min(256, _NUMBERS // width))
    plan = Plan("enumeration", block_size, values.count, {"values": values.count, "computed": True})
    figures = run_blocks(
        program,
        x,
        plan,
        lambda block: _Sum(program, block, SupportValues(program, block.x), _eps(sites), width),
        seed=0,
        **run,
    )
    return computed_evidence(figures, method="enumeration", details=f"{values.count} values of the latents")


@dataclass
class _Sum:
    """The sum of one block, some values at a time."""

    program: Program
    block: Block
    values: SupportValues
    eps: float
    width: int
    done: int = 0
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = device_of(self.block.x)
        self.total = torch.full((self.block.num_data,), -math.inf, dtype=torch.float64, device=device)

    def advance(self) -> int:
        stop = min(self.values.count, self.done + max(1, _NUMBERS // (self.width * self.block.num_data)))
        number = stop - self.done
        if number:
            terms = self.program.log_joint(self.values.at(self.done, stop), self.block.x)
            refuse_nan(terms, "log p(x, z)", self.block.offset)
            self.total = torch.logaddexp(self.total, terms.logsumexp(0))
            self.done = stop
        return number

    def state(self) -> State:
        return {"total": self.total.cpu(), "done": torch.tensor(self.done)}

    def restore(self, state: State) -> int:
        self.total, self.done = state["total"].to(self.total.device), int(state["done"])
        return self.done

    def figures(self) -> Figures:
        total = (
            self.total - self.values.repeats
        ).cpu()  # each masked latent repeats the sum for all of its values
        rounding = 8 * self.eps * (total.abs() + math.log(self.width) + math.log(self.values.count) + 1)
        return computed_figures(total, rounding, float(self.values.count))


def _eps(sites: Sites) -> float:
    """The rounding unit of the program's densities: that of its coarsest floating site."""
    found = [site.dtype for group in (sites.latent, sites.observed) for site in group.values()]
    floating = [dtype for dtype in found if dtype.is_floating_point]
    return max((torch.finfo(dtype).eps for dtype in floating), default=torch.finfo(torch.float32).eps)
