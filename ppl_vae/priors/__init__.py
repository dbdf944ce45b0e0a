"""Priors p(z): modules that are called without arguments and return a Pyro distribution over the latent vector."""

from ppl_vae.priors.base import Prior
from ppl_vae.priors.conditional_normal import ConditionalNormal
from ppl_vae.priors.flow import Flow
from ppl_vae.priors.laplace import Laplace
from ppl_vae.priors.mixture_of_gaussians import MixtureOfGaussians
from ppl_vae.priors.normal import Normal
from ppl_vae.priors.power_spherical import PowerSpherical
from ppl_vae.priors.standard_normal import StandardNormal
from ppl_vae.priors.student_t import StudentT
from ppl_vae.priors.vamp import VampPrior

__all__ = [
    "ConditionalNormal",
    "Flow",
    "Laplace",
    "MixtureOfGaussians",
    "Normal",
    "PowerSpherical",
    "Prior",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]
