"""Adaptive cubature of many positive functions at once, in 1 to 3 dimensions, from their logarithms.

The whole space is mapped to a cube, the cube is divided into cells, and the cells with the largest errors are halved in
each direction until the remaining error is small enough (van Dooren and de Ridder, "An adaptive algorithm for numerical
integration over an n-dimensional cube", 1976). In addition, peaks between the nodes count as errors of a cell until it
has resolved them: points where the function is known to be large (local maxima found from the first nodes, draws of the
prior and the guide), and peaks that parabolas through the logarithms at the nodes predict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ppl_vae.errors import NonFiniteError
from ppl_vae.evidence.exact.cubature_rule import INSIDE, ORDER, SEEN, Box, Cells, Rule, compare

LogFunction = Callable[[Tensor, Tensor], Tensor]
"""log f at points ``(S, n, D)`` of the functions with indices ``(n,)``: ``(S, n)`` float64."""

_PEAKS, _DRAWS = (
    8,
    4,
)  # starts of the search for maxima: the highest of the first nodes, and of the given points
_CLIMB = 30
_CELLS = 16  # the largest number of cells of a function that are halved in one round
_FAR = 4.0  # half widths of the box from its centre: a density that overflows further out counts as 0


@dataclass(frozen=True)
class Integrals:
    """Integrals of n functions.

    Attributes:
        log_value: ``(n,)`` the logs of the integrals; -inf for a function that is 0 at all evaluated points.
        error: ``(n,)`` bounds of their errors, relative to the integrals.
        evaluations: ``(n,)`` the number of evaluations of each function.
        centre: ``(n, D)`` the approximate mean of u under each function.
        covariance: ``(n, D, D)`` its approximate covariance.
    """

    log_value: Tensor
    error: Tensor
    evaluations: Tensor
    centre: Tensor
    covariance: Tensor


def integrate(
    log_f: LogFunction,
    box: Box,
    points: Tensor,
    *,
    nodes: int,
    tolerance: Tensor,
    rounds: int,
    offset: int = 0,
) -> Integrals:
    """Integrate n functions over D unbounded dimensions.

    Args:
        log_f: their logarithms; NaN or +inf further out than four half widths of the box counts as 0, and as an error.
        box: the region where they are expected to be large.
        points: ``(M, n, D)`` further points, where a peak may be.
        nodes: the number of first nodes in each dimension, a multiple of 16. A peak is missed if neither these nodes
            nor ``points`` show it.
        tolerance: ``(n,)`` the relative errors at which to stop.
        rounds: the largest number of rounds; each halves up to 16 cells of a function.
        offset: the index of the first function, for messages.

    Raises:
        NonFiniteError: if a logarithm is NaN or +inf closer in; names the function as a datum.
    """
    return _Cubature(log_f, box, nodes, offset).run(points, tolerance, rounds)


class _Cubature:
    def __init__(self, log_f: LogFunction, box: Box, nodes: int, offset: int) -> None:
        self.log_f, self.box, self.offset = log_f, box, offset
        self.cells_a_side = nodes // ORDER
        self.num, self.dim = box.centre.shape
        self.rule = Rule(self.dim, box.centre.device)
        self.highest = self._full(-math.inf)
        self.evaluations = self._full(0.0)

    def _full(self, value: float) -> Tensor:
        return torch.full((self.num,), value, dtype=torch.float64, device=self.box.centre.device)

    def run(self, points: Tensor, tolerance: Tensor, rounds: int) -> Integrals:
        active = torch.arange(self.num, device=self.box.centre.device)
        cells, values = self._first_cells(active)
        known = self._known(values, points, active)
        self._count_unresolved(cells, known, values)
        cells.log_error = torch.logaddexp(cells.log_error, cells.log_lost)
        value, error = self._full(-math.inf), self._full(-math.inf)
        centre, covariance = self.box.centre.clone(), torch.diag_embed(self.box.half**2)
        for number in range(rounds + 1):
            mass, wrong = cells.log_mass.logsumexp(1), cells.log_error.logsumexp(1)
            done = ~(wrong > mass + tolerance[active].log())
            if number == rounds:
                done = torch.ones_like(done)
            finished = active[done]
            value[finished], error[finished] = mass[done], wrong[done]
            found = done & (mass > -math.inf)
            if bool(found.any()):
                centre[active[found]], covariance[active[found]] = self._moments(
                    cells.rows(found), active[found]
                )
            if bool(done.all()):
                break
            cells, active = cells.rows(~done), active[~done]
            known = (known[0][:, ~done], known[1][:, ~done])
            cells = self._halve(cells, known, active, tolerance[active])
        relative = torch.where(value > -math.inf, (error - value).exp(), math.nan)
        return Integrals(value, relative, self.evaluations, centre, covariance)

    # ---- values ------------------------------------------------------------------------------------------

    def _log_values(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """log of f |du/dt| at t ``(S, n, D)``, -inf if it is unknown (NaN or +inf); and whether it is known."""
        u, jacobian = self.box.points(t, rows)
        self.evaluations[rows] += len(t)
        value = self.log_f(u, rows)
        known = value < math.inf
        if not bool(known.all()):
            far = ((u - self.box.centre[rows]).abs() > _FAR * self.box.half[rows]).any(-1)
            bad = (~known & ~far).any(0)
            if bool(bad.any()):
                datum = self.offset + int(rows[bad][0])
                raise NonFiniteError(f"log p(x, z): NaN or +inf at datum {datum}")
        value = torch.where(known, value + jacobian, -math.inf)
        self.highest[rows] = torch.maximum(self.highest[rows], value.amax(0))
        return value, known

    def _evaluate(self, low: Tensor, width: Tensor, rows: Tensor) -> tuple[Cells, Tensor]:
        """Cells, by corners ``(n, C, D)`` and sides ``(n, C)``; the log values at their nodes, ``(n, C, ORDER**D)``."""
        n, C = width.shape
        t = low[:, :, None] + width[:, :, None, None] * self.rule.nodes
        found = self._log_values(t.reshape(n, -1, self.dim).transpose(0, 1), rows)
        values, known = (v.T.reshape(n, C, -1) for v in found)
        return self.rule.cells(low, width, values, known, self.highest[rows, None]), values

    def _children(self, parents: Cells, rows: Tensor) -> tuple[Cells, Tensor]:
        """The halves of cells, those of one parent together; with their errors, and the log values at their nodes."""
        n, k = parents.width.shape
        corners = self.rule.product(parents.low.new_tensor([0.0, 1.0]))
        half = (parents.width / 2)[..., None].expand(n, k, len(corners))
        low = parents.low[:, :, None] + half[..., None] * corners
        return self._evaluate(low.reshape(n, -1, self.dim), half.reshape(n, -1), rows)

    # ---- the first cells ---------------------------------------------------------------------------------

    def _first_cells(self, rows: Tensor) -> tuple[Cells, Tensor]:
        m = self.cells_a_side // 2
        line = torch.arange(m, dtype=torch.float64, device=rows.device) * (2 / m) - 1
        corners = self.rule.product(line)
        low = corners.expand(len(rows), *corners.shape)
        parents, _ = self._evaluate(low, torch.full_like(low[..., 0], 2 / m), rows)
        children, values = self._children(parents, rows)
        compare(parents, children)
        return children, values

    def _known(self, values: Tensor, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Points t ``(M, n, D)`` where the function is known to be large, and its log values ``(M, n)``."""
        t = self.box.cube(points)
        at = torch.where(points.isfinite().all(-1), self._log_values(t, rows)[0], -math.inf)
        chosen = at.topk(min(_DRAWS, len(at)), dim=0).indices[..., None].expand(-1, -1, self.dim)
        starts = torch.cat([self._local_maxima(values), t.gather(0, chosen)])
        peaks, heights = self._maximise(starts, rows)
        return torch.cat([t, peaks]), torch.cat([at, heights])

    def _local_maxima(self, values: Tensor) -> Tensor:
        """The highest local maxima of the first nodes, ``(peaks, n, D)``."""
        m, D, n = self.cells_a_side, self.dim, len(values)
        side = m * ORDER
        # The index along a dimension consists of the parent's, the half of the parent, and the node.
        axes = [0, *itertools.chain.from_iterable((1 + d, 1 + D + d, 1 + 2 * D + d) for d in range(D))]
        apart = values.reshape(n, *(m // 2,) * D, *(2,) * D, *(ORDER,) * D)
        grid = apart.permute(axes).reshape(n, 1, *(side,) * D)
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[D - 1]
        flat = torch.where(grid == pool(grid, 3, stride=1, padding=1), grid, -math.inf).reshape(n, -1)
        index = flat.topk(_PEAKS, dim=1).indices.T
        line = (torch.arange(m, device=values.device)[:, None] + self.rule.unit).reshape(-1) * (2 / m) - 1
        return torch.stack([line[index // side ** (D - 1 - d) % side] for d in range(D)], dim=-1)

    def _maximise(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Local maxima, by pattern search from points t ``(M, n, D)``: the best neighbour, or half the step size."""
        offsets = self.rule.product(t.new_tensor([-1.0, 0.0, 1.0]))
        middle = len(offsets) // 2
        M, n, D = t.shape
        step = torch.full_like(t[..., :1], 0.2 * 2 / self.cells_a_side)
        height = torch.full_like(t[..., 0], -math.inf)
        for _ in range(_CLIMB):
            trial = (t + step * offsets[:, None, None]).clamp(-INSIDE, INSIDE)
            values = self._log_values(trial.reshape(-1, n, D), rows)[0].reshape(-1, M, n)
            height, best = values.max(0)
            stay = height == values[middle]
            best = torch.where(stay, middle, best)
            t = trial.gather(0, best[None, ..., None].expand(1, M, n, D))[0]
            step = torch.where(stay[..., None], step / 2, step)
        return t, height

    def _count_unresolved(self, cells: Cells, known: tuple[Tensor, Tensor], values: Tensor) -> None:
        """Add errors to cells with a known point that is higher than all of their nodes."""
        t, height = known
        highest = torch.full_like(cells.width, -math.inf)
        for points, heights in zip(t.split(64), height.split(64), strict=True):
            away = (points.transpose(0, 1)[:, None] - cells.low[:, :, None]) / cells.width[:, :, None, None]
            inside = ((away >= 0) & (away < 1)).all(-1)
            best = torch.where(inside, heights.T[:, None], -math.inf).amax(-1)
            highest = torch.maximum(highest, best)
        potential = torch.where(
            highest > values.amax(-1) + SEEN, highest + self.dim * cells.width.log(), -math.inf
        )
        cells.log_lost = torch.maximum(cells.log_lost, potential)

    # ---- the rounds ---------------------------------------------------------------------------------------

    def _halve(self, cells: Cells, known: tuple[Tensor, Tensor], rows: Tensor, tolerance: Tensor) -> Cells:
        """Halve, in each direction, the cells that have nearly all of the error of a function."""
        C = cells.width.shape[1]
        limit = cells.log_mass.logsumexp(1) + tolerance.log() - math.log(2 * C)
        wanted = int((cells.log_error > limit[:, None]).sum(1).max())
        index = cells.log_error.topk(max(1, min(wanted, _CELLS, C)), dim=1).indices
        parents = cells.take(index)
        children, values = self._children(parents, rows)
        self._count_unresolved(children, known, values)
        compare(parents, children)
        return cells.replace(index, children)

    def _moments(self, cells: Cells, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance, with each cell's mass spread evenly over a cube in u of the cell's size."""
        weight = cells.log_mass.softmax(1)
        t = (cells.low + cells.width[..., None] / 2).transpose(0, 1)
        u = self.box.points(t, rows)[0].transpose(0, 1)
        centre = (weight[..., None] * u).sum(1)
        away = u - centre[:, None]
        stretch = self.box.half[rows] * (1 + t**2) / ((1 - t) * (1 + t)) ** 2
        side = stretch.transpose(0, 1) * cells.width[..., None]
        within = (weight[..., None] * side**2 / 12).sum(1)
        return centre, torch.einsum("nc,nci,ncj->nij", weight, away, away) + torch.diag_embed(within)
