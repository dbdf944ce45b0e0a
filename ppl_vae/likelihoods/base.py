"""What every likelihood p(x|z) is: declared parameter shapes, a support, and a normalised distribution."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_vae._part import Part
from ppl_vae.errors import InputError, describe
from ppl_vae.likelihoods.summary import Summary


class Likelihood(Part):
    """p(x|z) over data of one ``shape``, given the unconstrained parameters that the decoder emits.

    A family writes ``__init__(self, shape, ...)``, calls ``super().__init__(shape)``, sets `param_shapes`,
    and returns from `forward` a *normalised* distribution on `support` whose event shape is ``shape``.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.

    Attributes:
        param_shapes: the shapes of the parameters that the decoder emits for one datum, by name, in order.
        base_measure: what the density is normalised against: ``"counting"`` (probabilities of integers) or
            ``"lebesgue"`` (densities per unit of x). Evidence under different measures cannot be compared.
        exposure: the name of an entry of the data that the mean is multiplied by; None in a family that takes none.
    """

    base_measure: ClassVar[Literal["counting", "lebesgue"]]
    param_shapes: dict[str, torch.Size]
    exposure: str | None = None

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        sizes: Any = (shape,) if isinstance(shape, int) else shape
        good = isinstance(sizes, Sequence) and not isinstance(sizes, str) and len(sizes) > 0
        if not good or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
            raise InputError("shape", "a positive integer or a sequence of them", describe(shape))
        self.shape = torch.Size(sizes)

    @abstractmethod
    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``; params ``(..., *param_shapes[name])``."""

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """Where a single number of x may lie (an event dimension of 0); checked before training."""

    def mean(self, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """E[x|z], ``(..., *shape)``, from parameters ``(..., *param_shapes[name])``."""
        mean: torch.Tensor = self(params).mean
        return mean

    def exposed(self, params: Mapping[str, torch.Tensor], exposure: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters that multiply the mean by an exposure; a family that sets ``exposure`` says how.

        Args:
            params: ``(..., *param_shapes[name])``.
            exposure: positive numbers that broadcast to ``(..., *shape)``.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no exposure")

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder sees of x: x itself, unless a family rescales it to the order of one."""
        return x

    def initial_params(self, x_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unconstrained parameters, ``param_shapes[name]`` each, that best describe data of mean ``x_mean``.

        The decoder's output bias starts from them. A family that has no better start returns zeros.

        Args:
            x_mean: the mean of the training data, ``shape``.
        """
        return {name: x_mean.new_zeros(shape) for name, shape in self.param_shapes.items()}

    @classmethod
    def suits(cls, summary: Summary) -> dict[str, Any] | None:  # noqa: ARG003
        """Whether data with such values are what the family is for.

        The default choice of the command line and the advice in error messages follow from it.

        Returns:
            the arguments after ``shape`` that it would take; None if it does not suit, which is the default.
        """
        return None

    @property
    def out_shape(self) -> torch.Size:
        """The shape of the decoder's output: parameters stacked on the first axis when they are images.

        Parameters that are all ``(C_i, H, W)`` give ``(sum C_i, H, W)``, so that a convolutional decoder can
        emit them; anything else is flat, ``(total,)``. Both flatten to the same numbers in the same order.
        """
        shapes = list(self.param_shapes.values())
        if all(len(shape) == 3 and shape[1:] == shapes[0][1:] for shape in shapes):
            return torch.Size([sum(shape[0] for shape in shapes), *shapes[0][1:]])
        return torch.Size([sum(math.prod(shape) for shape in shapes)])

    def several(self, number: int) -> torch.Size:
        """The shape of a parameter that has so many values for each number of x, stacked on the first axis.

        With data ``(C, H, W)`` it is ``(number * C, H, W)``, so that a convolutional decoder can emit it.
        """
        return torch.Size([number * self.shape[0], *self.shape[1:]])

    def values_last(self, parameter: torch.Tensor, number: int) -> torch.Tensor:
        """A parameter ``(..., *several(number))`` as ``(..., *shape, number)``."""
        leading = parameter.shape[: parameter.dim() - len(self.shape)]
        parts = parameter.reshape(*leading, number, *self.shape)
        return parts.movedim(len(leading), -1)
