"""Blocks: the loop of all estimators over blocks of data, with random streams, progress, checkpoints and processes.

An estimator defines its work on one block of data as a `Work`: an object that makes progress in small steps, and whose
state can be saved and restored. Blocks are independent, so interruptions, resuming and several processes do not change
the result. Ctrl-C acts between two units of work; a second Ctrl-C acts at once. With several processes
(`ppl_vae.distributed`), process r of P takes blocks r, r + P, ..., and all processes return the whole result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import Checkpoint, digest
from ppl_vae.compiled.effort import Effort, level_for
from ppl_vae.compiled.execution import executing
from ppl_vae.compiled.precision import FULL, precision_on
from ppl_vae.distributed import World, barrier, gather, world
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.results.diagnostics import Judge, WeightDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Origin
from ppl_vae.evidence.results.stored_rows import check_rows
from ppl_vae.evidence.running.block_files import DONE, Result, identify, load, own_file, save
from ppl_vae.evidence.running.options import DEFAULTS, ResumeOptions, RunOptions
from ppl_vae.evidence.running.rounded_draws import count_edges, naming_edges
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, Sites, device_of, num_data, take
from ppl_vae.program.rows import ready
from ppl_vae.progress import bar
from ppl_vae.stored import Stored

State = dict[str, Tensor]

_inside: ContextVar[bool] = ContextVar("inside a run", default=False)
_FEW = 32  # number of data with which a program is checked before a run


@dataclass(frozen=True)
class Block:
    """Some consecutive data.

    Attributes:
        x: the data.
        index: the index of the block in the run, which determines its random stream.
        offset: the index of its first datum in the user's data.
    """

    x: Data
    index: int
    offset: int

    @property
    def num_data(self) -> int:
        """The number of data."""
        return num_data(self.x)


class Steps(Protocol):
    """Work on one block in small steps."""

    def advance(self) -> int:
        """Make a step (a tile, a temperature); returns the number of units of work, 0 when all is done."""

    def state(self) -> State:
        """Everything that `restore` needs to continue to the same bits; its size does not grow with the work."""

    def restore(self, state: State) -> int:
        """Continue from a `state`; returns the number of units of work that were done."""


class Work(Steps, Protocol):
    """An estimator's work on one block in small steps."""

    def figures(self) -> Figures:
        """The block's figures, after `advance` has returned 0."""


W = TypeVar("W", bound=Steps)


@dataclass(frozen=True)
class Plan:
    """The division of a run into blocks and passes, and its name and settings.

    Attributes:
        name: the estimator's name, for the progress bar and the result.
        block_size: the number of data in a block. The numbers depend on it, so it follows from the arguments alone.
        units: units of work for each datum, for the progress bar.
        identity: the settings that identify the run, in JSON's types: a checkpoint with others is refused.
        effort: the amount of work, which decides ``compile="auto"``; None for little.
        tiles: the shapes (data, samples) of the passes of which nearly all of the run consists; they are compiled.
        unit: the progress bar's name of a unit.
    """

    name: str
    block_size: int
    units: int
    identity: Mapping[str, Any]
    effort: Effort | None = None
    tiles: Collection[tuple[int, int]] = ()
    unit: str = "w"


@dataclass(frozen=True)
class Kind(Generic[W]):
    """A kind of job: how the work on blocks becomes a result.

    Attributes:
        name: the name of the job, for its checkpoint.
        settings: settings of the run that a checkpoint must have in common.
        finish: returns the result of a block whose work is done.
        check: returns the number of data of the result in a checkpoint; refuses an impossible result.
        around: the context manager of the work on a block, from the program's sites.
        running: the context manager of the whole job.
    """

    name: str
    settings: Mapping[str, Any]
    finish: Callable[[W, Block, Sites], Result]
    check: Callable[[Stored], int]
    around: Callable[[Sites], AbstractContextManager[None]]
    running: AbstractContextManager[Any]


