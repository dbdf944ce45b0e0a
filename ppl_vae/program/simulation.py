"""Simulation: data and latents drawn jointly from a model."""

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

    Observed values are found in ``x`` by their place in memory, so a site may observe x, x["counts"] or a slice such as
    x[:, :3]. For this, each tensor is copied first, since entries of ``x`` may share memory.

    Args:
        model: the model; draws come from torch's global generator.
        x: data that determine N, the shapes, and any covariates.

    Raises:
        ProgramError: if a distribution has no sampler, or an observed site's value is not found in ``x``.
    """
    entries = {"": x} if isinstance(x, Tensor) else x
    named = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in entries.items()}
    with torch.no_grad():
        found = run(model, named[""] if isinstance(x, Tensor) else named, 1, PLAIN, Unobserved())
    z, drawn = _taken_apart(found, named)
    return z, drawn[""] if isinstance(x, Tensor) else drawn


def _taken_apart(found: Run, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The latents of a `simulated` run, ``(1, N, *event)`` each, and the data with its draws as observed values.

    Args:
        found: the run.
        named: the data of the run, by name.
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
