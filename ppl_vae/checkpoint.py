"""Checkpoints: the state of a long job in one file, with the identity of the job."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ppl_vae import files
from ppl_vae.errors import InputError, one_line

MIN_SECONDS = 1.0  # the smallest time between two writings
MAX_SHARE = 0.05  # the largest share of the running time for writing


def digest(tensors: torch.Tensor | Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b of the names, the dtypes, the shapes and all bytes of tensors."""
    return files.digest({"": tensors} if isinstance(tensors, torch.Tensor) else tensors)


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


class Checkpoint:
    """Writes and reads the checkpoints of one job.

    Args:
        path: the file.
        kind: the kind of job: "training", "evidence".
        identity: the settings that identify the job, in JSON's types: a checkpoint of another job is refused.
        resume: whether to continue from an existing file.

    Raises:
        InputError: if the file exists and ``resume`` is false.
    """

    def __init__(
        self, path: str | os.PathLike[str], kind: str, identity: Mapping[str, Any], resume: bool
    ) -> None:
        self.path, self.kind = Path(path), kind
        # JSON turns tuples into lists: compare what both become in it.
        self.identity = json.loads(json.dumps(dict(identity)))
        if not resume and self.path.exists():
            raise InputError(
                "checkpoint", "a file that does not exist yet, or resume=True", f"{self.path} (exists)"
            )
        self._written, self._took = -math.inf, 0.0

    def due(self) -> bool:
        """Whether enough time has passed since the last writing, so that writing does not slow the job."""
        return time.monotonic() - self._written >= max(MIN_SECONDS, self._took / MAX_SHARE)

    def write(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint by this one, atomically. ``state`` is in JSON's types."""
        start = time.monotonic()
        files.write_tensors(
            self.path,
            tensors,
            {"kind": f"ppl_vae {self.kind} checkpoint", "identity": self.identity, "state": state},
        )
        self._written = time.monotonic()
        self._took = self._written - start

    def read(self) -> tuple[dict[str, torch.Tensor], Any] | None:
        """The tensors and the state of the last writing; ``None`` if there is no file.

        Raises:
            InputError: if the file is not a checkpoint, or belongs to another job; names the first difference.
        """
        if not os.path.lexists(self.path):
            return None
        tensors, metadata = files.read_tensors(self.path, inspect=self._check_identity, old=False)
        return tensors, metadata["state"]

    def _check_identity(self, metadata: Any) -> None:
        if not isinstance(metadata, dict) or metadata.get("kind") != f"ppl_vae {self.kind} checkpoint":
            raise InputError(str(self.path), f"a checkpoint of {self.kind}", "a file of another kind")
        missing = [name for name in ("identity", "state") if not isinstance(metadata.get(name), dict)]
        if missing:
            raise InputError(str(self.path), f"a checkpoint of {self.kind}", f"one without {missing[0]}")
        difference = _difference(self.identity, metadata["identity"])
        if difference:
            raise InputError(str(self.path), "a checkpoint of this run", f"one of another: {difference}")

    @contextmanager
    def believing(self) -> Iterator[None]:
        """Use the content of the checkpoint inside of the context: errors become an `InputError` that names the file.

        The digest detects damaged files. The remaining case is a file that was edited together with its digest.
        """
        try:
            yield
        except InputError as error:
            if error.argument == str(self.path):
                raise
            received = f"{error.argument}: {error.received} instead of {error.expected}"
            raise InputError(str(self.path), f"the state of {self.kind}", received) from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            received = f"{type(error).__name__}: {one_line(error, 160)}"
            raise InputError(str(self.path), f"the state of {self.kind}", received) from error

    def remove(self) -> None:
        """Delete the checkpoint at the end of the job."""
        self.path.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self.path) if self.path.exists() else "none"


def _difference(ours: Any, theirs: Any, where: str = "") -> str:
    """The first difference between two identities, in words; empty if they are equal."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *theirs]:
            found = _difference(ours.get(key), theirs.get(key), f"{where} {key}".strip())
            if found:
                return found
        return ""
    return "" if ours == theirs else f"{where} {theirs} (this run: {ours})"
