"""Base class of posterior families q(z|x): shapes of their parameters, and a distribution made from parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution

from ppl_vae._part import Part
from ppl_vae.errors import check_positive_int


class Posterior(Part):
    """q(z|x) over latent vectors of ``dim`` numbers, given unconstrained parameters from the encoder.

    A family writes ``__init__(self, dim, ...)``, calls ``super().__init__(dim)``, sets `param_shapes`, and
    returns from `forward` a normalised distribution with event shape ``(dim,)``. A family whose distribution
    has ``rsample`` is trained by reparameterised gradients, and others by score-function gradients.

    Args:
        dim: the number of latent dimensions.

    Attributes:
        param_shapes: the shapes of the parameters that the encoder computes for one datum, by name, in order.
    """

    param_shapes: dict[str, torch.Size]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = check_positive_int("dim", dim)

    @abstractmethod
    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""

    @property
    def out_shape(self) -> torch.Size:
        """The shape of the encoder's output: all parameters of one datum, flat."""
        return torch.Size([sum(math.prod(shape) for shape in self.param_shapes.values())])
