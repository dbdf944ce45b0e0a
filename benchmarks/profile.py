"""Where the time of a contestant goes, by operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def words(job: Callable[[], object], top: int = 6) -> str:
    """The operations that took most of a run by themselves, with their shares of the time that was seen."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        job()
    times: Counter[str] = Counter()
    for event in seen.key_averages():
        compiled = event.key.startswith("## Call CompiledFxGraph")
        times["the rest of the compiled graph" if compiled else event.key] += float(event.self_cpu_time_total)
    total = sum(times.values()) or 1.0
    return ", ".join(f"`{name}` {time / total:.0%}" for name, time in times.most_common(top))
