"""Gradients along paths: through the draws of a guide, and around them.

Every parameter may reach a density in two ways: through the draws z, and directly. What is differentiated *open*
follows both; what is differentiated *closed* follows the direct way alone, since the gradient that arrives at a draw
is set to zero. So log q can be freed of the parameters in its density without touching them elsewhere: a parameter that
the guide shares with the prior keeps its gradient there, and a guide of several latents that depend on one another
keeps what passes from draw to draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.objectives.terms import Terms


class Gates:
    """The draws of the guide in some runs, which let gradients through or not."""

    def __init__(self, runs: Sequence[Terms]) -> None:
        self.closed = False
        for terms in runs:
            for site in terms.guide.values():
                if site["value"].requires_grad:
                    site["value"].register_hook(self._pass)

    def _pass(self, gradient: Tensor) -> Tensor | None:
        return torch.zeros_like(gradient) if self.closed else None


class Gated:
    """What is differentiated with open and with closed gates; its gradient is the sum of both.

    Args:
        gates: the gates.
        closed: a scalar, to be differentiated with z held fixed.
        opened: another, to be differentiated along all ways; if any.
    """

    def __init__(self, gates: Gates, closed: Tensor, opened: Tensor | None = None) -> None:
        self.gates, self.closed, self.opened = gates, closed, opened

    def __neg__(self) -> Gated:
        return Gated(self.gates, -self.closed, None if self.opened is None else -self.opened)

    @property
    def requires_grad(self) -> bool:
        """Whether a parameter is reached."""
        return any(part is not None and part.requires_grad for part in (self.opened, self.closed))

    def backward(self, retain_graph: bool | None = None) -> None:
        """Add the gradients to what the leaves' ``.grad`` hold."""
        last = self.closed.requires_grad
        if self.opened is not None and self.opened.requires_grad:
            self.opened.backward(retain_graph=True if last else retain_graph)
        if last:
            self.gates.closed = True
            try:
                self.closed.backward(retain_graph=retain_graph)
            finally:
                self.gates.closed = False

    def gradients(self, leaves: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradient of each leaf; None where it is not reached."""
        found: list[Tensor | None] = [None] * len(leaves)
        for part, closed in ((self.opened, False), (self.closed, True)):
            if part is None or not part.requires_grad or not leaves:
                continue
            self.gates.closed = closed
            try:
                more = torch.autograd.grad(part, leaves, retain_graph=True, allow_unused=True)
            finally:
                self.gates.closed = False
            pairs = zip(found, more, strict=True)
            found = [b if a is None else a if b is None else a + b for a, b in pairs]
        return found
