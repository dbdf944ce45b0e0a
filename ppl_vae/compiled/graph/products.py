"""Matrix products of a graph by oneDNN, together with the bias and the activation.

torch computes float32 products on a CPU with MKL, which on processors of other makers reaches half of their speed.
oneDNN, which is also a part of torch, is 2.0 to 2.4 times as fast at these sizes (on an AMD EPYC with one thread), and
applies a bias and an activation in the same pass. All arithmetic is float32; only the order of sums differs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

_MACHINES = ("x86_64", "AMD64")
_SMALL = 4e6
"""Operations below which a product stays torch's: oneDNN takes ten microseconds to start one, MKL three."""
_ACTIVATIONS = {
    torch.ops.aten.tanh.default: "tanh",
    torch.ops.aten.relu.default: "relu",
    torch.ops.aten.sigmoid.default: "sigmoid",
}


def available() -> bool:
    """Whether this machine and this torch have such products."""
    return bool(
        platform.machine() in _MACHINES
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def by_onednn(graph: fx.Graph) -> None:
    """Replace, in place, ``addmm`` and ``mm`` of float32 matrices on a CPU; needs the ``val`` of every node.

    ``addmm(c, a, b)`` is a b + c with c along the rows, and ``_linear_pointwise(a, w, c)`` is a w' + c: w = b', which
    is what b was the transpose of, mostly.
    """
    linear = torch.ops.mkldnn._linear_pointwise.default
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.ops.aten.addmm.default and not node.kwargs:
            bias, left, right = node.args[:3]
            if len(node.args) > 3 or not _vector(bias, node):
                continue
        elif node.target is torch.ops.aten.mm.default:
            bias, (left, right) = None, node.args[:2]
        else:
            continue
        if not (_matrix(left) and _matrix(right) and _matrix(node)):
            continue
        if _operations(left, node) < _SMALL:
            if bias is not None:
                _bias_apart(graph, node, bias, left, right)
            continue
        users = list(node.users)
        activation = users[0] if len(users) == 1 and users[0].target in _ACTIVATIONS else None
        name = _ACTIVATIONS[activation.target] if activation is not None else "none"
        with graph.inserting_before(node):
            factor = _in_rows(graph, left)
            new = graph.call_function(linear, (factor, _transposed(graph, right), bias, name, [], ""))
        last = node if activation is None else activation
        new.meta = dict(last.meta)
        last.replace_all_uses_with(new)
        graph.erase_node(last)
        if activation is not None:
            graph.erase_node(node)
        if not right.users and right.op == "call_function":
            graph.erase_node(right)


@contextmanager
def direct_products() -> Iterator[None]:
    """Let inductor call the operation as it is: its own rule for it wants weights that never change."""
    if not available():  # the operation need not exist
        yield
        return
    from torch._inductor import lowering
    from torch._inductor.ir import ExternKernel

    operation = torch.ops.mkldnn._linear_pointwise.default
    rules = lowering.lowerings
    before = rules.get(operation)
    as_it_is = lowering.fallback_handler(operation, add_to_fallback_set=False)
    # Left to itself, inductor lays a factor out as suits what makes it, and oneDNN then copies it into rows.
    rules[operation] = lambda left, *rest: as_it_is(ExternKernel.require_contiguous(left), *rest)
    try:
        yield
    finally:
        if before is None:
            del rules[operation]
        else:
            rules[operation] = before


def _transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if node.target is torch.ops.aten.t.default:
        inner: Any = node.args[0]
        return inner
    new = graph.call_function(torch.ops.aten.t.default, (node,))
    new.meta = {"val": node.meta["val"].t()}
    return new


def _bias_apart(graph: fx.Graph, node: fx.Node, bias: fx.Node, left: fx.Node, right: fx.Node) -> None:
    """A small product without its bias, which inductor adds in the next pass; ``addmm`` copies it first."""
    with graph.inserting_before(node):
        product = graph.call_function(torch.ops.aten.mm.default, (left, right))
        new = graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
    product.meta = new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _in_rows(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A left factor as oneDNN wants it. It would copy a transposed one; inductor writes it so where it is made."""
    if node.target is not torch.ops.aten.t.default:
        return node
    new = graph.call_function(
        torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
    )
    new.meta = {"val": torch.empty_like(node.meta["val"], memory_format=torch.contiguous_format)}
    return new


def _operations(left: fx.Node, product: fx.Node) -> int:
    rows, columns = product.meta["val"].shape
    return int(2 * rows * columns * left.meta["val"].shape[1])


def _matrix(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return (
        isinstance(value, Tensor)
        and value.ndim == 2
        and value.dtype is torch.float32
        and value.device.type == "cpu"
        and value.numel() > 0
    )


def _vector(node: Any, product: fx.Node) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return (
        isinstance(value, Tensor)
        and value.dtype is torch.float32
        and value.shape == product.meta["val"].shape[1:]
    )
