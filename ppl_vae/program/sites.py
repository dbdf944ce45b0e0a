"""The sample sites of a trace: their log densities, and what makes a pair no program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch.distributions import constraints

from ppl_vae.errors import InputError, NonFiniteError, ProgramError
from ppl_vae.program.handlers import GIVEN
from ppl_vae.program.masks import check_masks, counted, expanded
from ppl_vae.program.regions import is_other_kind, words
from ppl_vae.program.supports import (
    base,
    circle,
    core,
    is_mixture,
    is_real,
    is_straight_through,
    layers,
    support_of,
)

SAMPLES = "_ppl_vae_samples"  # the plate of independent draws, outside the data plate


@dataclass(frozen=True)
class Site:
    """One sample site of a program: its event shape, dtype and the name of its distribution.

    Attributes:
        event_shape: of its values.
        dtype: of its values.
        distribution: the name of the family.
        edged: whether rounding can put its draws, of the model or the guide, onto an edge of their support.
    """

    event_shape: torch.Size
    dtype: torch.dtype
    distribution: str
    edged: bool = False


@dataclass(frozen=True)
class Sites:
    """The sites of a program, by name, as `Program.check` found them."""

    latent: Mapping[str, Site]
    observed: Mapping[str, Site]

    @property
    def numbers_per_datum(self) -> int:
        """How many numbers one sample of one datum holds, over all sites: what memory is counted in."""
        return sum(
            site.event_shape.numel() for group in (self.latent, self.observed) for site in group.values()
        )


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites that carry density: no plates, no `pyro.deterministic`."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
    }


def site_log_prob(site: Any, guide_sites: Mapping[str, Any]) -> torch.Tensor:
    """The log density of one site, masked as Pyro masks it; -inf where a value leaves the site's support.

    torch's densities are not zero outside their support (an exponential one goes on to the left of 0): a guide that
    strays there must meet zero, and so must data where the support moves with a latent, not what the formula gives.
    """
    fn, value = site["fn"], site["value"]
    guide_site = guide_sites.get(site["name"])
    support = support_of(fn)
    if support is None:
        strays = False  # the distribution does not say where it has density: its log_prob must
    elif guide_site is not None:
        strays = not is_real(support)
        strays = strays and not (guide_site and _same_support(support_of(guide_site["fn"]), support))
    else:
        # An observed angle may be given in any period.
        strays = site["is_observed"] and id(base(support)) not in _FIXED and not _masked(fn)
    scored = value
    if strays and isinstance(core(fn), torch.distributions.Categorical):
        scored = value.clamp(0, core(fn).logits.shape[-1] - 1)  # another number is no index
    log_prob: torch.Tensor = fn.log_prob(scored)
    if support is not None and strays:
        log_prob = torch.where(_inside(fn, support, value), log_prob, -torch.inf)
    masked: torch.Tensor = scale_and_mask(log_prob, 1.0, site["mask"])
    return masked


def _inside(fn: Any, support: constraints.Constraint, value: torch.Tensor) -> torch.Tensor:
    """Whether values are on the support, ``(S, N)``; what the distribution itself masks may lie anywhere."""
    found = counted(fn)
    inner = base(support)
    if found is None or found.ndim > value.ndim - inner.event_dim or is_mixture(support):
        whole: torch.Tensor = support.check(value)
        return whole
    inside: torch.Tensor = inner.check(value)
    inside = inside | ~expanded(found, inside.ndim)
    batch = value.ndim - len(fn.event_shape)
    return inside.flatten(batch).all(-1) if inside.ndim > batch else inside


def try_log_prob(role: str, site: Any, guide_sites: Mapping[str, Any]) -> torch.Tensor:
    """`site_log_prob`; a value that the distribution cannot take is refused with the site's name."""
    try:
        return site_log_prob(site, guide_sites)
    except (ValueError, RuntimeError, IndexError) as error:
        fn = site["fn"]
        raise ProgramError(
            f"{role} site {site['name']!r}",
            f"a value of shape {(*fn.batch_shape, *fn.event_shape)}, or one that broadcasts to it, on the support",
            f"shape {tuple(site['value'].shape)} ({str(error).partition(chr(10))[0]})",
        ) from error


