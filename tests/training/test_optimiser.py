"""The optimiser that takes gradients as they are steps as torch's own does, to the last bit."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from ppl_vae.training import SharedOptim, adam


def leaves():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((7, 3), (7,), (2, 2, 2))]


def gradients(step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(leaf.shape, generator=generator) for leaf in leaves()]


def by_torch(parameters, optimiser, found):
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient
    optimiser.step()


def test_gradients_handed_over_step_as_torch_does():
    ours, theirs = leaves(), leaves()
    optim, reference = SharedOptim(adam(ours, 0.1)), torch.optim.Adam(theirs, lr=0.1, fused=True)
    for step in range(6):
        if step == 2:
            for optimiser in (optim.optimiser, reference):
                optimiser.param_groups[0]["lr"] = 0.03
        found = gradients(step)
        if step == 3:
            found[1] = None  # not reached by the loss: neither it nor its state changes
        optim.step(found)
        by_torch(theirs, reference, found)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b), step
        assert all(leaf.grad is None for leaf in ours)
    counts = [optim.optimiser.state[leaf]["step"].item() for leaf in ours]
    assert counts == [6, 5, 6]


def test_a_state_that_was_loaded_is_gone_on_from():
    ours, theirs = leaves(), leaves()
    optim, reference = SharedOptim(adam(ours, 0.1)), torch.optim.Adam(theirs, lr=0.1, fused=True)
    for step in range(3):
        optim.step(gradients(step))
        by_torch(theirs, reference, gradients(step))
    state = deepcopy(optim.optimiser.state_dict())
    values = [leaf.detach().clone() for leaf in ours]
    for step in range(3, 5):
        optim.step(gradients(step))
    with torch.no_grad():
        for leaf, value in zip(ours, values, strict=True):
            leaf.copy_(value)
    optim.optimiser.load_state_dict(state)
    for step in range(3, 5):
        optim.step(gradients(step))
        by_torch(theirs, reference, gradients(step))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert optim.optimiser.state[ours[0]]["step"] == 5


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_any_optimiser_is_handed_gradients(clip_norm):
    ours, theirs = leaves(), leaves()
    optim = SharedOptim(torch.optim.SGD(ours, lr=0.1, momentum=0.9), clip_norm)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for step in range(3):
        optim.step(gradients(step))
        for leaf, gradient in zip(theirs, gradients(step), strict=True):
            leaf.grad = gradient
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
