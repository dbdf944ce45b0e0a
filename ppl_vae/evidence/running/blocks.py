"""Blocks: what all estimators share. Data in blocks, a stream for each, progress, checkpoints, the joined result.

An estimator says how it works on one block of data, as a `Work`: something that can be advanced a little at a time,
whose state can be written down and taken up again. Blocks do not know of one another: the result is the same
whatever is interrupted, resumed or shared out. Ctrl-C acts between two units of work, a second one at once. In more
than one process (`ppl_vae.distributed`) each takes every so many-th block, and all return the whole.
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


class Steps(Protocol):
    """Work on one block, done a little at a time."""

    def advance(self) -> int:
        """Do a little (a tile, a temperature); returns how many units of work it was, 0 when all is done."""

    def state(self) -> State:
        """Everything that `restore` needs to go on to the same bits, and nothing that grows with what is done."""

    def restore(self, state: State) -> int:
        """Take up a `state`; returns how many units of work had been done."""


class Work(Steps, Protocol):
    """An estimator's work on one block, done a little at a time."""

    def figures(self) -> Figures:
        """The block's figures, once `advance` has returned 0."""


W = TypeVar("W", bound=Steps)


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
        unit: what the progress bar calls a unit.
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
    """What becomes of the work on blocks.

    Attributes:
        name: what the job is, for its checkpoint.
        settings: how it is run, as far as a checkpoint of another way is to be refused.
        finish: the result of a block whose work is done.
        check: how many data the result in a checkpoint is of; refuses one that cannot be.
        around: the context of the work on a block, from the program's sites.
        running: the context of all of it.
    """

    name: str
    settings: Mapping[str, Any]
    finish: Callable[[W, Block, Sites], Result]
    check: Callable[[Stored], int]
    around: Callable[[Sites], AbstractContextManager[None]]
    running: AbstractContextManager[Any]


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
    options: RunOptions = {**DEFAULTS, **run}
    device = device_of(x)
    level = level_for(options["compile"], program, plan.effort or Effort(0, 0, 0))
    precision = precision_on(options["precision"], device)

    def finish(work: Work, block: Block, sites: Sites) -> Result:
        identity = plan.identity
        return _taken_apart(count_edges(work.figures(), program, block.x, sites, identity, seed, block.index))

    # A graph is compared at its own number of samples; without one, the first block is.
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
    """The loop over blocks: progress, checkpoints, Ctrl-C, and the other processes.

    Args:
        program: the program.
        x: the data.
        plan: how they are cut up.
        make: the work on a block.
        kind: what becomes of it.
        seed: the user's; part of the checkpoint's identity.
        run: the checkpoint, whether to resume, and whether to show a bar.
        samples: a number of samples that the program is compared with plain Pyro at, on the first block.
        keep: leave a finished checkpoint there, for `forget` to remove: a run that goes on from it has nothing to do.

    Returns:
        A row a datum of each tensor, and the numbers of the first block.
    """
    options: RunOptions = {**DEFAULTS, **run}
    # What a block itself runs in this way, such as the refit of its guide, is no other process's business.
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
            if samples is not None:  # once: what code does with shapes does not depend on which block it is
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
        save(
            keeper, done, {}
        )  # what is done here must outlive a kill, however long the others or the rest may take
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

    Where products were rounded, it says so in its details and is not certified, whatever ``settings`` say.

    Args:
        figures: of all data.
        kind: of diagnostics: what the errors rest on.
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
    """How many data figures in a checkpoint are of, once they are seen to be such as figures can be."""
    num_samples, ks = stored.number("num_samples", 1), stored.entry("curve_k", list)
    return check_rows(stored, ks, num_samples, DONE)
