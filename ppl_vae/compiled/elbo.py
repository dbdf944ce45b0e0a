"""`CompiledELBO`: an objective for plain `pyro.infer.SVI` that runs a captured graph instead of Pyro's handlers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from pyro import get_param_store, poutine
from pyro.infer import ELBO, Trace_ELBO
from pyro.util import warn_if_nan
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ppl_vae.compiled.function import Function
from ppl_vae.compiled.gradients import plain, traced
from ppl_vae.compiled.guards import Recording, signature
from ppl_vae.compiled.losses import objective_key
from ppl_vae.errors import InputError, describe
from ppl_vae.exclusive import exclusive
from ppl_vae.objectives.surrogates import losses_of, no_form
from ppl_vae.program.parameters import param_site
from ppl_vae.program.pyro_state import unvalidated

_KEPT = 8  # pairs of model and guide; SVI has one
_VALUES = (bool, int, float, str, type(None))


class CompiledELBO(ELBO):
    """The loss of an objective and its gradients as a captured graph, for ``SVI(model, guide, optim, loss=...)``.

    Values, gradients and draws are those of ``objective`` for the same state of torch's global generator, to round-off,
    for any model and guide whose control flow does not depend on tensors. Parameters may be in Pyro's global store or
    in modules. The first step for arguments of a new kind runs ``objective`` itself, with its validation. The second
    step captures the graph and compares it. From the third step the graph runs, without validation. If the step cannot
    be captured, ``objective`` itself runs, with one `CompileWarning` that names the cause. Arguments that are not
    tensors are constants of the graph: pass a value that changes often (such as a weight of the KL term) as a tensor.

    Args:
        objective: `pyro.infer.Trace_ELBO` by default; `ppl_vae.compiled.losses_of` knows the objectives that can be
            captured.
        compile: whether inductor compiles the graph, which takes seconds once; if not, it runs operation by operation.

    Attributes:
        objective: the objective.
        cause: the reason why the last step ran ``objective`` itself; empty if it ran the graph.

    Raises:
        InputError: if ``objective`` is not an ELBO with a single loss.
    """

    def __init__(self, objective: ELBO | None = None, compile: bool = True) -> None:  # noqa: A002  (torch's word)
        objective = Trace_ELBO() if objective is None else objective
        if not isinstance(objective, ELBO) or not hasattr(objective, "loss_and_grads"):
            raise InputError("objective", "a pyro.infer.ELBO such as Trace_ELBO()", describe(objective))
        super().__init__(num_particles=objective.num_particles)
        self.vectorize_particles = objective.vectorize_particles
        self.max_plate_nesting = objective.max_plate_nesting
        self.objective, self.compile = objective, compile
        self.cause = ""
        self._steps: OrderedDict[Hashable, _Step] = OrderedDict()

    def __copy__(self) -> CompiledELBO:
        """One that has captured nothing yet."""
        other = CompiledELBO(copy(self.objective), self.compile)
        other.max_plate_nesting = self.max_plate_nesting
        return other

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss without gradients, from ``objective`` itself."""
        with exclusive():
            return self._own().loss(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The differentiable loss of ``objective`` itself."""
        with exclusive():
            return self._own().differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss; adds gradients to the parameters' ``.grad``, and reports the parameters to SVI."""
        with exclusive():
            return self._loss_and_grads(model, guide, *args, **kwargs)

    def _loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        given, shape = pytree.tree_flatten((args, kwargs))
        tensors = [value for value in given if isinstance(value, Tensor)]
        others = [None if isinstance(value, Tensor) else value for value in given]
        if not tensors or not all(isinstance(value, _VALUES) for value in others):
            self.cause = "the arguments are not tensors, numbers, words and containers of them"
            return self._own().loss_and_grads(model, guide, *args, **kwargs)
        values = tuple((type(value), value) for value in others)
        key = (model, guide, shape, values, signature(tensors))
        step = self._steps.get(key)
        if step is None:
            recording = Recording(_owners(model, guide))
            with recording.running():
                loss = self._own().loss_and_grads(model, guide, *args, **kwargs)

            def rebuild(new: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
                tensors = iter(new)
                flat = [next(tensors) if isinstance(old, Tensor) else old for old in template]
                return pytree.tree_unflatten(flat, shape)

            template = [torch.empty(0) if isinstance(value, Tensor) else value for value in given]
            self._steps[key] = _Step(self, key, model, guide, rebuild, recording)
            while len(self._steps) > _KEPT:
                self._steps.popitem(last=False)
            return loss
        self._steps.move_to_end(key)
        try:
            return step(tensors)
        except _OtherParametersError as other:
            # The parameters have changed: use the gradients that are there, and start again.
            del self._steps[key]
            return _told(other.leaves, other.loss)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self._own()._get_trace(model, guide, args, kwargs)

    def _own(self) -> Any:
        """The objective, with the plate nesting of this one, which `ppl_vae.fit` sets."""
        if self.objective.max_plate_nesting != self.max_plate_nesting:
            if self.max_plate_nesting == float("inf"):
                self.max_plate_nesting = self.objective.max_plate_nesting  # found out in a first run
            else:
                self.objective = copy(self.objective)
                self.objective.max_plate_nesting = self.max_plate_nesting
        return self.objective


class _OtherParametersError(Exception):
    """A run used other parameters than those of the graph to be captured; their ``.grad`` has the gradients."""

    def __init__(self, loss: Tensor, leaves: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.loss, self.leaves = loss, leaves


class _Step:
    """A step of one model and guide with arguments of one kind."""

    def __init__(
        self,
        elbo: CompiledELBO,
        key: Hashable,
        model: Any,
        guide: Any,
        rebuild: Any,
        recording: Recording,
    ) -> None:
        self.elbo, self.leaves = elbo, recording.leaves
        # As with ``backward``: all tensors that require a gradient get it, also those that SVI does not know.
        self.each = each = _trainable(recording)
        objective = elbo._own()
        losses = losses_of(objective)

        def by_pyro(*given: Tensor) -> Sequence[Tensor]:
            args, kwargs = rebuild(given)
            found = Recording(_owners(model, guide))
            with found.running():
                outputs = plain(lambda: objective.loss_and_grads(model, guide, *args, **kwargs), each)
            now = _trainable(found)
            if {*map(id, now)} != {*map(id, each)}:
                _add([leaf if any(leaf is t for t in now) else None for leaf in each], outputs)
                raise _OtherParametersError(outputs[0], found.leaves)
            return outputs

        def by_graph(*given: Tensor) -> Sequence[Tensor]:
            args, kwargs = rebuild(given)
            with unvalidated(), poutine.block():
                return traced(lambda: losses(model, guide, args, kwargs), each)  # type: ignore[misc]

        self.function = Function(
            elbo,
            ("CompiledELBO", key, objective_key(objective), tuple(map(id, each))),
            by_pyro,
            traced=no_form(objective) if losses is None else by_graph,
            modules=_owners(model, guide),
            stores=(get_param_store(),),
            leaves=each,
            trained=each,
            complete=True,
            varying=None,
            level="compiled" if elbo.compile else "captured",
        )

    def __call__(self, tensors: Sequence[Tensor]) -> float:
        outputs = self.function(*tensors)
        self.elbo.cause = self.function.cause
        _add(self.each, outputs)
        return _told(self.leaves, outputs[0])


def _add(leaves: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
    """Add gradients to leaves, as ``backward`` does; entries without a leaf are skipped."""
    for leaf, gradient in zip(leaves, outputs[1:], strict=True):
        if leaf is not None and gradient.shape == leaf.shape:
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _told(leaves: Mapping[str, Tensor], loss: Tensor) -> float:
    """Report the parameters to Pyro's handlers; returns the loss as a number."""
    for name, leaf in leaves.items():
        param_site(name, leaf)
    warn_if_nan(loss, "loss")
    return float(loss)


def _owners(model: Any, guide: Any) -> list[nn.Module]:
    """The modules that model and guide are, or whose methods they are."""
    owners = (model, guide, *(getattr(fn, "__self__", None) for fn in (model, guide)))
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def _trainable(recording: Recording) -> tuple[Tensor, ...]:
    """All recorded tensors that require a gradient, each once."""
    return tuple(t for t in recording.tensors() if t.requires_grad)
