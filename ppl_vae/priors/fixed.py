"""Priors without parameters: what they share."""

from __future__ import annotations

import torch

from ppl_vae.priors.base import Prior


class FixedPrior(Prior):
    """A prior without parameters. A family writes `forward`, from `zeros`.

    Args:
        dim: the number of latent dimensions.

    Attributes:
        zeros: ``(dim,)`` zeros of the module's dtype, on its device.
    """

    zeros: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        # Not a parameter and not saved: it only carries the module's dtype and device.
        self.register_buffer("zeros", torch.zeros(self.dim), persistent=False)
