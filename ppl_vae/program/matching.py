"""Matching of supports: whether the guide has a positive density wherever the model has one.

A guide that misses a part of the posterior gives an estimate that is too low, and the weights do not show it. Declared
supports are compared number by number and datum by datum. In addition, a draw of the prior with zero density under the
guide and positive density under the model proves that a part is missed, for any declared support.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, device_of, num_data
from ppl_vae.program.draws import NoSamplerError
from ppl_vae.program.handlers import Given
from ppl_vae.program.masks import counted, expanded, is_masked
from ppl_vae.program.pair import RunnablePair
from ppl_vae.program.regions import describe_support, uncovered
from ppl_vae.program.rounding import has_edges, impossible, on_edge
from ppl_vae.program.sites import family, is_delta
from ppl_vae.program.supports import is_real, support_of
from ppl_vae.program.tracing import Run

_PAIRS, _FEW_PAIRS = (
    1024,
    128,
)  # draws times data of one check; the second if all supports are the real numbers
_FEWEST, _MOST = 2, 256  # draws for each datum
_SEEN = (
    8  # draws in a part that a guide leaves out, all without likelihood, from which on it may leave it out
)
_CHANGED = 1e-4  # share of a log density by which it may differ from itself through rounding


def check_covers(
    program: RunnablePair,
    x: Data,
    guide: Mapping[str, Any],
    model: Mapping[str, Any],
    offset: int,
    *,
    seen: bool = False,
) -> None:
    """Refuse, by name, a guide that has zero density in a part of the model's support.

    A site is refused if a part is missing by the declared supports, unless there are draws of the prior in this part
    and the likelihood is zero for all of them. It is also refused if a draw of the prior has positive density under the
    model and zero density under the guide. Draws on an edge of the support are not used, since rounding may have put
    them there.

    Args:
        program: the `Program`; runs within its `evaluating`.
        x: the data.
        guide: the guide's sites, at draws of the guide.
        model: the model's sites, at the same draws.
        offset: the index of the first datum in the user's data, for messages.
        seen: whether draws were checked for other data of the same kind; only declared supports are then compared.
    """
    if any(is_delta(site) for site in guide.values()):
        return  # values are computed from auxiliary sites: the guide has no density at other values
    latent = [name for name in guide if name in model]
    lacking = {name: _lacking(model[name], guide[name]) for name in latent}
    suspects = [name for name, lacks in lacking.items() if lacks is not None and bool(lacks.any())]
    if seen and not suspects:
        return
    real = all(is_real(support_of(sites[name]["fn"])) for sites in (guide, model) for name in latent)
    pairs = _FEW_PAIRS if real else _PAIRS
    draws = _MOST if suspects else max(_FEWEST, min(_MOST, pairs // num_data(x)))
    found = _missed(program, x, draws, latent)
    for name in latent:
        # If bounds depend on other latents, joint supports may be equal although conditional ones differ: use draws.
        declared = name in suspects and not _moves(program, x, name)
        bad = None if found is None else found.missed[name] & found.likely
        if declared and (found is None or bool(found.missed[name].sum(0).min() < _SEEN) or _any(bad)):
            expected = f"a support that contains the model's ({describe_support(model[name]['fn'])})"
            raise ProgramError(f"guide site {name!r}", expected, describe_support(guide[name]["fn"]))
        if bad is not None and bool(bad.any()):
            datum = int(bad.any(0).nonzero()[0])
            expected = (
                f"a positive density wherever the model has one ({describe_support(model[name]['fn'])})"
            )
            shown = (
                f"zero at {int(bad[:, datum].sum())} of {draws} draws of the prior for datum {offset + datum}"
            )
            raise ProgramError(f"guide site {name!r}", expected, f"{family(guide[name]['fn'])}: {shown}")


def check_masked(program: RunnablePair, x: Data, model: Mapping[str, Any], offset: int) -> None:
    """Refuse a program whose densities depend on masked numbers: its log p(x) would depend on the guide.

    Args:
        program: the `Program`; runs within its `evaluating`.
        x: the data.
        model: the model's sites.
        offset: the index of the first datum in the user's data, for messages.
    """
    masked = [name for name, site in model.items() if not site["is_observed"] and is_masked(site)]
    if not masked:
        return
    first, second = (_prior(program, x, 2, seed) for seed in (0, 1))
    if first is None or second is None:
        return
    z = first.latents()
    for name in masked:
        kept = _counted(first, name)
        if kept is None:
            continue
        other = {**z, name: torch.where(expanded(kept, z[name].ndim), z[name], second.value(name))}
        for role in ("model", "guide"):
            before, after = (_densities(program, role, x, values) for values in (z, other))
            # For the site itself, masked numbers do not count.
            for site, value in before.items():
                gap = (value - after[site]).abs()
                if bool((gap > _CHANGED * (1 + value.abs())).any()):
                    datum = int((gap > _CHANGED * (1 + value.abs())).any(0).nonzero()[0])
                    raise ProgramError(
                        f"latent site {name!r}",
                        "a masked latent on which nothing without a mask depends",
                        f"a latent that changes the density of site {site!r} of datum {offset + datum}",
                    )


def _counted(found: Run, name: str) -> Tensor | None:
    """Whether the numbers of a run's site are not masked, ``(S, N, ...)``."""
    site = found.sites[name]
    kept = counted(site["fn"], site["mask"])
    return None if kept is None else found.stack(name, kept)


