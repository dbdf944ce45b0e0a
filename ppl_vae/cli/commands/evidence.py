"""``ppl-vae evidence``: log p(x) of held-out data under a trained model, with a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import files
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import estimators as methods
from ppl_vae.cli.options import proposal as proposals
from ppl_vae.cli.options import results
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.distributed import is_main
from ppl_vae.errors import InputError, UsageError, check_one_of, describe, option
from ppl_vae.runs import data, figures, trained
from ppl_vae.runs.folder import CHECKPOINT, EVIDENCE, RESULT, evidence_folder

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.data import Dataset
    from ppl_vae.evidence import Evidence, Mean
    from ppl_vae.evidence.importance_sampling.proposals import Proposal
    from ppl_vae.runs.trained import Job
    from ppl_vae.vae import VAE

_TABLE = {
    "importance": (
        "num_samples",
        "proposal",
        "draws",
        "num_scrambles",
        "target_stderr",
        "max_num_samples",
        "prior_draws",
        "precision",
    ),
    "psis": ("num_samples", "proposal", "precision"),
    "jackknife": ("num_samples", "order", "proposal", "precision"),
    "annealed": (*methods.ANNEALING, "prior_draws", "precision"),
    "smc": ("num_particles", "num_islands", "num_steps", "start", "schedule", "prior_draws", "precision"),
    "quadrature": ("nodes", "rule"),
}
_SAMPLES, _PILOT = 5000, 512  # what importance sampling takes without --num-samples, and with --target-stderr
_DESCRIPTION = """\
Estimate log p(x) for each datum of a run's test split, print a table, and write a folder: evidence.safetensors (every
figure, per datum: ppl_vae.Evidence.load reads it), evidence.txt (the table), summary.json, and those of these pictures
that the method has numbers for: evidence_curve.png (from the ELBO to the evidence) or evidence_ladder.png (where there
are no bounds between the two), gap_and_khat.png (can it be believed?).

  importance  importance sampling from q(z|x), or from another proposal: a stochastic lower bound
  psis        the same weights, the largest ones Pareto smoothed: no bound
  jackknife   the same weights, the bias of their logarithm taken off: no bound
  annealed    annealed importance sampling by Hamiltonian chains: a stochastic lower bound
  smc         the same with particles that are resampled: a stochastic lower bound
  quadrature  the integral itself, for 1 to 3 latent dimensions

