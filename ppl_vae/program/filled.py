"""Missing data: NaN under a mask is replaced by a value of the support.

NaN under a mask is the usual notation for a missing number. Its log density is masked, but the gradient of a masked
NaN is NaN times zero, which is NaN. The NaN is therefore replaced before the density is computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from ppl_vae.program.masks import counted, expanded
from ppl_vae.program.supports import bounds_of, hull, support_of


class Filled(Messenger):
    """Replaces NaN under a mask in observed values by a number of the support."""

    def _pyro_sample(self, msg: Any) -> None:
        value, fn = msg["value"], msg["fn"]
        if not msg["is_observed"] or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        if msg["infer"].get("_deterministic") or not hasattr(fn, "event_shape"):
            return
        try:
            counts = counted(fn, msg["mask"])
            if counts is None:
                return
            counts = expanded(counts, max(counts.ndim, len(fn.batch_shape + fn.event_shape)))
            if torch.broadcast_shapes(counts.shape, value.shape) != value.shape:
                return
        except RuntimeError:
            return  # shapes that do not fit: what comes next says so, by name
        msg["value"] = torch.where(value.isnan() & ~counts, _inside(fn, value), value)


def _inside(fn: Any, value: Tensor) -> Tensor:
    """A value on the support of a distribution, that broadcasts to ``value``."""
    return on_support(support_of(fn), value)


def on_support(support: constraints.Constraint | None, value: Tensor) -> Tensor:
    """A value on a support, that broadcasts to ``value``; 0 where no support is known."""
    if support is None:
        return value.new_zeros(())
    support = hull(support)
    if support.is_discrete:
        return torch.as_tensor(getattr(support, "lower_bound", 0), dtype=value.dtype, device=value.device)
    try:
        transform = transform_to(support)
        shape = value.shape if support.event_dim else torch.Size()
        return transform(value.new_zeros(transform.inverse_shape(shape) if support.event_dim else shape))
    except NotImplementedError:  # a constraint of somebody's own
        ends = bounds_of(support) or (-math.inf, math.inf)
        low, high = (torch.as_tensor(end, dtype=value.dtype, device=value.device) for end in ends)
        above = torch.where(high.isinf(), low + 1, (low + high) / 2)
        return torch.where(low.isinf(), torch.where(high.isinf(), 0.0, high - 1), above)
