"""Training loss of a program with its gradients, as one captured graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any

import torch
from pyro import get_param_store
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from ppl_vae.compiled.densities import flatten, unflatten
from ppl_vae.compiled.function import Function, PartialFunction
from ppl_vae.compiled.gradients import by_leaf, plain, traced
from ppl_vae.objectives.surrogates import losses_of, no_form
from ppl_vae.program import Data, Program
from ppl_vae.program.handlers import ScaledLatents
from ppl_vae.program.pyro_state import unvalidated

Gradients = list[Tensor | None]


class TrainingLoss:
    """An objective of a program, summed over a batch, and its gradients, as in a step of SVI.

    Loss and gradients are those of ``objective.loss_and_grads`` for the same state of torch's global generator, which
    gives the draws. Buffers that modules change in training mode (batch normalisation) are changed, too.

    Args:
        program: the program.
        leaves: `Program.parameters`, in the order of the gradients.
        objective: a Pyro objective; `Trace_ELBO` by default. `losses_of` knows those that can be captured.
        level: "plain", "captured" or "compiled".

    Attributes:
        leaves: the leaves as a tuple.
    """

    def __init__(
        self,
        program: Program,
        leaves: Mapping[str, Tensor],
        objective: ELBO | None = None,
        *,
        level: str = "captured",
    ) -> None:
        self.program, self.leaves = program, tuple(leaves.values())
        self.objective = fixed_nesting(Trace_ELBO() if objective is None else objective)
        self.level = level
        self._functions: dict[tuple[str, ...], Function] = {}
        self._beta: Tensor | None = None
        self._beta_value = math.nan

    def __call__(self, x: Data, beta: float = 1.0) -> tuple[Tensor, Gradients]:
        """The loss, a float64 scalar, and the gradient of each leaf (None if the loss does not depend on it).

        Args:
            x: the batch.
            beta: the weight of the latent terms (KL warm-up); an input of the graph, which is the same for any value.
        """
        names, given = flatten(x)
        return self._run(self._named(names), given, beta)

    def bind(self) -> PartialLoss:
        """The same for calls between which only the values of the program's tensors change, as in an epoch."""
        return PartialLoss(self)

    def agree(self, x: Data, beta: float = 1.0) -> bool:
        """Whether graph and program agree on a batch; False if there is no graph."""
        names, given = flatten(x)
        return self._named(names).agree(*given, self._weight(beta, given[0].device))

    def cause(self, x: Data) -> str:
        """The reason why Pyro itself ran in the last call for batches like ``x``; empty if the graph ran."""
        function = self._functions.get(flatten(x)[0])
        return "" if function is None else function.cause

    def _weight(self, beta: float, device: torch.device) -> Tensor:
        """beta as a tensor; the same object as long as the number does not change."""
        if self._beta is None or self._beta.device != device or self._beta_value != beta:
            self._beta_value = float(beta)
            self._beta = torch.tensor(self._beta_value, dtype=torch.float64, device=device)
        return self._beta

    def _run(
        self, function: Function | PartialFunction, given: list[Tensor], beta: float
    ) -> tuple[Tensor, Gradients]:
        outputs = function(*given, self._weight(beta, given[0].device))
        return outputs[0], by_leaf(outputs, self.leaves)

    def _named(self, names: tuple[str, ...]) -> Function:
        function = self._functions.get(names)
        if function is None:
            function = self._functions[names] = self._function(names)
        return function

    def _function(self, names: tuple[str, ...]) -> Function:
        program, objective, leaves = self.program, self.objective, self.leaves
        losses = losses_of(objective)

        def by_pyro(*given: Tensor) -> Sequence[Tensor]:
            model, guide = program.kl_weighted(float(given[-1]), listed=False)
            data = unflatten(names, given[:-1])
            with unvalidated():
                return plain(lambda: objective.loss_and_grads(model, guide, data), leaves)  # type: ignore[attr-defined]

        def by_graph(*given: Tensor) -> Sequence[Tensor]:
            model, guide = program.kl_weighted(1.0, listed=False)
            beta, data = given[-1], unflatten(names, given[:-1])
            with unvalidated():
                return traced(
                    lambda: losses(scaled(model, beta), scaled(guide, beta), (data,), {}),  # type: ignore[misc]
                    leaves,
                )

        def shuffle(given: Sequence[Tensor]) -> list[Tensor]:
            return [*(t.roll(1, 0) for t in given[:-1]), torch.full_like(given[-1], 0.37)]

        return Function(
            program,
            ("training loss", names, objective_key(objective), tuple(map(id, leaves))),
            by_pyro,
            traced=no_form(objective) if losses is None else by_graph,
            modules=program.modules,
            stores=(program.params, get_param_store()),
            leaves=leaves,
            trained=leaves,
            varying=None,
            shuffle=shuffle,
            level=self.level,
        )


class PartialLoss:
    """A `TrainingLoss` that checks the program once; see `TrainingLoss.bind`."""

    def __init__(self, loss: TrainingLoss) -> None:
        self._loss = loss
        self._bound: dict[tuple[str, ...], PartialFunction] = {}

    def __call__(self, x: Data, beta: float = 1.0) -> tuple[Tensor, Gradients]:
        """As `TrainingLoss`."""
        names, given = flatten(x)
        bound = self._bound.get(names)
        if bound is None:
            bound = self._bound[names] = self._loss._named(names).bind()
        return self._loss._run(bound, given, beta)


def scaled(fn: Callable[..., Any], beta: Tensor) -> Callable[..., Any]:
    """``fn`` with its latent log densities multiplied by a tensor."""

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ScaledLatents(beta):
            return fn(*args, **kwargs)

    return run


def fixed_nesting(objective: ELBO) -> ELBO:
    """A copy of an objective with a known plate nesting, so that it needs no draws to find it."""
    objective = copy(objective)
    if math.isinf(getattr(objective, "max_plate_nesting", 1)):
        particles = objective.vectorize_particles and objective.num_particles > 1
        objective.max_plate_nesting = 2 if particles else 1
    return objective


def objective_key(objective: ELBO) -> tuple[object, ...]:
    """The identity of an objective: its class and plain options, and the object itself if it has other state."""
    plain_options = {
        k: v for k, v in vars(objective).items() if isinstance(v, (bool, int, float, str, type(None)))
    }
    rest = () if len(plain_options) == len(vars(objective)) else (objective,)
    return (type(objective), tuple(sorted(plain_options.items(), key=lambda item: item[0])), *rest)
