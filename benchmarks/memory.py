"""Memory: the most that a fresh process holds."""

from __future__ import annotations

from typing import Any

from benchmarks import fresh, ours
from benchmarks.setting import OURS, PLAIN, Section, Setting, Target, table
from benchmarks.timing import AbsentError

FLAT = 1.05  # the peak at the larger S over that at the smaller

INTRO = """The most memory that a fresh process held (resident, everything included), in MB. Evidence: {data} data,
784-200-200-50; training: an epoch of 784-400-50 at batch 256, whose {train:,} data are {megabytes:.0f} MB."""


def run(setting: Setting) -> Section:
    """Measure: once each, for memory hardly varies."""
    small, large = setting.size((1000, 16_000), (64, 128))
    data, train = setting.size(100, 2), setting.size(10_000, 512)
    section = Section("Memory", INTRO.format(data=data, train=train, megabytes=train * 784 * 4 / 1e6))
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        "import only": ("nothing", {}),
        f"evidence, S = {small:,}": ("evidence", {"num_samples": small, "num_data": data}),
        f"evidence, S = {large:,}": ("evidence", {"num_samples": large, "num_data": data}),
        "training": ("training", {"num_data": train, "batch_size": 256}),
    }
    ways: dict[str, ours.Compile] = {OURS: ours.COMPILED}
    if ours.compiles("fit") and ours.compiles("importance"):
        ways[PLAIN] = ours.PLAIN
    peaks: dict[str, dict[str, float | None]] = {label: {} for label in jobs}
    for label, (job, args) in jobs.items():
        for way, how in ways.items():
            given = args if job == "nothing" else args | {"how": how}
            try:
                peaks[label][way] = fresh.call(job, **given)["peak"] / 1e6
            except AbsentError as error:
                peaks[label][way] = None
                section.notes.append(f"{label}: {way}: {error}.")
    section.data["peaks"] = peaks
    rows = [
        [label, *("n/a" if mb is None else f"{mb:,.0f}" for mb in row.values())]
        for label, row in peaks.items()
    ]
    section.parts.append(table(["", *ways], rows))
    low, high = (peaks[f"evidence, S = {size:,}"][OURS] for size in (small, large))
    section.targets.append(
        Target(
            f"flat: the peak at S = {large:,} over that at S = {small:,}",
            None if low is None or high is None else high / low, FLAT, at_least=False,
        )
    )  # fmt: skip
    return section
