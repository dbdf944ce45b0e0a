"""fit: stochastic variational inference over epochs of data, with checkpoints that resume to the same bits."""

from ppl_vae.training.loop import HasProgram, Transform, elbo, fit
from ppl_vae.training.optimiser import OptimiserFactory, SharedOptim, adam

__all__ = ["HasProgram", "OptimiserFactory", "SharedOptim", "Transform", "adam", "elbo", "fit"]
