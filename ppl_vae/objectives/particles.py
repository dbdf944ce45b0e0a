"""Particles: Pyro's vectorised particles without their own axis, for programs that do not support a sample axis.

K particles of N data are K copies of the data on the data axis, as in folded runs (`ppl_vae.program.tracing`). An
objective that is a sum over particles and data does not change. For an objective with a mean over the particles of a
datum inside of a logarithm, the log densities get the two axes again.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from ppl_vae import rng
from ppl_vae.objectives.base import Objective
from ppl_vae.program import Data, Program, device_of
from ppl_vae.program.plain import ROLES
from ppl_vae.program.tracing import PLAIN, run

_SUMS = (Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO)


def suited(objective: ELBO, program: Program, x: Data) -> ELBO:
    """``objective``, or an equivalent one whose particles run folded or one after another, if the program needs it.

    Args:
        objective: any Pyro ELBO.
        program: the program.
        x: data on which the program was checked.
    """
    layouts = program.layouts(x)
    if not _is_vectorised(objective) or not any(layout.folded for layout in layouts):
        return objective
    if isinstance(objective, Objective) and not _has_other_plates(program, x):
        return objective.as_folded()
    other = copy(objective)
    if type(objective) in (RenyiELBO, *_SUMS) and not _has_other_plates(program, x):
        other.__class__ = _FoldedRenyi if isinstance(objective, RenyiELBO) else _folded_class(type(objective))
        other.max_plate_nesting = 1
    else:
        other.vectorize_particles, other.max_plate_nesting = False, 1
    return other


def _has_other_plates(program: Program, x: Data) -> bool:
    """Whether a site is in another plate than the data plate."""
    with program.evaluating(), torch.no_grad(), rng.seeded(device_of(x), 0, "plates"):
        runs = [run(program.callable(role), x, 1, PLAIN) for role in ROLES]
    stacks = [site["cond_indep_stack"] for found in runs for site in found.sites.values()]
    return any(len(stack) > 1 or any(frame.dim != -1 for frame in stack) for stack in stacks)


def unfolded_class(objective: ELBO) -> type[ELBO]:
    """Pyro's class of an objective."""
    found: type[ELBO] = getattr(objective, "unfolded", type(objective))
    return found


def _is_vectorised(objective: Any) -> bool:
    return bool(getattr(objective, "vectorize_particles", False)) and objective.num_particles > 1


class _Folded:
    """Runs several particles at once, folded."""

    def _get_vectorized_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        K = self.num_particles  # type: ignore[attr-defined]
        return self._get_trace(_on_copies(model, K), _on_copies(guide, K), args, kwargs)  # type: ignore[attr-defined]


class _FoldedRenyi(_Folded, RenyiELBO):
    unfolded = RenyiELBO

    def _get_vectorized_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        traces = super()._get_vectorized_trace(model, guide, args, kwargs)
        for trace in traces:
            for site in trace.nodes.values():
                if site["type"] == "sample" and isinstance(site.get("log_prob"), Tensor):
                    site["log_prob"] = self._apart(site["log_prob"])
                if "score_parts" in site:
                    site["score_parts"] = type(site["score_parts"])(*map(self._apart, site["score_parts"]))
        return traces

    def _apart(self, value: Any) -> Any:
        return (
            value.unflatten(0, (self.num_particles, -1))
            if isinstance(value, Tensor) and value.ndim
            else value
        )


_classes: dict[type[ELBO], type[ELBO]] = {}


def _folded_class(kind: type[ELBO]) -> type[ELBO]:
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (_Folded, kind), {"unfolded": kind})
    return _classes[kind]


def _on_copies(fn: Callable[..., Any], number: int) -> Callable[..., Any]:
    def run(x: Data, *args: Any, **kwargs: Any) -> Any:
        return fn(PLAIN.data(x, number), *args, **kwargs)

    return run
