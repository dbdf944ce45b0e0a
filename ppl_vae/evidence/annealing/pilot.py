"""Pilot run: tunes the step sizes, scales and (for the schedule "pilot") temperatures of an annealing run.

If these were tuned on the same chains that are then weighted, the weights would be biased, and a reversed chain would
not be the reversal. They are therefore tuned on a few separate chains with their own random numbers, and then frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ppl_vae.evidence.annealing import schedules
from ppl_vae.evidence.annealing.kernels import Chains, Transition
from ppl_vae.evidence.annealing.path import AnnealingPath

PILOT_CHAINS = 8
PILOT_STEPS = 100
_BANDS = 10
_SCALE_DRAWS = 64
_GAIN = 0.6
_WARM_UP = 10


@dataclass(frozen=True, eq=False)
class Tuning:
    """The results of a pilot run, frozen.

    Attributes:
        beta: ``(T + 1, N)`` the schedule of each datum, float64.
        edges: ``(B + 1, N)`` the edges of the bands of temperature, increasing from 0 to 1.
        log_step: ``(B, N)`` the logarithm of each datum's step size in each band.
        start_scale: ``(N, D)`` the standard deviation of each coordinate under f_0.
        end_scale: ``(N, D)`` that under the guide, as an approximation of the posterior's.
        densities: the pilot's evaluations of log p(x, z) for each datum, without a gradient.
        gradients: the pilot's evaluations with a gradient for each datum.
    """

    beta: Tensor
    edges: Tensor
    log_step: Tensor
    start_scale: Tensor
    end_scale: Tensor
    densities: int
    gradients: int

    def step(self, beta: Tensor) -> Tensor:
        """Step sizes at b = ``beta`` ``(N,)``: ``(N, D)``, in proportion to the coordinates' scales there."""
        return _step(self.log_step_at(beta), beta, self.start_scale, self.end_scale)

    def log_step_at(self, beta: Tensor) -> Tensor:
        """log step sizes ``(N,)``, linear between the middles of bands."""
        middle = 0.5 * (self.edges[1:] + self.edges[:-1])
        right = (middle < beta).sum(0, keepdim=True).clamp(0, len(middle) - 1)
        left = (right - 1).clamp(min=0)
        low, high = middle.gather(0, left), middle.gather(0, right)
        share = ((beta - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        return torch.lerp(self.log_step.gather(0, left), self.log_step.gather(0, right), share)[0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for `from_tensors`."""
        counts = {name: torch.tensor(getattr(self, name)) for name in ("densities", "gradients")}
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)} | counts

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Tuning:
        """The inverse of `tensors`."""
        values: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        values |= {name: int(tensors[name]) for name in ("densities", "gradients")}
        return cls(**values)


class PilotRun(NamedTuple):
    """The result of a pilot run.

    Attributes:
        tuning: the tuned settings.
        chains: the pilot's chains at the end of the path. They are used in checks, never in estimates.
    """

    tuning: Tuning
    chains: Chains


def num_pilot_moves(num_steps: int) -> int:
    """The number of moves of a pilot for T steps."""
    return _WARM_UP + min(max(num_steps // 2, 20), PILOT_STEPS)


def tune(
    path: AnnealingPath,
    transition: Transition,
    schedule: schedules.Schedule,
    num_steps: int,
    stream: Callable[[int], Generator],
    reseed: Callable[[int], None],
) -> PilotRun:
    """Run a pilot along the annealing path.

    Its chains follow the sigmoid schedule. After each move the logarithm of a datum's step size changes in proportion
    to the difference between the acceptance rate of its chains and the target of the transition (Robbins and Monro
    1951). A band's step size is the geometric mean over the second half of the band. Coordinates are scaled by their
    standard deviations under f_0 and under the guide; the two precisions are mixed with weights 1 - b and b.

    Args:
        path: the annealing path of the data.
        transition: the kernel whose step sizes are tuned.
        schedule: gives the temperatures, from the spread that the pilot has seen.
        num_steps: T.
        stream: returns the generator of an index; 0, 1, ... are used.
        reseed: seeds the global generator with the stream of an index, for draws that go through Pyro.
    """
    device = path.coordinates.x_device
    pilot_steps = num_pilot_moves(num_steps) - _WARM_UP
    reseed(0)
    end = _scale(path.coordinates.draw_guide(_SCALE_DRAWS))
    start = end
    if path.start == "prior":
        start = _scale(path.coordinates.draw_prior(_SCALE_DRAWS))
    start, end = torch.where(start > 0, start, end), torch.where(end > 0, end, start)
    start, end = (torch.where(scale > 0, scale, 1.0) for scale in (start, end))

    at = schedules.sigmoid(pilot_steps).to(device)
    reseed(1)
    chains = transition.start(path.at(path.draw(PILOT_CHAINS), gradient=transition.needs_gradient), stream(1))
    log_step = torch.full((len(start),), -0.25 * math.log(start.shape[1]), device=device, dtype=torch.float64)
    spread = [_spread(chains.point.log_ratio())]
    steps = []
    moves = 0
    for t in range(-_WARM_UP, pilot_steps):
        beta = at[max(t, 0)].expand(len(start))
        step = _step(log_step, beta, start, end)
        chains, accept = transition.move(chains, path, beta, step, stream(2 + t + _WARM_UP))
        moves += 1
        log_step = log_step + _GAIN * (accept.mean(0) - transition.target_accept)
        if t >= 0:
            steps.append(log_step)
        if t > 0:
            spread.append(_spread(chains.point.log_ratio()))
    spread.append(spread[-1])
    bands = min(_BANDS, pilot_steps // 5)
    cuts = [round(i * pilot_steps / bands) for i in range(bands + 1)]
    halves = [steps[(a + b) // 2 : b] for a, b in pairwise(cuts)]
    edges = at[cuts].unsqueeze(-1).expand(-1, len(start))
    placed = schedule.temperatures(num_steps, _smooth(torch.stack(spread)), at)
    beta = schedules.checked(placed, num_steps, len(start)).to(device)
    beta = beta.unsqueeze(-1).expand(-1, len(start)) if beta.ndim == 1 else beta
    evaluated = moves * PILOT_CHAINS
    first = PILOT_CHAINS
    tuning = Tuning(
        beta.contiguous(),
        edges.contiguous(),
        torch.stack([torch.stack(half).mean(0) for half in halves]),
        start,
        end,
        densities=evaluated * transition.densities + (0 if transition.needs_gradient else first),
        gradients=evaluated * transition.gradients + (first if transition.needs_gradient else 0),
    )
    return PilotRun(tuning, chains)


def _step(log_step: Tensor, beta: Tensor, start: Tensor, end: Tensor) -> Tensor:
    b = beta.unsqueeze(-1).to(start.dtype)
    scale = ((1 - b) / start**2 + b / end**2).rsqrt()
    return log_step.exp().unsqueeze(-1).to(start.dtype) * scale


def _scale(u: Tensor) -> Tensor:
    """Standard deviations of draws ``(S, N, D)``, ``(N, D)``; 0 where they are not finite."""
    return u.std(0).nan_to_num(0.0, 0.0, 0.0)


def _spread(log_ratio: Tensor) -> Tensor:
    """The standard deviation of the finite values over chains, ``(N,)``."""
    finite = log_ratio.isfinite()
    count = finite.sum(0).clamp(min=1)
    mean = torch.where(finite, log_ratio, 0.0).sum(0) / count
    squares = torch.where(finite, (log_ratio - mean) ** 2, 0.0).sum(0)
    return (squares / (count - 1).clamp(min=1)).sqrt()


def _smooth(spread: Tensor, width: int = 2) -> Tensor:
    """Root mean squares over neighbours: eight chains give a standard deviation with an error of a quarter."""
    squares = spread.double() ** 2
    rows = [squares[max(t - width, 0) : t + width + 1].mean(0) for t in range(len(squares))]
    return torch.stack(rows).sqrt()
