"""Categories without an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import InputError, check_positive_int
from ppl_vae.likelihoods.bounded_integers import BoundedIntegers


class Categorical(BoundedIntegers):
    """p(x|z) = prod_i softmax(logits_i)[x_i], for x of category numbers from 0 to ``categories`` - 1.

    log p(x|z) is in nats. The encoder sees x / (categories - 1); give the VAE an encoder of your own for one that
    embeds the categories.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        categories: how many there are, at least 2.
    """

    def __init__(self, shape: int | Sequence[int], categories: int) -> None:
        super().__init__(shape)
        self.categories = check_categories(categories)
        self.largest = self.categories - 1
        self.param_shapes = {"logits": self.several(self.categories)}

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """p(x|z): batch shape ``(...)``, event shape ``shape``, from logits ``(..., *param_shapes["logits"])``."""
        logits = self.values_last(params["logits"], self.categories)
        p: TorchDistribution = CategoryNumbers(logits=logits).to_event(len(self.shape))
        return p

    def mean(self, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean of the category's number, ``(..., *shape)``: for pictures; it has no meaning without an order."""
        return mean_number(self.values_last(params["logits"], self.categories))


class CategoryNumbers(dist.Categorical):
    """Pyro's Categorical whose draws are of the type of the logits, as the data of a VAE are."""

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  (torch's own form)
        """Draws, ``(*sample_shape, ...)``."""
        drawn: torch.Tensor = super().sample(sample_shape)
        return drawn.to(self.logits.dtype)


def check_categories(number: int, argument: str = "categories") -> int:
    """``number``, refused if it is no integer of at least 2."""
    if check_positive_int(argument, number) < 2:
        raise InputError(argument, "an integer of at least 2", number)
    return number


def mean_number(logits: torch.Tensor) -> torch.Tensor:
    """The mean of an index into the last axis of logits."""
    numbers = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * numbers).sum(-1)
