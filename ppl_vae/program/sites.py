"""Sample sites of a trace: their log densities, and checks that log p(x) is defined for each datum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch.distributions import constraints

from ppl_vae.errors import InputError, NonFiniteError, ProgramError
from ppl_vae.program.masks import check_masks, counted, expanded
from ppl_vae.program.regions import describe_support, is_other_kind
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

GIVEN = "_ppl_vae_given"  # marks a latent site with a given value
ROWS = "_ppl_vae_rows"  # marks a plate over selected rows of the data


@dataclass(frozen=True)
class Site:
    """One sample site of a program: its event shape, dtype and the name of its distribution.

    Attributes:
        event_shape: the event shape of its values.
        dtype: the dtype of its values.
        distribution: the name of the family.
        edged: whether rounding can put draws of the model or the guide onto an edge of their support.
    """

    event_shape: torch.Size
    dtype: torch.dtype
    distribution: str
    edged: bool = False


@dataclass(frozen=True)
class Sites:
    """The sites of a program, by name, from `Program.check`."""

    latent: Mapping[str, Site]
    observed: Mapping[str, Site]

    @property
    def numbers_per_datum(self) -> int:
        """The number of numbers in one sample of one datum, over all sites: the unit of memory."""
        return sum(
            site.event_shape.numel() for group in (self.latent, self.observed) for site in group.values()
        )


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites with a density: without plates, and without values computed from other sites."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
        and not is_computed(site)
    }


def is_computed(site: Any) -> bool:
    """Whether a site's value is computed from other sites, as for a reparametrised site."""
    unseen = any(
        isinstance(layer, MaskedDistribution) and layer._mask is False for layer in layers(site["fn"])
    )
    return bool(site["is_observed"]) and unseen and is_delta(site)


def is_auxiliary(site: Any) -> bool:
    """Whether a guide's site is auxiliary: not in the model, and other sites are computed from it."""
    return bool(site["infer"].get("is_auxiliary"))


def is_delta(site: Any) -> bool:
    """Whether a site's distribution is a point mass."""
    return isinstance(core(site["fn"]), Delta)


def site_log_prob(site: Any, guide_sites: Mapping[str, Any]) -> torch.Tensor:
    """The log density of one site, masked as Pyro masks it; -inf for a value outside of the site's support.

    torch's formulas are not zero outside of the support (the exponential density continues below 0). A value there must
    have zero density, both for draws of a guide and for data whose support depends on a latent.
    """
    fn, value = site["fn"], site["value"]
    guide_site = guide_sites.get(site["name"])
    support = support_of(fn)
    if support is None:
        outside = False  # without a declared support, the log_prob itself must be correct everywhere
    elif guide_site is not None:
        outside = not is_real(support)
        outside = outside and not (guide_site and _same_support(support_of(guide_site["fn"]), support))
    else:
        # An observed angle may be given in any period.
        outside = site["is_observed"] and id(base(support)) not in _FIXED and not has_mask(fn)
    scored = value
    if outside and isinstance(core(fn), torch.distributions.Categorical):
        scored = value.clamp(0, core(fn).logits.shape[-1] - 1)  # another number is no index
    log_prob: torch.Tensor = fn.log_prob(scored)
    if support is not None and outside:
        log_prob = torch.where(_inside(fn, support, value), log_prob, -torch.inf)
    masked: torch.Tensor = scale_and_mask(log_prob, 1.0, site["mask"])
    return masked


def _inside(fn: Any, support: constraints.Constraint, value: torch.Tensor) -> torch.Tensor:
    """Whether values are on the support, ``(S, N)``; numbers masked by the distribution itself may be anywhere."""
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
    """`site_log_prob`; a value that does not fit the distribution is refused with the site's name."""
    try:
        return site_log_prob(site, guide_sites)
    except (KeyError, NotImplementedError):
        raise
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        fn, dtype = site["fn"], str(site["value"].dtype).removeprefix("torch.")
        raise ProgramError(
            f"{role} site {site['name']!r}",
            f"a value of shape {(*fn.batch_shape, *fn.event_shape)}, or one that broadcasts to it, on the support",
            f"shape {tuple(site['value'].shape)} of {dtype} ({str(error).partition(chr(10))[0]})",
        ) from error


