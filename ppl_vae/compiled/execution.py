"""Execution level of a run: plain, captured or compiled, set once for all parts of the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ppl_vae.compiled.densities import LogWeights
from ppl_vae.compiled.graph.backend import LEVELS
from ppl_vae.compiled.precision import computing
from ppl_vae.errors import check_one_of
from ppl_vae.program import Data, Program, num_data
from ppl_vae.program.matmul_precision import FULL


class Execution:
    """A run's level, and the functions that its parts share, so that a graph is checked only once in a run.

    Args:
        level: one of `backend.LEVELS`.
        tiles: the shapes (data, samples) of the passes of which nearly all of the run consists. Other passes, such as a
            smaller one at the end, are not compiled; their graph runs operation by operation.
    """

    def __init__(self, level: str, tiles: Collection[tuple[int, int]] = ()) -> None:
        self.level, self.tiles = check_one_of("level", level, LEVELS), tiles
        self._weights: dict[tuple[int, int, str], LogWeights] = {}

    def level_of(self, data: int, samples: int) -> str:
        """The level of a pass of ``data`` data and ``samples`` samples."""
        return "captured" if self.level == "compiled" and (data, samples) not in self.tiles else self.level

    def log_weights(self, program: Program, data: int, num_samples: int) -> LogWeights:
        """The log weights of a program, which must exist as long as the run."""
        key = (id(program), num_samples, self.level_of(data, num_samples))
        if key not in self._weights:
            self._weights[key] = LogWeights(program, num_samples, level=key[2])
        return self._weights[key]


_current: ContextVar[Execution | None] = ContextVar("execution", default=None)


@contextmanager
def executing(
    level: str,
    tiles: Collection[tuple[int, int]] = (),
    precision: str = FULL,
    device: torch.device | None = None,
) -> Iterator[Execution]:
    """Run programs at ``level`` inside of the context; arguments as for `Execution` and `precision.computing`."""
    execution = Execution(level, tiles)
    token = _current.set(execution)
    try:
        with computing(precision, device):
            yield execution
    finally:
        _current.reset(token)


def current_level(data: int, samples: int) -> str:
    """The level of a pass of ``data`` data and ``samples`` samples in the current run; "plain" outside of a run."""
    execution = _current.get()
    return "plain" if execution is None else execution.level_of(data, samples)


def sampler(program: Program, x: Data, num_samples: int) -> Callable[[], Tensor]:
    """A function that returns log weights of new draws for ``x``, ``(S, N)`` float64 in nats, at the level of the run.

    Draws come from torch's global generator. Values that depend on ``x`` only are computed once.
    """
    execution = _current.get()
    if execution is None or execution.level == "plain":
        return lambda: program.log_weights(x, num_samples, seed=None, check=False)
    return execution.log_weights(program, num_data(x), num_samples).bind(x)
