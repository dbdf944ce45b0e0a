"""Bidirectional Monte Carlo (BDMC): a lower and an upper bound of log p(x)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from ppl_vae.checkpoint import Checkpoint, digest
from ppl_vae.compiled.precision import FULL, precision_on
from ppl_vae.errors import InputError, check_one_of, check_seed, describe
from ppl_vae.evidence.annealing.ais import Annealing, annealed
from ppl_vae.evidence.annealing.kernels import Transition
from ppl_vae.evidence.annealing.multisample_bound import Multisample
from ppl_vae.evidence.annealing.schedules import Schedule, resolve
from ppl_vae.evidence.annealing.settings import Settings
from ppl_vae.evidence.importance_sampling.importance import importance
from ppl_vae.evidence.results.diagnostics import RunDiagnostics, WeightDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.sandwich import Sandwich
from ppl_vae.evidence.running.block_files import identify
from ppl_vae.evidence.running.blocks import Block, Plan, Work, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import ALL_BUT_CHUNKS, RunOptions, takes_run_options
from ppl_vae.program import Coordinates, Data, Latents, Program, Sites, device_of, num_data
from ppl_vae.program.matching import check_within
from ppl_vae.program.rows import without_rows

METHODS = ("annealed", "importance")
_THINNING = 10


@takes_run_options(*ALL_BUT_CHUNKS)
def sandwich(
    program: Program,
    x: Data,
    num_chains: int = 16,
    num_steps: int = 1000,
    *,
    method: str = "annealed",
    num_samples: int = 5000,
    posterior: Latents | None = None,
    exact: bool = False,
    start: str = "guide",
    schedule: Schedule | str | Tensor = "pilot",
    transition: Transition | None = None,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Sandwich:
    """Stochastic lower and upper bounds of log p(x') for data x' simulated from the model.

    N pairs (z, x') are drawn from the joint distribution of the model, so each z is an exact sample of the posterior
    p(z|x'). The lower bound is that of `annealed` (or `importance`) for x'. The upper bound comes from chains that
    start at z and run the same annealing backwards, with the same frozen step sizes and schedule. If w is the weight
    of the forward formula along a reversed chain, E[1/w] = 1/p(x'), so -log mean(1/w) is an upper bound in
    expectation. With ``method="importance"`` the upper bound is the multi-sample bound log (1/K)(w_1 + ... + w_K),
    where z_1 = z, the other samples come from the guide, and K = ``num_samples``.

    The mean gap bounds, in expectation, the sum of the two KL divergences between forward and reversed chains. It
    certifies *this* sampler on data that *this* model simulates. For real data there is no exact posterior sample, and
    so no certified upper bound: report the lower bound, and the gap as its certificate.

    All reversed chains of a datum start from the same z, after a few transitions that leave the posterior invariant.
    Each of them therefore starts from an exact sample, but the samples are correlated. If the sampler mixes slowly, the
    standard error of the upper bound is too small (and the gap is then large).

    Args:
        program: a `Program` with continuous latents.
        x: data that determine N, shapes and covariates. Their values are used only if ``posterior`` is given.
        num_chains: the number of chains for each datum and direction.
        num_steps: T, the number of temperatures.
        method: "annealed" or "importance".
        num_samples: K, the number of samples for each datum and direction. With ``method="importance"`` only.
        posterior: posterior samples for ``x``, ``(S, N, *event)`` for each latent, where S is 1 or ``num_chains``.
            With them the bounds are for ``x``, and nothing is simulated. Unless they are ``exact``, the upper bound
            is a heuristic and is labelled so.
        exact: whether ``posterior`` is exact.
        start: where forward chains start: "guide" or "prior".
        schedule: the temperatures: "pilot" (for each datum, from a pilot run), "sigmoid" or "linear". Or a `Schedule`
            or numbers, as in `annealed`.
        transition: as in `annealed`.
        seed: seed of all random numbers, including the simulated data.
        run: see `RunOptions`.

    Raises:
        InputError, ProgramError, NonFiniteError: as for `annealed`.

    Sources: Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo"
    (2015); Grosse, Ancha and Roy, "Measuring the reliability of MCMC inference with bidirectional Monte Carlo" (2016).
    """
    check_one_of("method", method, METHODS)
    check_seed(seed)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 2:
        raise InputError("num_samples", "an integer of at least 2", describe(num_samples))
    program, x, sites = prepare(program, x)
    simulated = posterior is None
    if posterior is None:
        z: Mapping[str, Tensor]
        z, x = program.simulate(x, seed=seed)
    else:
        z = posterior
        _check_posterior(z, num_chains)
    if method == "annealed" and start == "guide":
        check_within(program, x)
    lower_file, upper_file, lower_done = _files(run.get("checkpoint"))
    kept = None
    if lower_done is not None:
        about = {
            "arguments": [method, num_chains, num_steps, num_samples, start, seed],
            "schedule": repr(resolve(schedule, num_steps)) if method == "annealed" else None,
            "transition": repr(transition),
            "data": digest(x),
            "posterior": digest(dict(z)),
            "program": identify(program, x),
        }
        kept = Checkpoint(lower_done, "lower bound", about, resume=True)
    saved = kept.read() if kept is not None and run.get("resume") else None
    precision = run.get("precision", FULL)
    of_lower: RunOptions = {**run, "checkpoint": lower_file}
    of_upper: RunOptions = {**run, "checkpoint": upper_file}
    if kept is not None and saved is not None:
        lower = _finished(saved, str(kept), x, precision)
    elif method == "annealed":
        how: Any = {"start": start, "schedule": schedule, "transition": transition, "seed": seed}
        lower = annealed(program, x, num_chains, num_steps, **how, **of_lower)
    else:
        lower = importance(program, x, num_samples, seed=seed, **of_lower)
    if kept is not None:
        kept.write(*lower.pack())
    certified = simulated or exact
    if method == "annealed":
        settings = Settings.of(num_chains, num_steps, start, schedule, transition)
        plan, make, words = _reverse_annealing(program, x, z, settings, sites, seed)
    else:
        plan, make, words = _multisample(program, x, z, num_samples, sites, seed)
    plan = replace(plan, identity={**plan.identity, "posterior": digest(dict(z))})
    figures = run_blocks(program, x, plan, make, seed=seed, **of_upper)
    if kept is not None:
        kept.remove()
    upper = evidence_of(
        figures,
        RunDiagnostics if method == "annealed" else WeightDiagnostics,
        method=f"reverse {method}" if certified else f"reverse {method} (heuristic)",
        bound="upper",
        seed=seed,
        certified=certified,
        details=words,
    )
    return Sandwich(lower, upper, without_rows(x) if simulated else None)


Reverse = tuple[Plan, Callable[[Block], Work], str]
"""The plan of the upper bound's run, the work on a block, and the details of the result."""


def _reverse_annealing(
    program: Program, x: Data, z: Latents, settings: Settings, sites: Sites, seed: int
) -> Reverse:
    """Chains from posterior samples ``z`` back to the start density of the lower bound."""
    vector = Coordinates(program, x).to_vector(z)

    def make(block: Block) -> Annealing:
        rows = slice(block.offset, block.offset + block.num_data)
        return Annealing(program, block, settings, seed, posterior=vector[:, rows], thinning=_THINNING)

    return settings.plan("reverse annealing", x, sites), make, settings.words()


def _multisample(program: Program, x: Data, z: Latents, num_samples: int, sites: Sites, seed: int) -> Reverse:
    """Weights of one posterior sample of ``z`` and of samples from the guide."""

    def make(block: Block) -> Multisample:
        rows = slice(block.offset, block.offset + block.num_data)
        start_z = {name: value[:1, rows] for name, value in z.items()}
        return Multisample(program, block, num_samples, seed, start_z, sites)

    size = Multisample.block_size(num_data(x), sites)
    identity = {"estimator": "multi-sample bound", "num_samples": num_samples}
    plan = Plan("multi-sample bound", size, num_samples - 1, identity)
    return plan, make, f"{num_samples} samples, one of them from the posterior"


def _finished(
    saved: tuple[dict[str, Tensor], dict[str, Any]], source: str, x: Data, precision: str
) -> Evidence:
    """The lower bounds that a checkpoint holds; raises `InputError`, naming it, if they are not those of this run."""
    lower = Evidence.unpack(*saved, source)
    if len(lower) != num_data(x) or lower.bound != "lower":
        raise InputError(source, f"lower bounds of {num_data(x)} data", f"{lower.bound} of {len(lower)}")
    if lower.precision != precision_on(precision, device_of(x)):
        raise InputError("precision", f"{lower.precision!r}, as in {source}", precision)
    return lower


def _check_posterior(z: Any, num_chains: int) -> None:
    if (
        not isinstance(z, Mapping)
        or not z
        or not all(isinstance(v, Tensor) and v.ndim > 1 for v in z.values())
    ):
        raise InputError("posterior", "a dict of latent site name -> tensor (S, N, *event)", describe(z))
    sizes = {len(value) for value in z.values()}
    if len(sizes) > 1 or not sizes <= {1, num_chains}:
        expected = f"1 or num_chains = {num_chains} samples of each datum"
        raise InputError("posterior", expected, f"{sorted(sizes)} samples")


def _files(checkpoint: str | os.PathLike[str] | None) -> tuple[Path | None, Path | None, Path | None]:
    """The checkpoints of the two runs, and the file of the finished lower bound."""
    if checkpoint is None:
        return None, None, None
    path = Path(checkpoint)
    return path, path.with_name(f"{path.name}.upper"), path.with_name(f"{path.name}.lower")
