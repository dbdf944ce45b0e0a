"""Edges: the share of draws that rounding has put onto an edge of their support."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.program.data import Data, device_of, num_data
from ppl_vae.program.masks import is_masked
from ppl_vae.program.program import Program
from ppl_vae.program.rounding import has_edges, on_edge
from ppl_vae.program.unconstrained import Coordinates

_BLURRED = 0.1  # nats by which a density may change on the way to unconstrained coordinates and back


@torch.no_grad()
def edge_share(
    program: Program, x: Data, num_samples: int, *, prior: bool = False, unconstrained: bool = False
) -> Tensor:
    """The share of draws that rounding has put onto an edge of their support, ``(N,)`` float64.

    A beta variable with a parameter of 0.05, for example, is usually closer to 0 than the smallest represented number,
    or closer to 1 than the largest number below it. Its computed density is then that of the rounded value.

    Args:
        program: the program.
        x: the data.
        num_samples: number of draws for each datum, from torch's global generator.
        prior: whether to check draws of the prior instead of the guide.
        unconstrained: whether to count also draws that change when they are mapped to unconstrained coordinates and
            back.
    """
    shape = (num_samples, num_data(x))
    found = torch.zeros(shape, dtype=torch.bool, device=device_of(x))
    with program.evaluating():
        run = program.run("model" if prior else "guide", x, num_samples)
    for name, site in run.sites.items():
        if not site["is_observed"] and has_edges(site["fn"]) and not is_masked(site):
            found |= run.any_number(name, on_edge(site["fn"], site["value"]))
    if unconstrained:
        found |= _blurred(program, x, run.latents())
    return found.double().mean(0)


def _blurred(program: Program, x: Data, z: dict[str, Tensor]) -> Tensor:
    """Whether the guide's density at draws changes by the map to unconstrained coordinates and back, ``(S, N)``."""
    coordinates = Coordinates(program, x)
    u = coordinates._vector(z)
    inside = u.isfinite().all(
        -1
    )  # what is not is outside the model's support, and has no density under the model
    back = coordinates.densities(torch.where(inside.unsqueeze(-1), u, 0.0)).z
    change = (program.log_guide(back, x) - program.log_guide(z, x)).abs()
    return inside & ~(change <= _BLURRED)
