"""Training and evaluation mode for the time of a block, with every submodule's own mode put back afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ppl_vae.exclusive import shielded


@contextmanager
@shielded
def in_mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules, with all that they hold, into training or evaluation mode; what was in it already stays in it."""
    changed: list[nn.Module] = []
    try:
        change(modules, training, changed)
        yield
    finally:
        put_back(changed, training)


def change(modules: Iterable[nn.Module], training: bool, changed: list[nn.Module]) -> None:
    """Put modules, with all that they hold, into a mode; those that were not in it are added to ``changed``."""
    # All of them first: a wrapper such as that of torch.compile shows the mode of what it wraps as its own.
    found = [child for module in modules for child in module.modules() if child.training != training]
    changed.extend(found)
    for child in found:
        child.training = training


def put_back(changed: Iterable[nn.Module], training: bool) -> None:
    """Put modules that `change` put into a mode back into the other one."""
    for child in changed:
        child.training = not training


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with this many threads; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
