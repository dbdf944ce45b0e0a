"""Block files: the checkpoint of a run over blocks of data, one for each process, and what identifies the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from pyro import poutine
from torch import Tensor

from ppl_vae.checkpoint import Checkpoint, digest, with_prefix
from ppl_vae.distributed import World, world
from ppl_vae.errors import InputError
from ppl_vae.evidence.running.options import ResumeOptions
from ppl_vae.program import Data, Program, take
from ppl_vae.stored import Stored

DONE = "done/"
"""The prefix of the names of finished tensors."""


class Result(NamedTuple):
    """The result of one or more blocks.

    Attributes:
        rows: tensors with one row for each datum, by name, on the CPU.
        numbers: numbers that all blocks have in common, in JSON's types.
    """

    rows: dict[str, Tensor]
    numbers: Any

    @property
    def num_data(self) -> int:
        """The number of data."""
        return len(next(iter(self.rows.values())))


def own_file(checkpoint: str | os.PathLike[str], resume: bool, ours: World) -> Path:
    """This process's checkpoint; raises `InputError` if the one to resume belongs to another number of processes."""
    alone, first = Path(checkpoint), Path(f"{os.fspath(checkpoint)}.rank0")
    if resume and not (alone if ours.size == 1 else first).exists():
        other = first if ours.size == 1 else alone
        if other.exists():
            expected = "as many processes as in the checkpoint"
            raise InputError("resume", expected, f"{ours.size} (and {other} exists)")
    return alone if ours.size == 1 else Path(f"{os.fspath(checkpoint)}.rank{ours.rank}")


def forget(run: ResumeOptions) -> None:
    """Remove the checkpoint that a finished run kept."""
    checkpoint = run.get("checkpoint")
    if checkpoint is not None:
        own_file(checkpoint, False, world()).unlink(missing_ok=True)


def save(keeper: Checkpoint, done: Result | None, state: dict[str, Tensor]) -> None:
    """Write the finished blocks, and the state of the current block."""
    tensors = {f"current/{name}": value for name, value in state.items()}
    if done is not None:
        tensors |= {f"{DONE}{name}": value for name, value in done.rows.items()}
    keeper.write(tensors, {"done": None if done is None else done.numbers})


def load(
    keeper: Checkpoint, sizes: Sequence[int], check: Callable[[Stored], int]
) -> tuple[Result | None, dict[str, Tensor] | None]:
    """The finished blocks, and the state of the current block; ``sizes`` are those of all blocks, in order.

    Raises:
        InputError: naming the checkpoint, if the number of its data is not that of whole blocks.
    """
    saved = keeper.read()
    if saved is None:
        return None, None
    tensors, state = saved
    current = with_prefix("current/", tensors) or None
    with keeper.believing():
        if state["done"] is None:
            return None, current
        stored = Stored(str(keeper.path), tensors, state["done"])
        rows, done = check(stored), with_prefix(DONE, tensors)
        if rows not in accumulate(sizes):
            raise stored.wrong(f"{DONE}{next(iter(done))}", "the data of whole blocks", f"{rows} data")
        return Result(done, state["done"]), current


def identify(program: Program, x: Data) -> str:
    """A digest of a program: of its parameters and buffers, and of a few log weights, which identify its code.

    Args:
        program: the program.
        x: its data; two log weights are computed for each of the first eight.
    """
    with poutine.trace(
        param_only=True
    ) as capture:  # parameters that are in no module, as `pyro.param` makes them
        tensors = {"weights": program.log_weights(take(x, slice(0, 8)), 2, seed=0)}
    for name, site in capture.trace.nodes.items():
        if site["type"] == "param" and isinstance(site["value"], Tensor):
            tensors[f"parameter {name}"] = site["value"]
    for i, module in enumerate(program.modules):
        own = (*module.named_parameters(), *module.named_buffers())
        tensors |= {f"module {i} {name}": value for name, value in own}
    return digest(tensors)
