"""A small VAE whose products can be rounded, and every estimator on it."""

import ppl_vae as pv

S = 40
ESTIMATORS = {
    "importance": lambda program, x, **more: pv.evidence.importance(program, x, 200, **more),
    "sobol": lambda program, x, **more: pv.evidence.importance(
        program, x, 64, draws=pv.evidence.Sobol(4), **more
    ),
    "target": lambda program, x, **more: pv.evidence.importance(
        program, x, draws=pv.evidence.UntilStderr(0.2, 2048, pilot=64), **more
    ),
    "psis": lambda program, x, **more: pv.evidence.psis(program, x, 200, **more),
    "jackknife": lambda program, x, **more: pv.evidence.jackknife(program, x, 200, **more),
    "annealed": lambda program, x, **more: pv.evidence.annealed(program, x, 6, 5, prior_draws=64, **more),
    "smc": lambda program, x, **more: pv.evidence.smc(program, x, 16, 5, prior_draws=64, **more),
}


def vae(likelihood=None, posterior=pv.posteriors.MeanFieldNormal, hidden=(24, 16), dim=20, **parts):
    """A small VAE whose decoder has learned nothing, but varies with z; and data."""
    made = pv.VAE(
        pv.priors.StandardNormal(3),
        likelihood or pv.likelihoods.Bernoulli(dim),
        posterior(3),
        hidden=hidden,
        **parts,
    )
    return made, pv.sample(made, 5, seed=1)
