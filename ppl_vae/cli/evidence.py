"""``ppl-vae evidence``: log p(x) of held-out data under a trained model, with a verdict."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import files
from ppl_vae.cli import datasets, machine
from ppl_vae.cli.oneline import Interrupted, option, relabel
from ppl_vae.cli.parsing import check_numbers, make_parser, parse
from ppl_vae.cli.runfolder import CHECKPOINT, EVIDENCE, MODEL, RESULT, evidence_folder, finished_run
from ppl_vae.errors import InputError, check_one_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.data import Dataset
    from ppl_vae.evidence.result import Evidence, Mean
    from ppl_vae.vae import VAE

_METHODS = ("importance",)
_DESCRIPTION = """\
Estimate log p(x) for each datum of a run's test split, print a table, and write a folder: evidence.safetensors (every
figure, per datum: ppl_vae.Evidence.load reads it), evidence.txt (the table), summary.json, evidence_curve.png (from
the ELBO to the evidence) and gap_and_khat.png (can it be believed?).

Killed or stopped, the same command with --resume goes on and ends with the same bits."""
_EXAMPLES = """\
examples:
  ppl-vae evidence runs/digits
  ppl-vae evidence runs/mnist --num-samples 5000 --subset 1000 --out runs/mnist/evidence-1000
  ppl-vae evidence runs/mnist --split valid --num-samples 500 --resume"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(parser(), argv)
    evidence, path = estimate(settings)
    print(evidence)
    print((path / "evidence.txt").read_text(encoding="utf-8").splitlines()[-1])
    print(f"figures and numbers in {path}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("evidence", _DESCRIPTION, _EXAMPLES)
    made.add_argument("run", type=str, metavar="RUN", help="a run folder, which ppl-vae train writes")
    made.add_argument(
        "--method", type=str, default="importance", help="importance: importance sampling from q(z|x)"
    )
    made.add_argument("--num-samples", type=int, default=5000, help="samples a datum")
    made.add_argument("--split", type=str, default="test", help="test, valid or train")
    made.add_argument(
        "--subset", type=int | None, help="so many data of the split, drawn at random (default: all of them)"
    )
    made.add_argument(
        "--subset-seed", type=int | None, help="of that draw (default: the data set's own seed)"
    )
    made.add_argument("--seed", type=int, default=0, help="of the samples")
    made.add_argument("--out", type=str | None, help="the folder to write (default: RUN/evidence)")
    made.add_argument("--overwrite", action="store_true", help="replace an earlier estimate's files there")
    made.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in that folder, if any"
    )
    made.add_argument("--data-dir", type=str | None, help="where MNIST's files lie now, if they have moved")
    made.add_argument("--path", type=str | None, help="where the array lies now, if it has moved")
    machine.add_options(made)
    return made