# Constraints that do not depend on a distribution's parameters: torch has one instance of each.
_FIXED = frozenset(
    id(c) for c in (circle, *vars(constraints).values()) if isinstance(c, constraints.Constraint)
)


def bounds(support: constraints.Constraint) -> list[torch.Tensor]:
    """The tensors that define a support."""
    return [bound for bound in vars(base(support)).values() if isinstance(bound, torch.Tensor)]


def has_mask(fn: Any) -> bool:
    """Whether a distribution, or one that it wraps, is masked."""
    return any(isinstance(layer, MaskedDistribution) for layer in layers(fn))


def support_is_discrete(site: Any) -> bool:
    """Whether a site takes discrete values."""
    support = support_of(site["fn"])
    return support is not None and bool(support.is_discrete)


def family(fn: Any) -> str:
    """The name of a distribution's family."""
    return type(core(fn)).__name__


def _same_support(a: constraints.Constraint | None, b: constraints.Constraint) -> bool:
    # Constraints without bounds are singletons; those with bounds are left to the check on values.
    return a is not None and base(a) is base(b)


def check_plates(role: str, trace: poutine.Trace, n: int, plates: Collection[str]) -> None:
    """Refuse, by name, each site of a plain run without exactly one unscaled log density for each datum.

    Args:
        role: "model" or "guide".
        trace: the trace of a run without a sample axis.
        n: the number of data.
        plates: the names of the plates over data.
    """
    nodes: dict[str, Any] = trace.nodes
    rows = set()
    for name, site in nodes.items():
        if site["type"] == "sample" and type(site["fn"]).__name__ == "_Subsample":
            size, subsample_size = site["fn"].size, site["fn"].subsample_size
            if ROWS in site["infer"]:
                rows.add(name)
                continue
            if (subsample_size is not None and subsample_size != size) or len(site["value"]) != size:
                raise ProgramError(
                    f"plate {name!r} in the {role}",
                    "a plate over exactly the data that are passed in (scale a minibatch outside the program)",
                    f"a subsample of {len(site['value'])} out of {size}",
                )
    for name, site in sample_sites(trace).items():
        where = f"{role} site {name!r}"
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        inside = [frame for frame in frames if frame.name in plates]
        if not inside:
            sequential = [frame.name for frame in site["cond_indep_stack"] if not frame.vectorized]
            if sequential:
                raise ProgramError(where, "vectorised plates", f"the sequential plate {sequential[0]!r}")
            other = [frame for frame in frames if frame.dim == -1]
            if other:
                received = f"plate {other[0].name!r} of {other[0].size}"
                raise ProgramError(where, f"a data plate of {n} data", received)
            expected = (
                'a site inside pyro.plate("data", len(x), dim=-1) (with a site shared by all data, log p(x) is not '
                "defined for each datum)"
            )
            if is_auxiliary(site):
                expected += (
                    " (of the automatic guides, AutoNormal has a site for each datum; your own guide may have "
                    "parameters with a row for each datum)"
                )
            raise ProgramError(where, expected, "a site outside of it")
        scale = site["scale"]
        by_rows = any(
            frame.name in rows for frame in inside
        )  # Pyro treats these as a subsample, and scales them
        if not by_rows and (isinstance(scale, torch.Tensor) or scale != 1):
            single = not isinstance(scale, torch.Tensor) or scale.numel() == 1
            received = f"scale {float(scale):g}" if single else "a scale"
            raise ProgramError(where, "an unscaled log density (no poutine.scale, no annealing)", received)
        if not hasattr(site["fn"], "batch_shape"):
            expected = (
                "a distribution with a batch_shape and an event_shape (a subclass of TorchDistribution)"
            )
            raise ProgramError(where, expected, f"a {type(site['fn']).__name__} without them")
        if family(site["fn"]) == "ImproperUniform":
            raise ProgramError(
                where, "a normalised distribution", "an ImproperUniform (log p(x) is undefined)"
            )
        if role == "guide":
            if site["is_observed"]:
                raise ProgramError(where, "latent sites only", "an observed site")
            if is_delta(site) and not any(map(is_auxiliary, sample_sites(trace).values())):
                raise ProgramError(where, "a distribution with a density", "a Delta (a point mass)")
        batch = _expected_batch(frames)
        if tuple(site["fn"].batch_shape) != batch:
            raise ProgramError(
                where,
                f"batch shape {batch} (one for each datum); declare event dimensions with .to_event",
                tuple(site["fn"].batch_shape),
            )


