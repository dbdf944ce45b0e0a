"""Rounded draws: the share of draws that rounding has put onto the edge of their support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import NonFiniteError
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.program import Data, Program, Sites, device_of, num_data
from ppl_vae.program.edges import edge_share

DRAWS = 256
"""The number of draws of a datum that are checked."""

_NUMBERS = 2**20  # numbers in one pass
_PLAIN = ("Guide", "Defensive")  # proposals whose draws are never mapped to unconstrained coordinates


@contextmanager
def naming_edges(sites: Sites) -> Iterator[None]:
    """Add the names of latents with edges to a `NonFiniteError`: rounding onto an edge is its most frequent cause."""
    try:
        yield
    except NonFiniteError as error:
        edged = [f"{name!r} ({site.distribution})" for name, site in sites.latent.items() if site.edged]
        if not edged:
            raise
        cause = "rounding may have put it onto an edge of its support: use float64, or another family"
        raise NonFiniteError(f"{error}; latent site {', '.join(edged)}: {cause}") from error


def count_edges(
    figures: Figures,
    program: Program,
    x: Data,
    sites: Sites,
    identity: Mapping[str, Any],
    seed: int,
    index: int,
) -> Figures:
    """Figures with ``on_edge`` filled in: the share of draws that rounding has put onto an edge of their support.

    New draws are checked, from the distribution that the estimator draws from. Without edges, nothing is drawn.

    Args:
        figures: the figures of a block.
        program: the program.
        x: the data of the block.
        sites: the program's sites.
        identity: the estimator's settings: "start" of chains, and "proposal".
        seed: the user's seed.
        index: index of the block, which has its own random stream.
    """
    if identity.get("computed"):
        return figures
    proposal = str(identity.get("proposal", "Guide()")).partition("(")[0]
    chains = "start" in identity
    prior = identity.get("start") == "prior"
    unconstrained = (chains and not prior) or proposal not in _PLAIN
    stream = (seed, "draws on an edge", index)
    share, draws = share_on_edge(program, x, sites, stream, prior=prior, unconstrained=unconstrained)
    cost = 2.0 * draws if unconstrained else 1.0 * draws if prior else 0.0
    return figures.replace(on_edge=share, density_evals=figures.density_evals + cost)


def share_on_edge(
    program: Program,
    x: Data,
    sites: Sites,
    stream: tuple[int, str, int],
    *,
    prior: bool = False,
    unconstrained: bool = False,
) -> tuple[Tensor, int]:
    """The share of draws that rounding puts onto an edge, ``(N,)`` on the CPU, and the number of draws.

    Args:
        program: the program.
        x: the data.
        sites: the program's sites; if none has an edge, nothing is drawn.
        stream: the random stream: the user's seed, a purpose and an index.
        prior: as in `ppl_vae.program.edges.edge_share`.
        unconstrained: likewise.
    """
    n = num_data(x)
    if not any(site.edged for site in sites.latent.values()):
        return torch.zeros(n, dtype=torch.float64), 0
    draws = max(16, min(DRAWS, _NUMBERS // (n * max(sites.numbers_per_datum, 1))))
    rng.reseed(device_of(x), *stream)
    return edge_share(program, x, draws, prior=prior, unconstrained=unconstrained).cpu(), draws
