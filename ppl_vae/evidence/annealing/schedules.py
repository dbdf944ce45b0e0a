"""Schedules of inverse temperatures: 0 = b_0 < b_1 < ... < b_T = 1.

A schedule is fixed in advance, or computed from a pilot run (`ppl_vae.evidence.annealing.pilot`) and then frozen. A
schedule that depends on the chains that are weighted would bias the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_one_of, check_positive_float, check_positive_int, describe


@runtime_checkable
class Schedule(Protocol):
    """The inverse temperatures of a run.

    Make it a frozen dataclass: results and checkpoints identify it by its ``repr``.
    """

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:
        """The inverse temperatures, which increase from 0 to 1: ``(T + 1,)``, or ``(T + 1, N)`` for each datum.

        Args:
            num_steps: T.
            spread: ``(P, N)`` the standard deviation of log p(x, z) - log f_0(z) over the pilot's chains of each datum
                at P inverse temperatures. A schedule may depend on these numbers, but not on the weighted chains.
            at: ``(P,)`` these inverse temperatures, increasing from 0 to 1.
        """


@dataclass(frozen=True)
class Linear:
    """b_t = t / T."""

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:  # noqa: ARG002  (the protocol's)
        """See `Schedule.temperatures`."""
        return linear(num_steps)


@dataclass(frozen=True)
class Sigmoid:
    """Temperatures that are dense at both ends; a larger ``delta`` makes them denser there. See `sigmoid`.

    Raises:
        InputError: if ``delta`` is not a positive number.
    """

    delta: float = 4.0

    def __post_init__(self) -> None:
        check_positive_float("delta", self.delta)

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:  # noqa: ARG002  (the protocol's)
        """See `Schedule.temperatures`."""
        return sigmoid(num_steps, self.delta)


@dataclass(frozen=True)
class Pilot:
    """A schedule for each datum, on which all increments have the same spread in the pilot run: see `equalised`."""

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:
        """See `Schedule.temperatures`."""
        return equalised(spread, at, num_steps)


@dataclass(frozen=True)
class Given:
    """Temperatures that were given as numbers.

    Raises:
        InputError: if they do not increase from 0 to 1.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        checked(torch.tensor(self.values, dtype=torch.float64), len(self.values) - 1)

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:  # noqa: ARG002  (the protocol's)
        """See `Schedule.temperatures`."""
        return torch.tensor(self.values, dtype=torch.float64)


SCHEDULES: dict[str, Schedule] = {"linear": Linear(), "sigmoid": Sigmoid(), "pilot": Pilot()}
"""The schedules that have a name."""


def linear(num_steps: int) -> Tensor:
    """b_t = t / T, ``(T + 1,)`` float64.

    Raises:
        InputError: if ``num_steps`` is not a positive integer.
    """
    return torch.linspace(0, 1, check_positive_int("num_steps", num_steps) + 1, dtype=torch.float64)


def sigmoid(num_steps: int, delta: float = 4.0) -> Tensor:
    """Temperatures that are dense at both ends (Wu et al. 2017).

    b_t = (s_t - s_0) / (s_T - s_0) with s_t = sigmoid(delta (2 t / T - 1)); ``(T + 1,)`` float64.

    Raises:
        InputError: if ``num_steps`` is not a positive integer, or ``delta`` is not a positive number.

    Source: Wu et al., "On the quantitative analysis of decoder-based generative models" (2017).
    """
    s = torch.sigmoid(check_positive_float("delta", delta) * (2 * linear(num_steps) - 1))
    beta = (s - s[0]) / (s[-1] - s[0])
    beta[-1] = 1
    return beta


def equalised(spread: Tensor, at: Tensor, num_steps: int) -> Tensor:
    """The schedule on which all increments have the same standard deviation.

    The standard deviation of an increment is about (b_{t+1} - b_t) sd(b), where sd(b) is that of log p(x, z) -
    log f_0(z) under f_b. The b_t are therefore placed at equal steps of the integral of sd. For small steps this is the
    best schedule (Grosse et al. 2013).

    Args:
        spread: ``(P, N)`` sd at P inverse temperatures, estimated by the pilot run for each datum.
        at: ``(P,)`` or ``(P, N)`` these inverse temperatures, increasing from 0 to 1.
        num_steps: T.

    Returns:
        ``(T + 1, N)`` float64: the schedule of each datum.
    """
    at = at.double()
    at = at.unsqueeze(-1).expand_as(spread) if at.ndim == 1 else at
    # A lower limit of the spread: if the few chains of the pilot have none, steps must not become too long.
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


def resolve(schedule: Schedule | str | Tensor, num_steps: int) -> Schedule:
    """The schedule that an argument is or names.

    Raises:
        InputError: if it is not a `Schedule`, nor the name of one of `SCHEDULES`, nor a tensor of ``num_steps`` + 1
            numbers that increase from 0 to 1.
    """
    check_positive_int("num_steps", num_steps)
    if isinstance(schedule, Tensor):
        return Given(tuple(checked(schedule, num_steps).tolist()))
    if isinstance(schedule, str):
        return SCHEDULES[check_one_of("schedule", schedule, SCHEDULES)]
    if isinstance(schedule, type) or not isinstance(schedule, Schedule):
        names = ", ".join(map(repr, SCHEDULES))
        expected = f"one of {names}, a tensor, or a Schedule such as Sigmoid(delta=4.0)"
        raise InputError("schedule", expected, describe(schedule))
    return schedule


def checked(beta: Any, num_steps: int, num_data: int | None = None) -> Tensor:
    """``beta`` as float64 on the CPU if it is a schedule, ``(T + 1,)``, or ``(T + 1, N)`` for N data.

    Raises:
        InputError: if it does not increase from 0 to 1, or has another shape.
    """
    shapes = [(num_steps + 1,)] + ([] if num_data is None else [(num_steps + 1, num_data)])
    if isinstance(beta, Tensor) and beta.shape in shapes:
        value = beta.detach().to("cpu", torch.float64)
        ends = bool((value[0] == 0).all()) and bool((value[-1] == 1).all())
        if ends and bool((value.diff(dim=0) >= 0).all()):
            return value
    each = "" if num_data is None else f", for all data or for each of {num_data}"
    expected = f"{num_steps + 1} numbers that increase from 0 to 1 (num_steps = {num_steps}){each}"
    raise InputError("schedule", expected, describe(beta))
