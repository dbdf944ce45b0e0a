"""Moments of a guide in unconstrained coordinates: its mean and covariance, if its distribution has known ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.program.data import Data, device_of
from ppl_vae.program.densities import model_run
from ppl_vae.program.masks import is_masked
from ppl_vae.program.program import Program
from ppl_vae.program.supports import core as core_of
from ppl_vae.program.supports import is_real, support_of
from ppl_vae.program.tracing import PLAIN, run


class Moments(NamedTuple):
    """Means and spreads of N distributions over D numbers, float64.

    Attributes:
        mean: ``(N, D)``.
        factor: the Cholesky factor of the covariance ``(N, D, D)``, or standard deviations ``(N, D)``.
    """

    mean: Tensor
    factor: Tensor


def is_unconstrained(program: Program, x: Data) -> bool:
    """Whether unconstrained coordinates are z itself: all latents have real support, and none is masked."""
    with torch.no_grad(), rng.seeded(device_of(x), 0, "moments"), program.evaluating():
        sites = model_run(program, x).sites
    latent = [site for site in sites.values() if not site["is_observed"]]
    return all(is_real(support_of(site["fn"])) and not is_masked(site) for site in latent)


def guide_moments(program: Program, x: Data) -> Moments | None:
    """The moments of q(z|x) if they are known: for a single site with real support in guide and model.

    The covariance is exact if the distribution has a ``scale_tril`` or independent components. For any other, such as a
    flow, the result is None.
    """
    if not is_unconstrained(program, x):
        return None
    with torch.no_grad(), rng.seeded(device_of(x), 0, "moments"), program.evaluating():
        sites = list(run(program.callable("guide"), x, 1, PLAIN).sites.values())
        if len(sites) != 1 or not is_real(support_of(sites[0]["fn"])):
            return None
        fn = sites[0]["fn"]
        core = core_of(fn)
        try:
            if len(fn.batch_shape) > 1:
                return None  # there is another plate than the data plate
            mean = fn.mean.double().flatten(1) if fn.event_shape else fn.mean.double().unsqueeze(-1)
            if core.event_shape:
                if core.event_shape != fn.event_shape or len(core.event_shape) > 1:
                    return None
                factor = core.scale_tril.double().expand(*fn.batch_shape, -1, -1)
            else:
                factor = fn.stddev.double().reshape(mean.shape)
        except (AttributeError, NotImplementedError):
            return None
    if not bool(mean.isfinite().all() and factor.isfinite().all()):
        return None
    return Moments(mean, factor)
