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

What ``--overwrite`` is to replace stays where it is until its successor is complete: see `ppl_vae.outputs`.
"""

from __future__ import annotations

import os
from pathlib import Path

from ppl_vae.errors import InputError
from ppl_vae.outputs import OutputFolder

CONFIG, DATA, CHECKPOINT = "config.yaml", "data.json", "checkpoint.safetensors"
HISTORY, MODEL, FIGURES, EVIDENCE = "history.jsonl", "vae.safetensors", "figures", "evidence"
PICTURES = ("training", "samples", "reconstructions", "interpolation", "latent_plane")
EVIDENCE_MARKER, RESULT = "evidence.yaml", "evidence.safetensors"
EVIDENCE_PICTURES = ("evidence_curve", "gap_and_khat")  # of importance sampling
SANDWICH, SANDWICH_MARKER, SANDWICH_RESULT = "sandwich", "sandwich.yaml", "sandwich.safetensors"
VALIDATION_MARKER, REPORT = "validation.yaml", "report.json"
GAPS, GAPS_MARKER, GAPS_RESULT = "gaps", "gaps.yaml", "gaps.safetensors"

_RESULTS = {
    EVIDENCE: (
        *(CHECKPOINT, RESULT, "evidence.txt", "summary.json", "evidence_ladder.png"),
        *(f"{name}.png" for name in EVIDENCE_PICTURES),
        EVIDENCE_MARKER,
    ),
    SANDWICH: (
        *(CHECKPOINT, f"{CHECKPOINT}.upper", f"{CHECKPOINT}.lower", SANDWICH_RESULT),
        *("sandwich.txt", "summary.json", "sandwich.png", SANDWICH_MARKER),
    ),
    GAPS: (
        *(f"{CHECKPOINT}{name}" for name in ("", ".annealed", ".refit", ".evidence", ".surgery")),
        *(RESULT, GAPS_RESULT, "gaps.txt", "summary.json", "gaps.png", GAPS_MARKER),
    ),
}
VALIDATION_FILES = (
    *(CHECKPOINT, REPORT, "report.md", "report.txt", "error_against_cost.png"),
    VALIDATION_MARKER,
)
RUN_FILES = (
    *(DATA, CHECKPOINT, HISTORY, MODEL),
    *(f"{FIGURES}/{name}.png" for name in PICTURES),
    *(f"{folder}/{name}" for folder, names in _RESULTS.items() for name in names),
    *(f"{name}.png" for name in PICTURES),
    CONFIG,
)
_WHAT = {EVIDENCE: "an earlier estimate", SANDWICH: "earlier bounds", GAPS: "an earlier analysis"}


def run_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a training run."""
    return OutputFolder(Path(path), CONFIG, RUN_FILES, "an earlier run", notes=(DATA, HISTORY))


def result_folder(kind: str, path: str | os.PathLike[str]) -> OutputFolder:
    """A folder of what a command has found out about a run: `EVIDENCE`, `SANDWICH` or `GAPS`."""
    return OutputFolder(Path(path), f"{kind}.yaml", _RESULTS[kind], _WHAT[kind])


def validation_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a report on estimators."""
    return OutputFolder(Path(path), VALIDATION_MARKER, VALIDATION_FILES, "an earlier report")


def finished_run(path: str) -> OutputFolder:
    """The folder of a run whose training is done; raises `InputError`, naming it, for anything else."""
    folder = run_folder(path)
    expected = "a run folder, which ppl-vae train writes"
    if not folder.path.is_dir():
        raise InputError(f"RUN {path}", expected, "a file" if folder.path.exists() else "no such folder")
    if not folder.began():
        raise InputError(f"RUN {path}", expected, f"a folder without {CONFIG}")
    if not (folder.path / MODEL).is_file():
        raise InputError(f"RUN {path}", "a run whose training is done", f"a folder without {MODEL}")
    if folder.interrupted():
        received = "one that was being replaced when a process was killed (train --resume ends that)"
        raise InputError(f"RUN {path}", "a run whose files belong together", received)
    return folder
