"""Matrix products by oneDNN: which are, and that they are the same products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_vae.compiled.graph.backend import compiled, interpreted
from ppl_vae.compiled.graph.capture import capture
from ppl_vae.compiled.graph.products import available

pytestmark = pytest.mark.skipif(not available(), reason="no oneDNN products here")

LARGE, SMALL = (256, 128, 64), (8, 16, 4)  # rows, inner, columns
LINEAR = torch.ops.mkldnn._linear_pointwise.default


def layer_and_gradients(weight, bias, x, slope):
    """A layer, and backwards: the products of training, of which one has a transposed left factor."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        w, b = weight.detach().requires_grad_(), bias.detach().requires_grad_()
        out = torch.tanh(nn.functional.linear(x, w, b))
        return [out.detach(), *torch.autograd.grad((out * slope).sum(), (x, w, b))]


def problem(sizes):
    rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(0)
    shapes = ((columns, inner), (columns,), (rows, inner), (rows, columns))
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def calls(run):
    """Which operations a run calls, by name."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        result = run()
    return result, {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("sizes", [LARGE, SMALL], ids=["large", "small"])
def test_large_products_are_onednns_and_all_are_the_same(sizes):
    given = problem(sizes)
    graph = capture(layer_and_gradients, [], given)
    expected = layer_and_gradients(*given)
    found, names = calls(lambda: interpreted(graph)([*graph.fixed, *given]))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    assert ("mkldnn::_linear_pointwise" in names) == (sizes == LARGE)
    assert ("aten::addmm" in names) is False  # a small one has its bias added apart, a large one inside


@pytest.mark.slow
def test_nothing_is_copied_for_them_when_compiled():
    given = problem(LARGE)
    graph = capture(layer_and_gradients, [], given)
    run = compiled(graph, [*graph.fixed, *given])
    run([*graph.fixed, *given])
    found, names = calls(lambda: run([*graph.fixed, *given]))
    for a, b in zip(found, layer_and_gradients(*given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    assert "mkldnn::_linear_pointwise" in names
    assert "aten::copy_" not in names
