"""Discrete latents that the model marks for enumeration and that are not in the guide, as for Pyro's TraceEnum_ELBO.

TraceEnum_ELBO sums over such a latent k. Estimators need no sum: a guide that draws the other latents, and then k from
the model's own p(k | ...), gives weights p(x, z, k) / (q(z|x) p(k | ...)), whose mean is p(x), too.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae import rng
from ppl_vae.program.data import Data, device_of
from ppl_vae.program.handlers import is_latent
from ppl_vae.program.plain import is_common
from ppl_vae.program.program import Program
from ppl_vae.program.sites import sample_sites, support_is_discrete


def with_enumerated(program: Program, x: Data) -> Program | None:
    """A program whose guide also draws the latents that the model marks for enumeration; None if there are none.

    Args:
        program: the program.
        x: some of its data.
    """
    try:
        with torch.no_grad(), rng.seeded(device_of(x), 0, "enumerated"), program.evaluating():
            guide = poutine.trace(program.callable("guide")).get_trace(x)
            model = poutine.trace(program.callable("model")).get_trace(x)
    except Exception as error:
        if not is_common(error):
            raise
        return None  # it cannot be run; the error of `Program.check` is clearer
    drawn = sample_sites(guide)
    names = {
        name
        for name, site in sample_sites(model).items()
        if not site["is_observed"]
        and name not in drawn
        and site["infer"].get("enumerate")
        and support_is_discrete(site)
    }
    if not names:
        return None

    def others(msg: Any) -> bool:
        return msg["type"] == "sample" and msg["name"] not in names

    def extended(x: Data) -> None:
        with _Kept() as kept:
            program.callable("guide")(x)
        with (
            poutine.block(hide_fn=others),
            _Again(kept.values),
        ):
            program.callable("model")(x)

    return program.derived(program.callable("model"), extended, program.check_data)


class _Kept(Messenger):
    """Keeps the values of latents, in the layout of the run."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ != "_Subsample":
            self.values[msg["name"]] = msg["value"]


class _Again(Messenger):
    """Sets latents to these values; unlike Pyro's replay, also if they were given in the run that they come from."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if is_latent(msg) and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
