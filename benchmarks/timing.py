"""Interleaved timing: the contestants take turns, so that a machine that slows down slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(jobs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """How many times faster ours is than the peer: median, smallest and largest over the rounds."""
    each = [theirs / mine for mine, theirs in zip(seconds[ours], seconds[peer], strict=True)]
    return statistics.median(each), min(each), max(each)