def _expected_batch(frames: Collection[Any]) -> tuple[int, ...]:
    """The batch shape of a site in its plates."""
    sizes = {frame.dim: frame.size for frame in frames}
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes), 0))


def check_match(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites that differ between model and guide."""
    latent = {name for name, site in model_sites.items() if not site["is_observed"]}
    for name in sorted(latent - guide_sites.keys()):
        summed = model_sites[name]["infer"].get("enumerate") or support_is_discrete(model_sites[name])
        expected = "a latent that the guide samples too" + (
            " (or evidence.enumerate_latents, which sums over discrete ones)" if summed else ""
        )
        raise ProgramError(f"model site {name!r}", expected, "no such guide site")
    for name in sorted(guide_sites.keys() - latent):
        if is_auxiliary(guide_sites[name]) and name not in model_sites:
            continue
        received = "no such model site" if name not in model_sites else "an observed model site"
        raise ProgramError(f"guide site {name!r}", "a latent site of the model", received)
    if not any(site["is_observed"] for site in model_sites.values()):
        raise ProgramError("model", "at least one observed site", "none")
    check_shapes(guide_sites, model_sites)
    check_masks(guide_sites, model_sites)


def check_shapes(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites whose event shape, plates or kind of density differ between model and guide."""
    for name in [name for name in guide_sites if hasattr(model_sites.get(name, {}).get("fn"), "event_shape")]:
        ours, theirs = guide_sites[name]["fn"].event_shape, model_sites[name]["fn"].event_shape
        if ours != theirs:
            raise ProgramError(
                f"guide site {name!r}",
                f"the model's event shape {tuple(theirs)}",
                f"event shape {tuple(ours)}",
            )
        if not is_delta(guide_sites[name]):
            check_kind(name, model_sites[name]["fn"], guide_sites[name]["fn"])
        here, there = (
            {frame.name: frame for frame in sites[name]["cond_indep_stack"] if frame.vectorized}
            for sites in (guide_sites, model_sites)
        )
        places = [sorted((frame.dim, frame.size) for frame in frames.values()) for frames in (here, there)]
        if all(places) and places[0] != places[1]:
            other = sorted(here.keys() - there.keys()) or sorted(there.keys() - here.keys()) or sorted(here)
            received = f"plate {other[0]!r} in {'the guide' if other[0] in here else 'the model'} only"
            raise ProgramError(f"guide site {name!r}", "the plates of the model's site", received)


def check_kind(name: str, model: Any, guide: Any) -> None:
    """Refuse a guide's distribution whose density cannot be divided by the model's, since their kinds differ."""
    for role, fn in (("model", model), ("guide", guide)):
        if is_straight_through(fn):
            expected = "a distribution with the density of the values that it draws"
            received = f"a {family(fn)}, which draws hard values and has the density of soft ones"
            raise ProgramError(f"{role} site {name!r}", expected, received)
    if is_other_kind(model, guide):
        expected = f"a density of the model's kind ({describe_support(model)})"
        raise ProgramError(f"guide site {name!r}", expected, describe_support(guide))


def check_support(name: str, fn: Any, inside: torch.Tensor, moves: bool, offset: int = 0) -> None:
    """Refuse data outside of an observed site's support, where the formula of the density is not valid.

    Args:
        name: the site.
        fn: its distribution.
        inside: ``(S, N)`` whether the data are inside.
        moves: whether the support depends on a latent; a datum may then be outside of it.
        offset: the index of the first datum in the user's data.
    """
    if moves or bool(inside.all()):
        return
    index = int((~inside.all(0)).nonzero()[0])
    raise InputError(
        "x",
        f"values on the support of observed site {name!r} ({family(fn)})",
        f"a value outside of it at datum {offset + index}",
    )


def refuse_nan(values: torch.Tensor, what: str, offset: int = 0) -> None:
    """Raise `NonFiniteError` naming ``what`` and the first datum, if any of ``values`` ``(S, N)`` is NaN."""
    bad = values.isnan().any(0)
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise NonFiniteError(f"{what}: NaN at datum {offset + index} ({int(bad.sum())} of {len(bad)} data)")
