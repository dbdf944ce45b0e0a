"""Simplification of a tensor graph: removes unused nodes, and operations without an effect."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

_ATEN = torch.ops.aten
_ALIASES = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.lift_fresh.default)
_SILENT_VIEWS = (  # their results lie in the memory of their argument, and their schemas do not say so
    _ATEN._unsafe_view.default,
    _ATEN.unsafe_split.Tensor,
    _ATEN.unsafe_split_with_sizes.default,
    _ATEN.unsafe_chunk.default,
)
_RESHAPES = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default, _ATEN.reshape.default)


def is_mutable(node: fx.Node) -> bool:
    """Whether a node changes one of its arguments in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_random(node: fx.Node) -> bool:
    """Whether a node draws from torch's global generator."""
    return draws(node.target)


def draws(target: Any) -> bool:
    """Whether an operation draws from torch's global generator."""
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def is_view(node: fx.Node) -> bool:
    """Whether a node's result lies in the memory of its first argument, which it does not change."""
    return _aliases(node) and not is_mutable(node)


def changed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory some node changes in place, itself or through a view: the first of each memory."""
    return {_root(target) for node in graph.nodes for target in _targets(node)}


def simplify(graph: fx.Graph, *, dead_draws: bool) -> None:
    """Remove what changes nothing from a graph, in place.

    Args:
        graph: of ATen operations, to be run without autograd.
        dead_draws: whether draws that nothing depends on are kept.
    """
    write = changed(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node not in write:
            same = _same_as(node)
            if same is not None and not _is_output(node):
                node.replace_all_uses_with(same)
    _expand_late(graph, write)
    keep = _touching(graph)
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output") or node in keep:
            continue
        if is_random(node) and dead_draws:
            continue
        graph.erase_node(node)
    graph.lint()


def _expand_late(graph: fx.Graph, write: set[fx.Node]) -> None:
    """Compute element by element before repeating the elements, not after: f(expand(a)) = expand(f(a)).

    Pyro expands a distribution's parameters to all samples before it takes their logarithm. Each element goes through
    the same operations, so no bit of a result changes.
    """
    for node in list(graph.nodes):
        if not is_pointwise(node) or node in write or is_random(node) or is_mutable(node):
            continue
        shape = _shape(node)
        used = node.all_input_nodes
        wide = [u for u in used if u.target is _ATEN.expand.default and _shape(u) == shape]
        rest = [u for u in used if u not in wide]
        if not wide or any(_shape(u) != () for u in rest) or any(u in write for u in used):
            continue
        # Whatever else uses it may want it laid out in memory as it was.
        if not all(is_pointwise(u) or u.target is _ATEN.sum.dim_IntList for u in node.users):
            continue
        small = {u: u.args[0] for u in wide}
        meta = _on_meta(node, small)
        value = node.meta["val"]
        if meta is None or meta.dtype is not value.dtype or meta.numel() >= value.numel():
            continue
        with graph.inserting_before(node):
            inner = graph.node_copy(node, lambda u, small=small: small.get(u, u))  # type: ignore[misc]
            inner.meta = {**node.meta, "val": meta}
            outer = graph.call_function(_ATEN.expand.default, (inner, list(shape or ())))
            outer.meta = dict(node.meta)
        node.replace_all_uses_with(outer)


def _on_meta(node: fx.Node, instead: dict[fx.Node, Any]) -> torch.Tensor | None:
    """What a node's result would be of other arguments: its shape and dtype, without numbers."""

    def empty(u: fx.Node) -> torch.Tensor:
        value = instead.get(u, u).meta["val"]
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    try:
        result = node.target(*map_arg(node.args, empty), **map_arg(node.kwargs, empty))  # type: ignore[operator]
    except (RuntimeError, KeyError, AttributeError, NotImplementedError):
        return None
    return result if isinstance(result, torch.Tensor) else None


def is_pointwise(node: fx.Node) -> bool:
    """Whether each element of the result depends on the elements at its place alone."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _touching(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that change what others may see: not those that fill a tensor which nothing else reads."""
    found = set()
    for node in graph.nodes:
        for root in map(_root, _targets(node)):
            if root.op in ("placeholder", "get_attr") or _is_read(root, node):
                found.add(node)
    return found


def _is_read(memory: fx.Node, writer: fx.Node) -> bool:
    """Whether other nodes than ``writer`` use a node's memory, directly or through a view."""
    others = (user for user in memory.users if user is not writer)
    return any(_is_read(user, writer) if is_view(user) else True for user in others)


def _targets(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node changes in place."""
    if not is_mutable(node):
        return []
    names = node.target._schema.arguments  # type: ignore[union-attr]
    found = []
    for i, argument in enumerate(names):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            found += [v for v in values if isinstance(v, fx.Node)]
    return found


def _root(node: fx.Node) -> fx.Node:
    """The node whose memory a node's result lies in."""
    while node.op == "call_function":
        if node.target is operator.getitem:
            source = node.args[0]
        elif _aliases(node):
            source = node.args[0] if node.args else None
        else:
            return node
        if not isinstance(source, fx.Node):
            return node
        node = source
    return node


def _aliases(node: fx.Node) -> bool:
    return node.target in _SILENT_VIEWS or (
        isinstance(node.target, torch._ops.OpOverload)
        and any(result.alias_info is not None for result in node.target._schema.returns)
    )


def _is_output(node: fx.Node) -> bool:
    return any(user.op == "output" for user in node.users)


def _same_as(node: fx.Node) -> fx.Node | None:
    """The argument that a node's result is the same as, if there is one."""
    source = node.args[0] if node.args else None
    if node.target is _ATEN.cat.default and isinstance(source, (list, tuple)) and len(source) == 1:
        (source,) = source
    elif node.target is _ATEN.t.default and isinstance(source, fx.Node) and source.target is node.target:
        source = source.args[0]
    elif node.target in _RESHAPES:
        if not isinstance(source, fx.Node) or "val" not in source.meta or "val" not in node.meta:
            return None
        a, b = source.meta["val"], node.meta["val"]
        if a.shape != b.shape or a.stride() != b.stride():
            return None
    elif node.target not in _ALIASES:
        return None
    return source if isinstance(source, fx.Node) else None
