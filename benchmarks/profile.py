"""Where the time of a contestant goes, by operation."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def words(job: Callable[[], object], top: int = 6) -> str:
    """The operations that took most of a run by themselves, with their shares of the time that was seen."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        job()
    times = {event.key: float(event.self_cpu_time_total) for event in seen.key_averages()}
    total = sum(times.values()) or 1.0
    largest = sorted(times, key=lambda name: times[name], reverse=True)[:top]
    return ", ".join(f"`{name}` {times[name] / total:.0%}" for name in largest)
