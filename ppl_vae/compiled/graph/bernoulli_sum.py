"""Bernoulli sums: log densities over many pixels, with a quarter of the logarithms.

    sum_j [x_j l_j - max(l_j, 0)] - sum_j log(1 + exp(-|l_j|)),

where four logarithms are computed as that of their product, which is between 1 and 16. In a float32 sum of hundreds of
terms this loses no precision. ``log1p`` would keep digits of terms that are too small to affect the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

_ATEN = torch.ops.aten
_FACTORS = 4
_MANY = 32  # elements in a sum: with fewer, a small term may be all there is


def sum_bernoulli_together(graph: fx.Graph) -> None:
    """Rewrite, in place, sums over the last dimension of negative float32 cross entropies with logits."""
    for node in list(graph.nodes):
        if node.target is not _ATEN.sum.dim_IntList or list(node.args[1]) != [-1] or len(node.args) > 2:
            continue
        negative = node.args[0]
        entropy = negative.args[0] if negative.target is _ATEN.neg.default else None
        if entropy is None or entropy.target is not _ATEN.binary_cross_entropy_with_logits.default:
            continue
        logits, x, *rest = entropy.args
        value = entropy.meta.get("val")
        if (
            any(rest)
            or len(negative.users) > 1
            or len(entropy.users) > 1
            or not isinstance(value, Tensor)
            or value.dtype is not torch.float32
            or value.shape[-1] % _FACTORS
            or value.shape[-1] < _MANY
        ):
            continue
        with graph.inserting_before(node):
            new = _together(graph, logits, x, value.shape[-1] // _FACTORS)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        for old in (node, negative, entropy):
            graph.erase_node(old)


def _together(graph: fx.Graph, logits: fx.Node, x: fx.Node, quarter: int) -> fx.Node:
    call = graph.call_function
    size = call(_ATEN.neg.default, (call(_ATEN.abs.default, (logits,)),))
    factor = call(_ATEN.add.Tensor, (call(_ATEN.exp.default, (size,)), 1.0))
    product = None
    for i in range(_FACTORS):
        part = call(_ATEN.slice.Tensor, (factor, -1, i * quarter, (i + 1) * quarter))
        product = part if product is None else call(_ATEN.mul.Tensor, (product, part))
    logs = call(_ATEN.sum.dim_IntList, (call(_ATEN.log.default, (product,)), [-1]))
    over = call(_ATEN.clamp_min.default, (logits, 0.0))
    linear = call(_ATEN.sub.Tensor, (call(_ATEN.mul.Tensor, (logits, x)), over))
    return call(_ATEN.sub.Tensor, (call(_ATEN.sum.dim_IntList, (linear, [-1])), logs))
