"""The Student-t prior: heavy tails."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import check_positive_float
from ppl_vae.priors.fixed import FixedPrior


class StudentT(FixedPrior):
    """p(z) = prod_d t_df(z_d): independent, with tails that decrease as |z_d|^-(df + 1).

    log p(z) in nats. A Gaussian q(z|x) has lighter tails than this prior. If the data contain little information on z,
    the importance weights of such a guide have a heavy tail, which k-hat and the verdict show.

    Args:
        dim: the number of latent dimensions.
        df: the degrees of freedom.
    """

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__(dim)
        self.df = check_positive_float("df", df)

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``."""
        df = torch.full_like(self.zeros, self.df)
        p: TorchDistribution = dist.StudentT(df, self.zeros, torch.ones_like(self.zeros)).to_event(1)
        return p
