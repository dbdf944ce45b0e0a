"""Estimators of log p(x): each takes a Program and data and returns an `Evidence` (or a `Sandwich` of two).

The result is in `result`, `status`, `table` and `bounds`; what all estimators share, in `engine` and `weights`. Then

* independent samples: `importance`, with `tiles`, `proposals`, `quasi`, `budget`; `jackknife`; `psis` and `smoothed`;
* chains: `annealed`, `smc` and `sandwich`, on `bridge`, `hmc`, `tempering` and `tuning`; `multisample`;
* nothing drawn: `exact`, `enumeration`, and `quadrature` with `cubature` and `cells`;
* a better guide: `refit`; what lower precision costs: `precision`.
"""

from ppl_vae.evidence.annealed import annealed
from ppl_vae.evidence.bounds import Sandwich
from ppl_vae.evidence.enumeration import enumerate_latents
from ppl_vae.evidence.exact import best_mean_field_elbo, linear_gaussian, linear_gaussian_posterior
from ppl_vae.evidence.hmc import HMC, RandomWalk, Transition, langevin
from ppl_vae.evidence.importance import importance
from ppl_vae.evidence.jackknife import jackknife
from ppl_vae.evidence.precision import PrecisionError, precision_error
from ppl_vae.evidence.proposals import Defensive, Guide, Refitted, StudentT, Widened
from ppl_vae.evidence.quadrature import quadrature
from ppl_vae.evidence.refit import Refit, refit
from ppl_vae.evidence.result import Curve, Evidence, Mean, concatenate
from ppl_vae.evidence.sandwich import sandwich
from ppl_vae.evidence.smc import smc
from ppl_vae.evidence.smoothed import psis

__all__ = [
    "HMC",
    "Curve",
    "Defensive",
    "Evidence",
    "Guide",
    "Mean",
    "PrecisionError",
    "RandomWalk",
    "Refit",
    "Refitted",
    "Sandwich",
    "StudentT",
    "Transition",
    "Widened",
    "annealed",
    "best_mean_field_elbo",
    "concatenate",
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
