"""Validation runs: each estimator on each model with known log evidence, repeatedly."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import Checkpoint, digest
from ppl_vae.errors import InputError, NonFiniteError, check_positive_int, check_seed, describe
from ppl_vae.evidence import Evidence
from ppl_vae.evidence.running.options import DEFAULTS, KEPT, RunOptions, takes_run_options
from ppl_vae.progress import bar
from ppl_vae.validation.estimators import ESTIMATORS, Estimator
from ppl_vae.validation.exact_model import Builder, ExactModel
from ppl_vae.validation.models import MODELS
from ppl_vae.validation.report import Report
from ppl_vae.validation.row import GROSS, RIGHT, Row, plain_row, row_from

T = TypeVar("T")


@takes_run_options(*KEPT)
def validate(
    models: Collection[str] | Mapping[str, Builder | ExactModel] | None = None,
    estimators: Collection[str] | Mapping[str, Estimator] | None = None,
    *,
    num_data: int = 20,
    repetitions: int = 10,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Report:
    """Run estimators on models whose log evidence is known, and measure their errors, intervals and verdicts.

    Each estimator runs ``repetitions`` times on each model, with independent seeds. This gives ``num_data *
    repetitions`` estimates of known numbers. A row of the report has their bias and error, the mean of Z-hat / Z for
    unbiased estimators (of Z, not of log Z, since the log of an unbiased estimate is biased), the coverage of their
    95 % intervals, the verdicts, and the cost. If an estimator does not apply to a model, the row gives the reason.

    Args:
        models: names of `MODELS`; or a dict of models, or of builders of models ``(num_data=..., seed=...)``; all of
            `MODELS` by default.
        estimators: names of `ESTIMATORS`; or a dict of functions ``(program, x, seed) -> Evidence``; all of
            `ESTIMATORS` by default.
        num_data: the number of data of each model.
        repetitions: the number of runs of each estimator on each model.
        seed: seed of models, data and runs.
        run: see `RunOptions`.

    Raises:
        InputError: if a name is not known, an argument does not fit, or ``checkpoint`` has other settings.
    """
    check_positive_int("num_data", num_data)
    check_positive_int("repetitions", repetitions)
    check_seed(seed)
    chosen_models = _chosen("models", models, MODELS)
    chosen_estimators = _chosen("estimators", estimators, ESTIMATORS)
    identity = {"num_data": num_data, "repetitions": repetitions, "seed": seed}
    options: RunOptions = {**DEFAULTS, **run}
    checkpoint = options["checkpoint"]
    keeper = None if checkpoint is None else Checkpoint(checkpoint, "validation", identity, options["resume"])
    saved = None if keeper is None else keeper.read()
    finished = {} if keeper is None or saved is None else _finished(keeper, saved[1])
    entries: list[dict[str, object]] = []
    rows: list[Row] = []
    show = bar(len(chosen_models) * len(chosen_estimators), "validation", "pair")
    if not options["progress"]:
        show.disable = True
    with show:
        for name, maker in chosen_models.items():
            model = maker if isinstance(maker, ExactModel) else maker(num_data=num_data, seed=seed)
            known = digest(model.log_evidence)
            for label, estimator in chosen_estimators.items():
                content = finished.get((name, label, known))
                row = content or _row(name, model, label, estimator, repetitions, seed)
                rows.append(row)
                entries.append({"model": name, "estimator": label, "known": known, "row": plain_row(row)})
                show.update()
                if keeper is not None and content is None:
                    keeper.write({}, {"rows": entries})
    if keeper is not None:
        keeper.remove()
    return Report(tuple(rows), seed)


def _finished(keeper: Checkpoint, state: Any) -> dict[tuple[str, str, str], Row]:
    """The rows of a checkpoint, by model, estimator and the digest of the known values."""
    with keeper.believing():
        found = {}
        for entry in state["rows"]:
            row = row_from(entry["row"], str(keeper.path))
            if (row.model, row.estimator) != (entry["model"], entry["estimator"]):
                raise ValueError(f"a row of {row.model} and {row.estimator} under another name")
            found[entry["model"], entry["estimator"], str(entry["known"])] = row
        return found


def _chosen(
    argument: str, given: Collection[str] | Mapping[str, T] | None, known: Mapping[str, T]
) -> dict[str, T]:
    """The entries that the user selected, by name."""
    if given is None:
        return dict(known)
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(argument, f"names out of {', '.join(known)}", describe(unknown[0]))
        given = {name: known[name] for name in given}
    if not given:
        raise InputError(argument, "at least one", "none")
    return dict(given)


def _row(name: str, model: ExactModel, label: str, estimator: Estimator, repetitions: int, seed: int) -> Row:
    """One estimator on one model."""
    results, start = [], time.perf_counter()
    for repetition in range(repetitions):
        own = rng.derive(seed, f"validate/{name}/{label}", repetition)
        try:
            result = estimator(model.program, model.x, own)
        except InputError as error:
            return Row(name, label, reason=str(error), bad_guide=model.bad_guide)
        except NonFiniteError as error:
            return Row(name, label, reason=f"failed: {error}", bad_guide=model.bad_guide)
        if not isinstance(result, Evidence) or len(result) != len(model):
            raise InputError(
                f"estimators[{label!r}]",
                f"a function that returns an Evidence of {len(model)} data",
                describe(result),
            )
        results.append(result)
    return summarise(name, model, label, results, time.perf_counter() - start)


def summarise(name: str, model: ExactModel, label: str, results: list[Evidence], seconds: float) -> Row:
    """The row of independent results on one model."""
    first, R = results[0], len(results)
    exact = model.log_evidence.cpu()
    error = torch.stack([result.log_evidence for result in results]) - exact
    trusted = torch.stack([torch.from_numpy(result.status == "trust") for result in results])
    covered = _inside(results, exact, 0.95, model.error)
    lost = ~_inside(results, exact, 0.9999, model.error)
    right = error.abs() <= RIGHT
    shares = [result.status_fractions() for result in results]
    ratio = ratio_stderr = math.nan
    if first.bound == "lower" and first.certified and first.diagnostics.drawn:
        ratio, ratio_stderr = _mean(error.exp())
    bias, bias_stderr = _mean(error)
    square, square_stderr = _mean(error**2)
    return Row.of(
        model=name,
        estimator=label,
        bound=first.bound,
        basis=first.basis,
        bad_guide=model.bad_guide,
        num_data=len(model),
        repetitions=R,
        bias=bias,
        bias_stderr=bias_stderr,
        rmse=math.sqrt(square),
        rmse_stderr=square_stderr / (2 * math.sqrt(square)) if square > 0 else 0.0,
        ratio=ratio,
        ratio_stderr=ratio_stderr,
        coverage=float(covered.double().mean()),
        coverage_trusted=float(covered[trusted].double().mean()),
        silent=float((trusted & lost).double().mean()),
        gross=float((trusted & (error.abs() > GROSS)).double().mean()),
        right=float(right.double().mean()),
        timid=float((right & ~trusted).double().mean()),
        trust=sum(share["trust"] for share in shares) / R,
        caution=sum(share["caution"] for share in shares) / R,
        reject=sum(share["reject"] for share in shares) / R,
        density=sum(result.cost.density for result in results) / R,
        gradient=sum(result.cost.gradient for result in results) / R,
        seconds=seconds / R,
    )


def _inside(results: list[Evidence], exact: Tensor, level: float, slack: float) -> Tensor:
    """``(R, N)``: whether intervals contain the known values, up to the error of these values."""
    ends = [result.interval(level) for result in results]
    low, high = (torch.stack(side) for side in zip(*ends, strict=True))
    return (low - slack <= exact) & (exact <= high + slack)


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean over repetitions and data, and its standard error; all estimates are independent."""
    number = values.numel()
    return float(values.mean()), float(values.std()) / math.sqrt(number) if number > 1 else math.nan
