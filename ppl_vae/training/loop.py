"""fit: stochastic variational inference over epochs of data, with checkpoints that resume to the same bits."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import nn

from ppl_vae import rng
from ppl_vae.checkpoint import Checkpoint, digest
from ppl_vae.compiled.effort import Compile, Effort, check_compile, level_for
from ppl_vae.compiled.elbo import CompiledELBO
from ppl_vae.compiled.losses import fixed_nesting
from ppl_vae.distributed import World, all_reduce, broadcast, is_main, world
from ppl_vae.errors import InputError, NonFiniteError, describe
from ppl_vae.exclusive import Own, give_way
from ppl_vae.files import append
from ppl_vae.history import Epoch, History
from ppl_vae.objectives.particles import suited
from ppl_vae.program import Data, Program, Sites, device_of, num_data, take, to_device
from ppl_vae.program.rows import ready
from ppl_vae.progress import bar
from ppl_vae.schedules import Schedule
from ppl_vae.training.arguments import checked, of_uneven_batches
from ppl_vae.training.optimiser import OptimiserFactory, adam
from ppl_vae.training.options import Options, Transform
from ppl_vae.training.run import Run, load, save

_LOOK = 64  # steps after which losses are looked at
_VALIDATION_CHUNK = 2000  # data a pass: the noise of validation belongs to chunks of this size


class HasProgram(Protocol):
    """Anything with a ``program``; `ppl_vae.VAE` above all."""

    program: Program


def fit(
    target: HasProgram | Program,
    x_train: Data,
    *,
    x_valid: Data | None = None,
    objective: ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    lr_schedule: str | Schedule = "constant",
    optimiser: OptimiserFactory = adam,
    clip_norm: float | None = None,
    kl_warmup: int = 0,
    patience: int | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    compile: Compile = "auto",  # noqa: A002  (the user's word)
    device: str | torch.device | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    history_path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> History:
    """Train a VAE, or any program, in place by `pyro.infer.SVI`.

    Everything random is a function of ``seed``, epoch by epoch: a run that was killed and resumed ends with
    the same bits as one that was not (on the same machine, with the same number of threads). Ctrl-C acts between two
    steps, a second one at once.

    In more than one process (`ppl_vae.distributed`) each takes its share of every batch, loss and gradients are summed,
    and all step alike: the order of the data and ``transform`` are those of one process, parameters are the same in
    all. The draws are not those of one process: the main one has those of ``seed`` for fewer data, and each of the
    others has a stream of its own. Batch normalisation sees a process's share; its averages are the main one's. A
    parameter without a gradient counts as one with a gradient of zero. The main process writes the files.

    Args:
        target: a `VAE`, or a `Program` (a hand-written model and guide).
        x_train: the training data.
        x_valid: validation data; their plain ELBO is computed after each epoch, with the same noise each time.
        objective: one of `ppl_vae.objectives`, or any Pyro ELBO but the jitted ones, `ReweightedWakeSleep` and
            `TraceTailAdaptive_ELBO`; `Trace_ELBO` by default. It is summed over the batch, as Pyro sums it.
        epochs: passes over the data.
        batch_size: data a step; the last batch of an epoch may be smaller.
        lr: the learning rate.
        lr_schedule: "constant", "cosine", "burda", or a function (epoch, epochs) -> factor.
        optimiser: makes one torch optimiser over all parameters: a function (parameters, lr), `torch.optim.Adam` say.
        clip_norm: bound on the global norm of the gradient.
        kl_warmup: epochs over which the weight of the KL term grows linearly to 1. Evidence never sees it.
        patience: stop when the validation ELBO has not risen for this many epochs after warm-up, and leave
            the model with the parameters of the best epoch. Needs ``x_valid``.
        transform: applied to every training batch, with a generator of the epoch's own: dynamic binarisation.
        seed: of shuffling, draws, and the starting values that come from data.
        compile: whether loss and gradients are captured as a tensor graph and compiled (see `ppl_vae.compiled`), and
            Pyro's handlers left out of the steps: "auto" does it where training is long enough for it to pay, by sizes
            alone. The draws are the same; levels differ in round-off.
        device: move the target and the data there; default: where the parameters are.
        checkpoint: a file to keep the state in, written atomically as training goes.
        resume: continue from ``checkpoint`` if it is there.
        history_path: a file that grows by a JSON line an epoch.
        progress: show a bar on a terminal.

    Returns:
        The history, one record an epoch.

    Raises:
        InputError: if an argument does not fit, or ``checkpoint`` exists without ``resume``, or is of another run.
        NonFiniteError: if the loss stops being finite; names the step and the last good checkpoint.
    """
    program = _program_of(target)
    loop = (epochs, batch_size, lr, lr_schedule, optimiser, clip_norm, kl_warmup, patience, transform, seed)
    given = Options(objective, *loop)
    given.check(x_train, x_valid)
    if isinstance(objective, CompiledELBO):
        objective, compile = objective.objective, True  # noqa: A001
    # A program has one plate, and particles may take another: an ELBO that finds out by itself draws for it.
    objective = fixed_nesting(Trace_ELBO() if objective is None else objective)
    check_compile(compile)

    device, n = _device(target, device, x_train), num_data(x_train)
    if isinstance(target, nn.Module):
        target.to(device)
    x_train = to_device(x_train, device)
    x_valid = None if x_valid is None else to_device(x_valid, device)
    draws = rng.generator(seed, "check", device=device)
    first = _transformed(take(x_train, slice(0, batch_size)), transform, draws)
    for argument, x in (("x_train", x_train if transform is None else None), ("x_valid", x_valid)):
        _check_data(program, x, argument)
    if transform is None:
        program, validated, x_train, first, sites = _ready(program, x_train, x_valid, first, objective)
    else:
        validated, sites = program, program.check(first)
    given = Options(suited(objective, validated, first), *loop)
    effort = Effort(3 * epochs * n, 2 * epochs * math.ceil(n / batch_size), sites.numbers_per_datum)
    level = level_for(compile, program, effort)

    with rng.forked(device):
        rng.reseed(device, seed, "start")
        run = Run(program, checked(optimiser), lr, first, clip_norm)
        keeper = None
        if checkpoint is not None:
            identity = _identity(given, run, level, x_train, x_valid)
            keeper = Checkpoint(checkpoint, "training", identity, resume)
        if keeper is None or not load(keeper, run):
            _start_from_data(target, x_train, seed)
        broadcast(run.state().values())
        if history_path is not None and is_main():
            _begin_history(history_path, run)

        show = bar(epochs * n, "training", "x", initial=len(run.epochs) * n, unit_scale=True)
        if not progress or not is_main():
            show.disable = True
        with show, run.training_mode(), _no_warning_of_the_loss():
            while len(run.epochs) < epochs and not (patience is not None and run.wait >= patience):
                train, rate, beta = _train_epoch(run, given, x_train, level, keeper, show)
                valid = None if x_valid is None else _validate(validated, x_valid, seed)
                epoch = Epoch(len(run.epochs) + 1, run.step, train, valid, rate, beta)
                run.record(epoch, patience is not None)
                show.set_postfix({"ELBO": f"{train if valid is None else valid:.2f}"}, refresh=False)
                if history_path is not None and is_main():
                    append(history_path, History(tuple(run.epochs[-1:])).jsonl())
                if keeper is not None and is_main() and keeper.due():
                    save(keeper, run)
                give_way()
        if keeper is not None and is_main():
            save(keeper, run)
        if patience is not None:
            run.restore_best()
    return run.history()


def _program_of(target: Any) -> Program:
    program = target if isinstance(target, Program) else getattr(target, "program", None)
    if not isinstance(program, Program):
        raise InputError("target", "a VAE or a Program", describe(target))
    return program


def _start_from_data(target: Any, x_train: Data, seed: int) -> None:
    """Let a target that takes starting values from data do so, if it has not trained yet."""
    start_from = getattr(target, "start_from", None)
    if start_from is not None and not getattr(target, "started", False):
        start_from(x_train, seed=seed)


def _identity(given: Options, run: Run, level: str, x_train: Data, x_valid: Data | None) -> dict[str, Any]:
    """What makes a run this one: a checkpoint of another is refused."""
    settings = given.settings(run.optimiser) | {"level": level, "processes": world().size}
    data = {"train": digest(x_train), "valid": None if x_valid is None else digest(x_valid)}
    return {"settings": settings, "data": data, "parameters": run.shapes()}


def _begin_history(path: str | os.PathLike[str], run: Run) -> None:
    """Write what the run has done so far: after a kill, the file goes back to what the checkpoint knows."""
    if run.epochs:
        run.history().check_begins(path)
    run.history().save(path)


def _train_epoch(
    run: Run, given: Options, x: Data, level: str, keeper: Checkpoint | None, show: Any
) -> tuple[float, float, float]:
    """An epoch of steps; returns the mean ELBO of its batches, the learning rate, and the weight of the KL term."""
    n, device, epoch = num_data(x), device_of(x), len(run.epochs)
    if given.objective is None:
        raise AssertionError("an epoch without an objective")
    objective, size = given.objective, min(given.batch_size, n)
    beta = min(1.0, (epoch + 1) / (given.kl_warmup + 1))
    rate = given.lr * given.factor(epoch, given.epochs)
    rng.reseed(device, given.seed, "epoch" if is_main() else f"epoch, process {world().rank}", epoch)
    step = run.stepper(beta, rate, objective, level, size)
    train, waiting = 0.0, list[torch.Tensor]()
    for batch in _batches(x, given.batch_size, given.transform, given.seed, epoch):
        try:
            waiting.append(run.advance(step, batch))
        except RuntimeError as error:
            raise of_uneven_batches(error, objective, num_data(batch), size) from error
        if len(waiting) == _LOOK:
            train -= _added(waiting, run, keeper) / n
        show.update(num_data(batch))
        give_way()
    train -= _added(waiting, run, keeper) / n
    # A gradient can overflow where the loss does not: such parameters must not reach a checkpoint.
    bad = run.not_finite()
    if bad is not None:
        raise _not_finite(f"parameter {bad!r}: not finite", run, keeper)
    broadcast(run.buffers().values())
    return train, rate, beta


def _ready(
    program: Program, x_train: Data, x_valid: Data | None, first: Data, objective: ELBO
) -> tuple[Program, Program, Data, Data, Sites]:
    """Check a program: what is trained, what validation uses, the data, a batch like the first, and the sites."""
    batch = num_data(first)
    found, x, sites = ready(program, x_train, batch)
    if x is not x_train:
        if x_valid is not None:
            expected = (
                "None, where the guide's parameters have a row for each datum of x_train (a guide that takes its rows "
                "by an index in the data can be validated)"
            )
            raise InputError("x_valid", expected, describe(x_valid))
        found.parameters(x)  # first values for all rows, before a batch asks for its own
        return found, found, x, take(x, slice(0, batch)), sites
    if found is not program and not isinstance(objective, TraceEnum_ELBO):
        expected = (
            "TraceEnum_ELBO(), for a model that marks a latent for enumeration and a guide that leaves it out"
        )
        raise InputError("objective", expected, type(objective).__name__)
    return program, found, x, first, sites


@contextmanager
def _no_warning_of_the_loss() -> Iterator[None]:
    """Without Pyro's warning of a loss that is not finite, since training stops with an error of its own."""
    inside: list[warnings.catch_warnings[None]] = []

    def put(quiet: bool) -> None:
        if quiet:
            inside.append(warnings.catch_warnings())
            inside[-1].__enter__()
            warnings.filterwarnings("ignore", message="Encountered", category=UserWarning)
        elif inside:
            inside.pop().__exit__(None, None, None)

    with Own(lambda: bool(inside), put):
        put(True)
        yield


