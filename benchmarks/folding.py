"""What it costs that no program need know of a sample axis: the check, and copies of the data where it fails."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch

import ppl_vae as pv
from benchmarks.evidence import Problem
from benchmarks.setting import Section, Setting, Target, figure, median, table
from benchmarks.timing import Spread, interleaved

AXIS, COPIES = "a sample axis", "copies of the data"

INTRO = """Importance sampling of one and the same model and guide, {architecture}, written in two ways: the decoder of
the one suits a sample axis, that of the other counts axes from the left (``flatten(1)``, which changes nothing in plain
Pyro) and runs on S copies of the data. {data} data, S = {samples:,}, compiled. Then what `Program.check` takes of
importance sampling of {many:,} data, the comparison with plain Pyro included."""


def run(setting: Setting) -> Section:
    """Measure."""
    problem = Problem(setting)
    many = setting.size(1000, 40)
    section = Section(
        "Any program",
        INTRO.format(
            architecture=problem.architecture, data=problem.num_data, samples=problem.num_samples, many=many
        ),
    )
    ways(section, problem)
    share(section, problem, many)
    return section


def programs(problem: Problem) -> dict[str, pv.Program]:
    """The pair in its two spellings."""
    model = problem.model.eval()

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", model.encode(x))

    def spelled(decode: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
        def pair(x: torch.Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(problem.architecture.latent), 1.0).to_event(1))
                pyro.sample("x", model.decode(decode(z)), obs=x)

        return pair

    return {
        AXIS: pv.Program(spelled(lambda z: z), guide),
        COPIES: pv.Program(spelled(lambda z: z.flatten(1)), guide),
    }


def ways(section: Section, problem: Problem) -> None:
    """The two spellings, side by side."""
    found = programs(problem)
    for name, program in found.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.errors.ProgramWarning)
            program.check(problem.x)
        if program.layouts(problem.x).model.folded != (name == COPIES):
            raise AssertionError(f"{name}: the program lies in the other way")

    def job(program: pv.Program) -> None:
        pv.evidence.importance(program, problem.x, problem.num_samples, compile=True, progress=False)

    jobs = {name: partial(job, program) for name, program in found.items()}
    turns = interleaved(jobs, problem.setting.rounds)
    section.add("two spellings", turns)
    weights = problem.num_samples * problem.num_data
    rows = [[name, median(turns.rate(name, weights)), figure(turns.ratio(AXIS, name), 2)] for name in found]
    section.parts.append(table(["latents arrive on", "weights/s", f"time over that of {AXIS}"], rows))
    section.targets.append(
        Target(f"time of {COPIES} over that of {AXIS}", turns.ratio(AXIS, COPIES), 1.5, at_least=False)
    )


def share(section: Section, problem: Problem, many: int) -> None:
    """What part of a run the check is."""
    program = programs(problem)[AXIS]
    x = problem.x.repeat(many // len(problem.x), 1)
    check, spent = program.check, [0.0]

    def timed(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return check(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            spent[0] += time.perf_counter() - start

    program.check = timed  # type: ignore[method-assign,assignment]
    shares = []
    for turn in range(problem.setting.size(3, 1) + 1):
        spent[0], start = 0.0, time.perf_counter()
        pv.evidence.importance(program, x, problem.num_samples, compile=True, progress=False)
        if turn:
            shares.append(100 * spent[0] / (time.perf_counter() - start))
    section.data["share"] = {"percent": shares}
    section.targets.append(
        Target(
            f"percent of importance sampling of {len(x):,} data that is the check",
            Spread.of(shares),
            5,
            at_least=False,
        )
    )
