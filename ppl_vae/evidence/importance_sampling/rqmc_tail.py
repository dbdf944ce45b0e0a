"""Tail of randomised quasi-Monte Carlo: the mass of p(x) in the region beyond the outermost of S Sobol points.

Independent draws also miss regions of probability below 1 / S, but their Monte Carlo noise is larger than the mass in
these regions. Evenly spread points have very little noise, so the missed mass is the main error.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.program import Data, Program, device_of, num_data
from ppl_vae.program.inverse_cdf import log_weights_at

DRAWS = 128
"""The number of draws for each datum."""

FEW = 3.0
"""The expected number of points below which a region may get none."""

_DECADES = 9.0  # decades of tail probability that are integrated


@torch.no_grad()
def excess_outside(
    program: Program, x: Data, dim: int, num_samples: int, log_evidence: Tensor, seed: int, index: int
) -> Tensor:
    """The mass that a guide lacks beyond a radius, as a share of p(x): ``(N,)`` float64, at least 0.

    The uniform numbers u of a draw correspond to normal scores y = Phi^-1(u), of which 3 in S have |y| > r. The mass is

        E[(w / p(x) - 1)^+; |y| > r] = int_0^(3/S) E[(w / p(x) - 1)^+ | P(|Y| > |y|) = t] dt,

    It is estimated from draws in random directions, with log t spread evenly over the nine decades below 3 / S. These
    draws show weights that grow as fast as the guide's density decreases, which S ordinary draws do not show. Weights
    there that are at most the average, such as those of an exact guide, add nothing.

    Args:
        program: a program whose guide can be inverted.
        x: the data.
        dim: D, the number of uniform numbers in a draw.
        num_samples: S.
        log_evidence: ``(N,)`` estimates of log p(x).
        seed: the user's seed.
        index: index of the block of data, which has its own random stream.
    """
    from scipy import special  # here, because its import takes as long as that of ppl_vae

    n, device = num_data(x), device_of(x)
    generator = rng.generator(seed, "outskirts", index)
    share = torch.rand(DRAWS, n, generator=generator, dtype=torch.float64)
    strata = (torch.arange(DRAWS, dtype=torch.float64).unsqueeze(-1) + share) / DRAWS
    t = min(FEW / num_samples, 1.0) * (-_DECADES * math.log(10) * strata).exp()
    radius = torch.from_numpy(np.sqrt(2 * special.gammainccinv(dim / 2, t.numpy())))
    direction = torch.randn(DRAWS, n, dim, generator=generator, dtype=torch.float64)
    y = direction / direction.norm(dim=-1, keepdim=True) * radius.unsqueeze(-1)
    u = torch.from_numpy(special.ndtr(y.numpy())).clamp(2.0**-60, 1 - 2.0**-53)  # 0 and 1 have no draw
    ratio = (log_weights_at(program, x, u.to(device)).cpu() - log_evidence).exp()
    excess = torch.where(ratio.isnan(), 0.0, (ratio - 1).clamp(min=0)) * t
    return excess.mean(0) * _DECADES * math.log(10)
