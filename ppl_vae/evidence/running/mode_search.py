"""Mode search: gradient ascent from the guide, to find mass that an estimate misses.

Draws miss a narrow spike inside a broad mode, since none falls on it. Tempered chains miss it, since nearly all mass of
the broad mode is far from it. But gradient ascent of the density may lead to it. Independent draws from a normal
distribution with the curvature at the maximum then give another unbiased estimate of p(x). If this one is clearly above
the first, the first has missed mass. A spike to which the ascent does not lead is not found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.running.blocks import Block
from ppl_vae.evidence.running.prior_check import clearly_above
from ppl_vae.program import Coordinates, Program, device_of, take

STEPS = 24
"""The number of gradient steps for each datum."""

MOST_STARTS, FEW_STARTS = 16, 8
"""Starts of the ascent for chains: the number of chains if it is at most the first number; else the second number."""

_DRAWS = 16  # draws of the guide; their mean is the start, and their spread the unit
_SUSPECTS, _LARGEST = (
    32,
    256,
)  # the largest numbers of data of a block, and of dimensions, with a computed curvature
_FIRST = 4  # data whose modes are weighed before the others
_WEIGHED = 128  # draws around a mode
_NEWTON = 3
_STILL = 0.01  # nats: no Newton step is made if its expected gain is smaller

ValueAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


class PathPoint(Protocol):
    """The points of chains and the densities there; see `ppl_vae.evidence.annealing.path.Point`."""

    @property
    def log_end(self) -> Tensor:
        """log p(x, u), ``(S, N)``."""

    @property
    def end_gradient(self) -> Tensor | None:
        """Its gradient, ``(S, N, D)``."""

    def log_ratio(self) -> Tensor:
        """log p(x, u) - log f_0(u), ``(S, N)``."""


class DensityPath(Protocol):
    """The annealing path, as checks use it; see `ppl_vae.evidence.annealing.path.AnnealingPath`."""

    coordinates: Coordinates

    def at(self, u: Tensor, *, gradient: bool) -> PathPoint:
        """The densities at u ``(S, N, D)``."""


def with_mode_search(
    figures: Figures,
    program: Program,
    block: Block,
    seed: int,
    path: DensityPath | None = None,
    starts: int = 1,
) -> Figures:
    """Figures with ``missed`` set if gradient ascent finds more mass, and with the cost of the search added.

    The ascent starts at the mean of 16 draws of the guide and makes 24 steps on log p(x, z) in unconstrained
    coordinates, in units of the draws' spread, with Barzilai-Borwein step sizes inside a trust region. If a draw of the
    guide at the end would have more weight than all draws of the estimate, the mass of the mode is estimated: first for
    the four data with the largest such weights, and for the others only if one of these four estimates is clearly above
    the first one.

    Args:
        figures: the figures of one block.
        program: the program. The figures do not change if it has discrete latents or no gradients.
        block: the data.
        seed: the user's seed; the search has its own random stream.
        path: the annealing path of the block's chains, whose densities may be compiled; None without chains.
        starts: the number of starts: the mean, and ``starts - 1`` of the draws.
    """
    device = device_of(block.x)
    rng.reseed(device, seed, "search for modes", block.index)
    try:
        ascent = _Ascent(program, block, path, starts)
        suspects = ascent.suspects(figures.log_evidence + figures.draws.double().log())
        missed = figures.missed.clone()
        spent = torch.full_like(figures.log_evidence, float(starts * (STEPS + 1)))
        weighed = torch.zeros_like(spent)
        for some in (suspects[:_FIRST], suspects[_FIRST:]):
            if not len(some) or ascent.coordinates.dim > _LARGEST:
                break
            rows = some.to(device)
            found, gradients = _weigh(program, Block(take(block.x, rows), 0, 0), ascent, rows)
            above = clearly_above(found, figures.log_evidence[some], figures.stderr[some])
            missed[some] |= above
            spent[some] += gradients
            weighed[some] += _WEIGHED
            if not bool(above.any()):
                break
    except Exception:
        return (
            figures  # an estimate must not fail because of its check, for any exception of the user's model
        )
    return figures.replace(
        missed=missed,
        density_evals=figures.density_evals + weighed,
        gradient_evals=figures.gradient_evals + spent,
    )


class _Ascent:
    """Gradient ascent for all data of a block, in coordinates v = (u - mean) / spread of the guide's draws.

    Attributes:
        v: ``(N, D)`` the highest of the ends, over all starts.
    """

    def __init__(self, program: Program, block: Block, path: DensityPath | None, starts: int) -> None:
        self.coordinates = Coordinates(program, block.x) if path is None else path.coordinates
        with torch.no_grad():
            u = self.coordinates.draw_guide(max(_DRAWS, starts))
        self.mean, spread = u.mean(0), u.std(0)
        self.spread = torch.where(spread > 0, spread, 1.0)
        v = (u[:starts] - self.mean) / self.spread
        v[0] = 0.0
        if path is None:
            v, top = self._ascend(v, self._plain)
        else:
            v, top = self._ascend(v, lambda v: self._compiled(v, path))
        best = top.nan_to_num(nan=-math.inf).argmax(0)
        self.v = v[best, torch.arange(v.shape[1], device=v.device)]

    def _plain(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_slope(self.coordinates, v, self.mean, self.spread)

    def _compiled(self, v: Tensor, path: DensityPath) -> tuple[Tensor, Tensor]:
        point = path.at(self.mean + self.spread * v, gradient=True)
        if point.end_gradient is None:
            raise AssertionError("a gradient that was asked for is missing")
        return point.log_end, point.end_gradient * self.spread

    def _ascend(self, v: Tensor, density: ValueAndSlope) -> tuple[Tensor, Tensor]:
        """The ends of ascents from ``v`` ``(S, N, D)``, and log p(x, u) there ``(S, N)``."""
        log_joint, slope = density(v)
        size = torch.ones_like(log_joint)
        radius = torch.full_like(size, math.sqrt(self.coordinates.dim))
        for _ in range(STEPS):
            step = slope * size.to(slope.dtype).unsqueeze(-1)
            length = step.double().norm(dim=-1)
            shrink = (radius / length.clamp(min=1e-300)).clamp(max=1.0)
            step, length = step * shrink.to(step.dtype).unsqueeze(-1), length * shrink
            value, new = density(v + step)
            better = (value >= log_joint) & new.isfinite().all(-1)
            change = (step * (new - slope)).double().sum(-1).abs()
            # The step length at which the slope would be zero, if it continued to change at the same rate.
            size = torch.where(better & (change > 0), length**2 / change.clamp(min=1e-300), size)
            radius = torch.where(better, (2 * radius).clamp(max=1e3), length / 8)
            v = torch.where(better.unsqueeze(-1), v + step, v)
            slope = torch.where(better.unsqueeze(-1), new, slope)
            log_joint = torch.where(better, value, log_joint)
        return v, log_joint

    def suspects(self, bar: Tensor) -> Tensor:
        """Data for which a draw of the guide at the end would have a weight above ``bar``, the largest first."""
        with torch.no_grad():
            at = self.coordinates.densities((self.mean + self.spread * self.v)[None])
            weight = (at.log_joint - self.coordinates.log_guide(at))[0].cpu()
        excess = (weight - bar).nan_to_num(nan=-math.inf)
        order = excess.argsort(descending=True)[:_SUSPECTS]
        return order[excess[order] > 0]


def value_and_slope(
    coordinates: Coordinates, v: Tensor, mean: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor]:
    """log p(x, u) and its gradient in v at u = mean + spread v: ``(S, N)`` and ``(S, N, D)``."""
    with torch.enable_grad():
        point = v.detach().requires_grad_()
        value = coordinates.densities(mean + spread * point).log_joint
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope


def _weigh(program: Program, block: Block, ascent: _Ascent, rows: Tensor) -> tuple[Figures, float]:
    """Independent estimates of p(x) from draws around modes, and the number of gradients for each datum."""
    coordinates = Coordinates(program, block.x)
    v, mean, spread = ascent.v[rows], ascent.mean[rows], ascent.spread[rows]
    dim, double = coordinates.dim, v.dtype == torch.float64
    value, slope = (part[0] for part in value_and_slope(coordinates, v[None], mean, spread))
    precision = torch.eye(dim, dtype=torch.float64, device=v.device).expand(len(v), dim, dim)
    turns = 0
    while turns < _NEWTON:
        turns += 1
        width = 1e-5 if double else 1e-3
        shifts = width * torch.eye(dim, dtype=v.dtype, device=v.device)
        around = torch.cat([v + shifts[:, None], v - shifts[:, None]])
        slopes = value_and_slope(coordinates, around, mean, spread)[1].double()
        curvature = ((slopes[:dim] - slopes[dim:]) / (2 * width)).permute(1, 0, 2)
        values, vectors = torch.linalg.eigh(-(curvature + curvature.mT) / 2)
        values = values.clamp(min=1.0)  # no wider than the guide
        precision = vectors @ torch.diag_embed(values) @ vectors.mT
        step = torch.linalg.solve(precision, slope.double().unsqueeze(-1))[..., 0].to(v.dtype)
        if float((step.double() * slope.double()).sum(-1).max()) < 2 * _STILL:
            break
        new, new_slope = (part[0] for part in value_and_slope(coordinates, (v + step)[None], mean, spread))
        better = new >= value
        v = torch.where(better.unsqueeze(-1), v + step, v)
        value, slope = torch.where(better, new, value), torch.where(better.unsqueeze(-1), new_slope, slope)
    factor = torch.linalg.cholesky(precision)
    noise = torch.randn(_WEIGHED, *v.shape, dtype=torch.float64).to(v.device)
    moved = torch.linalg.solve_triangular(factor.mT, noise.unsqueeze(-1), upper=True)[..., 0]
    log_normal = -noise.square().sum(-1) / 2 - dim * math.log(2 * math.pi) / 2
    log_normal = log_normal + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - spread.double().log().sum(-1)
    with torch.no_grad():
        u = mean + spread * (v + moved.to(v.dtype))
        log_weight = coordinates.densities(u).log_joint - log_normal
    sums = Accumulator(len(v), _WEIGHED, v.device)
    sums.add(log_weight.nan_to_num(nan=-math.inf))
    return sums.finish(), 1.0 + turns * (2 * dim + 1)
