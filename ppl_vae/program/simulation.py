"""Data drawn from a model, with the latents that they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, write_back
from ppl_vae.program.handlers import OBSERVED, Unobserved
from ppl_vae.program.tracing import PLAIN, Run, run


def simulated(model: Callable[..., Any], x: Data) -> tuple[dict[str, Tensor], Data]:
    """Draw (z, x') jointly from a model run by plain Pyro: ``(1, N, *event)`` each latent site, and x' like ``x``.

    Observed values are found in ``x`` by where they lie in memory, so that a site may observe x, x["counts"] or a slice
    such as x[:, :3] alike. Each tensor is copied for that: entries of ``x`` may share their memory.

    Args:
        model: the model; draws come from torch's global generator as it stands.
        x: data that give N, the shapes, and any covariates.

    Raises:
        ProgramError: if a distribution cannot be drawn from, or an observed site's value is not found in ``x``.
    """
    entries = {"": x} if isinstance(x, Tensor) else x
    named = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in entries.items()}
    with torch.no_grad():
        found = run(model, named[""] if isinstance(x, Tensor) else named, 1, PLAIN, Unobserved())
    z, drawn = _taken_apart(found, named)
    return z, drawn[""] if isinstance(x, Tensor) else drawn


def _taken_apart(found: Run, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The latents of a `simulated` run, ``(1, N, *event)`` each, and the data with what it drew in the observed places.

    Args:
        found: the run.
        named: the data that it was given, by name.
    """
    drawn = {name: value.clone() for name, value in named.items()}
    z = {}
    for name, site in found.sites.items():
        if OBSERVED not in site["infer"]:
            z[name] = found.value(name)
        elif not write_back(site["infer"][OBSERVED], site["value"], named, drawn):
            if name not in named:
                raise ProgramError(
                    f"observed site {name!r}",
                    "obs= to be the data themselves, a slice of them, or an entry of the same name",
                    "a value computed from them",
                )
            drawn[name] = site["value"].to(drawn[name].dtype).reshape(drawn[name].shape)
    return z, drawn
