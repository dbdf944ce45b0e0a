"""Proposal: where importance samples come from, and the log weights that they get."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Data, Program


class ProposalOnData(Protocol):
    """A proposal for some data, ready to be drawn from. Subclass it, or have what it has.

    Attributes:
        density_evals: evaluations of log p(x, z) that binding took for each datum, ``(N,)`` or one number.
        gradient_evals: evaluations with the gradient in z that it took.
        per_draw: runs of the model for one draw of one datum: one by default.
    """

    density_evals: Tensor | float = 0.0
    gradient_evals: Tensor | float = 0.0
    per_draw: float = 1.0

    def log_weights(self, num_samples: int) -> Tensor:
        """log w = log p(x, z) - log r(z), z ~ r, ``(S, N)`` float64 in nats, -inf where p(x, z) is zero.

        Draws from torch's global generator as it stands. E[w] = p(x) for each datum, whatever r is, if r has density
        wherever p(x, z) has; and nothing that is learned from one call may change what another one draws.
        """

    def take(self, rows: Tensor) -> ProposalOnData | None:  # noqa: ARG002
        """The same proposal for the data at indices ``rows``; None if it has to be bound again for them."""
        return None


@runtime_checkable
class Proposal(Protocol):
    """A distribution r(z) for each datum to draw importance samples from: the settings, not yet the data.

    A frozen dataclass is the best form: its ``repr`` names it in results, and tells one checkpoint from another's.
    """

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        """This proposal for a block of data.

        Whatever is tuned is tuned here, on draws of its own (`ppl_vae.rng.reseed` with ``seed``, a purpose of its
        own and ``index``), and then frozen: weights of draws that also tuned the proposal would be biased.

        Args:
            program: the program.
            x: the data of the block.
            seed: the user's.
            index: a number for the block, of which every block has another one.
        """


def check_proposal(value: object) -> Proposal:
    """``value`` if it is a proposal; raises `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Proposal):
        expected = "a proposal such as Guide(), Defensive() or StudentT(), or an object with .bind"
        raise InputError("proposal", expected, describe(value))
    return value
