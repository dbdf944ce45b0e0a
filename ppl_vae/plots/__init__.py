"""Figures of results: one function a figure. Each takes results and returns a `matplotlib.figure.Figure`.

Nothing here trains or estimates, opens a window, or touches matplotlib's global state; `save` writes a file.
"""

from ppl_vae.plots.evidence import evidence_curve, gap_and_khat
from ppl_vae.plots.images import image_grid, interpolation, prior_samples, reconstructions
from ppl_vae.plots.latent import latent_plane, latent_points
from ppl_vae.plots.saving import save
from ppl_vae.plots.training import training_curve

__all__ = [
    "evidence_curve",
    "gap_and_khat",
    "image_grid",
    "interpolation",
    "latent_plane",
    "latent_points",
    "prior_samples",
    "reconstructions",
    "save",
    "training_curve",
]