Killed or stopped, the same command with --resume goes on and ends with the same bits. Started by torchrun, processes
share the data, each with one thread unless OMP_NUM_THREADS or --threads says otherwise; the numbers are the same."""
_EXAMPLES = """\
examples:
  ppl-vae evidence runs/digits
  ppl-vae evidence runs/mnist --num-samples 5000 --subset 1000 --out runs/mnist/evidence-1000
  ppl-vae evidence runs/digits --proposal student-t --proposal.df 5 --target-stderr 0.05 --out runs/digits/t
  ppl-vae evidence runs/digits --method annealed --num-chains 16 --num-steps 1000 --out runs/digits/annealed
  ppl-vae evidence runs/digits --method smc --subset 100 --out runs/digits/smc
  ppl-vae evidence runs/plane --method quadrature --out runs/plane/exact
  ppl-vae evidence runs/mnist --split valid --num-samples 500 --resume
  torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/mnist --out runs/mnist/evidence-4"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(parser(), proposals.spell_out(argv), {"proposal": proposals.EXPECTED})
    evidence, path = estimate(settings)
    if not is_main():
        return 0
    print(evidence)
    print((path / "evidence.txt").read_text(encoding="utf-8").splitlines()[-1])
    print(f"figures and numbers in {path}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("evidence", _DESCRIPTION, _EXAMPLES)
    made.add_argument("run", type=str, metavar="RUN", help="a run folder, which ppl-vae train writes")
    made.add_argument(
        "--method", type=str, default="importance", help=f"one of {', '.join(_TABLE)}; see above"
    )
    method = made.add_argument_group("method", "each option belongs to the methods named in brackets")
    texts = {
        "num_samples": "samples a datum (default: 5000; with --target-stderr the pilot's: 512)",
        "num_steps": "temperatures (default: annealed 1000, smc 100)",
        "prior_draws": "draws of the prior that look for mass which the estimate misses, and reject it where they find "
        "any, of use in few dimensions (default: annealed and smc 16384; importance 0, none)",
    }
    methods.add_options(method, _TABLE, texts)
    results.add_subset_options(made)
    made.add_argument("--seed", type=int, default=0, help="of the samples")
    compiling.add_option(made)
    results.add_options(made, EVIDENCE)
    return made


def estimate(settings: dict[str, Any]) -> tuple[Evidence, Path]:
    """Estimate, save and draw; returns the result and its folder."""
    check_numbers(settings, counts=("subset",), seeds=("subset_seed",))
    methods.check(settings, _TABLE)
    check_one_of("--split", settings["split"], data.SPLITS)
    _check_compile(settings)
    from ppl_vae.evidence import Evidence

    which: dict[str, Any] = {"split": settings["split"], "number": settings["subset"]}
    with results.claimed(settings, evidence_folder, EVIDENCE) as (run, folder):
        proposal = _resolve(settings)
        with trained.opened(settings, run, folder, **which, seed=settings["subset_seed"]) as opened:
            given = [name for name in _TABLE[settings["method"]] if settings[name] is not None]
            kept = ("method", *given, "seed", "split", "subset", "subset_seed")
            kept += ("compile", "threads", "device")
            what = "An estimate by ppl-vae evidence"
            with opened.writing(kept, what, lambda: _rehearse(opened, proposal)) as job:
                path = job.folder.path
                if (path / RESULT).is_file():  # a resumed command that had only pictures left to draw
                    evidence = Evidence.load(path / RESULT)
                    seed = evidence.seed if evidence.diagnostics.drawn else None
                    trained.check_finished(path / RESULT, job, len(evidence), seed)
                else:
                    evidence = _estimator(settings)(
                        job.vae.program,
                        job.x,
                        **_options(settings, proposal),
                        **_compile(settings),
                        seed=settings["seed"],
                        checkpoint=path / CHECKPOINT,
                        resume=settings["resume"],
                    )
                    if is_main():
                        evidence.save(path / RESULT)
                if is_main():
                    _report(evidence, job)
    return evidence, folder.path


def _resolve(settings: dict[str, Any]) -> Proposal | None:
    """Put the library's defaults in the place of None, but where None is one of them; returns the proposal.

    Raises:
        InputError: naming an option that goes with another one only, or that the proposal does not take.
    """
    from ppl_vae.cli.options import model as models

    spec = settings["proposal"]
    if spec is not None:
        whole = {"class_path": spec["class_path"], "init_args": dict(spec.get("init_args") or {})}
        settings["proposal"] = None if proposals.is_guide(spec) else whole
    for name, usual in (
        ("draws", "iid"),
        ("prior_draws", 0),
    ):  # what importance sampling does without being told
        if settings["method"] == "importance" and settings[name] == usual:
            settings[name] = None
    settings["precision"] = None if settings["precision"] == "full" else settings["precision"]
    if settings["method"] != "importance":
        names = [name for name in _TABLE[settings["method"]] if name not in ("proposal", "precision")]
        methods.fill_in(settings, names, _estimator(settings))
        return models.proposal(settings["proposal"])
    sobol, target = settings["draws"] == "sobol", settings["target_stderr"] is not None
    for name, needed, there in (
        ("num_scrambles", "--draws sobol", sobol),
        ("max_num_samples", "--target-stderr", target),
    ):
        if settings[name] is not None and not there:
            raise UsageError(option(name), f"none without {needed}", settings[name])
        if there:
            methods.fill_in(settings, [name], _estimator(settings))
    for name, other, there in (
        ("proposal", "--draws sobol", sobol),
        ("target_stderr", "--draws sobol", sobol),
        ("prior_draws", "--draws sobol", sobol),
        ("prior_draws", "--target-stderr", target),
    ):
        if settings[name] is not None and there:
            given = settings[name]
            received = given["class_path"] if name == "proposal" else given
            raise UsageError(option(name), f"none with {other}", received)
    if settings["num_samples"] is None:
        settings["num_samples"] = _PILOT if target else _SAMPLES
    return models.proposal(settings["proposal"])


def _estimator(settings: dict[str, Any]) -> Callable[..., Evidence]:
    from ppl_vae import evidence

    estimator: Callable[..., Evidence] = getattr(evidence, settings["method"])
    return estimator


def _options(settings: dict[str, Any], proposal: Proposal | None) -> dict[str, Any]:
    """The estimator's arguments, but for those that are as they are without being given."""
    names = [name for name in _TABLE[settings["method"]] if settings[name] is not None]
    return {name: proposal if name == "proposal" else settings[name] for name in names}


def _check_compile(settings: dict[str, Any]) -> None:
    """Refuse another word, and compiling what has no compiled form."""
    compiling.check(settings)
    if settings["method"] == "quadrature" and settings["compile"] == "yes":
        raise UsageError("--compile", "auto or no with --method quadrature", "'yes'")


def _compile(settings: dict[str, Any]) -> dict[str, Any]:
    """The estimator's ``compile=``, if it has one."""
    return {} if settings["method"] == "quadrature" else {"compile": compiling.choice(settings)}


def _rehearse(job: Job, proposal: Proposal | None) -> None:
    """The estimator on one datum, with all of its options but fewer samples, chains and steps."""
    from ppl_vae.evidence import Refitted

    settings, x = job.settings, job.x[:1]
    job.check_memory()
    if settings["method"] == "smc" and settings["num_particles"] % settings["num_islands"]:
        expected = f"a multiple of --num-islands {settings['num_islands']}"
        raise InputError("--num-particles", expected, settings["num_particles"])
    if isinstance(proposal, Refitted):
        proposal = replace(proposal, max_steps=1)
    if proposal is not None:
        bound = proposal.bind(job.vae.program, x, settings["seed"], 0)
        if not callable(getattr(bound, "log_weights", None)):
            expected = "a class whose bind returns an object like ProposalOnData, with log_weights"
            raise InputError("--proposal", expected, f"{proposal}, whose bind returned {describe(bound)}")
    few = methods.fewer(_options(settings, proposal))
    _estimator(settings)(job.vae.program, x, **few, seed=settings["seed"], progress=False)


def _report(evidence: Evidence, job: Job) -> None:
    path, vae = job.folder.path, job.vae
    bits = bits_per_dim(evidence, vae, job.dataset)
    means = {name: evidence.mean(name) for name in ("log_evidence", "elbo", "gap")}
    nats = trained.numbers(means["log_evidence"])
    measure = vae.likelihood.base_measure
    summary = {
        "method": evidence.method,
        "bound": evidence.bound,
        "certified": evidence.certified,
        "basis": evidence.basis,
        "details": evidence.details,
        "num_data": len(evidence),
        "num_samples": evidence.num_samples,
        "seed": evidence.seed,
        "unit": "nats a datum, mean over data",
        **{name: trained.numbers(mean) for name, mean in means.items()},
        "negative_log_likelihood": nats | {"value": None if nats["value"] is None else -nats["value"]},
        "bits_per_dim": None if bits is None else trained.numbers(bits),
        "base_measure": measure,
        "status": evidence.status_fractions(),
        "cost": trained.cost(evidence),
        "test_set": job.about,
    }
    line = f"base measure: {measure}"
    if bits is not None:
        line += f"; bits a dimension: {bits}"
    files.write_text(path / "evidence.txt", f"{evidence}\n{line}\n")
    files.write_json(path / "summary.json", summary)
    _draw(evidence, path)


def _draw(evidence: Evidence, path: Path) -> None:
    """The pictures that there are numbers for."""
    from ppl_vae import plots

    if evidence.diagnostics.has_iwae and len(evidence.curve_k):
        figures.save(plots.evidence_curve(evidence), path / "evidence_curve.png")
    elif len(plots.ladder_rows(evidence)) > 1:
        figures.save(plots.evidence_ladder(evidence), path / "evidence_ladder.png")
    if evidence.diagnostics.has_iwae:
        figures.save(plots.gap_and_khat(evidence), path / "gap_and_khat.png")


def bits_per_dim(evidence: Evidence, vae: VAE, dataset: Dataset) -> Mean | None:
    """Bits a dimension where they mean something; None where they do not.

    They do for integers. Of dequantised integers they are an upper bound for the integers' own: the density's,
    and log2 of the number of levels. Of real numbers in units of their own they would say nothing.
    """
    from ppl_vae.evidence import Mean

    bits = evidence.bits_per_dim(vae.shape.numel())
    if vae.likelihood.base_measure == "counting":
        return bits
    levels = dataset.details.get("levels")
    if dataset.view == "dequantised" and isinstance(levels, int):
        return Mean(bits.value + math.log2(levels), bits.mc_stderr, bits.data_stderr, bits.limit)
    return None
