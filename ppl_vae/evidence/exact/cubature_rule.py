"""Cubature rule: cells of a cube, the rule that integrates over a cell, and its error estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ORDER = 8  # Gauss-Legendre nodes a dimension of a cell
SEEN = 0.5  # nats by which a resolved peak may be above the highest node of its cell
INSIDE = 1 - 2**-40


@dataclass(frozen=True)
class Box:
    """The region where functions are expected to be large, ``(n, D)``; the whole space is scaled to it, not cut off."""

    centre: Tensor
    half: Tensor

    @classmethod
    def around(cls, *groups: Tensor) -> Box:
        """The union of the central 98 % of groups of finite points ``(M, n, D)`` each; others are left out."""
        ends = []
        for points in groups:
            known = torch.where(points.isfinite(), points, math.nan).double()
            levels = torch.tensor([0.01, 0.99], dtype=torch.float64, device=known.device)
            ends.append(known.nanquantile(levels, dim=0))
        found = torch.stack(ends)
        low = found[:, 0].nan_to_num(math.inf, math.inf, -math.inf).amin(0)
        high = found[:, 1].nan_to_num(-math.inf, math.inf, -math.inf).amax(0)
        nowhere = ~(high > low)
        low, high = torch.where(nowhere, -1.0, low), torch.where(nowhere, 1.0, high)
        return cls((low + high) / 2, (high - low) / 2)

    def points(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """u = centre + half t / (1 - t²) for t in (-1, 1) ``(S, n, D)``, and log |du/dt| ``(S, n)``."""
        rest = (1 - t) * (1 + t)
        half = self.half[rows]
        jacobian = (half.log() + (1 + t**2).log() - 2 * rest.log()).sum(-1)
        return self.centre[rows] + half * t / rest, jacobian

    def cube(self, u: Tensor) -> Tensor:
        """t of points u ``(M, n, D)``; 0 for coordinates that are not finite."""
        v = (u.double() - self.centre) / self.half
        t = 2 * v / (1 + (1 + 4 * v**2).sqrt())
        return t.nan_to_num(0.0, 0.0, 0.0).clamp(-INSIDE, INSIDE)


@dataclass
class Cells:
    """C cells of each of n functions.

    Attributes:
        low: ``(n, C, D)`` the corners, in t.
        width: ``(n, C)`` the sides: cells are cubes.
        log_mass: ``(n, C)`` the logs of the integrals over them.
        log_error: ``(n, C)`` the logs of bounds of their errors.
        log_rough: ``(n, C)`` the logs of their parts in the highest polynomials that the nodes can distinguish.
        log_lost: ``(n, C)`` the logs of lower limits of the errors: unresolved peaks, unknown values.
    """

    low: Tensor
    width: Tensor
    log_mass: Tensor
    log_error: Tensor
    log_rough: Tensor
    log_lost: Tensor

    def rows(self, index: Tensor) -> Cells:
        """The cells of some of the functions."""
        return Cells(**{name: value[index] for name, value in vars(self).items()})

    def take(self, index: Tensor) -> Cells:
        """The cells ``(n, k)`` of each function."""
        taken = {name: value.gather(1, _as(index, value)) for name, value in vars(self).items()}
        return Cells(**taken)

    def replace(self, index: Tensor, by: Cells) -> Cells:
        """These cells, with those at ``(n, k)`` replaced by the first of ``by`` and the rest of ``by`` appended."""
        k, joined = index.shape[1], {}
        for name, value in vars(self).items():
            new = vars(by)[name]
            joined[name] = torch.cat([value.scatter(1, _as(index, value), new[:, :k]), new[:, k:]], dim=1)
        return Cells(**joined)


def _as(index: Tensor, value: Tensor) -> Tensor:
    """An index ``(n, k)`` for values ``(n, C)`` or ``(n, C, D)``."""
    return index if value.ndim == 2 else index[..., None].expand(*index.shape, value.shape[-1])


class Rule:
    """The tensor product of Gauss-Legendre rules over cells of D dimensions.

    Attributes:
        unit: ``(ORDER,)`` the nodes in (0, 1).
        nodes: ``(ORDER**D, D)`` those of a cell, the last dimension running fastest.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self.dim, self.device = dim, device
        x, w = np.polynomial.legendre.leggauss(ORDER)
        # Coefficients of the two highest Legendre polynomials that the nodes tell apart, from values at the nodes.
        high = [
            (2 * k + 1) / 2 * w * np.polynomial.legendre.Legendre.basis(k)(x) for k in (ORDER - 2, ORDER - 1)
        ]
        self.unit, self.weights, self.high = (
            torch.from_numpy(v).to(device) for v in ((x + 1) / 2, w / 2, np.stack(high))
        )
        self.nodes = self.product(self.unit)
        self.all_weights = self.product(self.weights).prod(-1)
        # A parabola through three nodes is used between them, and beyond the outermost nodes up to the edge.
        self.left, self.right = self.unit[:-2].clone(), self.unit[2:].clone()
        self.left[0], self.right[-1] = 0.0, 1.0

    def product(self, values: Tensor) -> Tensor:
        """All D-tuples of values ``(m,)``: ``(m**D, D)``, the last dimension running fastest."""
        return torch.cartesian_prod(*[values] * self.dim).reshape(-1, self.dim)

    def cells(self, low: Tensor, width: Tensor, values: Tensor, known: Tensor, highest: Tensor) -> Cells:
        """Cells from the log values at their nodes.

        Args:
            low: ``(n, C, D)``.
            width: ``(n, C)``.
            values: ``(n, C, ORDER**D)`` log values, -inf if they are unknown.
            known: ``(n, C, ORDER**D)``, whether they are known.
            highest: ``(n, 1)`` the highest log value of each function at all evaluated points.

        Returns:
            The cells; their errors are their integrals, until two resolutions are compared.
        """
        n, C = width.shape
        log_volume = self.dim * width.log()
        top = values.amax(-1)
        scale = torch.where(top > -math.inf, top, 0.0)
        f = (values - scale[..., None]).exp()
        log_mass = (f * self.all_weights).sum(-1).log() + scale + log_volume
        grid = f.reshape(n * C, *(ORDER,) * self.dim)
        rough = grid.new_zeros(n * C)
        for d in range(self.dim):
            coefficients = torch.tensordot(grid, self.high, dims=([d + 1], [1])).abs().sum(-1)
            for _ in range(self.dim - 1):
                coefficients = coefficients @ self.weights
            rough = rough + coefficients
        log_rough = rough.reshape(n, C).log() + scale + log_volume
        peak = self._peak(values.reshape(n * C, *(ORDER,) * self.dim)).reshape(n, C)
        peak = torch.minimum(peak, highest)  # a parabola may not predict more than the highest value
        missed = (peak > top + SEEN) | ~known.all(-1)
        log_lost = torch.where(missed, torch.maximum(peak, top) + log_volume, -math.inf)
        return Cells(low, width, log_mass, log_mass, log_rough, log_lost)

    def _peak(self, grid: Tensor) -> Tensor:
        """Estimates of the largest log value of cells ``(B, ORDER, ...)``, up to the edges of the cells: ``(B,)``.

        It is the maximum of a parabola through three neighbouring nodes, in one direction. The logarithm of a normal
        density is a parabola, so the nodes show it even if the density is much narrower than their distance.
        """
        highest = grid
        x0, x1, x2 = self.unit[:-2], self.unit[1:-1], self.unit[2:]
        for d in range(1, grid.ndim):
            line = grid.movedim(d, -1)
            slopes = line.diff(dim=-1) / self.unit.diff()
            rise, bend = slopes[..., :-1], slopes.diff(dim=-1) / (x2 - x0)
            top = ((x0 + x1) / 2 - rise / (2 * bend)).clamp(self.left, self.right)
            value = line[..., :-2] + (top - x0) * (rise + bend * (top - x1))
            # The error of a parabola: the change of its curvature to the next one, over its width. If the logarithm is
            # not close to a parabola, it is not used: at the faces of the cube the logarithm tends to -inf.
            change = bend.diff(dim=-1).abs()
            change = torch.maximum(functional.pad(change, (1, 0)), functional.pad(change, (0, 1)))
            good = change < -bend / 2
            good[..., 1:-1] &= (rise[..., 1:-1] > 0) & (slopes[..., 2:-1] < 0)
            value = torch.where(good, value + change * (x2 - x0) ** 2, -math.inf)
            value = value.nan_to_num(-math.inf, math.inf, -math.inf)
            ends = torch.cat([value[..., :1], value, value[..., -1:]], dim=-1)
            gain = (ends - line).nan_to_num(0.0, math.inf, 0.0).clamp(min=0.0)
            highest = torch.maximum(highest, grid + gain.movedim(-1, d))
        return highest.flatten(1).amax(1)


def compare(parents: Cells, children: Cells) -> None:
    """Set the errors of children: their difference from the parent, divided in proportion to their roughness."""
    n, k = parents.width.shape
    mass = children.log_mass.reshape(n, k, -1)
    together = mass.logsumexp(-1)
    top = torch.maximum(together, parents.log_mass)
    scale = torch.where(top > -math.inf, top, 0.0)
    difference = ((together - scale).exp() - (parents.log_mass - scale).exp()).abs().log() + scale
    rough = children.log_rough.reshape(n, k, -1)
    share = (
        torch.where(rough.isinf(), -math.inf, rough).log_softmax(-1).nan_to_num(-math.log(rough.shape[-1]))
    )
    shared = difference[..., None] + share + math.log(2)
    # Two resolutions may agree by accident. For smooth functions the rule's error is about the square of the highest
    # coefficients, so the error bound is at least of that size.
    relative = (rough - mass).nan_to_num(0.0)
    floor = mass + torch.minimum(2 * relative + math.log(10), relative + math.log(2))
    error = torch.maximum(shared, floor.nan_to_num(-math.inf, math.inf, -math.inf)).reshape(n, -1)
    children.log_error = torch.logaddexp(error, children.log_lost)
