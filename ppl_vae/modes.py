"""Modes: context managers for training or evaluation mode and the number of threads, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ppl_vae.exclusive import shielded


@contextmanager
@shielded
def in_mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules and their children into training or evaluation mode; their own modes are restored afterwards."""
    changed: list[nn.Module] = []
    try:
        change(modules, training, changed)
        yield
    finally:
        put_back(changed, training)


def change(modules: Iterable[nn.Module], training: bool, changed: list[nn.Module]) -> None:
    """Put modules and their children into a mode; those that were in the other mode are added to ``changed``."""
    # Find all of them first: the wrapper of torch.compile, for example, shows the mode of its inner module as its own.
    found = [child for module in modules for child in module.modules() if child.training != training]
    changed.extend(found)
    for child in found:
        child.training = training


def put_back(changed: Iterable[nn.Module], training: bool) -> None:
    """Restore the modes of modules that `change` has changed."""
    for child in changed:
        child.training = not training


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with ``number`` threads inside of the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
