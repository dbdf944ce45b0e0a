"""A search for modes: does the way up from the guide lead to mass that an estimate does not hold?

A narrow spike inside a broad hill is missed by draws, since none falls on it, and by tempered chains, since nearly all
of the hill is far from its top. But the way up leads there. What is found is weighed by independent draws from a normal
distribution with the curvature at the top: another unbiased estimate of p(x), which accuses the first if it is clearly
above. A spike that is not on the way up is not found.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.evidence.engine import Block
from ppl_vae.evidence.probe import clearly_above
from ppl_vae.evidence.weights import Accumulator, Figures
from ppl_vae.program import Coordinates, Program, device_of, take

STEPS = 24
"""Gradients of the way up, for each datum."""

_DRAWS = 16  # of the guide, whose mean and spread are start and unit
_SUSPECTS, _LARGEST = 32, 256  # data of a block, and latent numbers, whose curvature is worth its cost
_WEIGHED = 128  # draws that weigh what was found
_NEWTON = 3


def searched(figures: Figures, program: Program, block: Block, seed: int) -> Figures:
    """Figures with ``missed`` set where the way up leads to more mass, and what that took in their cost.

    From the mean of 16 draws of the guide, 24 steps up log p(x, z) in unconstrained coordinates, in units of the draws'
    spread, with steps of Barzilai and Borwein inside a trust region. Where the density at the end is such that one draw
    of the guide there would outweigh all draws of the estimate, the mode is weighed.

    Args:
        figures: of one block.
        program: the program. One with discrete latents or without gradients is left alone.
        block: the data.
        seed: the user's; the draws have a stream of their own.
    """
    device = device_of(block.x)
    rng.reseed(device, seed, "search for modes", block.index)
    try:
        climb = _Climb(program, block)
        suspects = climb.suspects(figures.log_evidence + figures.draws.double().log())
        missed = figures.missed.clone()
        spent = torch.full_like(figures.log_evidence, float(STEPS + 1))
        if len(suspects) and climb.coordinates.dim <= _LARGEST:
            rows = suspects.to(device)
            found, gradients = _weigh(program, Block(take(block.x, rows), 0, 0), climb.v[rows], climb, rows)
            above = clearly_above(found, figures.log_evidence[suspects], figures.stderr[suspects])
            missed[suspects] |= above
            spent[suspects] += gradients
    except Exception:
        return figures  # an estimate must not fail because of what looks after it, whatever the user's model raises
    weighed = torch.zeros_like(spent)
    weighed[suspects] = float(_WEIGHED)
    return replace(
        figures,
        missed=missed,
        density_evals=figures.density_evals + weighed,
        gradient_evals=figures.gradient_evals + spent,
    )


class _Climb:
    """The way up for all data of a block, in coordinates v = (u - mean) / spread of the guide's draws."""

    def __init__(self, program: Program, block: Block) -> None:
        self.coordinates = Coordinates(program, block.x)
        with torch.no_grad():
            u = self.coordinates.draw_guide(_DRAWS)
        self.mean, spread = u.mean(0), u.std(0)
        self.spread = torch.where(spread > 0, spread, 1.0)
        self.v = torch.zeros_like(self.mean)
        self.log_joint, slope = value_and_slope(self.coordinates, self.v[None], self.mean, self.spread)
        self.log_joint, slope = self.log_joint[0], slope[0]
        size = torch.ones_like(self.log_joint)
        radius = torch.full_like(size, math.sqrt(self.coordinates.dim))
        for _ in range(STEPS):
            step = slope * size.to(slope.dtype).unsqueeze(-1)
            length = step.double().norm(dim=-1)
            shrink = (radius / length.clamp(min=1e-300)).clamp(max=1.0)
            step, length = step * shrink.to(step.dtype).unsqueeze(-1), length * shrink
            value, new = value_and_slope(self.coordinates, (self.v + step)[None], self.mean, self.spread)
            value, new = value[0], new[0]
            better = (value >= self.log_joint) & new.isfinite().all(-1)
            change = (step * (new - slope)).double().sum(-1).abs()
            # The length at which the slope would vanish, if it went on to change as it did on the way.
            size = torch.where(better & (change > 0), length**2 / change.clamp(min=1e-300), size)
            radius = torch.where(better, (2 * radius).clamp(max=1e3), length / 8)
            self.v = torch.where(better.unsqueeze(-1), self.v + step, self.v)
            slope = torch.where(better.unsqueeze(-1), new, slope)
            self.log_joint = torch.where(better, value, self.log_joint)

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


def _weigh(program: Program, block: Block, v: Tensor, climb: _Climb, rows: Tensor) -> tuple[Figures, float]:
    """Independent estimates of p(x) from draws around modes, and the gradients that they took for each datum."""
    coordinates = Coordinates(program, block.x)
    mean, spread = climb.mean[rows], climb.spread[rows]
    dim, double = coordinates.dim, v.dtype == torch.float64
    value, slope = (part[0] for part in value_and_slope(coordinates, v[None], mean, spread))
    precision = torch.eye(dim, dtype=torch.float64, device=v.device).expand(len(v), dim, dim)
    for _ in range(_NEWTON):
        width = 1e-5 if double else 1e-3
        shifts = width * torch.eye(dim, dtype=v.dtype, device=v.device)
        around = torch.cat([v + shifts[:, None], v - shifts[:, None]])
        slopes = value_and_slope(coordinates, around, mean, spread)[1].double()
        curvature = ((slopes[:dim] - slopes[dim:]) / (2 * width)).permute(1, 0, 2)
        values, vectors = torch.linalg.eigh(-(curvature + curvature.mT) / 2)
        values = values.clamp(min=1.0)  # no wider than the guide
        precision = vectors @ torch.diag_embed(values) @ vectors.mT
        step = torch.linalg.solve(precision, slope.double().unsqueeze(-1))[..., 0].to(v.dtype)
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
    return sums.finish(), 1.0 + _NEWTON * (2 * dim + 1)
