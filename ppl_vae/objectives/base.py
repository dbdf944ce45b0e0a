"""Objectives of one or many particles, from the log densities of each datum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.poutine.messenger import Messenger
from pyro.util import warn_if_nan
from torch import Tensor

from ppl_vae.errors import check_positive_int
from ppl_vae.objectives.gates import Gated
from ppl_vae.objectives.terms import Scale, Terms
from ppl_vae.program.data import Data
from ppl_vae.program.tracing import PLAIN


class _OneSubsample(Messenger):
    """Gives a plate that draws its subsample the one that it drew first: particles are those of one datum."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._drawn:
            msg["value"], msg["done"] = self._drawn[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample":
            self._drawn[msg["name"]] = msg["value"]


class Objective(ELBO):
    """A sum over data of a bound for each datum, for `pyro.infer.SVI` and `ppl_vae.fit`.

    A subclass says what a run gives for each particle and datum (`parts`; by default log p(x, z) and log q(z|x)), and
    the bound of a datum (`bound`), whose derivative is the gradient; or it overrides `estimate`, where the gradient's
    estimator is another.

    A datum is a cell of the plates that all sites of model and guide are in. A scale that all observed sites have
    (that of a subsampled plate, or of `pyro.poutine.scale` around the pair) multiplies the bound; a scale of single
    sites (KL warm-up) multiplies their log densities. Without such a plate the bound is that of all data jointly.

    Args:
        num_particles: K, the draws of each datum.
        vectorize_particles: whether they are drawn at once, in a plate outside the others. Where code of the model or
            guide counts axes from the left, it has to be False; `ppl_vae.fit` finds out by itself.
        max_plate_nesting: as for `pyro.infer.ELBO`, which finds it out in a first run.
    """

    scores_afresh = False
    """Whether log q is computed from the values drawn alone, not from what a flow remembers of drawing them."""
    needs_paths = True
    """Whether every latent of the guide has to be reparameterised."""
    is_linear = False
    """Whether the bound is a sum of log densities, of which an estimate will do."""

    def __init__(
        self,
        num_particles: int = 1,
        *,
        vectorize_particles: bool = True,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        check_positive_int("num_particles", num_particles)
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.folded = False

    def as_folded(self) -> Objective:
        """A copy whose particles are copies of the data on the data axis, for programs of one plate."""
        other = copy(self)
        other.folded, other.max_plate_nesting = True, 1
        return other

    # ---- for subclasses ---------------------------------------------------------------------------------

    def parts(self, terms: Terms) -> Sequence[Tensor]:
        """What a run gives, each ``(K, *data)``; by default log p(x, z) and log q(z|x)."""
        return terms.log_model(), terms.log_guide()

    @abstractmethod
    def bound(self, *parts: Tensor) -> Tensor:
        """The bound of each datum, ``(*data)``, in nats, from `parts` ``(K, *data)``."""

    def estimate(self, parts: Sequence[Tensor], scale: Scale, runs: Sequence[Terms]) -> tuple[Tensor, Any]:  # noqa: ARG002
        """The objective, to be maximised, and a tensor (or a `Gated`) whose gradient is the estimate of its gradient.

        Args:
            parts: ``(K, *data)`` each.
            scale: what the bound of each datum is multiplied by; broadcasts to ``(*data)``.
            runs: of the pair: one with all particles, or one for each.
        """
        total = (scale * self.bound(*parts)).sum()
        return total.detach(), total

    # ---- for SVI ----------------------------------------------------------------------------------------

    def loss_and_surrogate(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """The loss, float64, and what is differentiated; nothing is read out of a tensor, so it can be captured."""
        with _OneSubsample():
            runs = [self._terms(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        each = [self.parts(terms) for terms in runs]
        parts = [torch.cat(values) for values in zip(*each, strict=True)]
        value, slope = self.estimate(parts, runs[0].scale, runs)
        return -value, -slope

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number."""
        with torch.no_grad():
            loss, _ = self.loss_and_surrogate(model, guide, *args, **kwargs)
        return self._number(loss)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number; gradients are added to what the parameters' ``.grad`` holds."""
        loss, surrogate = self.loss_and_surrogate(model, guide, *args, **kwargs)
        if surrogate.requires_grad:
            surrogate.backward(retain_graph=self.retain_graph)
        return self._number(loss)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor to differentiate, where the gradient's estimator is the derivative of the loss."""
        loss, surrogate = self.loss_and_surrogate(model, guide, *args, **kwargs)
        if isinstance(surrogate, Gated):
            raise NotImplementedError(
                f"{type(self).__name__} has gradients that are of no loss: loss_and_grads"
            )
        return surrogate - surrogate.detach() + loss

    def _number(self, loss: Tensor) -> float:
        warn_if_nan(loss, "loss")
        return float(loss)

    def _terms(self, model_trace: Any, guide_trace: Any) -> Terms:
        particles = self.num_particles if self.vectorize_particles else 1
        terms = Terms(model_trace, guide_trace, particles, folded=self.folded, afresh=self.scores_afresh)
        if self.needs_paths:
            terms.check_paths(type(self).__name__)
        if self.num_particles > 1 and not self.is_linear:
            terms.check_whole()
        return terms

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        nesting = self.max_plate_nesting
        return get_importance_trace("flat", nesting, model, guide, args, kwargs)

    def _get_vectorized_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        if not self.folded:
            return super()._get_vectorized_trace(model, guide, args, kwargs)
        return self._get_trace(self._on_copies(model), self._on_copies(guide), args, kwargs)

    def _on_copies(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Data, *args: Any, **kwargs: Any) -> Any:
            return fn(PLAIN.data(x, self.num_particles), *args, **kwargs)

        return run
