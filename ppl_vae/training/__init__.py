"""fit: stochastic variational inference over epochs of data, with checkpoints that resume to the same bits."""

from ppl_vae.training.loop import HasProgram, elbo, fit
from ppl_vae.training.optimiser import OptimiserFactory, SharedOptim, adam
from ppl_vae.training.options import Transform

__all__ = ["HasProgram", "OptimiserFactory", "SharedOptim", "Transform", "adam", "elbo", "fit"]
