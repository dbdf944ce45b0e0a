"""Draws inside of a run: a distribution without a sampler is refused by the name of its site."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.errors import ProgramError
from ppl_vae.program.blame import first_line, where_raised
from ppl_vae.program.sites import family

_NO_SAMPLER = (NotImplementedError, AttributeError)


class NoSamplerError(ProgramError):
    """A site has to be drawn, and its distribution has no sampler."""


class Drawing(Messenger):
    """Turns the error of a distribution without a sampler into a `NoSamplerError` that names its site.

    It must be the outermost handler, so that it sees a site directly before and directly after it is drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._site: Any = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not msg["done"] and type(msg["fn"]).__name__ != "_Subsample":
            self._site = msg

    def _pyro_post_sample(self, msg: Any) -> None:  # noqa: ARG002  (Pyro's signature)
        self._site = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, where)
        site, self._site = self._site, None
        if site is not None and isinstance(error, _NO_SAMPLER):
            raise no_sampler(site, error) from error


def draw(msg: Any) -> Tensor:
    """A draw of the current site of a handler; raises `NoSamplerError` if its distribution has no sampler."""
    try:
        drawn: Tensor = msg["fn"]()
    except _NO_SAMPLER as error:
        raise no_sampler(msg, error) from error
    return drawn


def no_sampler(msg: Any, error: BaseException) -> NoSamplerError:
    """The error of a site whose distribution raised ``error`` instead of a draw."""
    first = first_line(error)
    received = f"a {family(msg['fn'])}, whose sampler raises {type(error).__name__}{where_raised(error)}"
    expected = "a distribution with a sampler (importance sampling from the guide draws from the guide only)"
    return NoSamplerError(f"site {msg['name']!r}", expected, f"{received}: {first}" if first else received)
