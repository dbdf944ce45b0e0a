"""Training objectives: each is a `pyro.infer.ELBO` for plain `SVI`, for `ppl_vae.fit` and for the command line.

They take any model and guide with a data plate, and are right for each datum: importance weights are those of a datum,
not of the batch, and the scale of a subsampled plate stands outside of the logarithm. Pyro's own objectives
(`Trace_ELBO`, `TraceMeanField_ELBO`, ...) may be used beside them.
"""

from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.beta import BetaELBO, FreeBits
from ppl_vae.objectives.dreg import DReG
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.thermodynamic import Thermodynamic
from ppl_vae.objectives.vimco import VIMCO
from ppl_vae.objectives.wake_wake import WakeWake

__all__ = ["IWAE", "VIMCO", "BetaELBO", "DReG", "FreeBits", "Objective", "Thermodynamic", "WakeWake"]

NAMES = tuple(name for name in __all__ if name != "Objective")
"""The objectives by name."""
