"""``ppl-vae validate``: every estimator on every model whose log evidence is known, a user's own among them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import files, memory, modes
from ppl_vae.cli.options import device, results
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.errors import (
    InputError,
    NonFiniteError,
    UsageError,
    check_one_of,
    describe,
    option,
    under_options,
)
from ppl_vae.outputs import OutputFolder
from ppl_vae.runs import figures
from ppl_vae.runs.folder import CHECKPOINT, REPORT, validation_folder

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.validation import Builder, Estimator, ExactModel, Report

_SIZES = {"num_data": 20, "repetitions": 10}
_QUICK = {"num_data": 5, "repetitions": 2}
_MODEL = (
    "the import path of an ExactModel, or of a function (num_data, seed) that returns one (my_file.my_model)"
)
_ESTIMATOR = (
    "the import path of a function (program, x, seed) that returns an Evidence (my_file.my_estimator)"
)
_DESCRIPTION = """\
Run estimators many times on models whose log p(x) is known, and report their bias and error, the mean of Z-hat / Z, the
coverage of their 95 % intervals, their verdicts and their cost. Problems are listed below the tables. The command
writes a folder: report.json (ppl_vae.validation.Report.load reads it), report.md, report.txt and
error_against_cost.png.

An estimator or a model of your own may come from a file in the current folder. By default, your estimator runs on all
models of ppl_vae, and all estimators of ppl_vae run on your model. All pairs together take some minutes. The seconds
in the report are measured: they are the only numbers that another run does not repeat."""
_EXAMPLES = """\
examples:
  ppl-vae validate
  ppl-vae validate --quick
  ppl-vae validate --models decoder-2 two-modes --estimators importance-1000 annealed-16x100 --repetitions 50
  ppl-vae validate --estimator my_file.my_estimator --out runs/my-estimator
  ppl-vae validate --model my_file.my_exact_model --estimators importance-1000 --estimator my_file.my_estimator"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse(_parser(), argv)
    check_numbers(settings, counts=("num_data", "repetitions"), seeds=("seed",))
    for name, size in (_QUICK if settings["quick"] else _SIZES).items():
        settings[name] = size if settings[name] is None else settings[name]
    memory.check_repeated(settings["num_data"], settings["repetitions"])
    folder = validation_folder(settings["out"])
    how: dict[str, Any] = {"resume": settings["resume"], "overwrite": settings["overwrite"]}
    folder.check(**how)
    with folder.owning(**how):
        settings["device"] = "cpu"
        device.resolve(settings, folder if settings["resume"] else None)
        with modes.threads(settings["threads"]):
            report = _validate(settings, folder, how)
    print(report.table())
    print(f"figures and numbers in {folder.path}")
    return 0


def _parser() -> ArgumentParser:
    made = make_parser("validate", _DESCRIPTION, _EXAMPLES)
    for name, own in (("model", _MODEL), ("estimator", _ESTIMATOR)):
        known = f"names out of ppl_vae.validation.{name.upper()}S (default: all, or none with --{name})"
        made.add_argument(f"--{name}s", type=str, nargs="+", metavar="NAME", help=known)
        text = f"{own}; several may be given"
        made.add_argument(f"--{name}", type=str, nargs="+", metavar="PATH", help=text)
    text = "data per model (default: {num_data})".format(**_SIZES)
    made.add_argument("--num-data", type=int | None, help=text)
    text = "independent runs of each estimator on each model (default: {repetitions})".format(**_SIZES)
    made.add_argument("--repetitions", type=int | None, help=text)
    text = "{num_data} data and {repetitions} repetitions unless they are given: enough to see that all works, too few "
    text = f"{text}to judge by".format(**_QUICK)
    made.add_argument("--quick", action="store_true", help=text)
    made.add_argument("--seed", type=int, default=0, help="the seed of models, data and runs")
    results.add_folder_options(made, "the folder to write", "runs/validation")
    device.add_threads(made)
    return made


