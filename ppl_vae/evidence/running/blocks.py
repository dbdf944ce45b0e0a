"""Blocks: what all estimators share. Data in blocks, a stream for each, progress, checkpoints, the joined result.

An estimator says how it works on one block of data, as a `Work`: something that can be advanced a little at a time,
whose state can be written down and taken up again. Blocks do not know of one another: the result is the same
whatever is interrupted, resumed or shared out. Ctrl-C acts between two units of work, a second one at once. In more
than one process (`ppl_vae.distributed`) each takes every so many-th block, and all return the whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pyro import poutine
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import Checkpoint, digest, with_prefix
from ppl_vae.compiled.effort import Effort, level_for
from ppl_vae.compiled.execution import executing
from ppl_vae.compiled.precision import FULL, precision_on
from ppl_vae.distributed import World, barrier, gather, world
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.stored_rows import check_rows
from ppl_vae.evidence.running.options import DEFAULTS, RunOptions
from ppl_vae.evidence.running.rounded_draws import count_edges, naming_edges
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, Sites, device_of, num_data, take
from ppl_vae.program.rows import ready
from ppl_vae.progress import bar
from ppl_vae.stored import Stored

State = dict[str, Tensor]

_FEW = 32  # data that a program is looked at with before a run


@dataclass(frozen=True)
class Block:
    """Some consecutive data.

    Attributes:
        x: the data.
        index: which block of the run it is: the stream of its draws follows from it.
        offset: the index of its first datum in the user's data.
    """

    x: Data
    index: int
    offset: int

    @property
    def num_data(self) -> int:
        """How many data."""
        return num_data(self.x)


class Work(Protocol):
    """An estimator's work on one block, done a little at a time."""

    def advance(self) -> int:
        """Do a little (a tile, a temperature); returns how many units of work it was, 0 when all is done."""

    def state(self) -> State:
        """Everything that `restore` needs to go on to the same bits, and nothing that grows with what is done."""

    def restore(self, state: State) -> int:
        """Take up a `state`; returns how many units of work had been done."""

    def figures(self) -> Figures:
        """The block's figures, once `advance` has returned 0."""


@dataclass(frozen=True)
class Plan:
    """How a run is cut up and told about.

    Attributes:
        name: the estimator's, for the progress bar and the result.
        block_size: data in a block: part of what the numbers are a function of, so it follows from the arguments.
        units: units of work a datum, for the progress bar.
        identity: the settings that make this run this one, in JSON's types: a checkpoint of others is refused.
        effort: how much there is to do, by which ``compile="auto"`` goes; None for little.
        tiles: data and samples of a pass, of those kinds that nearly all of the run consists of: they are compiled.
    """

    name: str
    block_size: int
    units: int
    identity: Mapping[str, Any]
    effort: Effort | None = None
    tiles: Collection[tuple[int, int]] = ()


class Prepared(NamedTuple):
    """What an estimator works with.

    Attributes:
        program: the program, or the same one with parameters that are cut to the rows of the data.
        x: the data, with the numbers of their rows where parameters have rows.
        sites: the program's sites.
    """

    program: Program
    x: Data
    sites: Sites


def prepare(program: Program, x: Data) -> Prepared:
    """Check all of what an estimator is given before any work is done.

    Raises:
        InputError: if ``program`` is no `Program`, or the data do not fit.
        ProgramError: if the evidence of the pair is not defined per datum.
    """
    if not isinstance(program, Program):  # what mypy sees as impossible is what a user's VAE here would be
        hint = " (its .program is one)" if isinstance(getattr(program, "program", None), Program) else ""
        raise InputError("program", "a ppl_vae.Program", f"{type(program).__name__}{hint}")
    num_data(x)
    with torch.no_grad():
        if program.check_data is not None:
            # All of x first: a block would count its bad datum from its own start.
            program.check_data(x)
        return Prepared(*ready(program, x, _FEW))


def run_blocks(
    program: Program,
    x: Data,
    plan: Plan,
    make: Callable[[Block], Work],
    *,
    seed: int,
    **run: Unpack[RunOptions],
) -> Figures:
    """Work through the blocks of ``x`` and join their figures.

    Args:
        program: the program.
        x: the data.
        plan: how they are cut up.
        make: an estimator's `Work` for a block.
        seed: the user's; part of the checkpoint's identity.
        run: see `RunOptions`; ``chunk_size`` is for `make` to follow.

    Raises:
        InputError: if ``checkpoint`` is there and not to be continued, or is of another run.
    """
    n, ours = num_data(x), world()
    options: RunOptions = {**DEFAULTS, **run}
    level = level_for(options["compile"], program, plan.effort or Effort(0, 0, 0))
    device, precision = device_of(x), precision_on(options["precision"], device_of(x))
    checkpoint, resume = options["checkpoint"], options["resume"]
    keeper = None
    if checkpoint is not None:
        settings = {"seed": seed, "level": level, "precision": precision, "processes": ours.size}
        identity = {**plan.identity, **settings, "data": digest(x), "program": identify(program, x)}
        keeper = Checkpoint(_own_file(checkpoint, resume, ours), "evidence", identity, resume)
    mine = range(ours.rank, math.ceil(n / plan.block_size), ours.size)
    sizes = [min(plan.block_size, n - index * plan.block_size) for index in mine]
    done, current = (None, None) if keeper is None else _load(keeper, sizes)
    start = 0 if done is None else len(done.log_evidence)
    units = sum(sizes) * plan.units
    # A graph is compared at its own number of samples; without one, the first block is.
    samples = max((samples for _, samples in plan.tiles), default=None) if level == "plain" else None
    show = bar(units, plan.name, "w", unit_scale=True)
    if not options["progress"] or ours.rank:
        show.disable = True
    with torch.no_grad(), show, rng.forked(device), executing(level, plan.tiles, precision, device):
        show.update(start * plan.units)
        for index in mine[math.ceil(start / plan.block_size) :]:
            offset = index * plan.block_size
            part = take(x, slice(offset, min(offset + plan.block_size, n)))
            sites = program.check_more(part, offset=offset)
            if samples is not None:  # once: what code does with shapes does not depend on which block it is
                program.check(part, offset=offset, num_samples=samples)
                samples = None
            block = Block(part, index, offset)
            with naming_edges(sites):
                work = make(block)
                if current is not None and keeper is not None:
                    with keeper.believing():
                        show.update(block.num_data * work.restore(current))
                    current = None
                while units := work.advance():
                    show.update(block.num_data * units)
                    if keeper is not None and keeper.due():
                        _save(keeper, done, work.state())
                    give_way()
                figures = count_edges(work.figures(), program, part, sites, plan.identity, seed, index)
            done = _join(done, figures)
            give_way()
    if ours.size > 1:
        if keeper is not None and done is not None:
            _save(keeper, done, {})  # the others may take long, and what is done here must outlive a kill
        done = _gathered(done, n, plan.block_size)
        barrier()
    if keeper is not None:
        keeper.remove()
    if done is None:
        raise AssertionError("no data, though num_data found some")
    return replace(done, precision=precision)


