"""Rows: the block loop for results that are not estimates but have a row for each datum: refits, ranks, ELBOs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evidence.running.block_files import DONE, Result
from ppl_vae.evidence.running.blocks import Block, Kind, Plan, State, work_through
from ppl_vae.evidence.running.options import ResumeOptions
from ppl_vae.program import Data, Program, Sites
from ppl_vae.stored import Stored

Rows = dict[str, Tensor]
"""Tensors with one row for each datum, by name."""


@dataclass(frozen=True)
class Column:
    """The valid values of the rows of one name, to check a checkpoint.

    Attributes:
        low: the smallest number.
        high: the largest number.
        shape: the shape of a row.
        dtype: the dtype of the rows.
        nan: whether NaN is valid.
    """

    low: float = -math.inf
    high: float = math.inf
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float64
    nan: bool = False


def run_rows(
    program: Program,
    x: Data,
    plan: Plan,
    compute: Callable[[Block], Rows],
    columns: Mapping[str, Column],
    *,
    seed: int,
    run: ResumeOptions,
    keep: bool = False,
) -> Rows:
    """Compute the rows of each block of ``x``, and join them. A checkpoint contains whole blocks.

    Args:
        program: the program.
        x: the data.
        plan: the division into blocks, with one unit of work for each datum.
        compute: returns the rows of a block.
        columns: the valid values of the rows, by name.
        seed: the user's seed; part of the checkpoint's identity.
        run: the checkpoint, whether to resume, and whether to show a progress bar.
        keep: do not remove a finished checkpoint; `block_files.forget` removes it.

    Returns:
        The rows of all data, on the CPU.

    Raises:
        InputError: if ``checkpoint`` exists without ``resume``, or belongs to another run.
    """

    def check(stored: Stored) -> int:
        first = next(iter(columns))
        count = len(stored.tensor(f"{DONE}{first}", None, columns[first].dtype, low=-math.inf, nan=True))
        for name, column in columns.items():
            limits = {"low": column.low, "high": column.high}
            stored.tensor(f"{DONE}{name}", (count, *column.shape), column.dtype, **limits, nan=column.nan)
        return count

    def finish(work: _Once, block: Block, sites: Sites) -> Result:  # noqa: ARG001  (as all kinds have it)
        return Result({name: work.rows[name].cpu() for name in columns}, {})

    def make(block: Block) -> _Once:
        return _Once(compute, block)

    kind = Kind(plan.name, {}, finish, check, lambda _: nullcontext(), nullcontext())
    return work_through(program, x, plan, make, kind, seed=seed, run=run, keep=keep).rows


class _Once:
    """Work on a block in one step."""

    def __init__(self, compute: Callable[[Block], Rows], block: Block) -> None:
        self.compute, self.block = compute, block
        self.rows: Rows = {}

    def advance(self) -> int:
        if self.rows:
            return 0
        self.rows = self.compute(self.block)
        return 1

    def state(self) -> State:
        return {}

    def restore(self, state: State) -> int:  # noqa: ARG002  (a block that is not done has none)
        return 0
