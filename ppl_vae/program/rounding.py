"""Rounding: values that rounding has put onto an edge of their support, and values of probability 0."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, constraints

from ppl_vae.program.supports import base, bounds_of, circle, hull, support_of


def impossible(fn: Any, value: Tensor) -> Tensor | None:
    """Whether a distribution with given probabilities has one of exactly 0, ``(..., *batch)``; None for others.

    torch's log densities are finite there, because the probability is rounded up before the logarithm.
    """
    if isinstance(fn, Independent):
        found = impossible(fn.base_dist, value)
        n = fn.reinterpreted_batch_ndims
        return found if found is None or not n else found.flatten(found.ndim - n).any(-1)
    if isinstance(fn, MaskedDistribution | ExpandedDistribution):
        return impossible(fn.base_dist, value)
    given = vars(fn).get("probs")
    if not isinstance(given, Tensor):
        inner = vars(fn).get("_categorical")
        given = None if inner is None else vars(inner).get("probs")
    if given is None:
        return None
    if isinstance(fn, torch.distributions.Categorical):
        index = value.long().unsqueeze(-1)
        probs = given.expand(torch.broadcast_shapes(given.shape, (*index.shape[:-1], given.shape[-1])))
        good = (index >= 0) & (index < probs.shape[-1])
        chance = probs.gather(-1, torch.where(good, index, 0).expand(*probs.shape[:-1], 1))
        return (chance == 0).squeeze(-1)
    if isinstance(fn, torch.distributions.OneHotCategorical):
        return (given * value).sum(-1) == 0
    if isinstance(fn, torch.distributions.Bernoulli | torch.distributions.Binomial):
        most = getattr(fn, "total_count", 1)
        return ((given == 0) & (value > 0)) | ((given == 1) & (value < most))
    return None


def has_edges(fn: Any) -> bool:
    """Whether rounding can put a draw onto an edge of the distribution's support, where its density is unreliable."""
    support = support_of(fn)
    if support is None or support.is_discrete:
        return False
    inner = base(support)
    return not (inner is constraints.real or inner is circle)


def on_edge(fn: Any, value: Tensor) -> Tensor:
    """Whether values have been rounded onto an edge of their support, or to infinity: bool ``(..., *batch)``.

    The ends of an interval count, and values that are closer to them than the resolution of the dtype. For a simplex, a
    share counts if it is at most the smallest normal number.
    """
    support = support_of(fn)
    tiny, eps = torch.finfo(value.dtype).tiny, torch.finfo(value.dtype).eps
    found = ~value.isfinite()
    inner = None if support is None else hull(support)
    if inner is not None and type(inner).__name__ == "_Simplex":
        found = found | (value <= tiny)
    bounds = None if inner is None or inner is circle or inner.is_discrete else bounds_of(inner)
    if bounds is not None:
        low, high = (torch.as_tensor(b, dtype=value.dtype, device=value.device) for b in bounds)
        found = found | (value - low <= tiny + eps * low.abs().nan_to_num(0.0, 0.0, 0.0))
        found = found | (high - value <= tiny + eps * high.abs().nan_to_num(0.0, 0.0, 0.0))
    dims = len(fn.event_shape)
    return found.flatten(found.ndim - dims).any(-1) if dims else found
