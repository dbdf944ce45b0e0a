"""Estimators of log p(x): each takes a Program and data and returns an `Evidence` (or a `Sandwich` of two).

There are five packages; each imports only packages below it in this list:

* `annealing`: Markov chains from the guide or the prior to the posterior: AIS, SMC, lower and upper bounds;
* `importance_sampling`: independent draws, proposals, refitted guides, the error of lower precision;
* `exact`: closed form, enumeration and quadrature, without random draws;
* `running`: the loop over blocks of data, run options, checkpoints, and checks for missed mass;
* `results`: the results of estimators: numbers with errors, k-hat, verdicts, the table.
"""

from ppl_vae.evidence.annealing.ais import annealed
from ppl_vae.evidence.annealing.bdmc import sandwich
from ppl_vae.evidence.annealing.kernels import HMC, Chains, Moved, RandomWalk, Transition, langevin
from ppl_vae.evidence.annealing.resampling import Resampler, Systematic
from ppl_vae.evidence.annealing.schedules import Linear, Pilot, Schedule, Sigmoid
from ppl_vae.evidence.annealing.smc import smc
from ppl_vae.evidence.exact.enumeration import enumerate_latents
from ppl_vae.evidence.exact.linear_gaussian import (
    best_mean_field_elbo,
    linear_gaussian,
    linear_gaussian_posterior,
)
from ppl_vae.evidence.exact.quadrature import quadrature
from ppl_vae.evidence.importance_sampling.conditional import Conditional, conditional
from ppl_vae.evidence.importance_sampling.draws import IID, Sobol, UntilStderr
from ppl_vae.evidence.importance_sampling.importance import importance
from ppl_vae.evidence.importance_sampling.jackknife import jackknife
from ppl_vae.evidence.importance_sampling.precision_error import PrecisionError, precision_error
from ppl_vae.evidence.importance_sampling.proposals import Defensive, Guide, Refitted, StudentT, Widened
from ppl_vae.evidence.importance_sampling.psis import psis
from ppl_vae.evidence.importance_sampling.refit import Refit, refit
from ppl_vae.evidence.results.evidence import Evidence, Mean, concatenate
from ppl_vae.evidence.results.parts import Curve
from ppl_vae.evidence.results.sandwich import Sandwich
from ppl_vae.evidence.running.options import RunOptions
from ppl_vae.evidence.running.proposal import Proposal, ProposalOnData

__all__ = [
    "HMC",
    "IID",
    "Chains",
    "Conditional",
    "Curve",
    "Defensive",
    "Evidence",
    "Guide",
    "Linear",
    "Mean",
    "Moved",
    "Pilot",
    "PrecisionError",
    "Proposal",
    "ProposalOnData",
    "RandomWalk",
    "Refit",
    "Refitted",
    "Resampler",
    "RunOptions",
    "Sandwich",
    "Schedule",
    "Sigmoid",
    "Sobol",
    "StudentT",
    "Systematic",
    "Transition",
    "UntilStderr",
    "Widened",
    "annealed",
    "best_mean_field_elbo",
    "concatenate",
    "conditional",
    "enumerate_latents",
    "importance",
    "jackknife",
    "langevin",
    "linear_gaussian",
    "linear_gaussian_posterior",
    "precision_error",
    "psis",
    "quadrature",
    "refit",
    "sandwich",
    "smc",
]
