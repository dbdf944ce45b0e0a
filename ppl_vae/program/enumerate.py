"""Enumeration of the joint values of a program's latents, if they are discrete and finitely many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, device_of, num_data
from ppl_vae.program.masks import counted, is_masked
from ppl_vae.program.program import Program
from ppl_vae.program.sites import family
from ppl_vae.program.tracing import Run

_DRAWS = 16  # of the prior: a support that moves with the latents before it shows in some of them


def without_guide(program: Program) -> Program:
    """The program with its prior instead of the guide, so that the guide may be incomplete or empty."""

    def guide(x: Data) -> None:
        with poutine.block(hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"]):
            program.callable("model")(x)

    return program.derived(program.callable("model"), guide, program.check_data)


@dataclass(frozen=True)
class _Support:
    """The values ``(V, *base event)`` of one element of a site, and how its elements make up its event."""

    values: Tensor
    elements: torch.Size

    @property
    def count(self) -> int:
        return len(self.values) ** self.elements.numel()


class SupportValues:
    """All joint values of the latent sites of a program: the product over sites, and over the elements of each.

    A site may be any distribution with torch's ``enumerate_support`` (Categorical, Bernoulli, Binomial with one total
    count, OneHotCategorical) with any number of ``.to_event`` dimensions around it.

    Args:
        program: the program.
        x: its data ``(N, ...)``.

    Attributes:
        count: the number of joint values.
        repeats: ``(N,)`` float64, the log of the number of values of the masked elements: a sum over all joint values
            contains each value of the other elements this number of times.

    Raises:
        ProgramError: naming the first latent site that is continuous or not finite, or whose values differ between
            data or between values of the latents before it.
    """

    def __init__(self, program: Program, x: Data) -> None:
        self.num_data = num_data(x)
        with torch.no_grad(), rng.seeded(device_of(x), 0, "support values"), program.evaluating():
            found = program.run("model", x, _DRAWS)
        latent = {name: site for name, site in found.sites.items() if not site["is_observed"]}
        self._supports = {name: _support(name, site["fn"]) for name, site in latent.items()}
        self.count = math.prod(support.count for support in self._supports.values())
        self.repeats = torch.zeros(self.num_data, dtype=torch.float64, device=device_of(x))
        for name, site in latent.items():
            if is_masked(site):
                self.repeats = self.repeats + _repeats(name, found, len(self._supports[name].values))

    def at(self, start: int, stop: int) -> dict[str, Tensor]:
        """The joint values ``start`` to ``stop`` - 1 as latents ``(S, N, *event)``, for `Program.log_joint`.

        The last site's last element changes fastest.
        """
        number = torch.arange(start, min(stop, self.count))
        values: dict[str, Tensor] = {}
        for name, support in reversed(self._supports.items()):
            V, elements = len(support.values), support.elements.numel()
            place = torch.tensor([V**e for e in reversed(range(elements))])
            digits = number[:, None] // place % V
            number = number // support.count
            chosen = support.values[digits.to(support.values.device)]
            event = (*support.elements, *support.values.shape[1:])
            values[name] = chosen.reshape(len(digits), 1, *event).expand(-1, self.num_data, *event)
        return {name: values[name] for name in self._supports}


def _support(name: str, fn: Any) -> _Support:
    elements: tuple[int, ...] = ()
    core = fn
    while hasattr(core, "base_dist"):
        if isinstance(core, Independent):
            n = core.reinterpreted_batch_ndims
            elements = (*elements, *core.event_shape[:n])
        core = core.base_dist
    refusal = ProgramError(
        f"latent site {name!r}",
        "a latent with finitely many values, the same for all data (a continuous one: quadrature, importance)",
        f"a {family(fn)}",
    )
    if not core.has_enumerate_support:
        raise refusal
    try:
        values = core.enumerate_support(expand=False)
    except NotImplementedError:
        raise refusal from None
    return _Support(values.reshape(len(values), *core.event_shape), torch.Size(elements))


def _repeats(name: str, found: Run, values: int) -> Tensor:
    """The log of the number of values of a site's masked elements, ``(N,)``."""
    site = found.sites[name]
    kept = counted(site["fn"], site["mask"])
    if kept is None:
        raise AssertionError("a site without a mask")
    kept = found.stack(name, kept)
    if not bool((kept == kept[:1]).all()):
        expected = "a mask that depends on the data only, to sum over the latent's values"
        raise ProgramError(f"latent site {name!r}", expected, "a mask that depends on latents")
    hidden = (~kept[0]).double()
    return (hidden.flatten(1).sum(-1) if hidden.ndim > 1 else hidden) * math.log(values)
