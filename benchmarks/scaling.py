"""Scaling: how the time of importance sampling grows with samples, with data, and falls with processes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from benchmarks import ours, workloads
from benchmarks.setting import OURS, Section, Setting, Target, figure, median, table
from benchmarks.timing import AbsentError, Job, interleaved
from benchmarks.workloads import TWO_LAYER

GROWTH = 1.1  # the time a weight at the largest size over that at the smallest: linear, within a tenth
PROCESSES = (1, 2)

INTRO = """{ours}'s importance sampling, {architecture}, as S grows (for {data} data), N (for S = {samples:,}) and the
number of processes. Median of {rounds} rounds in which all sizes take turns."""


def run(setting: Setting) -> Section:
    """Measure the three curves."""
    sizes = setting.size((1000, 2000, 4000, 8000, 16_000), (100, 200))
    nums = setting.size((10, 30, 100, 300, 1000), (2, 4))
    data, samples = setting.size(20, 2), setting.size(1000, 100)
    x = workloads.binary_data(nums[-1])
    model = ours.vae(TWO_LAYER, x)
    section = Section(
        "Scaling",
        INTRO.format(ours=OURS, architecture=TWO_LAYER, data=data, samples=samples, rounds=setting.rounds),
    )

    def job(num_samples: int, num_data: int) -> Job:
        def estimate() -> None:
            ours.importance(model, x[:num_data], num_samples, ours.COMPILED)

        return estimate

    curve(section, setting, "S", sizes, lambda size: job(size, data), data)
    curve(section, setting, "N", nums, lambda size: job(samples, size), samples)
    processes(section, setting)
    return section


def curve(
    section: Section,
    setting: Setting,
    letter: str,
    sizes: Sequence[int],
    job: Callable[[int], Job],
    other: int,
) -> None:
    """Time against a size; ``other`` times it is the number of weights."""
    turns = interleaved({str(size): job(size) for size in sizes}, setting.rounds)
    section.add(letter, turns)
    first = str(sizes[0])
    rows = []
    for size in sizes:
        # The time a weight over that of the smallest size: what `ratio` turns round is the rate.
        growth = turns.ratio(first, str(size), sizes[0] / size)
        rate = turns.rate(str(size), size * other)
        rows.append([f"{size:,}", median(turns.time(str(size)), 3), median(rate), figure(growth, 2)])
    section.parts.append(table([letter, "seconds", "weights/s", "time a weight, over the first"], rows))
    growth = turns.ratio(first, str(sizes[-1]), sizes[0] / sizes[-1])
    words = f"linear in {letter}: time a weight at {sizes[-1]:,} over that at {sizes[0]:,}"
    section.targets.append(Target(words, growth, GROWTH, at_least=False))


def processes(section: Section, setting: Setting) -> None:
    """The same evidence in several processes, start-up included."""
    samples, data = setting.size(16_000, 100), setting.size(200, 2)

    def job(number: int) -> Job:
        def whole() -> None:
            try:
                command = ours.distributed_command(number, samples, data)
            except NotImplementedError:
                raise AbsentError("n/a: no command for it yet") from None
            subprocess.run(command, check=True, capture_output=True)

        return whole

    turns = interleaved({str(number): job(number) for number in PROCESSES}, setting.rounds)
    section.add("processes", turns)
    rows = [
        [str(n), median(turns.time(str(n)), 1), figure(turns.ratio(str(n), str(PROCESSES[0])), 2)]
        for n in PROCESSES
    ]
    header = [
        "processes",
        f"seconds, S = {samples:,}, N = {data}, from start to end",
        "speed over one process",
    ]
    section.parts.append(table(header, rows))
