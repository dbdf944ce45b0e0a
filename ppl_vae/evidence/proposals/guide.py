"""The guide itself as a proposal: what importance sampling draws from unless it is told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ppl_vae.evidence.proposals.base import Bound
from ppl_vae.program import Data, Program, take


@dataclass(frozen=True)
class Guide:
    """q(z|x), as it is."""

    def bind(self, program: Program, x: Data, seed: int, index: int) -> Bound:  # noqa: ARG002
        """The guide for data ``x``; nothing is tuned."""
        return _Guide(program, x)


class _Guide(Bound):
    def __init__(self, program: Program, x: Data) -> None:
        self.program, self.x = program, x

    def log_weights(self, num_samples: int) -> Tensor:
        return self.program.log_weights(self.x, num_samples, seed=None, check=False)

    def take(self, rows: Tensor) -> Bound:
        return _Guide(self.program, take(self.x, rows))
