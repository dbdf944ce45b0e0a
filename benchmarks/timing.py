"""Interleaved timing: the contestants take turns, so that a machine that slows down slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Job = Callable[[], float | None]
"""One round of a contestant: returns the seconds that it counted itself, or None to be timed from outside."""


class AbsentError(Exception):
    """Why a contestant cannot take part, in a few words."""


class Spread(NamedTuple):
    """The median of the rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Turns:
    """What the rounds came to.

    Attributes:
        seconds: of each contestant in each counted round.
        missing: why a contestant has none.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def time(self, name: str) -> Spread | None:
        """Seconds a round; None if the contestant is missing."""
        return Spread.of(self.seconds[name]) if name in self.seconds else None

    def rate(self, name: str, amount: float) -> Spread | None:
        """``amount`` of something a round, per second."""
        if name not in self.seconds:
            return None
        return Spread.of([amount / seconds for seconds in self.seconds[name]])

    def ratio(self, ours: str, peer: str, amounts: float = 1.0) -> Spread | None:
        """How many times the peer's rate ours is, round by round.

        Args:
            ours: a contestant.
            peer: another.
            amounts: our amount of work a round over the peer's, where they differ.
        """
        if ours not in self.seconds or peer not in self.seconds:
            return None
        pairs = zip(self.seconds[ours], self.seconds[peer], strict=True)
        return Spread.of([amounts * theirs / mine for mine, theirs in pairs])


def reason(error: BaseException) -> str:
    """An error in one short line."""
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return first if isinstance(error, AbsentError) else f"failed: {type(error).__name__}: {first[:160]}"


def interleaved(jobs: Mapping[str, Job], rounds: int, missing: Mapping[str, str] | None = None) -> Turns:
    """Every contestant in every round, after one round that is not counted.

    Each round starts with another contestant, so that none always follows the same one. A contestant that raises is
    out, and the others go on.
    """
    turns = Turns({name: [] for name in jobs}, dict(missing or {}))
    names = list(jobs)
    for turn in range(rounds + 1):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            seconds = attempt(turns.missing, name, partial(_timed, jobs[name]))
            if turn and seconds is not None:
                turns.seconds[name].append(seconds)
    for name in turns.missing:
        turns.seconds.pop(name, None)
    return turns


def attempt(missing: dict[str, str], name: str, call: Callable[[], T]) -> T | None:
    """What the call gives; None, with the reason in ``missing``, if it raises or the contestant is out already."""
    if name in missing:
        return None
    try:
        return call()
    except Exception as error:  # whatever a contestant does, the others are to be measured
        missing[name] = reason(error)
        return None


def _timed(job: Job) -> float:
    start = time.perf_counter()
    counted = job()
    return time.perf_counter() - start if counted is None else counted


def fastest(jobs: Mapping[int, Job]) -> int:
    """The key of the job that takes least, each run once to warm up and twice to be timed."""
    turns = interleaved({str(key): job for key, job in jobs.items()}, 2)
    if not turns.seconds:
        raise AbsentError(next(iter(turns.missing.values())))
    return int(min(turns.seconds, key=lambda name: min(turns.seconds[name])))
