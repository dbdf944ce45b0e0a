"""A graph is its function: for other numbers of the same shapes, and with the same side effects."""

import pytest
import torch
from compiled_programs import randn
from torch import nn

from ppl_vae import rng
from ppl_vae.compiled import CaptureError, capture, disagreement
from ppl_vae.compiled.graph.backend import interpreted
from ppl_vae.compiled.graph.hoist import split


@pytest.fixture(autouse=True)
def _as_before():
    with rng.forked():
        yield


def run(graph, *given):
    with torch.no_grad():
        return interpreted(graph)([*graph.fixed, *given])


def test_live_tensors_are_inputs_and_numbers_are_constants():
    weight, hidden = nn.Parameter(randn(3)), randn(3, seed=1)
    graph = capture(lambda x: [x * weight + hidden * torch.tensor(2.0)], [weight], [randn(3, seed=2)])
    assert [id(t) for t in graph.fixed] == [id(weight), id(hidden)]
    assert [float(c) for c in graph.constants.values()] == [2.0]
    with torch.no_grad():
        weight.add_(1)
        hidden.mul_(3)
    x = randn(3, seed=5)
    torch.testing.assert_close(run(graph, x)[0], x * weight.detach() + hidden * 2)


def test_random_states_and_buffers_are_as_before():
    norm = nn.BatchNorm1d(3).double()
    x = randn(8, 3)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    state = torch.get_rng_state()
    graph = capture(lambda x: [norm(x) + torch.randn(8, 3)], [*norm.parameters(), *norm.buffers()], [x])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
    assert graph.mutates
    assert graph.random
    run(graph, x)
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))


def test_draws_that_nothing_needs_are_kept_unless_told_otherwise():
    def function(x):
        torch.randn(5)
        return [x + torch.rand(3).double()]

    x = randn(3)
    torch.manual_seed(0)
    expected = function(x)[0]
    torch.manual_seed(0)
    assert torch.equal(run(capture(function, [], [x]), x)[0], expected)
    kept = [capture(function, [], [x], dead_draws=dead).graph for dead in (True, False)]
    assert [str(graph).count("aten.randn") for graph in kept] == [1, 0]


def test_in_place_operations_on_what_is_new_are_kept():
    def function(x):
        y = torch.zeros(4, 3, dtype=x.dtype)
        y[1:3] = x
        y.view(-1)[0] += 5
        z = torch.tensor([1.0, 2.0, 3.0]).double()
        z.mul_(2)
        return [y * z, torch.cat([x]).add_(1)]

    x = randn(2, 3)
    graph = capture(function, [], [x])
    for value in (x, randn(2, 3, seed=7)):
        for ours, theirs in zip(run(graph, value), function(value), strict=True):
            assert torch.equal(ours, theirs)
    assert not graph.mutates


def closed(tensor):
    return lambda x: [x + tensor.add_(1)]


REFUSED = {
    "a branch": (lambda x: [x if x.sum() > 0 else -x], "read out of a tensor"),
    "a number": (lambda x: [x * x.max().item()], r"read out of a tensor .*test_capture.py line"),
    "a loop": (lambda x: [x * int((x > 0).sum())], "read out of a tensor"),
    "a shape": (lambda x: [x[x > 0].sum() + x], "shape of a result depends on data"),
    "unique": (lambda x: [x.unique().sum() + x], "shape of a result depends on data"),
    "what it is given": (lambda x: [x.add_(1)], "neither a parameter nor a buffer"),
    "what it holds": (closed(torch.zeros(3).double()), "neither a parameter nor a buffer"),
    "an error": (lambda x: [x + torch.zeros(7)], "must match"),
}


@pytest.mark.parametrize(("function", "cause"), REFUSED.values(), ids=REFUSED)
def test_what_no_graph_stands_for(function, cause):
    x = randn(3).abs()
    kept = x.clone()
    with pytest.raises(CaptureError, match=cause) as caught:
        capture(function, [], [x])
    assert "\n" not in str(caught.value)
    assert torch.equal(x, kept)


