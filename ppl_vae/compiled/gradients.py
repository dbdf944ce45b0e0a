"""Gradients: a loss and its gradients as one function of tensors, for capturing and from Pyro itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.compiled.graph.capture import CaptureError
from ppl_vae.objectives.gates import Gated


def traced(losses: Callable[[], Any], leaves: Sequence[Tensor]) -> list[Tensor]:
    """[loss, gradient of each leaf], in a form that can be captured; empty tensors for leaves without a gradient.

    Gradients have the strides of their leaves and do not share memory, so an optimiser may keep them.

    Args:
        losses: gives (loss, surrogate); the surrogate is a tensor or a `Gated`.
        leaves: what the surrogate is differentiated by.
    """
    with torch.enable_grad():
        loss, surrogate = losses()
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not isinstance(loss, Tensor):
            raise CaptureError("the loss is not a tensor")
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if isinstance(surrogate, Gated):
            found = surrogate.gradients(wanted)
        elif isinstance(surrogate, Tensor) and surrogate.requires_grad and wanted:
            found = torch.autograd.grad(surrogate, wanted, allow_unused=True)
    gradients = iter(found)
    outputs = [loss.detach()]
    seen: set[int] = set()
    for leaf in leaves:
        gradient = next(gradients) if leaf.requires_grad else None
        if gradient is None:
            outputs.append(leaf.detach().new_empty(0))
            continue
        if gradient.stride() != leaf.stride() or id(gradient) in seen:
            gradient = torch.empty_like(leaf).copy_(gradient)
        seen.add(id(gradient))
        outputs.append(gradient)
    return outputs


def plain(loss_and_grads: Callable[[], Any], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The same from Pyro: ``loss_and_grads`` sets the gradients of the leaves, which are restored afterwards."""
    kept = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        with torch.enable_grad():
            loss = loss_and_grads()
        # These tensors belong to no one else, so they are returned without copies.
        found = [leaf.detach().new_empty(0) if leaf.grad is None else leaf.grad for leaf in leaves]
    finally:
        for leaf, gradient in zip(leaves, kept, strict=True):
            leaf.grad = gradient
    device = leaves[0].device if leaves else None
    return [torch.as_tensor(float(loss), dtype=torch.float64, device=device), *found]


def by_leaf(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients in outputs of `traced` or `plain`; None for a leaf without a gradient."""
    return [g if g.numel() or not leaf.numel() else None for g, leaf in zip(outputs[1:], leaves, strict=True)]
