"""Likelihoods p(x|z): modules that turn a decoder's output into a normalised Pyro distribution."""

from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.bernoulli import Bernoulli
from ppl_vae.likelihoods.binomial import Binomial
from ppl_vae.likelihoods.gaussian import Gaussian
from ppl_vae.likelihoods.poisson import Poisson

__all__ = ["Bernoulli", "Binomial", "Gaussian", "Likelihood", "Poisson"]
