"""Estimators of `validate`, at sizes that a laptop runs in seconds."""

from __future__ import annotations

from collections.abc import Callable

from ppl_vae.evidence import (
    Defensive,
    Evidence,
    Refitted,
    Sobol,
    StudentT,
    UntilStderr,
    Widened,
    annealed,
    enumerate_latents,
    importance,
    jackknife,
    psis,
    quadrature,
    smc,
)
from ppl_vae.evidence.running.prior_check import DRAWS
from ppl_vae.program import Data, Program

Estimator = Callable[[Program, Data, int], Evidence]
"""``(program, x, seed) -> Evidence``."""

ESTIMATORS: dict[str, Estimator] = {
    "importance-64": lambda program, x, seed: importance(program, x, 64, seed=seed, progress=False),
    "importance-1000": lambda program, x, seed: importance(program, x, 1000, seed=seed, progress=False),
    "psis-1000": lambda program, x, seed: psis(program, x, 1000, seed=seed, progress=False),
    "jackknife-64": lambda program, x, seed: jackknife(program, x, 64, seed=seed, progress=False),
    "jackknife2-64": lambda program, x, seed: jackknife(program, x, 64, order=2, seed=seed, progress=False),
    "importance-to-0.03": lambda program, x, seed: importance(
        program, x, draws=UntilStderr(0.03), seed=seed, progress=False
    ),
    "sobol-1024": lambda program, x, seed: importance(
        program, x, 1024, draws=Sobol(), seed=seed, progress=False
    ),
    "defensive-1000": lambda program, x, seed: importance(
        program, x, 1000, proposal=Defensive(), seed=seed, progress=False
    ),
    "widened-1000": lambda program, x, seed: importance(
        program, x, 1000, proposal=Widened(), seed=seed, progress=False
    ),
    "student-t-1000": lambda program, x, seed: importance(
        program, x, 1000, proposal=StudentT(), seed=seed, progress=False
    ),
    "refitted-1000": lambda program, x, seed: importance(
        program, x, 1000, proposal=Refitted(), prior_draws=DRAWS, seed=seed, progress=False
    ),
    "annealed-16x100": lambda program, x, seed: annealed(program, x, 16, 100, seed=seed, progress=False),
    "annealed-prior-16x100": lambda program, x, seed: annealed(
        program, x, 16, 100, start="prior", seed=seed, progress=False
    ),
    "smc-64x50": lambda program, x, seed: smc(program, x, 64, 50, seed=seed, progress=False),
    "quadrature": lambda program, x, seed: quadrature(program, x, seed=seed, progress=False),
    "enumeration": lambda program, x, _seed: enumerate_latents(program, x, progress=False),
}
"""The estimators by name. You can pass your own dict to `validate`, with or without these."""
