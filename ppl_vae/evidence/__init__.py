"""Estimators of log p(x): each takes a Program and data and returns an `Evidence`."""

from ppl_vae.evidence.annealed import annealed
from ppl_vae.evidence.bounds import Sandwich
from ppl_vae.evidence.hmc import HMC, RandomWalk, Transition, langevin
from ppl_vae.evidence.importance import importance
from ppl_vae.evidence.jackknife import jackknife
from ppl_vae.evidence.proposals import Defensive, Guide, Refitted, StudentT, Widened
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
    "RandomWalk",
    "Refitted",
    "Sandwich",
    "StudentT",
    "Transition",
    "Widened",
    "annealed",
    "concatenate",
    "importance",
    "jackknife",
    "langevin",
    "psis",
    "sandwich",
    "smc",
]
