"""Options of training: what `fit` is given beside the target and the data, and how a checkpoint knows it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO

from ppl_vae.errors import InputError, check_positive_float, check_positive_int, check_seed, describe
from ppl_vae.program import Data, num_data
from ppl_vae.schedules import Schedule, schedule
from ppl_vae.training.arguments import check_kind, check_objective, checked
from ppl_vae.training.optimiser import OptimiserFactory
from ppl_vae.training.run import describe_settings

Transform = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Applied to every batch of training data: ``(x, generator) -> x``, such as `ppl_vae.data.binarise`."""


@dataclass(frozen=True)
class Options:
    """Arguments of `fit`, which tells what they mean."""

    objective: ELBO | None
    epochs: int
    batch_size: int
    lr: float
    lr_schedule: str | Schedule
    optimiser: OptimiserFactory
    clip_norm: float | None
    kl_warmup: int
    patience: int | None
    transform: Transform | None
    seed: int

    @property
    def factor(self) -> Schedule:
        """What the learning rate is multiplied by in an epoch."""
        return schedule(self.lr_schedule)

    def check(self, x_train: Data, x_valid: Data | None) -> None:
        """Check all of them, and of what kind the data are; raises `InputError`, naming the argument."""
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            check_positive_int(name, value)
        check_positive_float("lr", self.lr)
        check_seed(self.seed)
        check_objective(self.objective)
        if self.clip_norm is not None:
            check_positive_float("clip_norm", self.clip_norm)
        if isinstance(self.kl_warmup, bool) or not isinstance(self.kl_warmup, int) or self.kl_warmup < 0:
            raise InputError("kl_warmup", "a number of epochs, 0 or more", describe(self.kl_warmup))
        if self.patience is not None:
            check_positive_int("patience", self.patience)
            if x_valid is None:
                raise InputError("x_valid", "validation data, which patience= needs", None)
        checked(self.optimiser)
        if self.transform is not None and not callable(self.transform):
            raise InputError("transform", "a function", describe(self.transform))
        schedule(self.lr_schedule)
        data = {"x_train": x_train} if x_valid is None else {"x_train": x_train, "x_valid": x_valid}
        for name, x in data.items():
            check_kind(name, x)
            num_data(x, name)

    def settings(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """What makes a run this one, in JSON's types; ``optimiser`` is the one that was made."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "lr_schedule": self.lr_schedule if isinstance(self.lr_schedule, str) else "a function",
            "epochs": None if self.lr_schedule == "constant" else self.epochs,  # other schedules depend on it
            "objective": describe_settings(self.objective, vars(self.objective)),
            "optimiser": describe_settings(optimiser, optimiser.defaults),
            "clip_norm": self.clip_norm,
            "kl_warmup": self.kl_warmup,
            "transform": getattr(self.transform, "__qualname__", None),
            "early stopping": self.patience is not None,
        }
