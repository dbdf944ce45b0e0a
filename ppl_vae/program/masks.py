"""Masks of latent sites: the numbers of a site that have a density, for each datum.

A mask is set by `pyro.poutine.mask`, by a distribution's ``.mask(...)`` inside or outside of ``.to_event``, or by
``obs_mask=``. A masked number adds nothing to the log density: the datum does not have this latent. log p(x) is then
defined only if the guide masks the same numbers, and if nothing without a mask depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import TransformedDistribution

from ppl_vae.errors import ProgramError
from ppl_vae.program.supports import core, layers

Mask = Tensor | bool


def counted(fn: Any, mask: Any = None) -> Tensor | None:
    """Whether each of a site's numbers has a density: bool ``(..., *batch of the innermost distribution)``.

    Args:
        fn: the site's distribution.
        mask: the site's mask from `pyro.poutine.mask`: a bool, a tensor that broadcasts to the site's batch, or None.

    Returns:
        None if there is no mask.
    """
    shape = tuple(core(fn).batch_shape)
    found: Tensor | None = None
    for layer, here in [
        (fn, mask),
        *((la, la._mask) for la in layers(fn) if isinstance(la, MaskedDistribution)),
    ]:
        if here is None or here is True:
            continue
        wide = _widened(here, layer, shape)
        found = wide if found is None else found & wide
    return found


def _widened(mask: Mask, layer: Any, shape: tuple[int, ...]) -> Tensor:
    """A mask of a layer's batch, expanded to the innermost distribution's batch, whose left part is the layer's."""
    value = torch.as_tensor(mask).bool()
    batch = torch.broadcast_shapes(value.shape, tuple(layer.batch_shape))
    # Event axes of a layer may be batch axes of a distribution inside of it; these are on the right.
    right = len(layer.event_shape) - len(core(layer).event_shape)
    value = value.expand(batch).reshape((*batch, *(1,) * right))
    return value.expand(torch.broadcast_shapes(value.shape, shape))


def is_masked(site: Any) -> bool:
    """Whether some number of a site is masked."""
    found = counted(site["fn"], site["mask"])
    return found is not None and not bool(found.all())


def expanded(found: Tensor, ndim: int) -> Tensor:
    """The result of `counted` with axes of size 1 appended on the right, up to ``ndim`` axes."""
    return found.reshape((*found.shape, *(1,) * (ndim - found.ndim)))


def check_masks(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites with different masks in model and guide."""
    for name in [name for name in guide_sites if name in model_sites]:
        ours, theirs = (
            counted(sites[name]["fn"], sites[name]["mask"]) for sites in (guide_sites, model_sites)
        )
        for role, sites in (("guide", guide_sites), ("model", model_sites)):
            if _hides_mask(sites[name]["fn"]):
                expected = "a mask around a transformed distribution (inside it, its Jacobian is not masked)"
                raise ProgramError(f"{role} site {name!r}", expected, "a mask inside")
        if ours is None and theirs is None:
            continue
        device = next(v.device for v in (ours, theirs) if v is not None)
        ours, theirs = (
            torch.ones((), dtype=torch.bool, device=device) if v is None else v for v in (ours, theirs)
        )
        ndim = max(ours.ndim, theirs.ndim)
        ours, theirs = (expanded(v, ndim) if v.ndim else v for v in (ours, theirs))
        shape = torch.broadcast_shapes(ours.shape, theirs.shape)
        different = ours.expand(shape) != theirs.expand(shape)
        if bool(different.any()):
            only = "the guide" if bool((ours.expand(shape) < theirs.expand(shape)).any()) else "the model"
            raise ProgramError(
                f"guide site {name!r}",
                "the mask that the model's site has (poutine.mask, .mask and obs_mask= alike)",
                f"{int(different.sum())} of {different.numel()} numbers masked differently, some in {only} only",
            )


def _hides_mask(fn: Any) -> bool:
    inner = core(fn)
    while isinstance(inner, TransformedDistribution):
        if any(isinstance(layer, MaskedDistribution) for layer in layers(inner.base_dist)):
            return True
        inner = core(inner.base_dist)
    return False
