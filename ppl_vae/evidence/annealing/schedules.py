"""Schedules of inverse temperatures: 0 = b_0 < b_1 < ... < b_T = 1.

Fixed in advance, or placed by a pilot (`ppl_vae.evidence.annealing.pilot`) and frozen: a schedule that follows the
chains that it weights would bias them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_one_of, check_positive_float, check_positive_int, describe

SCHEDULES = ("linear", "sigmoid", "pilot")


def linear(num_steps: int) -> Tensor:
    """b_t = t / T, ``(T + 1,)`` float64.

    Raises:
        InputError: if ``num_steps`` is not a positive integer.
    """
    return torch.linspace(0, 1, check_positive_int("num_steps", num_steps) + 1, dtype=torch.float64)


def sigmoid(num_steps: int, delta: float = 4.0) -> Tensor:
    """Dense at both ends (Wu et al., "On the quantitative analysis of decoder-based generative models", 2017).

    b_t = (s_t - s_0) / (s_T - s_0) with s_t = sigmoid(delta (2 t / T - 1)); ``(T + 1,)`` float64.

    Raises:
        InputError: if ``num_steps`` is not a positive integer, or ``delta`` not a positive number.
    """
    s = torch.sigmoid(check_positive_float("delta", delta) * (2 * linear(num_steps) - 1))
    beta = (s - s[0]) / (s[-1] - s[0])
    beta[-1] = 1
    return beta


def equalised(spread: Tensor, at: Tensor, num_steps: int) -> Tensor:
    """The schedule on which every increment has the same standard deviation.

    An increment's is about (b_{t+1} - b_t) sd(b), sd(b) that of log p(x, z) - log f_0(z) under f_b: the b_t are put at
    equal steps of the integral of sd (for small steps that is the best schedule, Grosse et al. 2013).

    Args:
        spread: ``(P, N)`` sd at P temperatures, as a pilot saw it for each datum.
        at: ``(P,)`` or ``(P, N)`` these temperatures, rising from 0 to 1.
        num_steps: T.

    Returns:
        ``(T + 1, N)`` float64: each datum's own schedule.
    """
    at = at.double()
    at = at.unsqueeze(-1).expand_as(spread) if at.ndim == 1 else at
    # A floor under the spread: where a pilot of few chains saw none, steps must not become endless.
    spread = spread.double()
    spread = spread + 0.05 * spread.mean(0, keepdim=True) + 1e-12
    area = 0.5 * (spread[1:] + spread[:-1]) * at.diff(dim=0)
    total = torch.cat([torch.zeros_like(area[:1]), area.cumsum(0)])
    total = total / total[-1:]
    wanted = linear(num_steps).unsqueeze(-1).expand(-1, spread.shape[1]).contiguous()
    right = torch.searchsorted(total.T.contiguous(), wanted.T.contiguous()).T.clamp(1, len(at) - 1)
    low, high = total.gather(0, right - 1), total.gather(0, right)
    share = ((wanted - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    beta = torch.lerp(at.gather(0, right - 1), at.gather(0, right), share)
    beta[0], beta[-1] = 0, 1
    return beta


def resolve(schedule: str | Tensor, num_steps: int) -> Tensor | None:
    """The schedule that an argument names, ``(T + 1,)`` float64; None where a pilot is to place it.

    Raises:
        InputError: if it is neither one of `SCHEDULES` nor a rising tensor from 0 to 1 of ``num_steps`` + 1 numbers.
    """
    check_positive_int("num_steps", num_steps)
    if isinstance(schedule, Tensor):
        beta = schedule.detach().to("cpu", torch.float64)
        rising = beta.shape == (num_steps + 1,) and bool((beta.diff() >= 0).all())
        if not rising or float(beta[0]) != 0 or float(beta[-1]) != 1:
            expected = f"{num_steps + 1} numbers that rise from 0 to 1 (num_steps = {num_steps})"
            raise InputError("schedule", expected, describe(schedule))
        return beta
    check_one_of("schedule", schedule, SCHEDULES)
    return {"linear": linear, "sigmoid": sigmoid}[schedule](num_steps) if schedule != "pilot" else None