# Constraints that hold whatever a distribution's parameters are: torch keeps one instance of each.
_FIXED = frozenset(
    id(c) for c in (circle, *vars(constraints).values()) if isinstance(c, constraints.Constraint)
)


def _moves(support: constraints.Constraint) -> bool:
    """Whether a bound may differ between samples: one that does not is expanded along them, without memory."""
    bounds = [bound for bound in vars(base(support)).values() if isinstance(bound, torch.Tensor)]
    return any(bound.ndim > 1 and bound.stride(0) != 0 for bound in bounds)


def _masked(fn: Any) -> bool:
    return any(isinstance(layer, MaskedDistribution) for layer in layers(fn))


def family(fn: Any) -> str:
    """The name of a distribution's family."""
    return type(core(fn)).__name__


def _same_support(a: constraints.Constraint | None, b: constraints.Constraint) -> bool:
    # Constraints without bounds are singletons; those with bounds are left to the check on values.
    return a is not None and base(a) is base(b)


def total(trace: poutine.Trace, outside: Mapping[str, Any] | None = None) -> torch.Tensor:
    """The log density of a trace, summed over its sites for each datum, in float64: ``(S, N)``."""
    summed: torch.Tensor | None = None
    for site in sample_sites(trace).values():
        log_prob = site_log_prob(site, outside or {}).double()
        summed = log_prob if summed is None else summed + log_prob
    if summed is None:
        raise ProgramError("program", "at least one sample site", "none")
    return summed