class Prepared(NamedTuple):
    """The checked arguments of an estimator.

    Attributes:
        program: the program, or the same program with parameters that are restricted to the rows of the data.
        x: the data, with their row indices if parameters have rows.
        sites: the program's sites.
    """

    program: Program
    x: Data
    sites: Sites


def prepare(program: Program, x: Data) -> Prepared:
    """Check the program and the data of an estimator before any work is done.

    Raises:
        InputError: if ``program`` is not a `Program`, or the data do not fit.
        ProgramError: if log p(x) is not defined for each datum.
    """
    if not isinstance(program, Program):  # a user may pass a VAE
        hint = " (its .program is one)" if isinstance(getattr(program, "program", None), Program) else ""
        raise InputError("program", "a ppl_vae.Program", f"{type(program).__name__}{hint}")
    num_data(x)
    with torch.no_grad():
        if program.check_data is not None:
            # All of x first, so that the index in an error message is that of the user's data.
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
    """Do the work on all blocks of ``x`` and join their figures.

    Args:
        program: the program.
        x: the data.
        plan: the division into blocks.
        make: returns an estimator's `Work` on a block.
        seed: the user's seed; part of the checkpoint's identity.
        run: see `RunOptions`; `make` must use ``chunk_size`` itself.

    Raises:
        InputError: if ``checkpoint`` exists without ``resume``, or belongs to another run.
    """
    options: RunOptions = {**DEFAULTS, **run}
    device = device_of(x)
    level = level_for(options["compile"], program, plan.effort or Effort(0, 0, 0))
    precision = precision_on(options["precision"], device)

    def finish(work: Work, block: Block, sites: Sites) -> Result:
        identity = plan.identity
        return _taken_apart(count_edges(work.figures(), program, block.x, sites, identity, seed, block.index))

    # A graph is compared with plain Pyro at its own number of samples. Without a graph, the first block is.
    samples = max((samples for _, samples in plan.tiles), default=None) if level == "plain" else None
    running = executing(level, plan.tiles, precision, device)
    kind = Kind(
        "evidence", {"level": level, "precision": precision}, finish, _check_figures, naming_edges, running
    )
    tensors, numbers = work_through(program, x, plan, make, kind, seed=seed, samples=samples, run=run)
    return replace(_put_together(tensors, numbers), precision=precision)


def work_through(
    program: Program,
    x: Data,
    plan: Plan,
    make: Callable[[Block], W],
    kind: Kind[W],
    *,
    seed: int,
    run: ResumeOptions,
    samples: int | None = None,
    keep: bool = False,
) -> Result:
    """The loop over blocks, with progress, checkpoints, Ctrl-C, and the other processes.

    Args:
        program: the program.
        x: the data.
        plan: the division into blocks.
        make: returns the work on a block.
        kind: the kind of job.
        seed: the user's seed; part of the checkpoint's identity.
        run: the checkpoint, whether to resume, and whether to show a progress bar.
        samples: the number of samples for a comparison of the program with plain Pyro, on the first block.
        keep: do not remove a finished checkpoint (`forget` removes it): a run that resumes from it has nothing to do.

    Returns:
        One row for each datum of each tensor, and the numbers of the first block.
    """
    options: RunOptions = {**DEFAULTS, **run}
    # A job inside of a block, such as the refit of its guide, is not divided among processes.
    n, ours = num_data(x), World() if _inside.get() else world()
    keeper, done, current = None, None, None
    mine = range(ours.rank, math.ceil(n / plan.block_size), ours.size)
    sizes = [min(plan.block_size, n - index * plan.block_size) for index in mine]
    if options["checkpoint"] is not None:
        identity = {**plan.identity, "seed": seed, **kind.settings, "processes": ours.size}
        identity |= {"data": digest(x), "program": identify(program, x)}
        path = own_file(options["checkpoint"], options["resume"], ours)
        keeper = Checkpoint(path, kind.name, identity, options["resume"])
        done, current = load(keeper, sizes, kind.check)
    start = 0 if done is None else done.num_data
    show = bar(sum(sizes) * plan.units, plan.name, plan.unit, unit_scale=True)
    if not options["progress"] or ours.rank:
        show.disable = True
    with torch.no_grad(), show, rng.forked(device_of(x)), kind.running, _inside_a_run():
        show.update(start * plan.units)
        for index in mine[math.ceil(start / plan.block_size) :]:
            offset = index * plan.block_size
            part = take(x, slice(offset, min(offset + plan.block_size, n)))
            sites = program.check_more(part, offset=offset)
            if samples is not None:  # once: the use of shapes in the user's code is the same for all blocks
                program.check(part, offset=offset, num_samples=samples)
                samples = None
            block = Block(part, index, offset)
            with kind.around(sites):
                work = make(block)
                if current is not None and keeper is not None:
                    with keeper.believing():
                        show.update(block.num_data * work.restore(current))
                    current = None
                while units := work.advance():
                    show.update(block.num_data * units)
                    if keeper is not None and keeper.due() and (state := work.state()):
                        save(keeper, done, state)
                    give_way()
                found = kind.finish(work, block, sites)
            done = _join(done, found)
            if keeper is not None and keeper.due():
                save(keeper, done, {})
            give_way()
    if keeper is not None and done is not None and start < sum(sizes) and (keep or ours.size > 1):
        # Saved first, since this process may be killed while it waits for the others.
        save(keeper, done, {})
    if ours.size > 1:
        done = _gathered(done, n, plan.block_size)
        barrier()
    if keeper is not None and not keep:
        keeper.remove()
    if done is None:
        raise AssertionError("no data, though num_data found some")
    return done


