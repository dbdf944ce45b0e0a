"""``ppl-vae evidence``: log p(x) of held-out data under a trained model, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import files, runs
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import estimators, results, values
from ppl_vae.cli.options.estimators import Estimator
from ppl_vae.cli.options.parser import make_parser, parse
from ppl_vae.distributed import is_main
from ppl_vae.errors import InputError, UsageError, describe
from ppl_vae.runs.folder import CHECKPOINT, EVIDENCE, RESULT

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.evidence import Evidence
    from ppl_vae.runs.trained import Job

METHODS = {
    "importance": Estimator("importance_sampling.importance.importance"),
    "psis": Estimator("importance_sampling.psis.psis"),
    "jackknife": Estimator("importance_sampling.jackknife.jackknife"),
    "annealed": Estimator("annealing.ais.annealed"),
    "smc": Estimator("annealing.smc.smc"),
    "quadrature": Estimator("exact.quadrature.quadrature", compiled=False),
}
"""What each ``--method`` is."""

_RECORDED = ("seed", "split", "subset", "subset_seed", "compile", "threads", "device")

_DESCRIPTION = """\
Estimate log p(x) of held-out data. The command prints a table and writes a folder: evidence.safetensors (all numbers
for each datum; ppl_vae.Evidence.load reads it), evidence.txt (the table), summary.json, and pictures, as far as the
method has the numbers for them: evidence_curve.png (the bounds between the ELBO and the evidence) or
evidence_ladder.png (the two alone), and gap_and_khat.png (the gap and k-hat of each datum).

{methods}

Several processes, started by torchrun, share the data. Each has one thread, unless OMP_NUM_THREADS or --threads says
otherwise. The results are those of a single process."""
_EXAMPLES = """\
examples:
  ppl-vae evidence runs/digits
  ppl-vae evidence runs/mnist --num-samples 5000 --subset 1000 --out runs/mnist/evidence-1000
  ppl-vae evidence runs/digits --proposal student-t --proposal.df 5 --out runs/digits/student-t
  ppl-vae evidence runs/digits --draws until-stderr --draws.target 0.05 --out runs/digits/until
  ppl-vae evidence runs/digits --method annealed --num-chains 16 --num-steps 1000 --out runs/digits/annealed
  ppl-vae evidence runs/digits --method smc --subset 100 --out runs/digits/smc
  ppl-vae evidence runs/plane --method quadrature --out runs/plane/exact
  ppl-vae evidence runs/mnist --split valid --num-samples 500 --resume
  torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/mnist --out runs/mnist/evidence-4"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(parser(), values.spell_out(argv), values.EXPECTED)
    evidence, path = estimate(settings)
    if not is_main():
        return 0
    print(evidence)
    print((path / "evidence.txt").read_text(encoding="utf-8").splitlines()[-1])
    print(f"figures and numbers in {path}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("evidence", _DESCRIPTION.format(methods=estimators.summaries(METHODS)), _EXAMPLES)
    made.add_argument("run", type=str, metavar="RUN", help="a run folder, written by ppl-vae train")
    estimators.add_options(made, METHODS, f"the estimator: {', '.join(METHODS)} (see above)")
    results.add_subset_options(made)
    made.add_argument("--seed", type=int, default=0, help="the seed of the samples")
    compiling.add_option(made)
    results.add_options(made, EVIDENCE)
    return made


def estimate(settings: dict[str, Any]) -> tuple[Evidence, Path]:
    """Estimate, save and draw; returns the result and its folder."""
    estimators.check(settings, METHODS)
    compiling.check(settings)
    method = METHODS[settings["method"]]
    if settings["compile"] == "yes" and not method.compiled:
        raise UsageError("--compile", f"auto or no with --method {settings['method']}", "'yes'")
    from ppl_vae.evidence import Evidence

    with results.opened(settings, EVIDENCE, **results.subset(settings)) as opened:
        arguments = _arguments(settings, method)
        kept = ("method", *arguments, *_RECORDED)
        what = "An estimate by ppl-vae evidence"
        with opened.writing(kept, what, lambda: _rehearse(opened, method, arguments)) as job:
            path = job.folder.path
            how: dict[str, Any] = {"checkpoint": path / CHECKPOINT, "resume": settings["resume"]}
            how |= {"compile": compiling.choice(settings)} if method.compiled else {}
            how |= {"seed": settings["seed"], **arguments}
            evidence = runs.trained.load_or_compute(
                path / RESULT, Evidence, job, lambda: method.load()(job.vae.program, job.x, **how)
            )
            if is_main():
                _report(evidence, job)
    return evidence, opened.folder.path


def _arguments(settings: dict[str, Any], method: Estimator) -> dict[str, Any]:
    """The estimator's arguments; ``settings`` then say the same."""
    from ppl_vae.evidence import UntilStderr
    from ppl_vae.evidence.importance_sampling.importance import SAMPLES

    arguments = estimators.resolve(settings, method)
    if "draws" in method.parameters and not isinstance(arguments.get("draws"), UntilStderr):
        settings["num_samples"] = settings["num_samples"] or SAMPLES
        arguments = {"num_samples": settings["num_samples"], **arguments}
    return arguments


def _rehearse(job: Job, method: Estimator, arguments: dict[str, Any]) -> None:
    """The estimator on one datum, with all of its options but fewer samples, chains and steps."""
    settings, x = job.settings, job.x[:1]
    job.check_memory()
    if settings["method"] == "smc" and settings["num_particles"] % settings["num_islands"]:
        expected = f"a multiple of --num-islands {settings['num_islands']}"
        raise InputError("--num-particles", expected, settings["num_particles"])
    with estimators.reduced(arguments) as few:
        if "proposal" in few:
            bound = few["proposal"].bind(job.vae.program, x, settings["seed"], 0)
            if not callable(getattr(bound, "log_weights", None)):
                expected = "a class whose bind returns an object like ProposalOnData, with log_weights"
                received = f"{few['proposal']}, whose bind returned {describe(bound)}"
                raise InputError("--proposal", expected, received)
        method.load()(job.vae.program, x, **few, seed=settings["seed"], progress=False)


def _report(evidence: Evidence, job: Job) -> None:
    path, measure = job.folder.path, job.vae.likelihood.base_measure
    # Of real numbers in units of their own, bits would say nothing.
    levels = 1 if measure == "counting" else job.dataset.levels
    bits = None if levels is None else evidence.bits_per_dim(job.vae.shape.numel(), levels)
    summary = evidence.summary() | {
        "bits_per_dim": None if bits is None else bits.summary(),
        "base_measure": measure,
        "test_set": job.about,
    }
    line = f"base measure: {measure}" + ("" if bits is None else f"; bits a dimension: {bits}")
    files.write_text(path / "evidence.txt", f"{evidence}\n{line}\n")
    files.write_json(path / "summary.json", summary)
    _draw(evidence, path)


def _draw(evidence: Evidence, path: Path) -> None:
    """The pictures that there are numbers for."""
    from ppl_vae import plots

    if evidence.diagnostics.has_iwae and len(evidence.curve_k):
        runs.figures.save(plots.evidence_curve(evidence), path / "evidence_curve.png")
    elif len(plots.ladder_rows(evidence)) > 1:
        runs.figures.save(plots.evidence_ladder(evidence), path / "evidence_ladder.png")
    if evidence.diagnostics.has_iwae:
        runs.figures.save(plots.gap_and_khat(evidence), path / "gap_and_khat.png")
