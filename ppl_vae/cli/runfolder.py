"""Folders of output: made whole, never overwritten unasked, resumed only by the command that began them.

A folder of output has a *marker*: a YAML file with the resolved options that repeat it. A folder without one
is somebody else's and is never touched.

A run folder (of ``ppl-vae train``) holds

    config.yaml              the marker: ppl-vae train --config config.yaml --out OTHER gives the same numbers
    data.json                what the data were, with a hash of the test split
    checkpoint.safetensors   the state of training, for --resume
    history.jsonl            a line an epoch
    vae.safetensors          the trained VAE (ppl_vae.load reads it)
    figures/                 pictures
    evidence/                what ppl-vae evidence says by default: a folder of its own, with evidence.yaml
    sandwich/                likewise of ppl-vae sandwich
    gaps/                    likewise of ppl-vae gaps
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ppl_vae import files, reading
from ppl_vae.cli.oneline import option
from ppl_vae.errors import InputError

CONFIG, DATA, CHECKPOINT = "config.yaml", "data.json", "checkpoint.safetensors"
HISTORY, MODEL, FIGURES, EVIDENCE = "history.jsonl", "vae.safetensors", "figures", "evidence"
PICTURES = ("training", "samples", "reconstructions", "interpolation", "latent_plane")
EVIDENCE_MARKER, RESULT = "evidence.yaml", "evidence.safetensors"
EVIDENCE_PICTURES = ("evidence_curve", "gap_and_khat")  # of importance sampling
SANDWICH, SANDWICH_MARKER, SANDWICH_RESULT = "sandwich", "sandwich.yaml", "sandwich.safetensors"
VALIDATION_MARKER, REPORT = "validation.yaml", "report.json"
GAPS, GAPS_MARKER, GAPS_RESULT = "gaps", "gaps.yaml", "gaps.safetensors"

EVIDENCE_FILES = (
    CHECKPOINT,
    RESULT,
    "evidence.txt",
    "summary.json",
    *(f"{name}.png" for name in EVIDENCE_PICTURES),
    "evidence_ladder.png",
    EVIDENCE_MARKER,
)
SANDWICH_FILES = (
    CHECKPOINT,
    f"{CHECKPOINT}.upper",
    f"{CHECKPOINT}.lower",
    SANDWICH_RESULT,
    "sandwich.txt",
    "summary.json",
    "sandwich.png",
    SANDWICH_MARKER,
)
GAPS_FILES = (
    CHECKPOINT,
    f"{CHECKPOINT}.evidence",
    RESULT,
    GAPS_RESULT,
    "gaps.txt",
    "summary.json",
    "gaps.png",
    GAPS_MARKER,
)
VALIDATION_FILES = (
    CHECKPOINT,
    REPORT,
    "report.md",
    "report.txt",
    "error_against_cost.png",
    VALIDATION_MARKER,
)
RUN_FILES = (
    DATA,
    CHECKPOINT,
    HISTORY,
    MODEL,
    *(f"{FIGURES}/{name}.png" for name in PICTURES),
    *(f"{EVIDENCE}/{name}" for name in EVIDENCE_FILES),
    *(f"{SANDWICH}/{name}" for name in SANDWICH_FILES),
    *(f"{GAPS}/{name}" for name in GAPS_FILES),
    *(f"{name}.png" for name in PICTURES),
    CONFIG,
)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that a command writes.

    Attributes:
        path: the folder.
        marker: the name of its marker.
        owned: every file that the command writes there, the marker last.
        what: what such a folder is called in messages.
    """

    path: Path
    marker: str
    owned: tuple[str, ...]
    what: str

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse a folder that must not be written; nothing is written or made.

        Raises:
            InputError: naming ``--out``.
        """
        if resume and overwrite:
            raise InputError("--resume", "one of --resume and --overwrite", "both")
        if self.path.is_symlink() and not self.path.exists():
            raise InputError("--out", "a folder", f"{self.path} (a broken link)")
        if self.path.exists() and not self.path.is_dir():
            raise InputError("--out", "a folder", f"{self.path} (a file)")
        check_writable(self.path, "--out")
        if not self.began():
            if self._other_files():
                raise InputError(
                    "--out", f"a new folder, an empty one, or {self.what}", f"{self.path} (holds other files)"
                )
        elif not resume and not overwrite:
            raise InputError(
                "--out",
                "a new folder, or --overwrite to replace what is there, or --resume to continue it",
                f"{self.path} (exists)",
            )

    def began(self) -> bool:
        """Whether the marker is there."""
        return (self.path / self.marker).is_file()

    def settings(self) -> dict[str, Any]:
        """What the marker says; raises `InputError`, naming it, if it cannot be read."""
        return read_yaml(self.path / self.marker)

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to resume what was begun with other options, naming the first that differs."""
        theirs = self.settings()
        difference = _difference(settings, theirs)
        if difference is not None:
            name, ours, old = difference
            raise InputError(
                name, f"{old!r}, as in {self.path / self.marker}, which --resume continues", repr(ours)
            )

    def begin(self, settings: Mapping[str, Any], *, header: str, overwrite: bool) -> None:
        """Make the folder and write the marker, first clearing away what the command had written there.

        Only files that the command writes are removed; the user's own stay.
        """
        self.sweep()
        if overwrite:
            for name in self.owned:
                (self.path / name).unlink(missing_ok=True)
            self.forget_processes()
        files.write_text(self.path / self.marker, header + dump_yaml(settings))

    def sweep(self) -> None:
        """Remove the half-written temporary files that a killed process left."""
        for name in self.owned:
            file = self.path / name
            for stale in file.parent.glob(f".{file.name}.*.tmp"):
                stale.unlink(missing_ok=True)

    def forget_processes(self) -> None:
        """Remove the checkpoints of processes that shared a job, which may have been others than those of today."""
        for stale in self.path.glob(f"{CHECKPOINT}*.rank*"):
            stale.unlink(missing_ok=True)

    def _other_files(self) -> bool:
        if not self.path.exists():
            return False
        names = {Path(name).name for name in self.owned}
        ours = [(f".{name}.", ".tmp") for name in names]
        return any(
            not any(entry.name.startswith(head) and entry.name.endswith(tail) for head, tail in ours)
            for entry in self.path.iterdir()
        )


