"""Backend: runs a tensor graph, as generated Python operation by operation, or compiled by inductor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing

from ppl_vae.compiled.graph import cuda_graphs
from ppl_vae.compiled.graph.bernoulli_sum import sum_bernoulli_together
from ppl_vae.compiled.graph.capture import Graph
from ppl_vae.compiled.graph.products import available, by_onednn, direct_products
from ppl_vae.log_timing import log_timing

LEVELS = ("plain", "captured", "compiled")
"""The program itself; its graph, run operation by operation; its graph, compiled."""

Runner = Callable[[list[Tensor]], Sequence[Any]]
"""A list of tensors, the graph's inputs in order, in; the graph's outputs out."""


class CompileWarning(UserWarning):
    """A program or graph runs slower than requested; the message says what and why."""


_warned: set[str] = set()


def warn_once(kind: str, message: str) -> None:
    """A `CompileWarning`, the first time in this process that there is one of this ``kind``."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, CompileWarning, stacklevel=3)


def interpreted(graph: Graph) -> Runner:
    """The graph as a Python function that calls one operation after the other and lets go of what it has used."""
    module = fx.GraphModule(dict(graph.constants), _faster(graph.graph))
    forward = module.forward  # not the module: its call looks for hooks

    def run(inputs: list[Tensor]) -> Sequence[Any]:
        result: Sequence[Any] = forward(*inputs)
        return result

    return run


@log_timing("compiled")
def compiled(graph: Graph, example: Sequence[Tensor]) -> Runner:
    """The graph compiled by inductor for tensors like ``example``, the graph's inputs; cached on disk by inductor.

    Raises:
        RuntimeError: where there is no compiler, or inductor fails; the message is the cause, in one line.
    """
    on_cpu = all(t.device.type == "cpu" for t in example)
    try:
        try:
            run = _by_inductor(graph, example, cpp_wrapper=on_cpu)
        except Exception:
            if not on_cpu:
                raise
            run = _by_inductor(graph, example, cpp_wrapper=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise RuntimeError(f"{type(error).__name__}: {lines[0]}") from error

    def boxed(inputs: list[Tensor]) -> Sequence[Any]:
        result: Sequence[Any] = run(*inputs)
        return result

    return cuda_graphs.Replayed(boxed, len(graph.fixed)) if cuda_graphs.wanted(example[0].device) else boxed


def _by_inductor(graph: Graph, example: Sequence[Tensor], *, cpp_wrapper: bool) -> Any:
    """What inductor makes of a graph; with ``cpp_wrapper``, kernels are called from C++, which costs less a call."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Here, since importing inductor takes as long as importing torch.
        from torch._inductor.compile_fx import compile_fx
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        patches = {
            "fallback_random": True,  # torch's own generator, in the program's order
            "fx_graph_cache": True,
            "pattern_matcher": False,  # its patterns of oneDNN products want weights that never change
            "cpp.threads": torch.get_num_threads(),
            "cpp.min_chunk_size": 4096,  # for less, a second thread costs more than it does
            "cpp_wrapper": cpp_wrapper,
        }
        # Inductor's cache on disk wants a shape environment, though no shape here is a symbol.
        fake = FakeTensorMode(shape_env=ShapeEnv())
        inputs = [fake.from_tensor(t.detach(), static_shapes=True) for t in example]
        module = fx.GraphModule(dict(graph.constants), _faster(graph.graph))
        with tracing(TracingContext(fake)), direct_products():
            return compile_fx(_own_draws(module), inputs, config_patches=patches)


def _faster(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph with sums and products that are the same to round-off."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    sum_bernoulli_together(copy)
    if available():
        by_onednn(copy)
    return copy


def _own_draws(module: fx.GraphModule) -> fx.GraphModule:
    """A module whose Bernoulli numbers torch draws: inductor would make them of uniform ones, and others of them."""
    aten = torch.ops.aten
    for node in module.graph.nodes:
        if node.target is aten.bernoulli.default:
            with module.graph.inserting_before(node):
                empty = module.graph.call_function(aten.empty_like.default, (node.args[0],))
                filled = module.graph.call_function(aten.bernoulli_.Tensor, (empty, node.args[0]))
            node.replace_all_uses_with(filled)
            module.graph.erase_node(node)
    module.recompile()
    return module
