"""Annealing path: the densities between a start distribution and p(x, z).

    log f_b(u) = (1 - b) log f_0(u) + b log p(x, u),    0 <= b <= 1

over the program's latents in unconstrained coordinates u (`ppl_vae.program.Coordinates`), where f_0 is the guide
q(z|x) or the prior p(z), both normalised. The integral of f_0 is 1 and that of f_1 is p(x).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.compiled.densities import STARTS, LogJoint
from ppl_vae.compiled.execution import current_level
from ppl_vae.errors import check_one_of
from ppl_vae.program import Coordinates, Data, Program


class Point(NamedTuple):
    """The points of S chains for each of N data, and the densities there.

    Attributes:
        u: ``(S, N, D)`` the points.
        log_start: log f_0(u), ``(S, N)`` float64, in nats.
        log_end: log p(x, u), likewise.
        start_gradient: the gradient of log f_0, ``(S, N, D)``; None if no gradient was requested.
        end_gradient: the gradient of log p(x, u), likewise.
    """

    u: Tensor
    log_start: Tensor
    log_end: Tensor
    start_gradient: Tensor | None = None
    end_gradient: Tensor | None = None

    def log_ratio(self) -> Tensor:
        """log p(x, u) - log f_0(u), ``(S, N)``: -inf where the density under the model is zero."""
        return torch.where(self.log_end == -torch.inf, -torch.inf, self.log_end - self.log_start)

    def log_density(self, beta: Tensor) -> Tensor:
        """log f_b, ``(S, N)``, at b = ``beta``, a number or ``(N,)``; NaN where a density is."""
        mixed = (1 - beta) * self.log_start + beta * self.log_end
        # At b = 0 and b = 1 only one of the two is used, even if the other is -inf (0 * -inf would be NaN).
        mixed = torch.where(beta == 0, self.log_start, mixed)
        return torch.where(beta == 1, self.log_end, mixed)

    def gradient(self, beta: Tensor) -> Tensor:
        """The gradient of log f_b in u, ``(S, N, D)``."""
        if self.start_gradient is None or self.end_gradient is None:
            raise AssertionError("a point without gradients was asked for one")
        b = beta.to(self.u.dtype).unsqueeze(-1)
        return torch.lerp(self.start_gradient, self.end_gradient, b)

    def select(self, accept: Tensor, other: Point) -> Point:
        """``other`` where ``accept`` ``(S, N)``, self elsewhere."""
        wide = accept.unsqueeze(-1)
        chosen = [
            None if a is None or b is None else torch.where(wide if a.ndim == 3 else accept, b, a)
            for a, b in zip(self, other, strict=True)
        ]
        return Point(*chosen)  # type: ignore[arg-type]

    def rows(self, index: Tensor) -> Point:
        """The chains with the indices ``index`` ``(S, N)`` of each datum."""
        wide = index.unsqueeze(-1)
        picked = [
            None if value is None else value.gather(0, wide.expand_as(value) if value.ndim == 3 else index)
            for value in self
        ]
        return Point(*picked)  # type: ignore[arg-type]


class AnnealingPath:
    """The annealing path of a program for some data.

    Args:
        program: the program.
        x: the data.
        start: "guide" or "prior".

    Raises:
        InputError: if ``start`` is another word.
        ProgramError: naming a latent that is not continuous.
    """

    def __init__(self, program: Program, x: Data, start: str = "guide") -> None:
        self.start = check_one_of("start", start, STARTS)
        self.coordinates = Coordinates(program, x)
        self._joint: dict[tuple[int, bool], LogJoint] = {}

    def draw(self, num_chains: int) -> Tensor:
        """u ~ f_0, ``(S, N, D)``, from torch's global generator.

        A draw outside of the model's support has coordinates that are not finite.
        """
        draw = self.coordinates.draw_guide if self.start == "guide" else self.coordinates.draw_prior
        return draw(num_chains)

    def at(self, u: Tensor, *, gradient: bool) -> Point:
        """The densities at u ``(S, N, D)``, with or without their gradients, compiled if the run is.

        A row that is not finite is a draw outside of the model's support: its density under the model is zero.
        """
        inside = u.isfinite().all(-1)
        all_inside = bool(inside.all())
        safe = u if all_inside else torch.where(inside.unsqueeze(-1), u, 0.0)
        key = (len(u), gradient)
        if key not in self._joint:
            level = current_level(self.coordinates.num_data, len(u))
            self._joint[key] = LogJoint(self.coordinates, self.start, gradient=gradient, level=level)
        log_start, log_end, *gradients = self._joint[key](safe)
        if not all_inside:
            log_end = torch.where(inside, log_end, -torch.inf)
            log_start = torch.where(inside, log_start, 0.0)
        return Point(safe, log_start, log_end, *gradients)
