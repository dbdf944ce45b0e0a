"""``ppl-vae sandwich``: bounds of log p(x) from both sides, certified on data that the model itself made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppl_vae import files, runs
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import estimators, results
from ppl_vae.cli.options.estimators import Estimator
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.errors import InputError
from ppl_vae.runs.folder import CHECKPOINT, SANDWICH, SANDWICH_RESULT

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.evidence import Sandwich
    from ppl_vae.program import Latents
    from ppl_vae.runs.trained import Job

_SANDWICH = "annealing.bdmc.sandwich"
METHODS = {
    "annealed": Estimator(_SANDWICH, only=("num_chains", "num_steps", "start", "schedule")),
    "importance": Estimator(_SANDWICH, only=("num_samples",)),
}
"""What each ``--method`` is."""
_DATA = 100
_HEURISTIC = (
    "HEURISTIC: these data were not simulated, so the upper bound's chains start from samples of q(z|x) and not of "
    "p(z|x): it may lie below log p(x), and certifies nothing"
)
_ROUNDED = (
    "ROUNDED: the matrix products were computed in a lower precision, so the bounds are those of a slightly different "
    "model, and certify nothing"
)
_DESCRIPTION = """\
Simulate data from a trained model, and compute a lower and an upper bound of log p(x) for each of them. The latents
that a datum was simulated from are an exact sample of its posterior. Annealing that starts there and runs backwards
gives the upper bound. The gap between the two bounds certifies how well the sampler works on this model. The command
writes a folder: sandwich.safetensors (ppl_vae.evidence.Sandwich.load reads it), sandwich.txt (the table), summary.json
and sandwich.png.

With --real, the data are those of the test split. There is no exact sample of their posterior, so the upper bound is a
heuristic. Every file and picture says so."""
_EXAMPLES = """\
examples:
  ppl-vae sandwich runs/digits
  ppl-vae sandwich runs/digits --num-data 20 --num-chains 16 --num-steps 4000 --out runs/digits/sandwich-4000
  ppl-vae sandwich runs/digits --method importance --num-samples 5000 --out runs/digits/multisample
  ppl-vae sandwich runs/digits --real --num-data 50 --out runs/digits/heuristic"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(parser(), argv)
    check_numbers(settings, counts=("num_data",))
    estimators.check(settings, METHODS)
    compiling.check(settings)
    if settings["num_samples"] == 1:
        raise InputError("--num-samples", "at least 2", 1)
    import torch

    from ppl_vae import memory

    method, real = METHODS[settings["method"]], settings["real"]
    which: dict[str, Any] = {"number": settings["num_data"], "usual": _DATA} if real else {"number": None}
    with results.opened(settings, SANDWICH, split="test", **which, asked="--num-data") as opened:
        arguments = {"method": settings["method"], **estimators.resolve(settings, method)}
        if not real:
            number = settings["num_data"] or _DATA
            memory.check_simulated("--num-data", number, 2 * opened.x[0].numel())
            # Test data, repeated as often as needed: simulated data have their shapes, and nothing else of them.
            again = -(-number // len(opened.x))
            opened = replace(opened, x=torch.cat([opened.x] * again)[:number])
        settings["num_data"] = len(opened.x)
        kept = (*arguments, "num_data", "real", "seed", "compile", "threads", "device")
        what = "Bounds by ppl-vae sandwich"
        with opened.writing(kept, what, lambda: _rehearse(opened, arguments)) as job:
            text = _report(_bound(job, arguments), job)
    print(text)
    print(f"figures and numbers in {opened.folder.path}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("sandwich", _DESCRIPTION, _EXAMPLES)
    made.add_argument("run", type=str, metavar="RUN", help="a run folder, written by ppl-vae train")
    estimators.add_options(made, METHODS, "the bounds: annealed, or importance (multi-sample bounds)")
    made.add_argument(
        "--num-data",
        type=int | None,
        help=f"how many data (default: {_DATA}; with --real, all if they are fewer)",
    )
    made.add_argument(
        "--real",
        action="store_true",
        help="take data of the test split, drawn at random: the upper bound is then a heuristic, not certified",
    )
    made.add_argument("--seed", type=int, default=0, help="the seed of the data and of the samples")
    compiling.add_option(made)
    results.add_options(made, SANDWICH)
    return made


def _posterior(job: Job, arguments: dict[str, Any]) -> Latents | None:
    """What stands for samples of the posterior of real data; None where data are simulated."""
    if not job.settings["real"]:
        return None
    from ppl_vae import rng

    seed = rng.derive(job.settings["seed"], "heuristic posterior")
    return job.vae.program.sample_guide(job.x, arguments.get("num_chains", 1), seed=seed)


def _bound(job: Job, arguments: dict[str, Any]) -> Sandwich:
    from ppl_vae.evidence import Sandwich, sandwich

    settings, path, program = job.settings, job.folder.path, job.vae.program
    resumed = (path / SANDWICH_RESULT).is_file()
    bounds: Sandwich = runs.trained.load_or_compute(
        path / SANDWICH_RESULT,
        Sandwich,
        job,
        lambda: sandwich(
            program,
            job.x,
            **arguments,
            posterior=_posterior(job, arguments),
            seed=settings["seed"],
            compile=compiling.choice(settings),
            checkpoint=path / CHECKPOINT,
            resume=settings["resume"],
        ),
    )
    if not resumed:
        return bounds
    simulated = None if settings["real"] else program.simulate(job.x, seed=settings["seed"])[1]
    return replace(bounds, x=simulated)


def _rehearse(job: Job, arguments: dict[str, Any]) -> None:
    """The bounds of one datum, with all of the options but fewer samples, chains and steps."""
    from ppl_vae.evidence import sandwich

    job.check_memory()
    one = replace(job, x=job.x[:1])
    with estimators.reduced(arguments) as few:
        posterior = _posterior(one, few)
        sandwich(
            one.vae.program, one.x, **few, posterior=posterior, seed=job.settings["seed"], progress=False
        )


def _report(bounds: Sandwich, job: Job) -> str:
    """Write the table, the numbers and the picture; returns the table."""
    from ppl_vae import plots

    settings, path = job.settings, job.folder.path
    lower = bounds.lower
    rounded = lower.precision != "full"
    doubts = [words for words, there in ((_HEURISTIC, settings["real"]), (_ROUNDED, rounded)) if there]
    text = "\n".join([*doubts, str(bounds)])
    summary = bounds.summary() | {
        "method": settings["method"],
        "note": " ".join(doubts) or None,
        "data": "test split" if settings["real"] else "simulated from the model",
        "base_measure": job.vae.likelihood.base_measure,
        "test_set": job.about if settings["real"] else None,
    }
    files.write_text(path / "sandwich.txt", f"{text}\n")
    files.write_json(path / "summary.json", summary)
    size = settings["num_steps"] if settings["method"] == "annealed" else settings["num_samples"]
    which = "the upper one is" if lower.certified else "they are"
    title = None if bounds.certified else f"HEURISTIC bounds from both sides: {which} not certified"
    runs.figures.save(plots.sandwich_curve({size: bounds}, title=title), path / "sandwich.png")
    return text
