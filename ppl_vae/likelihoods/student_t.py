"""Real-valued data with outliers."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import InputError, check_positive_float
from ppl_vae.likelihoods.location_scale import LocationScale, Scale


class StudentT(LocationScale):
    """p(x|z) = prod_i t_df((x_i - loc_i) / scale_i) / scale_i, for real x: tails that fall as |x|^-(df + 1).

    log p(x|z) in nats, as a density per unit of x, with the density of Student's t distribution of df degrees of
    freedom. An outlier costs log |x| there, in place of x² under `Gaussian`.

    Args:
        shape: the shape of one datum: an int, or a sequence such as ``(1, 28, 28)``.
        df: the degrees of freedom, above 1, so that the mean exists.
        scale: a number, ``"learned"`` or ``"decoder"`` (see `LocationScale`).
        min_scale: the smallest that ``"decoder"`` can give, part of the model (see `LocationScale`).
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        df: float = 4.0,
        scale: Scale = 1.0,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(shape, scale, min_scale)
        self.df = check_positive_float("df", df)
        if not self.df > 1:
            raise InputError("df", "a number above 1", df)

    def distribution(self, loc: torch.Tensor, scale: torch.Tensor) -> TorchDistribution:
        """Student's t distribution, moved by ``loc`` and stretched by ``scale``."""
        return dist.StudentT(torch.full_like(loc, self.df), loc, scale)