def evidence_of(figures: Figures, **settings: Any) -> Evidence:
    """The `Evidence` of joined figures; ``settings`` are its method, bound, seed and so on.

    Where products were rounded, it says so in its details and is not certified, whatever ``settings`` say.
    """
    if figures.precision != FULL:
        words = (settings.get("details", ""), f"matrix products in {figures.precision}")
        settings |= {"certified": False, "details": ", ".join(filter(None, words))}
    values = {field.name: getattr(figures, field.name) for field in fields(figures)}
    values["curve_k"] = torch.tensor(figures.curve_k)
    return Evidence(**values, **settings)


def _join(first: Figures | None, second: Figures) -> Figures:
    if first is None:
        return second
    joined: dict[str, Any] = {
        name: torch.cat([a, getattr(second, name)])
        for name, a in vars(first).items()
        if isinstance(a, Tensor)
    }
    return replace(first, **joined)


def _gathered(done: Figures | None, n: int, block_size: int) -> Figures | None:
    """The figures of all processes, in the order of the data."""
    whole = None
    for tensors, numbers in gather(*_taken_apart(done)):
        if numbers is not None:
            whole = _join(whole, _put_together(tensors, numbers))
    if whole is None:
        return None
    blocks, size = torch.arange(n).split(block_size), world().size
    place = torch.cat([torch.cat(blocks[rank::size]) for rank in range(min(size, len(blocks)))]).argsort()
    sorted_: dict[str, Any] = {k: v[place] for k, v in vars(whole).items() if isinstance(v, Tensor)}
    return replace(whole, **sorted_)


def _own_file(checkpoint: str | os.PathLike[str], resume: bool, ours: World) -> Path:
    """This process's checkpoint; raises `InputError` where there is one of another number of processes to resume."""
    alone, first = Path(checkpoint), Path(f"{os.fspath(checkpoint)}.rank0")
    if resume and not (alone if ours.size == 1 else first).exists():
        other = first if ours.size == 1 else alone
        if other.exists():
            expected = "as many processes as the checkpoint is of"
            raise InputError("resume", expected, f"{ours.size} (and {other} exists)")
    return alone if ours.size == 1 else Path(f"{os.fspath(checkpoint)}.rank{ours.rank}")


def _taken_apart(done: Figures | None) -> tuple[State, dict[str, Any] | None]:
    """Figures as tensors, and their numbers in JSON's types."""
    if done is None:
        return {}, None
    tensors = {name: value for name, value in vars(done).items() if isinstance(value, Tensor)}
    return tensors, {"curve_k": done.curve_k, "num_samples": done.num_samples}


def _put_together(tensors: State, numbers: Mapping[str, Any]) -> Figures:
    curve_k = tuple(numbers["curve_k"])
    return Figures(**tensors, num_samples=numbers["num_samples"], curve_k=curve_k)  # type: ignore[arg-type]


def _save(keeper: Checkpoint, done: Figures | None, state: State) -> None:
    finished, numbers = _taken_apart(done)
    tensors = {f"current/{name}": value for name, value in state.items()}
    tensors |= {f"done/{name}": value for name, value in finished.items()}
    keeper.write(tensors, {"done": numbers})


def _load(keeper: Checkpoint, sizes: Sequence[int]) -> tuple[Figures | None, State | None]:
    """What was finished, and the state of the block that was not; ``sizes`` are those of all blocks, in order.

    Raises:
        InputError: naming the checkpoint, if its figures are not such as whole blocks can have.
    """
    saved = keeper.read()
    if saved is None:
        return None, None
    tensors, state = saved
    current = with_prefix("current/", tensors) or None
    with keeper.believing():
        if state["done"] is None:
            return None, current
        numbers = Stored(str(keeper.path), tensors, state["done"])
        num_samples, ks = numbers.number("num_samples", 1), numbers.entry("curve_k", list)
        rows = check_rows(numbers, ks, num_samples, "done/")
        if rows not in accumulate(sizes):
            raise numbers.wrong("done/log_evidence", "the data of whole blocks", f"{rows} data")
        return _put_together(with_prefix("done/", tensors), state["done"]), current


def identify(program: Program, x: Data) -> str:
    """A digest of a program: of all its parameters and buffers, and of a few weights, which stand for its code.

    Args:
        program: the program.
        x: data that it takes; two weights of the first eight are computed.
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
