"""Analysis of a trained program: the gap to the ELBO, the information in the latents, the calibration of the guide."""

from ppl_vae.analysis.active_units import ActiveUnits, active_units
from ppl_vae.analysis.calibration import Calibration, calibration
from ppl_vae.analysis.gaps import Gaps, gaps
from ppl_vae.analysis.surgery import Surgery, surgery
from ppl_vae.evidence import Refit, refit

__all__ = [
    "ActiveUnits",
    "Calibration",
    "Gaps",
    "Refit",
    "Surgery",
    "active_units",
    "calibration",
    "gaps",
    "refit",
    "surgery",
]
