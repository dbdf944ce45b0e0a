"""Schedules of inverse temperatures: 0 = b_0 < b_1 < ... < b_T = 1.

Fixed in advance, or placed by a pilot (`ppl_vae.evidence.annealing.pilot`) and frozen: a schedule that follows the
chains that it weights would bias them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_one_of, check_positive_float, check_positive_int, describe


@runtime_checkable
class Schedule(Protocol):
    """Where the inverse temperatures of a run lie.

    A frozen dataclass is the best form: its ``repr`` names it in results, and tells one checkpoint from another's.
    """

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:
        """The temperatures, ``(T + 1,)``, or ``(T + 1, N)`` for each datum its own: they rise from 0 to 1.

        Args:
            num_steps: T.
            spread: ``(P, N)`` the standard deviation of log p(x, z) - log f_0(z) over the pilot's chains of each datum
                at P temperatures: all that a schedule may follow. The chains that it weights would bias it.
            at: ``(P,)`` these temperatures, rising from 0 to 1.
        """


@dataclass(frozen=True)
class Linear:
    """b_t = t / T."""

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:  # noqa: ARG002  (the protocol's)
        """See `Schedule.temperatures`."""
        return linear(num_steps)


@dataclass(frozen=True)
class Sigmoid:
    """Dense at both ends, the more so the larger ``delta`` is: see `sigmoid`.

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
    """Each datum's own schedule, on which every increment has the same spread in its pilot: see `equalised`."""

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:
        """See `Schedule.temperatures`."""
        return equalised(spread, at, num_steps)


@dataclass(frozen=True)
class Given:
    """Temperatures that were given as numbers.

    Raises:
        InputError: if they do not rise from 0 to 1.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        checked(torch.tensor(self.values, dtype=torch.float64), len(self.values) - 1)

    def temperatures(self, num_steps: int, spread: Tensor, at: Tensor) -> Tensor:  # noqa: ARG002  (the protocol's)
        """See `Schedule.temperatures`."""
        return torch.tensor(self.values, dtype=torch.float64)


SCHEDULES: dict[str, Schedule] = {"linear": Linear(), "sigmoid": Sigmoid(), "pilot": Pilot()}
"""Those that have a name."""


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


def resolve(schedule: Schedule | str | Tensor, num_steps: int) -> Schedule:
    """The schedule that an argument is or names.

    Raises:
        InputError: if it is neither a `Schedule`, nor one of `SCHEDULES`, nor a rising tensor from 0 to 1 of
            ``num_steps`` + 1 numbers.
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
    """``beta`` as float64 on the CPU if it is a schedule, ``(T + 1,)``, or ``(T + 1, N)`` for so many data.

    Raises:
        InputError: if it does not rise from 0 to 1, or has another shape.
    """
    shapes = [(num_steps + 1,)] + ([] if num_data is None else [(num_steps + 1, num_data)])
    if isinstance(beta, Tensor) and beta.shape in shapes:
        value = beta.detach().to("cpu", torch.float64)
        ends = bool((value[0] == 0).all()) and bool((value[-1] == 1).all())
        if ends and bool((value.diff(dim=0) >= 0).all()):
            return value
    each = "" if num_data is None else f", for all data or for each of {num_data}"
    expected = f"{num_steps + 1} numbers that rise from 0 to 1 (num_steps = {num_steps}){each}"
    raise InputError("schedule", expected, describe(beta))
