"""One torch optimiser over all parameters, in the form that Pyro's SVI accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from torch import nn

OptimiserFactory = Callable[[list[torch.Tensor], float], torch.optim.Optimizer]
"""``(parameters, lr) -> optimiser``."""


class SharedOptim(pyro.optim.PyroOptim):
    """One torch optimiser over all parameters, in the form that `pyro.infer.SVI` accepts.

    Pyro's own adapter makes one optimiser for each parameter, which at small batches costs more than the
    gradients do.

    Args:
        optimiser: the torch optimiser, already holding every parameter.
        clip_norm: gradients are scaled down to this global norm, if given.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, clip_norm: float | None = None) -> None:
        super().__init__(type(optimiser), {})
        self.optimiser, self.clip_norm = optimiser, clip_norm
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]

    def __call__(self, params: Iterable[torch.Tensor], *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Step every parameter that has a gradient; ``params``, what SVI saw in this step, is not needed."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        self.optimiser.step()
        # Dropping gradients beats zeroing them: the next backward pass then writes instead of adding.
        self.optimiser.zero_grad(set_to_none=True)


def adam(parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    """Fused Adam with torch's defaults: the default optimiser of `fit`."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)
