"""Markov kernels that leave a tempered density f_b invariant: HMC, random walks, or the user's own.

A transition moves S chains for each of N data at once. It consists of reversible parts, and can be run with the parts
in reversed order: annealing needs this for chains that start from an exact posterior sample. Step sizes are tuned on a
pilot run, outside of the kernel, and are then frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.evidence.annealing.path import AnnealingPath, Point


class Chains(NamedTuple):
    """The state of S chains for each of N data: their points, and their momenta ``(S, N, D)`` or None."""

    point: Point
    momentum: Tensor | None


class Moved(NamedTuple):
    """Chains after a move, and its acceptance probability.

    Attributes:
        chains: the state.
        acceptance: the mean acceptance probability, ``(S, N)``, which is used to tune step sizes.
    """

    chains: Chains
    acceptance: Tensor


@runtime_checkable
class Transition(Protocol):
    """A kernel that leaves every f_b of an annealing path invariant.

    Make it a frozen dataclass: results and checkpoints identify it by its ``repr``.

    Attributes:
        target_accept: the acceptance rate that step sizes are tuned for.
        needs_gradient: whether the model must be differentiable in its latents.
        densities: evaluations of log p(x, z) without a gradient in one move.
        gradients: evaluations of log p(x, z) with its gradient in one move.
    """

    @property
    def target_accept(self) -> float:
        """The acceptance rate that step sizes are tuned for."""

    @property
    def needs_gradient(self) -> bool:
        """Whether the model must be differentiable in its latents."""

    @property
    def densities(self) -> int:
        """Evaluations of log p(x, z) without a gradient in one move."""

    @property
    def gradients(self) -> int:
        """Evaluations of log p(x, z) with its gradient in one move."""

    def start(self, point: Point, generator: Generator) -> Chains:
        """Chains at ``point``; auxiliary variables such as momenta are drawn from their stationary distribution."""

    def move(
        self,
        chains: Chains,
        path: AnnealingPath,
        beta: Tensor,
        step: Tensor,
        generator: Generator,
        *,
        reverse: bool = False,
    ) -> tuple[Chains, Tensor]:
        """One move that leaves f_b invariant.

        Args:
            chains: the state before the move.
            path: the annealing path, which gives densities and gradients.
            beta: b, ``(N,)`` or a number.
            step: step sizes, ``(N, D)``, one for each datum and coordinate.
            generator: generator of the random numbers.
            reverse: run the parts in reversed order, which gives the reversal of this kernel.

        Returns:
            a `Moved`: the chains after the move, and the mean acceptance probability, ``(S, N)``.
        """


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo, with full or partial refreshment of the momentum.

    A move is R M F: R refreshes the momentum, p <- c p + sqrt(1 - c^2) xi; M proposes ``num_leapfrog`` leapfrog steps
    followed by a change of sign of the momentum, and accepts or rejects them by the energy; F changes the sign again.
    Each of the three is reversible with respect to f_b(u) N(p; 0, I), so F M R is the reversal (Horowitz 1991; Neal,
    "MCMC using Hamiltonian dynamics", 2011). A proposal whose energy is NaN is rejected.

    Args:
        num_leapfrog: the number of leapfrog steps in one move.
        persistence: c, from 0 (the momentum is drawn anew) to below 1.
        jitter: step sizes are multiplied by a number from 1 - jitter to 1 + jitter, drawn for each chain and move, so
            that trajectories are not periodic.
        target_accept: the acceptance rate that step sizes are tuned for.

    Of the settings that were tried on Gaussian, gamma and MNIST posteriors, the defaults gave the smallest variance for
    the same number of gradients, or nearly the smallest. Three short steps had a variance two to five times smaller
    than ten steps (Wu et al. 2017).

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
        """One for each leapfrog step: the gradient at the start of a move is known from the move before."""
        return self.num_leapfrog

    def start(self, point: Point, generator: Generator) -> Chains:
        """Chains at ``point`` with standard normal momenta."""
        return Chains(point, _normal(point.u, generator))

    def move(
        self,
        chains: Chains,
        path: AnnealingPath,
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
        # The random numbers are drawn in the same order in both directions.
        fresh = _normal(point.u, generator)
        stretch = 1 + self.jitter * (2 * _uniform(point.log_end, generator) - 1)
        threshold = _uniform(point.log_end, generator, torch.float64)
        momentum = -momentum if reverse else self._refresh(momentum, fresh)
        sizes = step * stretch.unsqueeze(-1).to(step.dtype)
        proposal, end = self._leapfrog(point, momentum, path, beta, sizes)
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
        self, point: Point, momentum: Tensor, path: AnnealingPath, beta: Tensor, sizes: Tensor
    ) -> tuple[Point, Tensor]:
        """The end of the trajectory, and the momentum there."""
        momentum = momentum + 0.5 * sizes * point.gradient(beta)
        for left in reversed(range(self.num_leapfrog)):
            point = path.at(point.u + sizes * momentum, gradient=True)
            momentum = momentum + (1.0 if left else 0.5) * sizes * point.gradient(beta)
        return point, momentum


@dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis with normal proposals: for models without a gradient in their latents.

    Args:
        num_moves: the number of proposals in one move.
        target_accept: the acceptance rate that step sizes are tuned for; 0.234 is best in many dimensions (Roberts,
            Gelman and Gilks 1997), 0.44 in one dimension.

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
        """One for each proposal."""
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
        path: AnnealingPath,
        beta: Tensor,
        step: Tensor,
        generator: Generator,
        *,
        reverse: bool = False,  # noqa: ARG002  (the same either way)
    ) -> Moved:
        """See `Transition.move`. Each proposal is reversible, and all are alike, so the move is reversible, too."""
        point = chains.point
        total = torch.zeros_like(point.log_end)
        for _ in range(self.num_moves):
            proposal = path.at(point.u + step * _normal(point.u, generator), gradient=False)
            probability = _acceptance(proposal.log_density(beta) - point.log_density(beta))
            accept = _uniform(point.log_end, generator, torch.float64) < probability
            point = point.select(accept, proposal)
            total += probability
        return Moved(Chains(point, None), total / self.num_moves)


def langevin(persistence: float = 0.9) -> HMC:
    """Underdamped Langevin moves: one leapfrog step, after which most of the momentum is kept."""
    return HMC(num_leapfrog=1, persistence=persistence, target_accept=0.9)


def check_transition(value: object) -> Transition:
    """``value`` if it is a transition; raises `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Transition):
        raise InputError("transition", "a Transition such as HMC() or RandomWalk()", describe(value))
    return value


def _acceptance(log_ratio: Tensor) -> Tensor:
    """min(1, exp(log_ratio)); 0 for NaN, as after a trajectory that diverged."""
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
