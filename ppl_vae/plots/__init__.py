"""Figures of results: one function for each figure. It takes results and returns a `matplotlib.figure.Figure`.

No function here trains or estimates, opens a window, or changes matplotlib's global state; `save` writes a file.
"""

from ppl_vae.plots.calibration import calibration_ranks
from ppl_vae.plots.cost import error_against_cost
from ppl_vae.plots.evidence import evidence_curve, gap_and_khat
from ppl_vae.plots.gaps import gap_decomposition
from ppl_vae.plots.images import image_grid, interpolation, prior_samples, reconstructions
from ppl_vae.plots.ladder import Rung, evidence_ladder, ladder_rows
from ppl_vae.plots.latent import Plane, latent_plane, latent_points, principal_plane
from ppl_vae.plots.sandwich import sandwich_curve
from ppl_vae.plots.saving import save
from ppl_vae.plots.training import training_curve

__all__ = [
    "Plane",
    "Rung",
    "calibration_ranks",
    "error_against_cost",
    "evidence_curve",
    "evidence_ladder",
    "gap_and_khat",
    "gap_decomposition",
    "image_grid",
    "interpolation",
    "ladder_rows",
    "latent_plane",
    "latent_points",
    "principal_plane",
    "prior_samples",
    "reconstructions",
    "sandwich_curve",
    "save",
    "training_curve",
]
