"""Base class of priors p(z): a module that is called without arguments and returns a Pyro distribution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution

from ppl_vae._part import Part
from ppl_vae.errors import check_positive_int


class Prior(Part):
    """p(z) over latent vectors of ``dim`` numbers.

    A family writes ``__init__(self, dim, ...)``, calls ``super().__init__(dim)``, and returns from `forward`
    a normalised distribution with batch shape ``()`` and event shape ``(dim,)``. Its parameters, if any, are
    ordinary ``nn.Parameter`` attributes and are trained with the rest of the model.

    A prior p(z|c) sets `num_covariates`, and its `forward` takes the covariates c, ``(N, num_covariates)``: its batch
    shape is then ``(N,)``.

    Args:
        dim: the number of latent dimensions.

    Attributes:
        num_covariates: how many numbers c has; 0 for a prior that depends on nothing.
    """

    num_covariates: int = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = check_positive_int("dim", dim)

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""

    def bind(self, encode: Callable[[torch.Tensor], TorchDistribution], shape: torch.Size) -> None:
        """Called once by the VAE of this prior; a prior that does not use the encoder ignores it.

        Args:
            encode: maps encoder features ``(B, *shape)`` to the posterior q(z|x), of batch shape ``(B,)``.
            shape: the shape of one datum.
        """

    def start_from(self, features: torch.Tensor, generator: torch.Generator) -> None:
        """Called once before training, with encoder features of training data ``(N, *shape)``.

        A prior whose parameters start from data (pseudo-inputs) sets them here, in place, with random numbers from
        ``generator``; other priors ignore it.
        """
