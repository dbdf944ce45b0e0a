"""Mode search: gradient ascent from the guide, to find mass that an estimate does not hold.

A narrow spike inside a broad hill is missed by draws, since none falls on it, and by tempered chains, since nearly all
of the hill is far from its top. But the way up leads there. What is found is weighed by independent draws from a normal
distribution with the curvature at the top: another unbiased estimate of p(x), which accuses the first if it is clearly
above. A spike that is not on the way up is not found.
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
"""Gradients of the way up, for each datum."""

MOST_STARTS, FEW_STARTS = 16, 8
"""Points from which chains let the way up start: as many as there are chains, up to a number; beyond it, few."""

_DRAWS = 16  # of the guide, whose mean and spread are start and unit
_SUSPECTS, _LARGEST = 32, 256  # data of a block, and latent numbers, whose curvature is worth its cost
_FIRST = 4  # suspects that are weighed before the others
_WEIGHED = 128  # draws that weigh what was found
_NEWTON = 3
_STILL = 0.01  # nats that a step of Newton's promises, below which none is taken

ValueAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


class PathPoint(Protocol):
    """The densities at points of chains; see `ppl_vae.evidence.annealing.path.Point`."""

    @property
    def log_end(self) -> Tensor:
        """log p(x, u), ``(S, N)``."""

    @property
    def end_gradient(self) -> Tensor | None:
        """Its gradient, ``(S, N, D)``."""

    def log_ratio(self) -> Tensor:
        """log p(x, u) - log f_0(u), ``(S, N)``."""


class DensityPath(Protocol):
    """What chains walk along, as the checks of an estimate use it; see `ppl_vae.evidence.annealing.path.Bridge`."""

    coordinates: Coordinates

    def at(self, u: Tensor, *, gradient: bool) -> PathPoint:
        """The densities at u ``(S, N, D)``."""


def with_mode_search(
    figures: Figures,
    program: Program,
    block: Block,
    seed: int,
    bridge: DensityPath | None = None,
    starts: int = 1,
) -> Figures:
    """Figures with ``missed`` set where the way up leads to more mass, and what that took in their cost.

    From the mean of 16 draws of the guide, 24 steps up log p(x, z) in unconstrained coordinates, in units of the draws'
    spread, with steps of Barzilai and Borwein inside a trust region. Where the density at the end is such that one draw
    of the guide there would outweigh all draws of the estimate, the mode is weighed: of the four data where it would
    outweigh them most, and of the others only if one of these four accuses its estimate.

    Args:
        figures: of one block.
        program: the program. One with discrete latents or without gradients is left alone.
        block: the data.
        seed: the user's; the draws have a stream of their own.
        bridge: that of chains of the block, whose densities may be compiled; None where there are no chains.
        starts: where the way up starts: from the mean, and from one fewer of the draws.
    """
    device = device_of(block.x)
    rng.reseed(device, seed, "search for modes", block.index)
    try:
        climb = _Climb(program, block, bridge, starts)
        suspects = climb.suspects(figures.log_evidence + figures.draws.double().log())
        missed = figures.missed.clone()
        spent = torch.full_like(figures.log_evidence, float(starts * (STEPS + 1)))
        weighed = torch.zeros_like(spent)
        for some in (suspects[:_FIRST], suspects[_FIRST:]):
            if not len(some) or climb.coordinates.dim > _LARGEST:
                break
            rows = some.to(device)
            found, gradients = _weigh(program, Block(take(block.x, rows), 0, 0), climb, rows)
            above = clearly_above(found, figures.log_evidence[some], figures.stderr[some])
            missed[some] |= above
            spent[some] += gradients
            weighed[some] += _WEIGHED
            if not bool(above.any()):
                break
    except Exception:
        return figures  # an estimate must not fail because of what looks after it, whatever the user's model raises
    return figures.replace(
        missed=missed,
        density_evals=figures.density_evals + weighed,
        gradient_evals=figures.gradient_evals + spent,
    )


class _Climb:
    """The way up for all data of a block, in coordinates v = (u - mean) / spread of the guide's draws.

    Attributes:
        v: ``(N, D)`` where it ends, from whichever start is highest then.
    """

    def __init__(self, program: Program, block: Block, bridge: DensityPath | None, starts: int) -> None:
        self.coordinates = Coordinates(program, block.x) if bridge is None else bridge.coordinates
        with torch.no_grad():
            u = self.coordinates.draw_guide(max(_DRAWS, starts))
        self.mean, spread = u.mean(0), u.std(0)
        self.spread = torch.where(spread > 0, spread, 1.0)
        v = (u[:starts] - self.mean) / self.spread
        v[0] = 0.0
        if bridge is None:
            v, top = self._way_up(v, self._plain)
        else:
            v, top = self._way_up(v, lambda v: self._compiled(v, bridge))
        best = top.nan_to_num(nan=-math.inf).argmax(0)
        self.v = v[best, torch.arange(v.shape[1], device=v.device)]

    def _plain(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_slope(self.coordinates, v, self.mean, self.spread)

    def _compiled(self, v: Tensor, bridge: DensityPath) -> tuple[Tensor, Tensor]:
        point = bridge.at(self.mean + self.spread * v, gradient=True)
        if point.end_gradient is None:
            raise AssertionError("a gradient that was asked for is missing")
        return point.log_end, point.end_gradient * self.spread

    def _way_up(self, v: Tensor, density: ValueAndSlope) -> tuple[Tensor, Tensor]:
        """The ends of ways from ``v`` ``(S, N, D)``, and log p(x, u) there ``(S, N)``."""
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
            # The length at which the slope would vanish, if it went on to change as it did on the way.
            size = torch.where(better & (change > 0), length**2 / change.clamp(min=1e-300), size)
            radius = torch.where(better, (2 * radius).clamp(max=1e3), length / 8)
            v = torch.where(better.unsqueeze(-1), v + step, v)
            slope = torch.where(better.unsqueeze(-1), new, slope)
            log_joint = torch.where(better, value, log_joint)
        return v, log_joint

    def suspects(self, bar: Tensor) -> Tensor:
        """Data at whose end the weight of a draw of the guide would be above ``bar``, the largest first."""
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


def _weigh(program: Program, block: Block, climb: _Climb, rows: Tensor) -> tuple[Figures, float]:
    """Independent estimates of p(x) from draws around modes, and the gradients that they took for each datum."""
    coordinates = Coordinates(program, block.x)
    v, mean, spread = climb.v[rows], climb.mean[rows], climb.spread[rows]
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
