"""What the checks of a program need of it: a (model, guide) pair that can be run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pyro.poutine.messenger import Messenger

from ppl_vae.program.data import Data
from ppl_vae.program.modules import Networks
from ppl_vae.program.tracing import Layouts, Run


class RunnablePair(Protocol):
    """A model and a guide that can be run; `ppl_vae.Program` is the one that there is.

    Attributes:
        modules: the networks that its runs use.
    """

    modules: Networks

    def callable(self, role: str) -> Callable[..., Any]:
        """The user's "model" or "guide", as it is."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Parameters of its own and evaluation mode, for the time of a block."""

    def layouts(self, x: Data) -> Layouts:
        """How runs of the two halves lie for data like ``x``."""

    def run(self, role: str, x: Data, num_samples: int, handler: Messenger | None = None) -> Run:
        """Run the "model" or the "guide", for S draws of each datum; inside `evaluating` only."""
