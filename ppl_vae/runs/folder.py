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
SANDWICH, GAPS, REPORT = "sandwich", "gaps", "report.json"
RESULT, SANDWICH_RESULT, GAPS_RESULT = (f"{kind}.safetensors" for kind in (EVIDENCE, SANDWICH, GAPS))
EVIDENCE_PICTURES = ("evidence_curve", "gap_and_khat")  # of importance sampling

_RESULTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    EVIDENCE: (
        "an earlier estimate",
        ("",),
        ("evidence_ladder.png", *(f"{name}.png" for name in EVIDENCE_PICTURES)),
    ),
    SANDWICH: ("earlier bounds", ("", ".upper", ".lower"), ("sandwich.png",)),
    GAPS: ("an earlier analysis", ("", ".annealed", ".refit", ".evidence", ".surgery"), (RESULT, "gaps.png")),
}
"""What each folder of results is called, the ends of its checkpoints' names, and files that only it has."""


def _files(kind: str) -> tuple[str, ...]:
    _, ends, more = _RESULTS[kind]
    checkpoints = (f"{CHECKPOINT}{end}" for end in ends)
    return (*checkpoints, f"{kind}.safetensors", f"{kind}.txt", "summary.json", *more, f"{kind}.yaml")


def run_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a training run."""
    results = (f"{kind}/{name}" for kind in _RESULTS for name in _files(kind))
    pictures = (*(f"{FIGURES}/{name}.png" for name in PICTURES), *(f"{name}.png" for name in PICTURES))
    names = (DATA, CHECKPOINT, HISTORY, MODEL, *pictures, *results, CONFIG)
    return OutputFolder(Path(path), CONFIG, names, "an earlier run", notes=(DATA, HISTORY))


def result_folder(kind: str, path: str | os.PathLike[str]) -> OutputFolder:
    """A folder of what a command has found out about a run: `EVIDENCE`, `SANDWICH` or `GAPS`."""
    return OutputFolder(Path(path), f"{kind}.yaml", _files(kind), _RESULTS[kind][0])


def validation_folder(path: str | os.PathLike[str]) -> OutputFolder:
    """The folder of a report on estimators."""
    marker = "validation.yaml"
    names = (CHECKPOINT, REPORT, "report.md", "report.txt", "error_against_cost.png", marker)
    return OutputFolder(Path(path), marker, names, "an earlier report")


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
