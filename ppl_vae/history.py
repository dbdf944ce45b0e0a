"""What happened during training, one record an epoch: a function of the seed and of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ppl_vae import files
from ppl_vae.errors import InputError


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes:
        epoch: counted from 1.
        step: optimiser steps so far.
        train_elbo: the objective, in nats a datum, averaged over the epoch as it was computed (so while the
            parameters moved; with the KL weighted by ``beta`` during warm-up).
        valid_elbo: the plain ELBO of the validation data after the epoch, nats a datum; ``None`` without them.
        lr: the learning rate.
        beta: the weight of the KL term, 1 after warm-up.
    """

    epoch: int
    step: int
    train_elbo: float
    valid_elbo: float | None
    lr: float
    beta: float


@dataclass(frozen=True)
class History(Sequence[Epoch]):
    """The epochs of a run, in order.

    Attributes:
        epochs: one record each.
        best_epoch: the epoch (from 1) whose parameters the model has been left with, if early stopping chose
            one; ``None`` when it has those of the last epoch.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int | None = None

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204  (overloads say less)
        return self.epochs[index]

    def jsonl(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in self.epochs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the epochs to ``path`` as JSON lines, atomically."""
        files.write_text(path, self.jsonl())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read what `save` wrote; raises `InputError` naming the file if it is missing or not a history."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            return cls(tuple(Epoch(**json.loads(line)) for line in lines))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(str(path), "a history of JSON lines", error) from None
