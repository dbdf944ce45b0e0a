"""Training and evaluation mode for the time of a block, with every submodule's own mode put back afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules, with all that they hold, into training or evaluation mode; what was in it already stays in it."""
    changed = [child for module in modules for child in module.modules() if child.training != training]
    for child in changed:
        child.training = training
    try:
        yield
    finally:
        for child in changed:
            child.training = not training
