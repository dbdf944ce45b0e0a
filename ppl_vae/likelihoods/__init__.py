"""Likelihoods p(x|z): modules that turn a decoder's output into a normalised Pyro distribution."""

from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.bernoulli import Bernoulli
from ppl_vae.likelihoods.beta import Beta
from ppl_vae.likelihoods.beta_binomial import BetaBinomial
from ppl_vae.likelihoods.binomial import Binomial
from ppl_vae.likelihoods.categorical import Categorical
from ppl_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.likelihoods.discretised_logistic import DiscretisedLogistic
from ppl_vae.likelihoods.discretised_logistic_mixture import DiscretisedLogisticMixture
from ppl_vae.likelihoods.gaussian import Gaussian
from ppl_vae.likelihoods.laplace import Laplace
from ppl_vae.likelihoods.log_normal import LogNormal
from ppl_vae.likelihoods.negative_binomial import NegativeBinomial
from ppl_vae.likelihoods.ordinal import Ordinal
from ppl_vae.likelihoods.poisson import Poisson
from ppl_vae.likelihoods.student_t import StudentT
from ppl_vae.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "DiscretisedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
