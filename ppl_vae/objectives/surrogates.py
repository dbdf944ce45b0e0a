"""Pyro's objectives as pure arithmetic on traces: the value of each, and what its gradient estimator differentiates.

Pyro's own code reads numbers out of tensors on the way (``.item()``), which no graph can hold. The formulas here are
the same, term by term, so that value and gradients are the same at one state of the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import get_dependent_plate_dims, torch_sum
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.objectives.particles import unfolded_class

Losses = tuple[Tensor, Tensor]
"""The loss, float64, and a tensor whose gradient is the estimate of its gradient."""


def losses_of(objective: ELBO) -> Callable[..., Losses] | None:
    """``(model, guide, args, kwargs) -> (loss, surrogate)`` for an objective; None where there is no such form.

    `pyro.infer.Trace_ELBO`, `TraceMeanField_ELBO` and `RenyiELBO` have one here; an `Objective` has its own. One of a
    user's own has one if it has a method ``loss_and_surrogate(model, guide, *args, **kwargs)`` that returns such a pair
    and reads no number out of a tensor; or else its ``differentiable_loss`` is tried.
    """
    known = _KNOWN.get(unfolded_class(objective))
    if known is not None:
        return lambda model, guide, args, kwargs: known(objective, model, guide, args, kwargs)
    own = getattr(objective, "loss_and_surrogate", None)
    if own is not None:
        return lambda model, guide, args, kwargs: own(model, guide, *args, **kwargs)
    differentiable = getattr(objective, "differentiable_loss", None)
    if differentiable is None:
        return None

    def both(model: Any, guide: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Losses:
        loss = differentiable(model, guide, *args, **kwargs)
        return loss.detach().double(), loss

    return both


def no_form(objective: ELBO) -> str:
    """What to say of an objective that `losses_of` has nothing for."""
    return f"{type(objective).__name__} has no form without numbers read out of tensors"


def _trace_elbo(objective: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Losses:
    """Trace_ELBO: log p(x, z) - log q(z|x), with the score-function term of latents that are not reparameterised."""
    loss: Any = 0.0
    surrogate: Any = 0.0
    for model_trace, guide_trace in objective._get_traces(model, guide, args, kwargs):
        value: Any = 0.0
        slope: Any = 0.0
        log_r = None
        for site in _sample_sites(model_trace):
            value = value + _number(site["log_prob_sum"])
            slope = slope + site["log_prob_sum"]
        for site in _sample_sites(guide_trace):
            _, score, entropy = site["score_parts"]
            value = value - _number(site["log_prob_sum"])
            if not is_identically_zero(entropy):
                slope = slope - entropy.sum()
            if not is_identically_zero(score):
                log_r = _compute_log_r(model_trace, guide_trace) if log_r is None else log_r
                slope = slope + (log_r.sum_to(site["cond_indep_stack"]) * score).sum()
        loss = loss - value / objective.num_particles
        surrogate = surrogate - slope / objective.num_particles
    return loss, surrogate


def _mean_field_elbo(objective: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Losses:
    """TraceMeanField_ELBO: the KL of each latent in closed form where there is one."""
    surrogate: Any = 0.0
    for model_trace, guide_trace in objective._get_traces(model, guide, args, kwargs):
        elbo: Any = 0.0
        for site in _sample_sites(model_trace):
            if site["is_observed"]:
                elbo = elbo + site["log_prob_sum"]
                continue
            theirs = guide_trace.nodes[site["name"]]
            try:
                kl = kl_divergence(theirs["fn"], site["fn"])
                kl = scale_and_mask(kl, scale=theirs["scale"], mask=theirs["mask"])
                if not isinstance(kl, Tensor):
                    kl = kl * torch.Size(theirs["fn"].batch_shape).numel()
                elbo = elbo - (kl.sum() if isinstance(kl, Tensor) else kl)
            except NotImplementedError:
                elbo = elbo + site["log_prob_sum"] - theirs["score_parts"].entropy_term.sum()
        for site in _sample_sites(guide_trace):
            if site["name"] not in model_trace.nodes:
                elbo = elbo - site["score_parts"].entropy_term.sum()
        surrogate = surrogate - elbo / objective.num_particles
    return _number(surrogate), surrogate


def _renyi_elbo(objective: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Losses:
    """RenyiELBO: the mean over particles inside the logarithm."""
    alpha, values, slopes = objective.alpha, [], []
    for model_trace, guide_trace in objective._get_traces(model, guide, args, kwargs):
        dims = get_dependent_plate_dims(model_trace.nodes.values())
        value: Any = 0.0
        slope: Any = 0.0
        for site in _sample_sites(model_trace):
            log_prob = torch_sum(site["log_prob"], dims)
            value, slope = value + log_prob.detach(), slope + log_prob
        for site in _sample_sites(guide_trace):
            _, score, entropy = site["score_parts"]
            log_prob = torch_sum(site["log_prob"], dims)
            value = value - log_prob.detach()
            if not is_identically_zero(entropy):
                slope = slope - log_prob
                if not is_identically_zero(score):
                    raise NotImplementedError("a latent that is reparameterised in part")
            if not is_identically_zero(score):
                slope = slope + (alpha / (1.0 - alpha)) * log_prob
        values.append(value)
        slopes.append(slope)
    vectorized = objective.vectorize_particles and objective.num_particles > 1
    each, slope = (values[0], slopes[0]) if vectorized else (torch.stack(values), torch.stack(slopes))
    log_weights = (1.0 - alpha) * each
    log_mean = torch.logsumexp(log_weights, dim=0, keepdim=True) - math.log(objective.num_particles)
    surrogate = -((log_weights - log_mean).exp() * slope).sum() / objective.num_particles
    return _number(-log_mean.sum() / (1.0 - alpha)), surrogate


_KNOWN: dict[type[ELBO], Callable[..., Losses]] = {
    Trace_ELBO: _trace_elbo,
    TraceMeanField_ELBO: _mean_field_elbo,
    RenyiELBO: _renyi_elbo,
}


def _sample_sites(trace: Any) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _number(value: Any) -> Any:
    """What Pyro makes a Python number of: float64, apart from autograd."""
    return value.detach().double() if isinstance(value, Tensor) else value