def estimate(settings: dict[str, Any]) -> tuple[Evidence, Path]:
    """Estimate, save and draw; returns the result and its folder."""
    check_one_of("--method", settings["method"], _METHODS)
    check_numbers(settings, counts=("num_samples", "subset"), seeds=("seed", "subset_seed"))
    check_one_of("--split", settings["split"], datasets.SPLITS)
    resume, overwrite = settings["resume"], settings["overwrite"]
    run = finished_run(settings["run"])
    folder = evidence_folder(settings["out"] or run.path / EVIDENCE)
    folder.check(resume=resume, overwrite=overwrite)
    if resume and folder.began():
        before = folder.settings()
        for name, unset in (("threads", None), ("device", "auto")):
            if settings[name] == unset:
                settings[name] = before.get(name, unset)
    machine.resolve(settings)

    from ppl_vae.cli.pictures import open_model
    from ppl_vae.evidence import importance
    from ppl_vae.evidence.result import Evidence

    dataset = datasets.load_again(run, data_dir=settings["data_dir"], path=settings["path"])
    x, about = datasets.split(dataset, settings["split"], settings["subset"], settings["subset_seed"])
    model = run.path / MODEL
    with machine.threads(settings["threads"]):
        vae = open_model(run, settings["device"])
        try:
            vae.check_data(x)
        except InputError as error:
            raise InputError(
                str(model), f"a model of the run's data ({error.expected})", error.received
            ) from None
        kept = ("method", "num_samples", "seed", "split", "subset", "subset_seed", "threads", "device")
        marker = {
            "run": str(run.path.resolve()),
            **{name: settings[name] for name in kept},
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "data_sha256": about["sha256"],
        }
        path = folder.path
        if resume and folder.began():
            folder.check_same(marker)
            folder.sweep()
        else:
            vae.program.check(x[:1].to(settings["device"]))
            header = "# An estimate by ppl-vae evidence: what it was made from.\n"
            folder.begin(marker, header=header, overwrite=overwrite)
        try:
            if (path / RESULT).is_file():  # a resumed command that had only pictures left to draw
                evidence = Evidence.load(path / RESULT)
            else:
                evidence = importance(
                    vae.program,
                    x.to(settings["device"]),
                    settings["num_samples"],
                    seed=settings["seed"],
                    checkpoint=path / CHECKPOINT,
                    resume=resume,
                )
                evidence.save(path / RESULT)
        except KeyboardInterrupt:
            where = shlex.quote(str(path))
            raise Interrupted(
                f"go on with the same command and --resume (what is done is kept in {where})"
            ) from None
        except InputError as error:
            raise relabel(error, {name: option(name) for name in settings}) from error
    _report(evidence, vae, dataset, about, path)
    return evidence, path


def _report(evidence: Evidence, vae: VAE, dataset: Dataset, about: dict[str, Any], path: Path) -> None:
    from ppl_vae import plots

    bits = bits_per_dim(evidence, vae, dataset)
    means = {name: evidence.mean(name) for name in ("log_evidence", "elbo", "gap")}
    nats = means["log_evidence"]
    measure = vae.likelihood.base_measure
    summary = {
        "method": evidence.method,
        "bound": evidence.bound,
        "num_data": len(evidence),
        "num_samples": evidence.num_samples,
        "seed": evidence.seed,
        "unit": "nats a datum, mean over data",
        **{name: _json(asdict(mean)) for name, mean in means.items()},
        "negative_log_likelihood": _json(asdict(nats) | {"value": -nats.value}),
        "bits_per_dim": None if bits is None else _json(asdict(bits)),
        "base_measure": measure,
        "status": evidence.status_fractions(),
        "test_set": about,
    }
    line = f"base measure: {measure}"
    if bits is not None:
        errors = f"± {bits.mc_stderr:.2g} (Monte Carlo) ± {bits.data_stderr:.2g} (data)"
        line += f"; bits a dimension: {bits.value:.4f} {errors}"
    files.write_text(path / "evidence.txt", f"{evidence}\n{line}\n")
    files.write_json(path / "summary.json", summary)
    plots.save(plots.evidence_curve(evidence), path / "evidence_curve.png")
    plots.save(plots.gap_and_khat(evidence), path / "gap_and_khat.png")


def bits_per_dim(evidence: Evidence, vae: VAE, dataset: Dataset) -> Mean | None:
    """Bits a dimension where they mean something; None where they do not.

    They do for integers. Of dequantised integers they are an upper bound for the integers' own: the density's,
    and log2 of the number of levels. Of real numbers in units of their own they would say nothing.
    """
    from ppl_vae.evidence.result import Mean

    bits = evidence.bits_per_dim(vae.shape.numel())
    if vae.likelihood.base_measure == "counting":
        return bits
    levels = dataset.details.get("levels")
    if dataset.view == "dequantised" and isinstance(levels, int):
        return Mean(bits.value + math.log2(levels), bits.mc_stderr, bits.data_stderr)
    return None


def _json(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