def test_a_tensor_given_twice_is_refused():
    x = randn(3)
    for fixed, given in (([], [x, x]), ([x], [x])):
        with pytest.raises(CaptureError, match="two arguments"):
            capture(lambda *t: [t[0] + t[-1]], fixed, given)


def test_repeating_after_instead_of_before_changes_no_bit():
    def function(x, scale):
        wide = scale.exp().expand(50, 4, 3)
        noise = torch.randn(50, 4, 3, dtype=x.dtype)
        return [(x + noise * wide - wide.log() / (2 * wide**2)).sum(-1), wide.log().reshape(-1)]

    given = randn(4, 3), randn(4, 3, seed=1)
    torch.manual_seed(0)
    expected = function(*given)
    graph = capture(function, [], given)
    logs = [n for n in graph.graph.nodes if str(n.target) == "aten.log.default"]
    assert min(n.meta["val"].numel() for n in logs) == 12
    torch.manual_seed(0)
    for ours, theirs in zip(run(graph, *given), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_split_computes_once_what_does_not_vary():
    weight = randn(3, 4)

    def function(x, u):
        features = torch.tanh(x @ weight)
        return [(features.expand(9, 5, 4) * u).sum(-1) + torch.rand(9, 5).double(), features.sum()]

    x, u = randn(5, 3), randn(9, 5, 4)
    graph = capture(function, [weight], [x, u])
    parts = split(graph, (1,))
    assert parts.before.given == 1
    assert "mm" in str(parts.before.graph)
    assert "mm" not in str(parts.body.graph)
    bound = run(parts.before, x)
    assert [t.shape for t in bound] == [(5, 4), ()]
    for seed, point in ((0, u), (1, 2 * u)):
        torch.manual_seed(seed)
        expected = function(x, point)
        torch.manual_seed(seed)
        for ours, theirs in zip(run(parts.body, *bound, point), expected, strict=True):
            assert torch.equal(ours, theirs)


def in_place_on_a_product(x):
    """As torch's LowRankMultivariateNormal does it: the product comes out as a view that does not say so."""
    product = torch.matmul(x.mT, x)
    product.view(-1, 4)[:, ::3] += 1
    return product


def in_place_on_a_part(x):
    first, _ = torch.unsafe_split(x * 2, 1, dim=-1)
    return first.add_(1)


@pytest.mark.parametrize("prepare", [in_place_on_a_product, in_place_on_a_part])
def test_what_is_computed_once_is_not_written_into(prepare):
    def function(x, u):
        return [prepare(x).sum((-2, -1)) * u]

    x, u = randn(5, 3, 2), randn(9, 5)
    parts = split(capture(function, [], [x, u]), (1,))
    bound = run(parts.before, x)
    for factor in (1, 2, 3):
        (ours,) = run(parts.body, *bound, factor * u)
        assert torch.equal(ours, function(x, factor * u)[0])


def test_the_rule_of_agreement():
    a = torch.tensor([1.0, -torch.inf, torch.nan, 100.0]).double()
    assert disagreement([a], [a.clone()], torch.float64) is None
    off = a.clone()
    off[0] += 2e-8  # more than 1e-10 of the largest
    assert "differs by 2e-08" in disagreement([off], [a], torch.float64)
    assert disagreement([off], [a], torch.float32) is None
    for value in (0.0, torch.inf):
        off = a.clone()
        off[1] = value
        assert "not finite in other places" in disagreement([off], [a], torch.float32)
    assert "shape" in disagreement([a[:2]], [a], torch.float32)
    small = torch.tensor([1e-12])
    assert (
        disagreement([small, a], [small * 2, a], torch.float64) is None
    )  # cancels to nothing beside the other
    assert disagreement([small], [small * 2], torch.float64) is not None