def run_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a training run."""
    return OutputFolder(Path(path), CONFIG, RUN_FILES, "an earlier run")


def evidence_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of an evidence estimate."""
    return OutputFolder(Path(path), EVIDENCE_MARKER, EVIDENCE_FILES, "an earlier estimate")


def sandwich_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of two-sided bounds."""
    return OutputFolder(Path(path), SANDWICH_MARKER, SANDWICH_FILES, "earlier bounds")


def gaps_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of what the gap to the ELBO consists of."""
    return OutputFolder(Path(path), GAPS_MARKER, GAPS_FILES, "an earlier analysis")


def validation_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a report on estimators."""
    return OutputFolder(Path(path), VALIDATION_MARKER, VALIDATION_FILES, "an earlier report")


def finished_run(path: str) -> OutputFolder:
    """The folder of a run whose training is done; raises `InputError`, naming it, for anything else."""
    folder = run_folder(path)
    if not folder.path.is_dir():
        received = "a file" if folder.path.exists() else "no such folder"
        raise InputError(f"RUN {path}", "a run folder, which ppl-vae train writes", received)
    if not folder.began():
        raise InputError(
            f"RUN {path}", "a run folder, which ppl-vae train writes", f"a folder without {CONFIG}"
        )
    if not (folder.path / MODEL).is_file():
        raise InputError(f"RUN {path}", "a run whose training is done", f"a folder without {MODEL}")
    return folder


def check_writable(path: Path, argument: str) -> None:
    """Refuse a file or folder that could not be made, before anything is; raises `InputError`."""
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise InputError(argument, "a folder that can be written", f"{path} (permission denied)")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(argument, "a path whose parents are folders", f"{parent} (a file)")
    if not path.exists() and not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(argument, "a place that can be written", f"{parent} (permission denied)")


def dump_yaml(settings: Mapping[str, Any]) -> str:
    """YAML in the order given."""
    return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; raises `InputError`, naming it, for anything else."""
    return reading.read_yaml(path)


def _plain(value: Any) -> Any:
    """JSON's types: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _difference(ours: Any, theirs: Any, path: tuple[str, ...] = ()) -> tuple[str, Any, Any] | None:
    """The first option in which two sets of them differ: its name, our value, theirs."""
    ours, theirs = _plain(ours), _plain(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *theirs]:
            found = _difference(ours.get(key), theirs.get(key), (*path, key))
            if found is not None:
                return found
        return None
    if ours == theirs and type(ours) is type(theirs):
        return None
    names = [name for name in path if name not in ("init_args", "class_path")]
    return option(".".join(names)), ours, theirs
