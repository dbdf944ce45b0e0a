"""Effect handlers for runs of a program; Pyro's own handlers differ from what is needed here."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from ppl_vae.program.data import Latents
from ppl_vae.program.sites import GIVEN, is_computed
from ppl_vae.program.tracing import Handler

OBSERVED = "_ppl_vae_observed"  # keeps what a site observed that is drawn instead


def is_latent(msg: Any) -> bool:
    """Whether a sample statement is that of a latent: no plate, not observed and not computed."""
    return not (
        msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample" or msg["infer"].get("_deterministic")
    )


class ScaledLatents(Messenger):
    """Multiplies the log density of each latent site by ``beta``, for KL warm-up. Training only."""

    def __init__(self, beta: float | torch.Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.beta


class Given(Handler):
    """Sets the values ``(S, N, *event)`` of latent sites; unlike `pyro.poutine.condition`, never of observed sites."""

    def __init__(self, z: Latents) -> None:
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.z and not msg["is_observed"]:
            msg["value"], msg["is_observed"] = self.lay(msg, self.z[msg["name"]]), True
            msg["infer"] = {**msg["infer"], GIVEN: True}


class Replayed(Handler):
    """Sets latent sites to the values ``(S, N, *event)`` of another run; they stay latent."""

    def __init__(self, z: Latents) -> None:
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.z and not msg["is_observed"]:
            msg["value"], msg["done"] = self.lay(msg, self.z[msg["name"]]), True


class Unobserved(Messenger):
    """Draws observed sites; unlike `pyro.poutine.uncondition`, does not change `pyro.deterministic` sites."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic") and not is_computed(msg):
            msg["infer"] = {**msg["infer"], OBSERVED: msg["value"]}
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