def _any(bad: Tensor | None) -> bool:
    return bad is not None and bool(bad.any())


def _densities(program: RunnablePair, role: str, x: Data, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The log densities ``(S, N)`` of all sites at given latents."""
    num_samples = next(iter(z.values())).shape[0]
    found = program.run(role, x, num_samples, Given(z))
    return {name: found.log_prob(name, {}) for name in found.sites}


def _lacking(model: Any, guide: Any) -> Tensor | None:
    """`uncovered`, without masked numbers."""
    lacks = uncovered(model["fn"], guide["fn"])
    kept = counted(model["fn"], model["mask"])
    if lacks is None or kept is None:
        return lacks
    ndim = max(lacks.ndim, kept.ndim)
    lacks = lacks.reshape((1,) * (ndim - lacks.ndim) + tuple(lacks.shape))
    return lacks & expanded(kept, ndim)


def check_within(program: RunnablePair, x: Data) -> None:
    """Refuse, by name, a guide with draws outside of the model's support, as the start density of reversed chains.

    In the model's coordinates the density of such a guide integrates to the share c of draws inside the support, not to
    1. Forward chains give the other draws zero weight, which is correct. Reversed chains would estimate p(x) / c.

    Args:
        program: the `Program`.
        x: the data.
    """
    with torch.no_grad(), program.evaluating(), rng.seeded(device_of(x), 0, "guide within the model"):
        guide = program.run("guide", x, max(_FEWEST, min(_MOST, _PAIRS // num_data(x))))
        model = program.run("model", x, guide.num_samples, Given(guide.latents()))
    for name, site in guide.sites.items():
        if name not in model.sites:
            continue
        # For a Delta, use its values, which are computed from an auxiliary site, and not its declared support.
        lacks = None if is_delta(site) else _lacking(site, model.sites[name])
        outside = model.log_prob(name, {name: {}}) == -torch.inf
        if (lacks is not None and bool(lacks.any())) or bool(outside.any()):
            within = describe_support(model.sites[name]["fn"])
            expected = f"a support within the model's ({within}) for reversed chains from the guide"
            raise ProgramError(
                f"guide site {name!r}", f'{expected} (or start="prior")', describe_support(site["fn"])
            )


class _Missed(NamedTuple):
    """For draws of the prior, ``(S, N)`` bool: whether a guide's site has zero density; whether they are likely."""

    missed: dict[str, Tensor]
    likely: Tensor


def _missed(program: RunnablePair, x: Data, num_samples: int, latent: list[str]) -> _Missed | None:
    """The result of draws of the prior; None if the prior has no sampler."""
    model = _prior(program, x, num_samples, 0)
    if model is None:
        return None
    shape, device = (num_samples, num_data(x)), device_of(x)
    likely = torch.ones(shape, dtype=torch.bool, device=device)
    for name, site in model.sites.items():
        if site["is_observed"]:
            likely &= model.log_prob(name, {}) > -torch.inf
        elif has_edges(site["fn"]):
            likely &= ~model.any_number(name, on_edge(site["fn"], site["value"]))
    z = {name: model.value(name) for name in latent}
    try:
        guide = program.run("guide", x, num_samples, Given(z))
        return _Missed({name: _misses(name, guide) for name in latent}, likely)
    except (ValueError, RuntimeError, IndexError):
        return None  # the guide has a density at its own draws only


def _misses(name: str, guide: Run) -> Tensor:
    """Whether a guide's site has zero density at its values, ``(S, N)``."""
    site = guide.sites[name]
    missed = guide.log_prob(name, {name: {}}) == -torch.inf
    never = None if is_masked(site) else impossible(site["fn"], site["value"])
    return missed if never is None else missed | guide.any_number(name, never)


def _prior(program: RunnablePair, x: Data, num_samples: int, seed: int) -> Run | None:
    """A run of the model with draws of the prior; None if a latent has no sampler."""
    with rng.seeded(device_of(x), seed, "draws of the prior for a check"):
        try:
            return program.run("model", x, num_samples)
        except NoSamplerError:
            return None


def _moves(program: RunnablePair, x: Data, name: str) -> bool:
    """Whether the support of a latent, in model or guide, depends on other latents: it differs between two draws."""
    for role in ("model", "guide"):
        found = []
        for seed in (0, 1):
            with rng.seeded(device_of(x), seed, "moving supports"):
                support = support_of(program.run(role, x, 1).sites[name]["fn"])
            inner: Any = support
            while hasattr(inner, "base_constraint"):
                inner = inner.base_constraint
            found.append([] if inner is None else [v for v in vars(inner).values() if isinstance(v, Tensor)])
        if any(not torch.equal(a, b) for a, b in zip(*found, strict=True)):
            return True
    return False
