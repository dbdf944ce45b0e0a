"""History: the figures of each epoch of training; they depend on the settings and the seed only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ppl_vae import files, reading
from ppl_vae.errors import InputError, describe
from ppl_vae.stored import Stored


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes:
        epoch: counted from 1.
        step: optimiser steps so far.
        train_elbo: the objective, in nats for each datum, averaged over the steps of the epoch, while the parameters
            change; during warm-up the KL is weighted by ``beta``.
        valid_elbo: the ELBO of the validation data after the epoch, in nats for each datum; ``None`` without them.
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
        epochs: one record for each epoch.
        best_epoch: the epoch (from 1) whose parameters the model has, if early stopping selected one; ``None`` if it
            has those of the last epoch.
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
        """One JSON object in each line."""
        return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in self.epochs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the epochs to ``path`` as JSON lines, atomically."""
        files.write_text(path, self.jsonl())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file and the line, if it is missing, is not a history, or its epochs are not
                consecutive.
        """
        source = os.fspath(path)
        lines = reading.read_text(path, _EXPECTED).splitlines()
        records = [
            reading.parse_json(line, source, f"{_EXPECTED} (line {number})")
            for number, line in enumerate(lines, 1)
        ]
        return cls(epochs_from(records, source))

    def check_begins(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file of JSON lines whose records of these epochs are different.

        The file may have fewer or more epochs, and may end in the middle of a line, as after a killed run.

        Raises:
            InputError: naming the file and the line.
        """
        if not os.path.lexists(path):
            return
        source = os.fspath(path)
        lines = reading.read_text(path, _EXPECTED).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        for number, (line, ours) in enumerate(zip(whole, self.jsonl().splitlines(), strict=False), 1):
            if line.strip() != ours:
                expected = f"{_EXPECTED} of this run, as its checkpoint has it"
                raise InputError(source, expected, f"another line {number}: {line.strip()[:80]}")


_EXPECTED = "a history of JSON lines"


def epochs_from(records: Any, source: str) -> tuple[Epoch, ...]:
    """The epochs of plain records.

    Raises:
        InputError: naming ``source`` and the epoch, if a field is missing, of another type, or does not follow from
            the epoch before.
    """
    if not isinstance(records, list):
        raise InputError(source, _EXPECTED, describe(records))
    found: list[Epoch] = []
    for number, record in enumerate(records, 1):
        stored = Stored(source, {}, record, f"epoch {number}: ")
        before = found[-1] if found else None
        stored.number("epoch", number, number)
        stored.number("step", number if before is None else before.step + 1)
        if record.keys() - _FIELDS:
            raise stored.wrong(str(min(record.keys() - _FIELDS)), "no such field", "one")
        lr, beta = stored.number("lr", 0, whole=False), stored.number("beta", 0, 1, whole=False)
        valid = stored.entry("valid_elbo", object)
        if valid is not None:
            stored.real("valid_elbo")
        found.append(Epoch(number, record["step"], stored.real("train_elbo"), valid, lr, beta))
    return tuple(found)


_FIELDS = {field.name for field in fields(Epoch)}
