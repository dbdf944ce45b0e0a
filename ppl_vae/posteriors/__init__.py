"""Posterior families q(z|x): modules that turn an encoder's output into a Pyro distribution."""

from ppl_vae.posteriors.base import Posterior
from ppl_vae.posteriors.flow import Flow
from ppl_vae.posteriors.low_rank_normal import LowRankNormal
from ppl_vae.posteriors.mean_field_normal import MeanFieldNormal
from ppl_vae.posteriors.mixture_of_normals import MixtureOfNormals
from ppl_vae.posteriors.multivariate_normal import MultivariateNormal
from ppl_vae.posteriors.power_spherical import PowerSpherical

__all__ = [
    "Flow",
    "LowRankNormal",
    "MeanFieldNormal",
    "MixtureOfNormals",
    "MultivariateNormal",
    "Posterior",
    "PowerSpherical",
]