def _validate(settings: dict[str, Any], folder: OutputFolder, how: dict[str, Any]) -> Report:
    from ppl_vae.validation import ESTIMATORS, MODELS, Report, validate

    size, seed = settings["num_data"], settings["seed"]
    models: dict[str, Builder | ExactModel] = _named("model", settings, MODELS)
    estimators: dict[str, Estimator] = _named("estimator", settings, ESTIMATORS)
    marker: dict[str, Any] = {"models": list(models), "estimators": list(estimators)}
    for path in settings["model"] or []:
        models[path] = _own_model(path, size, seed)
    for path in settings["estimator"] or []:
        estimators[path] = _import("estimator", path, _ESTIMATOR, None, None, seed)
        _rehearse(path, estimators[path], next(iter(models.values())), seed)
    for name in ("model", "estimator"):
        paths = settings[name] or []
        marker |= {name: paths, f"{name}_sha256": [_source(path) for path in paths]}
    marker |= {name: settings[name] for name in ("num_data", "repetitions", "seed", "threads")}
    go_on = " the same command and --resume (what is done is kept in {place})"
    header = "# A report by ppl-vae validate: what it was made from.\n"
    with folder.writing(marker, header=header, go_on=go_on, **how) as new, under_options(settings):
        if (new.path / REPORT).is_file():  # a resumed command that had only tables and pictures left
            report = Report.load(new.path / REPORT)
        else:
            sizes = {name: settings[name] for name in ("num_data", "repetitions", "seed")}
            kept = {"checkpoint": new.path / CHECKPOINT, "resume": settings["resume"]}
            report = validate(models, estimators, **sizes, **kept)
            report.save(new.path / REPORT)
        _draw(report, new.path, settings)
    return report


def _named(name: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ours that were asked for: all where nothing was, neither of ours nor of the user's own."""
    chosen = settings[f"{name}s"]
    if chosen is None:
        return {} if settings[name] else dict(known)
    return {check_one_of(f"--{name}s", each, known): known[each] for each in chosen}


def _import(name: str, path: str, expected: str, *arguments: Any, **options: Any) -> Any:
    """What an import path names; raises `UsageError` if that is nothing, or a function of other arguments."""
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(option(name), expected, f"{path!r} ({text})") from error
    if callable(found):
        try:
            inspect.signature(found).bind(*arguments, **options)
        except TypeError as error:
            raise UsageError(option(name), expected, f"{path!r} ({error})") from error
    elif name == "estimator":
        raise UsageError(option(name), expected, f"{path!r} ({describe(found)})")
    return found


def _source(path: str) -> str:
    """SHA-256 of the file that a user's own object is from: with another content, a report could not go on."""
    file = import_module(path.rpartition(".")[0]).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _own_model(path: str, num_data: int, seed: int) -> ExactModel:
    """A user's model; raises `UsageError` if it is none."""
    from ppl_vae.validation import ExactModel

    found = _import("model", path, _MODEL, num_data=num_data, seed=seed)
    made = found(num_data=num_data, seed=seed) if callable(found) else found
    if not isinstance(made, ExactModel):
        what = f", which returned {describe(made)}" if callable(found) else f" ({describe(made)})"
        raise UsageError("--model", _MODEL, f"{path!r}{what}")
    made.program.check(made.x)
    return made


def _rehearse(path: str, estimator: Callable[..., Any], model: Any, seed: int) -> None:
    """A user's estimator on two data, so that what is no estimator fails before anything is written."""
    from ppl_vae.evidence import Evidence
    from ppl_vae.program import num_data, take
    from ppl_vae.validation import ExactModel

    first = model if isinstance(model, ExactModel) else model(num_data=2, seed=seed)
    few = take(first.x, slice(0, 2))
    try:
        found = estimator(first.program, few, seed)
    except (InputError, NonFiniteError):
        return  # it does not apply to this model, or fails: the report will say so
    if not isinstance(found, Evidence) or len(found) != num_data(few):
        expected = f"a function to an Evidence of as many data as it is given, {num_data(few)}"
        raise UsageError("--estimator", expected, f"{path!r}, which returned {describe(found)}")


def _draw(report: Report, path: Path, settings: Mapping[str, Any]) -> None:
    """Write the tables and the picture."""
    from ppl_vae import plots

    files.write_text(path / "report.txt", f"{report.table()}\n")
    files.write_text(path / "report.md", report.markdown())
    points = report.errors_and_costs()
    if points:
        facts = f"N = {settings['num_data']} data, {settings['repetitions']} repetitions, seed {report.seed}"
        facts += "; exact methods left out" * any(not row.drawn for row in report.rows)
        figures.save(plots.error_against_cost(points, facts=facts), path / "error_against_cost.png")