def _added(losses: list[torch.Tensor], run: Run, keeper: Checkpoint | None) -> float:
    """The sum of losses, which are taken out of the list and counted as steps; raises if one is not finite.

    A device, and other processes, are waited for once for all of them.
    """
    values = all_reduce(torch.stack(losses)).tolist() if losses else []
    losses.clear()
    for loss in values:
        run.step += 1
        if not math.isfinite(loss):
            raise _not_finite(f"loss: {loss}", run, keeper)
    return math.fsum(values)


def elbo(program: Program, x: Data, *, seed: int = 0) -> float:
    """The plain ELBO of ``x``, one sample a datum, mean over data in nats: the figure that training watches."""
    return _mean_elbo(program, x, seed, World())


def _not_finite(what: str, run: Run, keeper: Checkpoint | None) -> NonFiniteError:
    where = f"step {run.step} (epoch {len(run.epochs) + 1})"
    return NonFiniteError(f"{what} at {where}; last good checkpoint: {'none' if keeper is None else keeper}")


def _device(target: Any, device: str | torch.device | None, x: Data) -> torch.device:
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:  # what torch raises of what it has not got
            raise InputError("device", "a device that torch has here, such as 'cpu'", error) from None
    parameter = next(target.parameters(), None) if isinstance(target, nn.Module) else None
    return device_of(x) if parameter is None else parameter.device


