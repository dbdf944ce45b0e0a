"""What of a site's value counts: masks, and numbers under them that are no numbers.

A masked number has no density, whatever it is. NaN there is the usual way to say that a number is missing. It must not
even be looked at: its log density is thrown away, but the gradient of what is thrown away is NaN times zero, NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints, transform_to

from ppl_vae.program.sites import support_of


def counted(site: Any) -> Tensor | bool | None:
    """Which numbers of a site's value have a density; broadcasts to the value, or says it of all. None: no mask.

    Args:
        site: a site of a trace, or a message of a sample statement.
    """
    found: Tensor | bool | None = None
    fn = site["fn"]
    event = len(fn.event_shape)
    masks = [(site["mask"], event)]
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, len(fn.event_shape)))
        fn = fn.base_dist
    for mask, dims in masks:
        if mask is None:
            continue
        if isinstance(mask, Tensor):
            mask = mask.reshape(*mask.shape, *(1,) * dims).bool()
        found = mask if found is None else found & mask
    return found


class Filled(Messenger):
    """Puts a number of the support where a value that is observed has NaN under a mask."""

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        counts = counted(msg) if hasattr(msg["fn"], "event_shape") else None
        if counts is None or counts is True:
            return
        counts = torch.as_tensor(counts, device=value.device)
        missing = value.isnan() & ~counts
        msg["value"] = torch.where(missing, _inside(msg["fn"], value), value)


def _inside(fn: Any, value: Tensor) -> Tensor:
    """A value on the support of a distribution, that broadcasts to ``value``."""
    support = support_of(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is None or support is constraints.real or support is constraints.real_vector:
        return value.new_zeros(())
    if support.is_discrete:
        low = getattr(support, "lower_bound", 0)
        return torch.as_tensor(low, dtype=value.dtype, device=value.device)
    try:
        if support.event_dim == 0:
            return transform_to(support)(value.new_zeros(()))
        transform = transform_to(support)
        return transform(value.new_zeros(transform.inverse_shape(value.shape)))
    except NotImplementedError:
        return value.new_zeros(())
