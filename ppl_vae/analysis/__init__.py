"""What a trained program tells about itself: where its ELBO loses, what its latents carry, if its guide is right."""

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
