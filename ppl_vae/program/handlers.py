"""Effect handlers that a program runs under, where Pyro's own do something else than is needed."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from ppl_vae.program.data import Latents
from ppl_vae.program.sites import GIVEN, is_computed
from ppl_vae.program.tracing import Handler

OBSERVED = "_ppl_vae_observed"  # keeps what a site observed that is drawn instead


def is_latent(msg: Any) -> bool:
    """Whether a sample statement that is being handled is that of a latent: no plate, nothing observed or computed."""
    return not (
        msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample" or msg["infer"].get("_deterministic")
    )


class ScaledLatents(Messenger):
    """Multiplies the log density of every latent site by ``beta``, for KL warm-up. Training only."""

    def __init__(self, beta: float | torch.Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.beta


class Given(Handler):
    """Gives latent sites their values ``(S, N, *event)``; unlike `pyro.poutine.condition`, none that is observed."""

    def __init__(self, z: Latents) -> None:
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.z and not msg["is_observed"]:
            msg["value"], msg["is_observed"] = self.lay(msg, self.z[msg["name"]]), True
            msg["infer"] = {**msg["infer"], GIVEN: True}


class Replayed(Handler):
    """Gives latent sites the values ``(S, N, *event)`` that another run drew; they stay latent."""

    def __init__(self, z: Latents) -> None:
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.z and not msg["is_observed"]:
            msg["value"], msg["done"] = self.lay(msg, self.z[msg["name"]]), True


class Unobserved(Messenger):
    """Draws what is observed; unlike `pyro.poutine.uncondition`, leaves `pyro.deterministic` as it is."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic") and not is_computed(msg):
            msg["infer"] = {**msg["infer"], OBSERVED: msg["value"]}
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
