"""Timing log: the time of capturing and compiling, at level INFO of the logger "ppl_vae.compiled"."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("ppl_vae.compiled")


def log_timing(deed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Log the time of each call of a function, unless it raises.

    A record has the attributes ``deed``, ``seconds`` and ``found`` (whether the graph was in inductor's disk cache).

    Args:
        deed: "captured" or "compiled".
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            found, start = _found_on_disk(), time.perf_counter()
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - start
            known = _found_on_disk() > found
            where = " (found on disk)" if known else " (kept on disk for the next run)"
            text = f"{deed} a graph in {seconds:.1f} s{where if deed == 'compiled' else ''}"
            logger.info(text, extra={"deed": deed, "seconds": seconds, "found": known})
            return result

        return run

    return decorate


def _found_on_disk() -> int:
    """The number of graphs that inductor has found on disk in this process; inductor is not imported for this."""
    counting = sys.modules.get("torch._dynamo.utils")
    return 0 if counting is None else int(counting.counters["inductor"]["fxgraph_cache_hit"])


class Tally(logging.Handler):
    """Sums of the logged times; its text is one line.

    Attributes:
        seconds: the time of captures and compilations.
        compiled: the number of compiled graphs.
        found: the number of these that were found on disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.compiled, self.found = 0.0, 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        self.seconds += getattr(record, "seconds", 0.0)
        if getattr(record, "deed", "") == "compiled":
            self.compiled += 1
            self.found += bool(getattr(record, "found", False))

    def __str__(self) -> str:
        number = "" if self.compiled == 1 else f" {self.compiled} graphs"
        kept = "found on disk" if self.found == self.compiled else "kept on disk for the next run"
        return f"compiled{number} in {self.seconds:.1f} s ({kept})"


@contextmanager
def tallied() -> Iterator[Tally]:
    """The number and time of captures and compilations inside of the context."""
    tally, before = Tally(), logger.level
    logger.addHandler(tally)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield tally
    finally:
        logger.removeHandler(tally)
        logger.setLevel(before)
