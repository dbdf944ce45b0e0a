"""``ppl-vae gaps``: where the gap between log p(x) and the ELBO comes from, and what the latents carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae import files, runs
from ppl_vae.cli.options import estimators, results
from ppl_vae.cli.options.estimators import Estimator
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.errors import InputError, option
from ppl_vae.runs.folder import CHECKPOINT, GAPS, GAPS_RESULT, RESULT

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.analysis import ActiveUnits, Gaps, Surgery
    from ppl_vae.evidence import Evidence
    from ppl_vae.program import Data, Program
    from ppl_vae.runs.trained import Job

METHODS = {
    "importance": Estimator("importance_sampling.importance.importance", only=(), compiled=False),
    "annealed": Estimator(
        "annealing.ais.annealed", only=("num_chains", "num_steps", "start", "schedule"), compiled=False
    ),
}
"""What each ``--method`` is."""

_RECORDED = ("num_samples", "split", "subset", "subset_seed", "seed", "threads", "device")
_DATA = 100
_DESCRIPTION = """\
Three analyses of held-out data. (1) Refit q(z|x) to each datum, and split the gap log p(x) - ELBO into the
approximation gap, which remains after the refit, and the amortisation gap, which the refit has closed. (2) Split the
rate KL(q(z|x) || p(z)) into the mutual information of z and the datum, and the KL divergence of the aggregate posterior
from the prior. (3) Count the active latent units. The command writes a folder: gaps.safetensors
(ppl_vae.analysis.Gaps.load reads it), gaps.txt (the tables), summary.json and gaps.png.

log p(x) is estimated by importance sampling from the refitted q(z|x), or by annealing, which takes longer and depends
less on a good q(z|x)."""
_EXAMPLES = """\
examples:
  ppl-vae gaps runs/digits
  ppl-vae gaps runs/digits --subset 20 --num-samples 5000 --out runs/digits/gaps-20
  ppl-vae gaps runs/digits --method annealed --num-steps 500 --out runs/digits/gaps-annealed"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(parser(), argv)
    check_numbers(settings, counts=("num_samples",))
    which = results.subset(settings, _DATA)
    for name in ("subset", "num_samples"):
        if settings[name] == 1:
            raise InputError(option(name), "at least 2, for errors", 1)
    estimators.check(settings, METHODS)

    with results.opened(settings, GAPS, **which) as opened:
        arguments = estimators.resolve(settings, METHODS[settings["method"]])
        settings["subset"] = len(opened.x)
        kept = ("method", *arguments, *_RECORDED)
        what = "An analysis by ppl-vae gaps"
        with opened.writing(kept, what, lambda: _rehearse(opened, arguments)) as job:
            found, rate, units = _analyse(job, arguments)
            text = "\n\n".join(map(str, (found, rate, units)))
            _report(found, rate, units, job, text)
    print(text)
    print(f"figures and numbers in {opened.folder.path}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("gaps", _DESCRIPTION, _EXAMPLES)
    made.add_argument("run", type=str, metavar="RUN", help="a run folder, written by ppl-vae train")
    made.add_argument(
        "--num-samples", type=int, default=2000, help="samples per datum for each of the two ELBOs"
    )
    estimators.add_options(made, METHODS, "the estimator of log p(x): importance or annealed")
    results.add_subset_options(made, _DATA)
    made.add_argument("--seed", type=int, default=0, help="the seed of the samples and of the refit")
    results.add_options(made, GAPS)
    return made


def _rehearse(job: Job, arguments: dict[str, Any]) -> None:
    """What may find the model wanting, on two data."""
    from ppl_vae.analysis import gaps, refit, surgery
    from ppl_vae.evidence import annealed

    job.check_memory()
    if len(job.x) < 2:
        raise InputError("--split", "a split of at least 2 data", f"{job.settings['split']!r}, which has 1")
    program, few = job.vae.program, job.x[:2]
    surgery(program, few, 2, progress=False)
    refitted = refit(program, few, 2, max_steps=1, progress=False)
    with estimators.reduced(arguments) as fewer:
        annealing = job.settings["method"] == "annealed"
        evidence = annealed(program, few, **fewer, progress=False) if annealing else None
        gaps(program, few, 2, evidence=evidence, refitted=refitted, progress=False)


def _analyse(job: Job, arguments: dict[str, Any]) -> tuple[Gaps, Surgery, ActiveUnits]:
    from ppl_vae.analysis import Gaps, active_units, gaps, surgery
    from ppl_vae.evidence import Evidence, annealed

    settings, path, program, seed = job.settings, job.folder.path, job.vae.program, job.settings["seed"]

    def run(name: str = "") -> dict[str, Any]:
        return {"seed": seed, "checkpoint": path / f"{CHECKPOINT}{name}", "resume": settings["resume"]}

    def annealing(program: Program, x: Data) -> Evidence:
        """It takes longest: its result stays in a file until all is done."""
        how = {**arguments, **run(".annealed")}
        found: Evidence = runs.trained.load_or_compute(
            path / RESULT, Evidence, job, lambda: annealed(program, x, **how)
        )
        return found

    how = {"evidence": annealing if settings["method"] == "annealed" else None, **run()}
    found: Gaps = runs.trained.load_or_compute(
        path / GAPS_RESULT, Gaps, job, lambda: gaps(program, job.x, settings["num_samples"], **how)
    )
    (path / RESULT).unlink(missing_ok=True)
    rate = surgery(program, job.x, **run(".surgery"))
    return found, rate, active_units(program, job.x, seed=seed)


def _report(found: Gaps, rate: Surgery, units: ActiveUnits, job: Job, text: str) -> None:
    from ppl_vae import plots

    path = job.folder.path
    summary = found.summary() | {"surgery": rate.summary(), "active_units": units.summary()}
    files.write_text(path / "gaps.txt", f"{text}\n")
    files.write_json(path / "summary.json", summary | {"test_set": job.about})
    runs.figures.save(plots.gap_decomposition(found), path / "gaps.png")
