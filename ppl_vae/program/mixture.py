"""Mixture of given draws and draws of the prior, with the two factors of the model's density, in one run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.program.data import Data, Latents
from ppl_vae.program.draws import draw
from ppl_vae.program.program import Program
from ppl_vae.program.sites import GIVEN
from ppl_vae.program.tracing import Handler, zeros


class Mixed(NamedTuple):
    """Latents with their densities under the model, ``(S, N)`` float64 in nats.

    Attributes:
        z: the latents, ``(S, N, *event)`` each.
        log_prior: log p(z).
        log_likelihood: log p(x|z).
    """

    z: dict[str, Tensor]
    log_prior: Tensor
    log_likelihood: Tensor


def mix_prior(program: Program, x: Data, z: Latents, from_prior: Tensor) -> Mixed:
    """Replace the latents of some draws by draws from the prior.

    Args:
        program: the program.
        x: the data.
        z: draws ``(S, N, *event)`` for each latent site.
        from_prior: ``(S, N)`` bool: the draws whose latents all come from p(z), drawn by torch's global generator. They
            are mixed inside of the run, so that the prior of a latent that depends on another one uses the value of the
            same draw.
    """
    with program.evaluating():
        num_samples = from_prior.shape[0]
        found = program.run("model", x, num_samples, _Mixing(z, from_prior))
        log_prior, log_likelihood = found.factors(zeros(num_samples, x), outside=True)
    mixed = {name: found.value(name) for name in found.sites if name in z}
    return Mixed(mixed, log_prior, log_likelihood)


class _Mixing(Handler):
    """Sets the values of latent sites, or draws them from the prior."""

    def __init__(self, z: Latents, from_prior: Tensor) -> None:
        super().__init__()
        self.z, self.from_prior = z, from_prior

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.z:
            return
        given, drawn = self.z[msg["name"]], draw(msg)
        mask = self.from_prior.reshape(*self.from_prior.shape, *(1,) * (given.ndim - 2)).expand(given.shape)
        msg["value"], msg["is_observed"] = torch.where(self.lay(msg, mask), drawn, self.lay(msg, given)), True
        msg["infer"] = {**msg["infer"], GIVEN: True}
