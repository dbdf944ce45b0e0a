"""Pair: the interface of a (model, guide) pair for the checks of a program."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pyro.poutine.messenger import Messenger

from ppl_vae.program.data import Data
from ppl_vae.program.modules import Networks
from ppl_vae.program.tracing import Layouts, Run


class RunnablePair(Protocol):
    """A model and a guide that can be run; `ppl_vae.Program` is the only implementation.

    Attributes:
        modules: the networks that its runs use.
    """

    modules: Networks

    def callable(self, role: str) -> Callable[..., Any]:
        """The user's "model" or "guide", without changes."""

    def evaluating(self) -> AbstractContextManager[None]:
        """A context with the program's own parameters and evaluation mode."""

    def layouts(self, x: Data) -> Layouts:
        """The layouts of guide and model for data like ``x``."""

    def run(self, role: str, x: Data, num_samples: int, handler: Messenger | None = None) -> Run:
        """Run the "model" or the "guide", for S draws of each datum; inside `evaluating` only."""