@contextmanager
def _inside_a_run() -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def evidence_of(figures: Figures, kind: type[Judge] = WeightDiagnostics, **settings: Any) -> Evidence:
    """The `Evidence` of joined figures.

    If matrix products were rounded, the details say so, and the result is not certified, for any ``settings``.

    Args:
        figures: the figures of all data.
        kind: the class of the diagnostics, which is the source of the errors.
        **settings: the method, bound, seed and so on of its `Origin`.
    """
    if figures.precision != FULL:
        words = (settings.get("details", ""), f"matrix products in {figures.precision}")
        settings |= {"certified": False, "details": ", ".join(filter(None, words))}
    origin = Origin(figures.num_samples, precision=figures.precision, **settings)
    diagnostics: Any = kind(**vars(figures.diagnostics))
    return Evidence(figures.estimate, figures.guide_elbo, diagnostics, figures.curves, figures.cost, origin)


def _join(first: Result | None, second: Result) -> Result:
    if first is None:
        return second
    return Result({name: torch.cat([a, second.rows[name]]) for name, a in first.rows.items()}, first.numbers)


def _gathered(done: Result | None, n: int, block_size: int) -> Result | None:
    """The result of all processes, in the order of the data."""
    whole = None
    for tensors, numbers in gather(*(({}, None) if done is None else done)):
        if numbers is not None:
            whole = _join(whole, Result(tensors, numbers))
    if whole is None:
        return None
    blocks, size = torch.arange(n).split(block_size), world().size
    place = torch.cat([torch.cat(blocks[rank::size]) for rank in range(min(size, len(blocks)))]).argsort()
    return Result({name: value[place] for name, value in whole.rows.items()}, whole.numbers)


def _taken_apart(figures: Figures) -> Result:
    """Figures as tensors, and their numbers in JSON's types."""
    numbers = {"curve_k": figures.curve_k.tolist(), "num_samples": figures.num_samples}
    return Result(figures.per_datum(), numbers)


def _put_together(tensors: State, numbers: Mapping[str, Any]) -> Figures:
    curve_k = torch.tensor(numbers["curve_k"], dtype=torch.int64)
    return Figures.of(**tensors, num_samples=numbers["num_samples"], curve_k=curve_k)


def _check_figures(stored: Stored) -> int:
    """The number of data of the figures in a checkpoint, after a check of the figures."""
    num_samples, ks = stored.number("num_samples", 1), stored.entry("curve_k", list)
    return check_rows(stored, ks, num_samples, DONE)
