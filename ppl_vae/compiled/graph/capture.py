"""Capture: the tensor graph of a function, from one run of it.

The graph of a Pyro program has only its arithmetic, without handlers, distributions and modules. All tensors from
outside of the function (parameters, buffers, values in closures) are *inputs* of the graph, as the same objects, so the
graph uses values that are loaded into them or changed by an optimiser. Decisions of Python code during the run (shapes,
branches, numbers) are constants of the graph. A graph that is kept therefore needs guards (`ppl_vae.compiled.guards`)
and comparisons (`ppl_vae.program.agreement`).
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import rng
from ppl_vae.compiled.graph.simplify import changed, is_random, simplify
from ppl_vae.log_timing import log_timing

Function = Callable[..., Sequence[Tensor]]
"""Tensors in, tensors out."""

_LIBRARIES = tuple(str(Path(str(package.__file__)).parent) for package in (torch, pyro))
_ATEN = torch.ops.aten


class CaptureError(RuntimeError):
    """A function that no tensor graph stands for; the message is the cause, in one line."""


@dataclass(frozen=True)
class Graph:
    """What a function did with tensors.

    Attributes:
        graph: placeholders for ``fixed`` and then for what the function is given; its output is a flat tuple.
        constants: tensors that were made of Python's numbers in the run, by the name that the graph gets them by.
        fixed: the live tensors that it reads besides what it is given.
        given: how many tensors it is given.
        mutates: whether it changes some of ``fixed`` in place, as a run of the function does.
        random: whether it draws from torch's global generator.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    fixed: tuple[Tensor, ...]
    given: int
    mutates: bool
    random: bool

    def module(self) -> fx.GraphModule:
        """A copy of the graph as a module, for inductor, which keeps what it is given."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        return fx.GraphModule(dict(self.constants), graph)


@log_timing("captured")
def capture(
    function: Function, fixed: Sequence[Tensor], given: Sequence[Tensor], *, dead_draws: bool = True
) -> Graph:
    """Run ``function(*given)`` once and keep its tensor graph. Random states and ``fixed`` are as before afterwards.

    Args:
        function: called with tensors of the shapes, dtypes and device of ``given``; returns tensors.
        fixed: what it is known to read (or to change) besides: parameters and buffers.
        given: what it is called with, no tensor twice.
        dead_draws: whether draws that nothing depends on stay in the graph, so that those after them are the same as
            in a run of the function.

    Raises:
        CaptureError: if the graph would not be that of the function for other values.
    """
    fixed = list({id(t): t for t in fixed}.values())
    if {id(t) for t in fixed} & {id(t) for t in given} or len({id(t) for t in given}) < len(given):
        raise CaptureError("one tensor is given as two arguments, or is a parameter as well")
    with untouched(*fixed, *given) as before, torch.no_grad():
        try:
            module = make_fx(lambda *tensors: tuple(function(*tensors[len(fixed) :])))(*fixed, *given)
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(_cause(error)) from error
        differs = [not _same(*pair) for pair in zip((*fixed, *given), before, strict=True)]
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    places = [node for node in graph.nodes if node.op == "placeholder"]
    _visible_batch_norm(graph)
    constants, hidden = _lift(module, places, fixed)
    simplify(graph, dead_draws=dead_draws)
    _refuse_foreign(graph)
    write = changed(graph)
    for place, differ in zip(places, differs, strict=True):
        if differ and place not in write:
            raise CaptureError("a tensor is changed in place by an operation that does not say so")
    if any(node.op == "get_attr" for node in write) or write & {*places[len(fixed) :], *hidden}:
        raise CaptureError("a tensor that is neither a parameter nor a buffer is changed in place")
    mutates = any(node.op == "placeholder" for node in write)
    read = [(place, t) for place, t in zip(places, fixed, strict=False) if place.users]
    for place in places[: len(fixed)]:
        if not place.users:
            graph.erase_node(place)
    live = (*(t for _, t in read), *hidden.values())
    draws = any(is_random(node) for node in graph.nodes)
    return Graph(graph, constants, live, len(given), mutates, draws)


@contextmanager
def untouched(*tensors: Tensor, device: torch.device | None = None) -> Iterator[list[Tensor]]:
    """Put torch's random states and the values of tensors, which it yields, back on the way out."""
    kept = [t.detach().clone() for t in tensors]
    if device is None:
        device = next((t.device for t in tensors if t.device.type == "cuda"), torch.device("cpu"))
    try:
        with rng.forked(device):
            yield kept
    finally:
        with torch.no_grad():
            for t, value in zip(tensors, kept, strict=True):
                if not _same(t, value):
                    t.copy_(value)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _lift(
    module: fx.GraphModule, places: list[fx.Node], fixed: list[Tensor]
) -> tuple[dict[str, Tensor], dict[fx.Node, Tensor]]:
    """Turn the live tensors that a graph holds as constants into inputs; returns the rest, and the new inputs."""
    graph, write = module.graph, changed(module.graph)
    constants: dict[str, Tensor] = {}
    hidden: dict[fx.Node, Tensor] = {}
    known = {id(t): place for place, t in zip(places, fixed, strict=False)}
    first = next(node for node in graph.nodes if node not in places[: len(fixed)])
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if not isinstance(value, Tensor):
            raise CaptureError(f"it holds a {type(value).__name__} that is no tensor")
        if all(user.target is _ATEN.lift_fresh_copy.default for user in node.users):
            # Made of Python's numbers in the run: nothing else holds it, and nothing can change it.
            for user in list(node.users):
                if user not in write:
                    user.replace_all_uses_with(node)
            constants[str(node.target)] = value
            continue
        if id(value) not in known:
            with graph.inserting_before(first):
                place = graph.placeholder(f"hidden_{len(hidden)}")
            place.meta = dict(node.meta)
            known[id(value)], hidden[place] = place, value
        node.replace_all_uses_with(known[id(value)])
        graph.erase_node(node)
    return constants, hidden


def _visible_batch_norm(graph: fx.Graph) -> None:
    """Batch normalisation that says which statistics it changes: ``native_batch_norm`` does it in silence."""
    for node in graph.nodes:
        if node.target is _ATEN.native_batch_norm.default and node.args[3] is not None and node.args[5]:
            node.target = _ATEN._native_batch_norm_legit.default


def _refuse_foreign(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if getattr(node.target, "namespace", "") not in ("aten", "prims"):
            raise CaptureError(f"{node.target} is not one of torch's own tensor operations")
        if torch.Tag.dynamic_output_shape in node.target.tags and not _indexes_by_number(node):
            raise CaptureError(f"the shape of a result depends on data ({node.target})")


def _indexes_by_number(node: fx.Node) -> bool:
    """Whether a node takes elements by their numbers, or by a mask that is a constant."""
    if not str(node.target).startswith(("aten.index.", "aten.index_put")):
        return False
    indices = [index for index in node.args[1] if isinstance(index, fx.Node)]  # type: ignore[union-attr]
    return all(
        index.op == "get_attr" or index.meta["val"].dtype not in (torch.bool, torch.uint8)
        for index in indices
    )


def _cause(error: Exception) -> str:
    """Why a run under the tracer failed, and where in the user's code."""
    first = str(error).strip().partition("\n")[0]
    if "get value out of a tracing tensor" in first:
        first = "a number is read out of a tensor that it computes (.item(), bool(), an if or a loop on data)"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    where = f", {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
    return f"{first or type(error).__name__}{where}"
