"""Hoisting: divides a graph into the part that does not depend on draws, which is computed once, and the rest.

An encoder then runs once for its data with any number of samples, and so does the part of a likelihood that depends on
the data only. This works for any program.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, fx

from ppl_vae.compiled.graph.capture import Graph
from ppl_vae.compiled.graph.simplify import changed, is_mutable, is_pointwise, is_random, is_view

_ATEN = torch.ops.aten


class Split(NamedTuple):
    """A graph in two.

    Attributes:
        before: from what the whole is given for good to ``bound``, the tensors that the rest needs of it.
        body: from ``bound`` and what the whole is given anew each time to the whole's outputs.
    """

    before: Graph
    body: Graph


def split(graph: Graph, varying: Collection[int]) -> Split:
    """Cut a graph by what depends on draws, or on what it is given anew each time.

    Args:
        graph: the graph; must not change its inputs.
        varying: which of the tensors that it is given are new each time.
    """
    nodes = list(graph.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    fixed, given = places[: len(graph.fixed)], places[len(graph.fixed) :]
    late = {given[i] for i in varying}
    roots = changed(graph.graph)
    for node in nodes:
        moves = is_random(node) or is_mutable(node) or node in roots
        if moves or node.op == "output" or any(used in late for used in node.all_input_nodes):
            late.add(node)
    needed: dict[fx.Node, None] = {}
    again: set[fx.Node] = set()

    def need(node: fx.Node) -> None:
        if node in late or node in again or node in needed:
            return
        if node.op == "get_attr" or _cheap(node):
            again.add(node)
            for used in node.all_input_nodes:
                need(used)
        elif node not in fixed:
            needed[node] = None

    for node in nodes:
        if node in late:
            for used in node.all_input_nodes:
                need(used)
    early = [node for node in nodes if node not in late]
    at: dict[fx.Node, fx.Node] = {}
    first, second = fx.Graph(), fx.Graph()
    for node in early:
        at[node] = first.node_copy(node, lambda used: at[used])
    out = first.output(tuple(at[node] for node in needed))
    out.meta = {}
    before = _pruned(first, graph, fixed, [g for g in given if g not in late], at)

    at = {}
    for node in (*fixed, *needed, *(given[i] for i in sorted(varying))):
        if node.op == "placeholder":
            at[node] = second.node_copy(node)
        else:
            at[node] = second.placeholder(f"bound_{node.name}")
            at[node].meta = dict(node.meta)
    for node in nodes:
        if node not in at and (node in late or node in again):
            at[node] = second.node_copy(node, lambda used: at[used])
    body = _pruned(second, graph, fixed, [*needed, *(given[i] for i in sorted(varying))], at)
    return Split(before, body)


def _pruned(
    new: fx.Graph, old: Graph, fixed: list[fx.Node], given: list[fx.Node], at: dict[fx.Node, fx.Node]
) -> Graph:
    """A part as a `Graph`, without the inputs and constants that only the other part uses."""
    for node in reversed(list(new.nodes)):
        if node.op == "placeholder":
            continue
        if not node.users and node.op != "output" and not is_random(node) and not is_mutable(node):
            new.erase_node(node)
    live: list[Tensor] = []
    for node, value in zip(fixed, old.fixed, strict=True):
        if at[node].users:
            live.append(value)
        else:
            new.erase_node(at[node])
    new.lint()
    constants = {str(n.target): old.constants[str(n.target)] for n in new.nodes if n.op == "get_attr"}
    draws = any(is_random(node) for node in new.nodes)
    return Graph(new, constants, tuple(live), len(given), mutates=False, random=draws)


def _cheap(node: fx.Node) -> bool:
    """Whether a node is computed again more cheaply than what it computes is kept and read."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and is_view(node.args[0])
    if is_view(node) or not node.all_input_nodes or str(node.target).startswith(_FILLS):
        return True
    inputs = [_numel(used) for used in node.all_input_nodes]
    return is_pointwise(node) and _numel(node) > max(inputs)


_FILLS = ("aten.ones_like", "aten.zeros_like", "aten.full_like", "aten.empty_like", "aten.new_")


def _numel(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else 0
