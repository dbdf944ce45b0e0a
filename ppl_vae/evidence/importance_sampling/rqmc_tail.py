"""Tail of randomised quasi-Monte Carlo: mass of p(x) beyond the outermost of S even points.

Independent draws miss a region of probability 1 / S as often as they hit it, but their own noise hides what it holds.
Points that are spread evenly have next to no noise, so there it is the error.
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
"""Draws a datum."""

FEW = 3.0
"""The points that a region is to get if they are to tell what it holds: with fewer expected, it may get none."""

_DECADES = 9.0  # how much rarer the regions are that are looked at


@torch.no_grad()
def excess_outside(
    program: Program, x: Data, dim: int, num_samples: int, log_evidence: Tensor, seed: int, index: int
) -> Tensor:
    """What a guide is short of beyond a radius, as a share of p(x): ``(N,)`` float64, at least 0.

    The uniform numbers u that a draw stands for are normal scores y = Phi^-1(u), of which 3 in S have |y| > r. There

        E[(w / p(x) - 1)^+; |y| > r] = int_0^(3/S) E[(w / p(x) - 1)^+ | P(|Y| > |y|) = t] dt,

    by draws in random directions with log t spread evenly over the nine decades below 3 / S: a weight that grows as
    fast as the guide falls is seen there, when among S draws it is not. Weights that are no larger there than on
    average, such as those of an exact guide, are no loss.

    Args:
        program: a program whose guide can be inverted.
        x: the data.
        dim: D, uniform numbers a draw.
        num_samples: S.
        log_evidence: ``(N,)`` estimates of log p(x).
        seed: the user's.
        index: of the block of data; it has a stream of its own.
    """
    from scipy import special  # here, since it takes as long as all of ppl_vae to import

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
