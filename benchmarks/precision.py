"""Lower precision: what it does to log p(x), against float64 and beside the Monte Carlo error, and what it saves."""

from __future__ import annotations

from functools import partial

import torch

import ppl_vae as pv
from benchmarks import ours
from benchmarks.evidence import Problem
from benchmarks.setting import Section, Setting, Target, figure, median, table
from benchmarks.timing import interleaved
from ppl_vae.evidence.importance_sampling.precision_error import SMALL, PrecisionError, rms

LOWER = ("bfloat16", "tf32")
FULL = "full"

INTRO = """Importance sampling with matrix products of a lower precision: {data} data, S = {samples:,},
{architecture}, trained a little. Errors are those of log p(x) in nats a datum, against float64 arithmetic of the same
parameters at the same draws (`ppl_vae.evidence.precision_error`); "full" is the program as it is, in float32. A device
without TF32 shows its rounding, done by hand. Shares are of the Monte Carlo error: of a datum, root mean square over
root mean square, and of the mean over the data, in which an error that all have in common does not average out. "Below
a tenth" takes both."""


def run(setting: Setting) -> Section:
    """Measure."""
    problem = Problem(setting)
    section = Section(
        "Precision",
        INTRO.format(
            data=problem.num_data, samples=problem.num_samples, architecture=problem.architecture
        ),
    )  # fmt: skip
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        errors(section, problem, device)
    if not torch.cuda.is_available():
        section.notes.append("No GPU is at hand: neither errors nor speed were measured on one.")
    speed(section, problem)
    return section


def errors(section: Section, problem: Problem, device: str) -> None:
    """The table of a device."""
    program, x = problem.model.to(device).program, problem.x.to(device)
    found = [pv.evidence.precision_error(program, x, problem.num_samples, precision) for precision in LOWER]
    problem.model.to("cpu")
    section.data[device] = {each.precision: figures(each) for each in found}
    rows = [row(each) for each in found]
    first = found[0]
    for name, values, mean in (
        (FULL, first.full_error, float(first.full_error.mean())),
        ("Monte Carlo error", first.stderr, rms(first.stderr) / len(first) ** 0.5),
    ):
        rows.append([name, *(f"{n:.2g}" for n in (mean, rms(values), float(values.abs().max()))), "", "", ""])
    header = [device, "mean", "root mean square", "largest", "share, a datum", "share, mean", "below a tenth"]
    section.parts.append(table(header, rows))
    section.notes += [f"{device}, {each.precision}: {each.limits}." for each in found]
    for each in found:
        words = f"error over the Monte Carlo error, {each.precision} on {device}"
        section.targets += [
            Target(f"{words}, a datum", each.share, SMALL, at_least=False),
            Target(f"{words}, mean of {len(each)} data", each.share_of_mean, SMALL, at_least=False),
        ]


def row(each: PrecisionError) -> list[str]:
    """A line of the table."""
    numbers = figures(each)
    hand = ", by hand" if each.by_hand else ""
    return [f"{each.precision}{hand}", *(f"{number:.2g}" for number in numbers.values()), each.verdict]


def figures(each: PrecisionError) -> dict[str, float]:
    """Its numbers."""
    return {
        "mean": float(each.error.mean()),
        "rms": rms(each.error),
        "largest": float(each.error.abs().max()),
        "share": each.share,
        "share_of_mean": each.share_of_mean,
    }


def speed(section: Section, problem: Problem) -> None:
    """Weights a second on the CPU, with products of either kind."""

    def job(precision: str) -> None:
        ours.importance(problem.model, problem.x, problem.num_samples, ours.COMPILED, precision=precision)

    turns = interleaved({name: partial(job, name) for name in (FULL, LOWER[0])}, problem.setting.rounds)
    section.add("speed", turns)
    weights = problem.num_samples * problem.num_data
    rows = [
        [name, median(turns.rate(name, weights)), figure(turns.ratio(name, FULL), 2)]
        for name in (FULL, LOWER[0])
    ]
    section.parts.append(table(["cpu, compiled", "weights/s", f"over {FULL}"], rows))
