"""Exact model: a program, data, and their known log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Data, Program, num_data


@dataclass(frozen=True, eq=False)
class ExactModel:
    """A program, data, and their log evidences.

    Attributes:
        name: its name in reports.
        program: model and guide.
        x: the data ``(N, ...)``.
        log_evidence: ``(N,)`` log p(x) of each datum, in nats, float64.
        note: a description in words.
        bad_guide: whether the guide is so poor that importance sampling from it must be rejected.
        error: the largest error of ``log_evidence``, in nats.

    Raises:
        InputError: if the number of log evidences is not that of the data.
    """

    name: str
    program: Program
    x: Data
    log_evidence: Tensor
    note: str = ""
    bad_guide: bool = False
    error: float = 1e-9

    def __post_init__(self) -> None:
        if self.log_evidence.shape != (num_data(self.x),):
            expected = f"a tensor of shape ({num_data(self.x)},)"
            raise InputError("log_evidence", expected, describe(self.log_evidence))

    def __len__(self) -> int:
        return num_data(self.x)


Builder = Callable[..., ExactModel]
"""``(num_data=..., seed=...) -> ExactModel``."""


def tensor(values: object) -> Tensor:
    """Numbers as a float64 tensor."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def generator(name: str, seed: int) -> Generator:
    """The random numbers of one model at one seed."""
    return np.random.default_rng([seed, *name.encode()])
