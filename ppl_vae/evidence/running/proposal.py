"""Proposal: the distribution of importance samples, and their log weights."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Data, Program


class ProposalOnData(Protocol):
    """A proposal for some data, ready to draw from. Subclass it, or define the same attributes and methods.

    Attributes:
        density_evals: evaluations of log p(x, z) that `Proposal.bind` took for each datum, ``(N,)`` or one number.
        gradient_evals: evaluations with the gradient in z that it took.
        per_draw: runs of the model for one draw of one datum; one by default.
    """

    density_evals: Tensor | float = 0.0
    gradient_evals: Tensor | float = 0.0
    per_draw: float = 1.0

    def log_weights(self, num_samples: int) -> Tensor:
        """log w = log p(x, z) - log r(z), z ~ r, ``(S, N)`` float64 in nats, -inf if p(x, z) is zero.

        Use torch's global generator, without seeding it. E[w] = p(x) holds for each datum and any r whose density is
        positive wherever p(x, z) is. A call must not change the distribution of later calls.
        """

    def take(self, rows: Tensor) -> ProposalOnData | None:  # noqa: ARG002
        """The same proposal for the data with the indices ``rows``; None if it has to be bound to them again."""
        return None


@runtime_checkable
class Proposal(Protocol):
    """The settings of a distribution r(z) of importance samples; `bind` applies them to data.

    Make it a frozen dataclass: results and checkpoints identify it by its ``repr``.
    """

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        """This proposal for a block of data.

        Tune the proposal here, on separate draws (`ppl_vae.rng.reseed` with ``seed``, a purpose that is not used
        elsewhere, and ``index``), and then keep it fixed: weights of draws that also tuned the proposal are biased.

        Args:
            program: the program.
            x: the data of the block.
            seed: the user's seed.
            index: a number that is different for each block.
        """


def check_proposal(value: object) -> Proposal:
    """``value`` if it is a proposal; raises `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Proposal):
        expected = "a proposal such as Guide(), Defensive() or StudentT(), or an object with .bind"
        raise InputError("proposal", expected, describe(value))
    return value
