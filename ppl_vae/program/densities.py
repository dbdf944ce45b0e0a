"""Densities: the two factors of a program's density, the prior of the latents and the likelihood of the data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ppl_vae.program.data import Data, Latents
from ppl_vae.program.draws import NoSamplerError
from ppl_vae.program.handlers import Given, Replayed
from ppl_vae.program.program import Program
from ppl_vae.program.tracing import Run, zeros


class Terms(NamedTuple):
    """Log densities ``(S, N)``, float64, in nats; their sum is `Program.log_joint`.

    Attributes:
        log_prior: log p(z), over all latent sites.
        log_likelihood: log p(x|z), over all observed sites.
    """

    log_prior: Tensor
    log_likelihood: Tensor


def model_run(program: Program, x: Data) -> Run:
    """A run of the model at some values of its latents, to see its sites; inside `Program.evaluating` only.

    The values are drawn from the prior, or from the guide if the prior has no sampler, by torch's global generator.
    """
    try:
        return program.run("model", x, 1)
    except NoSamplerError:
        return program.run("model", x, 1, Replayed(program.run("guide", x, 1).latents()))


def prior_log_likelihood(program: Program, x: Data, num_samples: int) -> Tensor:
    """log p(x|z) for z ~ p(z), ``(S, N)`` float64 nats, drawn from torch's global generator.

    The mean of its exponential is unbiased for p(x).
    """
    with program.evaluating():
        found = program.run("model", x, num_samples)
        total = zeros(num_samples, x)
        for name, site in found.sites.items():
            if site["is_observed"]:
                total = total + found.log_prob(name, {})
    return total


def log_terms(program: Program, z: Latents, x: Data) -> Terms:
    """log p(z) and log p(x|z) for each datum separately, in one run of the model; differentiable in ``z``.

    Args:
        program: the program.
        z: a value ``(S, N, *event)`` for each latent site of the model.
        x: the data.
    """
    num_samples = next(iter(z.values())).shape[0]
    with program.evaluating():
        found = program.run("model", x, num_samples, Given(z))
        return Terms(*found.factors(zeros(num_samples, x), outside=True))
