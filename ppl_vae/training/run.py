"""The state of a training run: what an epoch changes, and what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor

from ppl_vae.checkpoint import Checkpoint, with_prefix
from ppl_vae.compiled.losses import PartialLoss, TrainingLoss
from ppl_vae.distributed import GradientSum, world
from ppl_vae.errors import InputError
from ppl_vae.history import Epoch, History, epochs_from
from ppl_vae.modes import in_mode
from ppl_vae.program import Data, Program, num_data, take
from ppl_vae.stored import Stored
from ppl_vae.training.optimiser import OptimiserFactory, SharedOptim

Step = Callable[[Data], Tensor]
"""Takes a step on a batch; returns its loss, summed over the batch: a float64 scalar, not yet looked at."""


class _Together(SharedOptim):
    """Steps by gradients that are summed over all processes, which so stay alike."""

    def __init__(self, optimiser: torch.optim.Optimizer, clip_norm: float | None) -> None:
        super().__init__(optimiser, clip_norm)
        self._sum = GradientSum(self._parameters)
        self._direct = False

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        self._sum()
        super().__call__(params, *args, **kwargs)


class Run:
    """The state of training that a checkpoint holds."""

    def __init__(
        self, program: Program, factory: OptimiserFactory, lr: float, x: Data, clip_norm: float | None
    ) -> None:
        self.program = program
        self.parameters = program.parameters(x)
        self._modules = tuple(
            program.modules
        )  # those that `Program.check` found: the same in every run of the job
        if not self.parameters:
            raise InputError("target", "a program with at least one trainable parameter", "none")
        self.optimiser = factory(list(self.parameters.values()), lr)
        self.optim = (SharedOptim if world().size == 1 else _Together)(self.optimiser, clip_norm)
        self.step = 0
        self.epochs: list[Epoch] = []
        self.wait = 0
        self.best: dict[str, torch.Tensor] | None = None
        self.best_epoch: int | None = None
        self._losses: dict[str, TrainingLoss] = {}
        self._nothing = torch.zeros((), dtype=torch.float64)

    def training_mode(self) -> AbstractContextManager[None]:
        """Put a program that is in evaluation mode, as a loaded one is, into training mode for a while.

        One that trains already is left alone: the user may have put some part of it into evaluation mode.
        """
        owners = (
            self.program.modules.owners
        )  # the modes of a function's networks are the user's, as in plain Pyro
        return in_mode([module for module in owners if not module.training], training=True)

    def stepper(self, beta: float, lr: float, objective: ELBO, level: str, batch_size: int) -> Step:
        """A step of SVI on the program, its KL term weighted by ``beta``, at a learning rate of ``lr``.

        Args:
            beta: the weight of the KL term.
            lr: the learning rate.
            objective: the loss.
            level: one of `ppl_vae.compiled.LEVELS`; at "plain" it is Pyro's own SVI that steps.
            batch_size: of nearly all batches: a compiler is not started for others.
        """
        share = world().share(batch_size)
        batch_size = share.stop - share.start
        # Where `by_svi` and `by_graph` return their losses.
        self._nothing = self._nothing.to(
            "cpu" if level == "plain" else next(iter(self.parameters.values())).device
        )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        if level == "plain":
            model, guide = self.program.kl_weighted(beta, listed=False)  # the optimiser holds the parameters
            svi = SVI(model, guide, self.optim, loss=objective)

            def by_svi(batch: Data) -> Tensor:
                # Validation doubles the cost of a step: data and program were checked once, before the first.
                with pyro.validation_enabled(False):
                    return torch.tensor(svi.step(batch), dtype=torch.float64)

            return by_svi

        bound: dict[str, PartialLoss] = {}

        def by_graph(batch: Data) -> Tensor:
            own = level if num_data(batch) == batch_size else "captured"
            if own not in bound:
                if own not in self._losses:
                    self._losses[own] = TrainingLoss(self.program, self.parameters, objective, level=own)
                bound[own] = self._losses[own].bind()
            loss, gradients = bound[own](batch, beta)
            self.optim.step(gradients)
            return loss

        return by_graph

    def advance(self, step: Step, batch: Data) -> Tensor:
        """Take a step; the loss, summed over the batch (this process's share of it), not yet looked at."""
        ours = world()
        if ours.size == 1:
            return step(batch)
        share = ours.share(num_data(batch))
        if share.start == share.stop:  # the others' gradients are stepped by, here too
            self.optim(())
            return self._nothing
        return step(take(batch, share))

    def buffers(self) -> dict[str, Tensor]:
        """The buffers of the program's modules, by name; not copies."""
        return {
            f"buffer/{i}/{name}": value
            for i, module in enumerate(self._modules)
            for name, value in module.named_buffers()
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters (unconstrained) and the buffers of the program's modules, by name; not copies."""
        return {f"param/{name}": value for name, value in self.parameters.items()} | self.buffers()

    def shapes(self) -> dict[str, list[Any]]:
        """The shape and the dtype of everything in `state`, in JSON's types."""
        return {name: [*value.shape, str(value.dtype)] for name, value in self.state().items()}

    def not_finite(self) -> str | None:
        """The name of a parameter that holds NaN or an infinity, if there is one."""
        return next((name for name, value in self.parameters.items() if not value.isfinite().all()), None)

    def put(self, state: dict[str, torch.Tensor]) -> None:
        """Copy a `state` into the parameters and buffers, in place."""
        with torch.no_grad():
            for name, value in self.state().items():
                value.copy_(state[name])

    def record(self, epoch: Epoch, keep_best: bool) -> None:
        """Take in what an epoch came to; with ``keep_best``, keep a copy of the best parameters so far."""
        self.epochs.append(epoch)
        if not keep_best or epoch.valid_elbo is None:
            return
        best = -math.inf if self.best_epoch is None else self.epochs[self.best_epoch - 1].valid_elbo
        if best is not None and epoch.valid_elbo > best:  # so that NaN is never the best
            self.best_epoch, self.wait = epoch.epoch, 0
            self.best = {name: value.detach().clone() for name, value in self.state().items()}
        elif epoch.beta == 1.0:
            self.wait += 1

    def restore_best(self) -> None:
        """Give the program the best parameters, if there are any."""
        if self.best is not None:
            self.put(self.best)

    def history(self) -> History:
        """The epochs so far."""
        return History(tuple(self.epochs), self.best_epoch)


def describe_settings(thing: object, options: Mapping[str, Any]) -> dict[str, Any]:
    """A thing by its class and its plain options; not the learning rate, nor what an ELBO finds out by itself."""
    plain = {
        name: value
        for name, value in options.items()
        if name not in ("lr", "max_plate_nesting") and isinstance(value, bool | int | float | str)
    }
    return {"class": type(thing).__qualname__, **plain}


def save(keeper: Checkpoint, run: Run) -> None:
    """Write everything that the rest of the run depends on."""
    tensors = {f"now/{name}": value for name, value in run.state().items()}
    if run.best is not None:
        tensors |= {f"best/{name}": value for name, value in run.best.items()}
    numbers: dict[str, Any] = {}
    for i, parameter in enumerate(run.parameters.values()):
        for key, value in run.optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimiser/{i}/{key}"] = value
            else:
                numbers[f"{i}/{key}"] = value
    state = {
        "step": run.step,
        "wait": run.wait,
        "best_epoch": run.best_epoch,
        "epochs": [dataclasses.asdict(epoch) for epoch in run.epochs],
        "optimiser": numbers,
    }
    keeper.write(tensors, state)


def load(keeper: Checkpoint, run: Run) -> bool:
    """Put a saved state into ``run``; False if there is none."""
    saved = keeper.read()
    if saved is None:
        return False
    with keeper.believing():
        _put(Stored(str(keeper.path), *saved), run)
    return True


_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
"""What optimisers of torch keep in the shape of a parameter."""


def _put(saved: Stored, run: Run) -> None:
    """Put what a checkpoint holds into ``run``, once all of it is seen to fit."""
    state, tensors = saved.numbers, saved.tensors
    epochs = epochs_from(state.get("epochs"), saved.source)
    last = epochs[-1].step if epochs else 0
    saved.number("step", last, last)
    saved.number("wait", 0, len(epochs))
    best = None if state.get("best_epoch") is None else saved.number("best_epoch", 1, len(epochs))
    _check_best(saved, epochs, best)
    parts = ("now/",) if best is None else ("now/", "best/")
    own = run.state()
    for part in parts:
        for name, value in own.items():
            largest = torch.finfo(value.dtype).max if name.startswith("param/") else math.inf
            saved.tensor(
                f"{part}{name}", value.shape, value.dtype, low=-largest, high=largest, nan=largest == math.inf
            )
    leaves = list(run.parameters.values())
    kept = with_prefix("optimiser/", tensors) | saved.entry("optimiser", dict)
    for name, value in kept.items():
        number, _, key = name.partition("/")
        if not number.isdecimal() or int(number) >= len(leaves) or not key:
            raise saved.wrong(f"optimiser/{name}", "a part of the optimiser's state", "another")
        if key in _LIKE_PARAMETERS:
            largest = torch.finfo(torch.float64).max
            saved.tensor(
                f"optimiser/{name}", leaves[int(number)].shape, value.dtype, low=-largest, high=largest
            )
    saved.only(
        [*(f"{part}{name}" for part in parts for name in own), *(f"optimiser/{name}" for name in kept)]
    )
    run.put(with_prefix("now/", tensors))
    run.best = {
        name: value.to(own[name].device) for name, value in with_prefix("best/", tensors).items()
    } or None
    for name, value in kept.items():
        i, key = name.split("/", 1)
        leaf = leaves[int(i)]
        run.optimiser.state[leaf][key] = value.to(leaf.device) if isinstance(value, torch.Tensor) else value
    run.step, run.wait, run.best_epoch = state["step"], state["wait"], best
    run.epochs = list(epochs)


def _check_best(saved: Stored, epochs: Sequence[Epoch], best: int | None) -> None:
    """The best epoch is the first of those with the largest validation ELBO, where one was kept."""
    if best is None:
        return
    values = [-math.inf if e.valid_elbo is None or math.isnan(e.valid_elbo) else e.valid_elbo for e in epochs]
    first = values.index(max(values)) + 1
    if first != best:
        raise saved.wrong("best_epoch", f"{first}, as the validation ELBOs say", best)
