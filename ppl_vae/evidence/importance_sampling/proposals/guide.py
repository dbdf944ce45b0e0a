"""Guide proposal: samples from the guide, the default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ppl_vae.compiled.execution import sampler
from ppl_vae.evidence.running.proposal import ProposalOnData
from ppl_vae.program import Data, Program, take


@dataclass(frozen=True)
class Guide:
    """q(z|x), the guide without changes."""

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:  # noqa: ARG002
        """The guide for data ``x``; nothing is tuned."""
        return _Guide(program, x)


class _Guide(ProposalOnData):
    def __init__(self, program: Program, x: Data) -> None:
        self.program, self.x = program, x
        self._samplers: dict[int, Callable[[], Tensor]] = {}

    def log_weights(self, num_samples: int) -> Tensor:
        if num_samples not in self._samplers:
            self._samplers[num_samples] = sampler(self.program, self.x, num_samples)
        return self._samplers[num_samples]()

    def take(self, rows: Tensor) -> ProposalOnData:
        return _Guide(self.program, take(self.x, rows))