def _check_data(program: Program, x: Data | None, argument: str) -> None:
    if x is not None and program.check_data is not None:
        try:
            program.check_data(x)
        except InputError as error:
            raise InputError(argument, error.expected, error.received) from None


def _batches(x: Data, batch_size: int, transform: Transform | None, seed: int, epoch: int) -> Iterator[Data]:
    """The batches of an epoch, in its own order, transformed by its own draws."""
    order = torch.randperm(num_data(x), generator=rng.generator(seed, "shuffle", epoch)).to(device_of(x))
    generator = rng.generator(seed, "transform", epoch, device_of(x))
    for index in order.split(batch_size):
        yield _transformed(take(x, index), transform, generator)


def _transformed(batch: Data, transform: Transform | None, generator: torch.Generator) -> Data:
    if transform is None:
        return batch
    if not isinstance(batch, torch.Tensor):
        raise InputError("transform", "data that are one tensor", describe(batch))
    return transform(batch, generator)


def _validate(program: Program, x: Data, seed: int) -> float:
    """`elbo`, by all processes."""
    return _mean_elbo(program, x, seed, world())


def _mean_elbo(program: Program, x: Data, seed: int, ours: World) -> float:
    n = num_data(x)
    starts = range(0, n, _VALIDATION_CHUNK)
    sums = torch.zeros(len(starts), dtype=torch.float64)
    with torch.no_grad(), rng.forked(device_of(x)):
        for i, start in enumerate(starts):
            if i % ours.size != ours.rank:
                continue
            rng.reseed(device_of(x), seed, "validation", i)
            chunk = take(x, slice(start, start + _VALIDATION_CHUNK))
            sums[i] = program.log_weights(chunk, 1, seed=None, check=False).sum()
    return sum((all_reduce(sums) if ours.size > 1 else sums).tolist()) / n
