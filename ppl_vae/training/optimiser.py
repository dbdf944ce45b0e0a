"""One torch optimiser over all parameters, in the form that Pyro's SVI accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

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
        self._direct = isinstance(optimiser, Adam) and clip_norm is None

    def __call__(self, params: Iterable[torch.Tensor], *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Step every parameter that has a gradient; ``params``, what SVI saw in this step, is not needed."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        self.optimiser.step()
        # Dropping gradients beats zeroing them: the next backward pass then writes instead of adding.
        self.optimiser.zero_grad(set_to_none=True)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """A step by the gradient of each parameter; None is that of one that the loss does not reach."""
        if self._direct and self.optimiser.step_by(gradients):  # type: ignore[attr-defined]
            return
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self(())


class Adam(torch.optim.Adam):
    """torch's fused Adam, which also takes gradients as they are: its own `step` can cost half of what they do.

    Args:
        parameters: in one group, with all of torch's defaults but the learning rate.
        lr: the learning rate.
    """

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, lr=lr, fused=True)
        self._lists: tuple[list[Tensor], ...] = ()
        self._count = torch.zeros(0)

    def step_by(self, gradients: Sequence[Tensor | None]) -> bool:
        """`step` by these gradients, with the same numbers; False, and nothing is done, where one is None or at first.

        Args:
            gradients: of all parameters, in their order.
        """
        found = [gradient for gradient in gradients if gradient is not None]
        (group,) = self.param_groups
        if len(found) < len(group["params"]) or not self._known(group["params"]):
            return False
        leaves, means, squares, steps = self._lists
        self._count += 1
        with torch.no_grad():
            torch._fused_adam_(
                leaves, found, means, squares, [], steps, lr=group["lr"], beta1=group["betas"][0],
                beta2=group["betas"][1], eps=group["eps"], weight_decay=0.0, amsgrad=False, maximize=False,
            )  # fmt: skip
        return True

    def _known(self, parameters: list[Tensor]) -> bool:
        """Whether a first `step` has made the state. Counts of steps become views of one tensor, counted at once."""
        first = self.state.get(parameters[0], {})
        if not self._lists or first.get("step") is not self._lists[-1][0]:
            states = [self.state.get(parameter, {}) for parameter in parameters]
            if not all(states):
                return False
            self._count = torch.stack([state["step"] for state in states])
            for state, count in zip(states, self._count, strict=True):
                state["step"] = count
            names = ("exp_avg", "exp_avg_sq", "step")
            self._lists = (parameters, *([state[name] for state in states] for name in names))
        return True


def adam(parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    """Fused Adam with torch's defaults: the default optimiser of `fit`."""
    return Adam(parameters, lr)