def factors(trace: poutine.Trace, zero: torch.Tensor, *, strays: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(z) and log p(x|z) of a trace of the model, each summed over its sites in float64: ``(S, N)`` twice.

    Args:
        trace: of the model, with every latent given (`handlers.GIVEN`).
        zero: ``(S, N)`` float64 zeros, where the sums begin.
        strays: whether the latents given may lie outside their support, where the density is zero.
    """
    log_prior = log_likelihood = zero
    for name, site in sample_sites(trace).items():
        given = GIVEN in site["infer"]
        log_prob = site_log_prob(site, {name: {}} if given and strays else {}).double()
        if given:
            log_prior = log_prior + log_prob
        else:
            log_likelihood = log_likelihood + log_prob
    return log_prior, log_likelihood


def check_plates(role: str, trace: poutine.Trace, num_samples: int, n: int) -> None:
    """Refuse, by name, every site whose log density is not one unscaled number for each sample and datum."""
    nodes: dict[str, Any] = trace.nodes
    for name, site in nodes.items():
        if site["type"] == "sample" and type(site["fn"]).__name__ == "_Subsample":
            size, subsample_size = site["fn"].size, site["fn"].subsample_size
            if (subsample_size is not None and subsample_size != size) or len(site["value"]) != size:
                raise ProgramError(
                    f"plate {name!r} in the {role}",
                    "a plate over exactly the data that are passed in (scale a minibatch outside the program)",
                    f"a subsample of {len(site['value'])} out of {size}",
                )
    for name, site in sample_sites(trace).items():
        where = f"{role} site {name!r}"
        frames = [frame for frame in site["cond_indep_stack"] if frame.name != SAMPLES]
        sequential = [frame.name for frame in frames if not frame.vectorized]
        if sequential:
            raise ProgramError(where, "vectorised plates", f"the sequential plate {sequential[0]!r}")
        inside = [frame for frame in frames if frame.dim == -1]
        if not inside:
            raise ProgramError(
                where,
                'to be inside pyro.plate("data", len(x), dim=-1) (a site shared by all data is another integral)',
                "a site outside it",
            )
        if len(frames) > 1:
            other = next(frame.name for frame in frames if frame.dim != -1)
            raise ProgramError(where, "no plate but the data plate (use .to_event)", f"plate {other!r}")
        if inside[0].size != n:
            raise ProgramError(
                where, f"a data plate of {n} data", f"plate {inside[0].name!r} of {inside[0].size}"
            )
        scale = site["scale"]
        if isinstance(scale, torch.Tensor) or scale != 1:
            single = not isinstance(scale, torch.Tensor) or scale.numel() == 1
            received = f"scale {float(scale):g}" if single else "a scale"
            raise ProgramError(where, "an unscaled log density (no poutine.scale, no annealing)", received)
        if site["infer"].get("enumerate"):
            raise ProgramError(where, "a latent that the guide samples", "a site marked for enumeration")
        if role == "guide":
            if site["is_observed"]:
                raise ProgramError(where, "latent sites only", "an observed site")
            if isinstance(core(site["fn"]), Delta):
                raise ProgramError(where, "a distribution with a density", "a Delta (a point has no density)")
        if tuple(site["fn"].batch_shape) != (num_samples, n):
            raise ProgramError(
                where,
                f"batch shape {(num_samples, n)} (samples, data); declare event dimensions with .to_event",
                tuple(site["fn"].batch_shape),
            )


def check_match(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites on which model and guide disagree."""
    latent = {name for name, site in model_sites.items() if not site["is_observed"]}
    for name in latent - guide_sites.keys():
        raise ProgramError(
            f"model site {name!r}", "a latent that the guide samples too", "no such guide site"
        )
    for name in guide_sites.keys() - latent:
        received = "no such model site" if name not in model_sites else "an observed model site"
        raise ProgramError(f"guide site {name!r}", "a latent site of the model", received)
    if not any(site["is_observed"] for site in model_sites.values()):
        raise ProgramError("model", "at least one observed site", "none")
    check_shapes(guide_sites, model_sites)
    check_masks(guide_sites, model_sites)


def check_shapes(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites on whose event shape or kind of density model and guide disagree."""
    for name in [name for name in guide_sites if name in model_sites]:
        ours, theirs = guide_sites[name]["fn"].event_shape, model_sites[name]["fn"].event_shape
        if ours != theirs:
            raise ProgramError(
                f"guide site {name!r}",
                f"the model's event shape {tuple(theirs)}",
                f"event shape {tuple(ours)}",
            )
        check_kind(name, model_sites[name]["fn"], guide_sites[name]["fn"])


def check_kind(name: str, model: Any, guide: Any) -> None:
    """Refuse a guide's distribution whose density cannot be divided by the model's: both are of their own kind."""
    for role, fn in (("model", model), ("guide", guide)):
        if is_straight_through(fn):
            expected = "a distribution that scores the values that it draws"
            received = f"a {family(fn)}, which draws hard values and scores soft ones"
            raise ProgramError(f"{role} site {name!r}", expected, received)
    if is_other_kind(model, guide):
        expected = f"a density of the model's kind ({words(model)})"
        raise ProgramError(f"guide site {name!r}", expected, words(guide))


def check_support(name: str, site: Any, offset: int = 0) -> None:
    """Refuse data outside an observed site's support: its density there is not a density."""
    fn, value = site["fn"], site["value"]
    support = support_of(fn)
    if support is None or site["mask"] is not None or _masked(fn) or _moves(support):
        return  # what is masked may hold anything; a support that moves with a latent may miss a datum
    if base(support) is circle:
        return  # an angle may be given in any period
    fine = support.check(value)
    while fine.ndim > 1:
        fine = fine.all(0)
    if not bool(fine.all()):
        index = int((~fine).nonzero()[0])
        raise InputError(
            "x",
            f"values on the support of observed site {name!r} ({family(fn)})",
            f"a value outside it at datum {offset + index}",
        )


def refuse_nan(values: torch.Tensor, what: str, offset: int = 0) -> None:
    """Raise `NonFiniteError` naming ``what`` and the first datum, if any of ``values`` ``(S, N)`` is NaN."""
    bad = values.isnan().any(0)
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise NonFiniteError(f"{what}: NaN at datum {offset + index} ({int(bad.sum())} of {len(bad)} data)")
