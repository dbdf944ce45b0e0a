"""Markov kernels that leave a tempered density f_b invariant: HMC, random walks, or the user's own.

A transition moves S chains of each of N data at once. It is made of parts that are each reversible, and can be run
in the reversed order: that is what annealing needs for a chain that comes back from an exact posterior sample.
Whatever is tuned (step sizes) is tuned outside, on a pilot, and handed in frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.evidence.annealing.path import Bridge, Point


class Chains(NamedTuple):
    """The state of S chains of N data: where they are, and their momenta ``(S, N, D)`` (None where there are none)."""

    point: Point
    momentum: Tensor | None


class Moved(NamedTuple):
    """Chains after a move, and how it went.

    Attributes:
        chains: the state.
        acceptance: the mean acceptance probability, ``(S, N)``, by which step sizes are tuned.
    """

    chains: Chains
    acceptance: Tensor


@runtime_checkable
class Transition(Protocol):
    """A kernel that leaves every f_b of a bridge invariant.

    A frozen dataclass is the best form: its ``repr`` names it in results, and tells one checkpoint from another's.

    Attributes:
        target_accept: the acceptance rate that step sizes are tuned for.
        needs_gradient: whether the model must be differentiable in its latents.
        densities: evaluations of log p(x, z) a move, without a gradient.
        gradients: evaluations with its gradient a move.
    """

    @property
    def target_accept(self) -> float:
        """The acceptance rate that step sizes are tuned for."""

    @property
    def needs_gradient(self) -> bool:
        """Whether the model must be differentiable in its latents."""

    @property
    def densities(self) -> int:
        """Evaluations of log p(x, z) a move, without a gradient."""

    @property
    def gradients(self) -> int:
        """Evaluations of log p(x, z) with its gradient a move."""

    def start(self, point: Point, generator: Generator) -> Chains:
        """Chains at ``point``, with what else the kernel carries along drawn from its stationary distribution."""

    def move(
        self,
        chains: Chains,
        bridge: Bridge,
        beta: Tensor,
        step: Tensor,
        generator: Generator,
        *,
        reverse: bool = False,
    ) -> tuple[Chains, Tensor]:
        """One move that leaves f_b invariant.

        Args:
            chains: where the chains are.
            bridge: gives densities and gradients.
            beta: b, ``(N,)`` or a number.
            step: step sizes, ``(N, D)``, one for each datum and coordinate.
            generator: the noise comes from it.
            reverse: run the parts in the reversed order, which makes it the reversal of this very kernel.

        Returns:
            a `Moved`: the chains after it, and beside them the mean acceptance probability, ``(S, N)``.
        """


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo, with full or partial refreshment of the momentum.

    A move is R M F: R refreshes, p <- c p + sqrt(1 - c^2) xi; M proposes ``num_leapfrog`` leapfrog steps followed by
    a flip of the momentum, and accepts by the energy; F flips it again. Each of the three is reversible with
    respect to f_b(u) N(p; 0, I), so F M R is the reversal (Horowitz 1991; Neal, "MCMC using Hamiltonian dynamics",
    2011). A proposal whose energy is not a number is rejected.

    Args:
        num_leapfrog: leapfrog steps a move.
        persistence: c, from 0 (all of the momentum is new) to below 1.
        jitter: step sizes are multiplied by a number from 1 - jitter to 1 + jitter, drawn anew for each chain and
            move, so that no orbit closes on itself.
        target_accept: the acceptance rate that step sizes are tuned for.

    The defaults gave the smallest variance for the same number of gradients, or nearly so, among those tried on
    Gaussian, gamma and MNIST posteriors; three short steps beat ten (Wu et al. 2017) by two to five times there.

    Raises:
        InputError: if a number is out of its range.
    """

    num_leapfrog: int = 3
    persistence: float = 0.5
    jitter: float = 0.2
    target_accept: float = 0.9

    def __post_init__(self) -> None:
        check_positive_int("num_leapfrog", self.num_leapfrog)
        _check_fraction("persistence", self.persistence, 0.0)
        _check_fraction("jitter", self.jitter, 0.0)
        _check_fraction("target_accept", self.target_accept)

    @property
    def needs_gradient(self) -> bool:
        """Yes."""
        return True

    @property
    def densities(self) -> int:
        """None without a gradient."""
        return 0

    @property
    def gradients(self) -> int:
        """One a leapfrog step: the gradient where a move starts is known from the one before."""
        return self.num_leapfrog

    def start(self, point: Point, generator: Generator) -> Chains:
        """Chains at ``point`` with standard normal momenta."""
        return Chains(point, _normal(point.u, generator))

    def move(
        self,
        chains: Chains,
        bridge: Bridge,
        beta: Tensor,
        step: Tensor,
        generator: Generator,
        *,
        reverse: bool = False,
    ) -> Moved:
        """See `Transition.move`."""
        point, momentum = chains
        if momentum is None:
            raise AssertionError("chains without momenta")
        # The noise is drawn in one order, whichever way the parts are run.
        fresh = _normal(point.u, generator)
        stretch = 1 + self.jitter * (2 * _uniform(point.log_end, generator) - 1)
        threshold = _uniform(point.log_end, generator, torch.float64)
        momentum = -momentum if reverse else self._refresh(momentum, fresh)
        sizes = step * stretch.unsqueeze(-1).to(step.dtype)
        proposal, end = self._leapfrog(point, momentum, bridge, beta, sizes)
        probability = _acceptance(_energy(proposal, end, beta) - _energy(point, momentum, beta))
        accept = threshold < probability
        momentum = torch.where(accept.unsqueeze(-1), -end, momentum)
        momentum = self._refresh(momentum, fresh) if reverse else -momentum
        return Moved(Chains(point.select(accept, proposal), momentum), probability)

    def _refresh(self, momentum: Tensor, fresh: Tensor) -> Tensor:
        if self.persistence == 0:
            return fresh
        return self.persistence * momentum + (1 - self.persistence**2) ** 0.5 * fresh

    def _leapfrog(
        self, point: Point, momentum: Tensor, bridge: Bridge, beta: Tensor, sizes: Tensor
    ) -> tuple[Point, Tensor]:
        """Where the dynamics lead, and the momentum there."""
        momentum = momentum + 0.5 * sizes * point.gradient(beta)
        for left in reversed(range(self.num_leapfrog)):
            point = bridge.at(point.u + sizes * momentum, gradient=True)
            momentum = momentum + (1.0 if left else 0.5) * sizes * point.gradient(beta)
        return point, momentum


@dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis with normal proposals: for models without a gradient in their latents.

    Args:
        num_moves: proposals a move.
        target_accept: the acceptance rate that step sizes are tuned for; 0.234 is best in many dimensions (Roberts,
            Gelman and Gilks 1997), 0.44 in one.

    Raises:
        InputError: if a number is out of its range.
    """

    num_moves: int = 5
    target_accept: float = 0.3

    def __post_init__(self) -> None:
        check_positive_int("num_moves", self.num_moves)
        _check_fraction("target_accept", self.target_accept)

    @property
    def needs_gradient(self) -> bool:
        """No."""
        return False

    @property
    def densities(self) -> int:
        """One a proposal."""
        return self.num_moves

    @property
    def gradients(self) -> int:
        """None."""
        return 0

    def start(self, point: Point, generator: Generator) -> Chains:  # noqa: ARG002  (part of the protocol)
        """Chains at ``point``; nothing is drawn."""
        return Chains(point, None)

    def move(
        self,
        chains: Chains,
        bridge: Bridge,
        beta: Tensor,
        step: Tensor,
        generator: Generator,
        *,
        reverse: bool = False,  # noqa: ARG002  (the same either way)
    ) -> Moved:
        """See `Transition.move`; each proposal is reversible and they are all alike, so is the move."""
        point = chains.point
        total = torch.zeros_like(point.log_end)
        for _ in range(self.num_moves):
            proposal = bridge.at(point.u + step * _normal(point.u, generator), gradient=False)
            probability = _acceptance(proposal.log_density(beta) - point.log_density(beta))
            accept = _uniform(point.log_end, generator, torch.float64) < probability
            point = point.select(accept, proposal)
            total += probability
        return Moved(Chains(point, None), total / self.num_moves)


def langevin(persistence: float = 0.9) -> HMC:
    """Underdamped Langevin moves: one leapfrog step, with most of the momentum kept from move to move."""
    return HMC(num_leapfrog=1, persistence=persistence, target_accept=0.9)


def check_transition(value: object) -> Transition:
    """``value`` if it is a transition; raises `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Transition):
        raise InputError("transition", "a Transition such as HMC() or RandomWalk()", describe(value))
    return value


def _acceptance(log_ratio: Tensor) -> Tensor:
    """min(1, exp(log_ratio)); 0 for what is not a number, such as where the dynamics ran away to."""
    ratio = log_ratio.exp()
    return torch.where(ratio.isnan(), 0.0, ratio.clamp(max=1))


def _energy(point: Point, momentum: Tensor, beta: Tensor) -> Tensor:
    """log f_b(u) N(p; 0, I) without its constant, ``(S, N)`` float64."""
    return point.log_density(beta) - 0.5 * momentum.double().square().sum(-1)


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def _uniform(like: Tensor, generator: Generator, dtype: torch.dtype | None = None) -> Tensor:
    return torch.rand(like.shape, dtype=dtype or like.dtype, device=like.device, generator=generator)


def _check_fraction(argument: str, value: object, least: float | None = None) -> None:
    """Refuse what is not a number below 1 and above 0 (or from ``least`` on)."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not value < 1 or (value <= 0 if least is None else value < least):  # type: ignore[operator]
        expected = "a number above 0 and below 1" if least is None else f"a number from {least:g} to below 1"
        raise InputError(argument, expected, describe(value))
