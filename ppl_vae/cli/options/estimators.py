"""The estimators' options: which belong to which ``--method``, and what stands for those that are not given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppl_vae.cli.options import proposal as proposals
from ppl_vae.cli.options.parser import check_numbers
from ppl_vae.errors import InputError, UsageError, check_one_of, describe, option, relabel

ANNEALING = ("num_chains", "num_steps", "start", "schedule")
"""The options of annealed importance sampling."""

_COUNTS = (
    "num_samples",
    "num_scrambles",
    "max_num_samples",
    "order",
    "num_chains",
    "num_steps",
    "num_particles",
    "num_islands",
    "nodes",
)
_TEXTS: dict[str, tuple[Any, str]] = {
    "num_samples": (int | None, "samples a datum (default: 5000)"),
    "draws": (
        str | None,
        "iid (the default), or sobol: points spread more evenly, a smaller error for few latents",
    ),
    "num_scrambles": (
        int | None,
        "with --draws sobol, the independent scramblings that share the samples (default: 16)",
    ),
    "target_stderr": (
        float | None,
        "give each datum as many samples as a standard error of so many nats needs, by a pilot",
    ),
    "max_num_samples": (int | None, "with --target-stderr, the most that a datum gets (default: 65536)"),
    "order": (int | None, "1 (the default) or 2: the powers of 1/S that the bias loses"),
    "prior_draws": (int | None, "draws of the prior that look for mass which the estimate misses"),
    "num_chains": (int | None, "chains a datum, whose spread gives the error (default: 16)"),
    "num_steps": (int | None, "temperatures (default: 1000)"),
    "num_particles": (int | None, "particles a datum, over all islands (default: 256)"),
    "num_islands": (int | None, "independent samplers, whose spread gives the error (default: 8)"),
    "start": (str | None, "where chains start: guide (the default) or prior"),
    "schedule": (
        str | None,
        "temperatures: pilot (the default: each datum's own, from a pilot run), sigmoid or linear",
    ),
    "precision": (
        str | None,
        "of matrix products: full (the default), or bfloat16 or tf32 (GPUs only), whose result is not certified",
    ),
    "nodes": (int | None, "points a latent dimension, of which there may be 1 to 3 (default: 64)"),
    "rule": (str | None, "adaptive (the default) or gauss_hermite"),
}

Table = Mapping[str, Sequence[str]]
"""The options of each method."""


def add_options(parser: Any, table: Table, texts: Mapping[str, str] | None = None) -> None:
    """An option for each in ``table``, to a parser or a group of one; ``texts`` says otherwise what some are."""
    for name in _all(table):
        owners = ", ".join(method for method, names in table.items() if name in names)
        if name == "proposal":
            proposals.add_option(parser, owners)
            continue
        kind, text = _TEXTS[name]
        parser.add_argument(option(name), type=kind, help=f"[{owners}] {(texts or {}).get(name, text)}")


def check(settings: dict[str, Any], table: Table) -> None:
    """Refuse an unknown method, an option of another method, and numbers and words that no method takes.

    Raises:
        InputError: naming the option at fault.
    """
    method = check_one_of("--method", settings["method"], table)
    for name in _all(table):
        if name not in table[method] and settings[name] is not None:
            owners = " or ".join(owner for owner, names in table.items() if name in names)
            expected = f"none with --method {method} (it belongs to {owners})"
            given = settings[name]
            received = given["class_path"] if name == "proposal" else describe(given)
            raise UsageError(option(name), expected, received)
    there = [name for name in _all(table) if settings[name] is not None]
    check_numbers(settings, counts=[name for name in there if name in _COUNTS])
    check_numbers(settings, rates=[name for name in there if name == "target_stderr"])
    from ppl_vae.compiled.densities import STARTS
    from ppl_vae.compiled.precision import PRECISIONS
    from ppl_vae.evidence.annealing.schedules import SCHEDULES
    from ppl_vae.evidence.exact.quadrature import RULES
    from ppl_vae.evidence.importance_sampling.importance import DRAWS
    from ppl_vae.evidence.running.prior_check import check_prior_draws

    if "prior_draws" in there:
        try:
            check_prior_draws(settings["prior_draws"])
        except InputError as error:
            raise relabel(error, {"prior_draws": option("prior_draws")}) from None
    words = {"start": STARTS, "draws": DRAWS, "rule": RULES, "schedule": SCHEDULES, "precision": PRECISIONS}
    for name in there:
        if name in words:
            check_one_of(option(name), settings[name], words[name])


def fill_in(settings: dict[str, Any], names: Sequence[str], estimator: Callable[..., Any]) -> None:
    """Put the estimator's own defaults in the place of what was not given."""
    parameters = inspect.signature(estimator).parameters
    for name in names:
        if settings[name] is None:
            settings[name] = parameters[name].default


def fewer(options: Mapping[str, Any]) -> dict[str, Any]:
    """An estimator's options for a rehearsal: no more samples, chains and steps than show that all of them fit."""
    most = {"num_samples": 4, "num_chains": 2, "num_steps": 2, "num_islands": 2, "num_particles": 4}
    most |= {"num_scrambles": 2, "max_num_samples": 4, "prior_draws": 4}
    return {name: min(value, most[name]) if name in most else value for name, value in options.items()}


def _all(table: Table) -> list[str]:
    return list(dict.fromkeys(name for names in table.values() for name in names))
