"""The ELBO with another weight of the KL term, or with a floor under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.errors import InputError, describe
from ppl_vae.objectives.base import Objective
from ppl_vae.objectives.terms import Terms
from ppl_vae.program.sites import is_delta


class _KLObjective(Objective):
    """The expected log likelihood less what is made of the KL of each latent site."""

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def parts(self, terms: Terms) -> Sequence[Tensor]:
        """log p(x|z), and the KL of each latent site: in closed form, or log q - log p of the draw."""
        return terms.log_likelihood(), *(self._kl(terms, name) for name in terms.guide)

    def _kl(self, terms: Terms, name: str) -> Tensor:
        guide, model = terms.guide[name], terms.model.get(name)
        if model is not None and terms.same_order and not is_delta(guide):  # a point's is without its density
            try:
                return terms.scaled(guide, kl_divergence(guide["fn"], model["fn"]))
            except NotImplementedError:
                pass
        log_prior = 0.0 if model is None else terms.log_prob(model)  # an auxiliary site is the guide's alone
        return terms.filled(terms.log_prob(guide) - log_prior)


class BetaELBO(_KLObjective):
    """E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) for each datum.

    The KL of a latent is in closed form where torch knows one for the pair of distributions and model and guide sample
    their latents in one order; elsewhere it is the mean of log q(z|x) - log p(z) over the draws. The estimate is
    unbiased. At beta = 1 it is the ELBO, a lower bound of log p(x); above 1 it is a looser bound, below 1 none.

    Higgins et al. 2017, "beta-VAE: Learning basic visual concepts with a constrained variational framework".

    Args:
        beta: the weight, 0 or more. ``ppl_vae.fit(kl_warmup=)`` multiplies it.
        num_particles: K, the draws of each datum, over which the mean is taken.
        **options: see `Objective`.

    Raises:
        InputError: if an argument is out of range; in training, naming the site, if a latent is not reparameterised.
    """

    is_linear = True

    def __init__(self, beta: float = 1.0, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.beta = _not_negative("beta", beta)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x|z) and the KL of each latent site."""
        log_likelihood, *kls = parts
        return (log_likelihood - self.beta * sum(kls)).mean(0)


class FreeBits(_KLObjective):
    """E_q[log p(x|z)] - sum over latent sites of max(nats, KL(q(z|x) || p(z))) for each datum.

    Below the floor the KL of a site has no gradient, so a latent may carry that much information for nothing: a remedy
    against posteriors that collapse to the prior. It is a lower bound of log p(x), looser than the ELBO. The KL is
    that of `BetaELBO`. Where it is no closed form, the estimate is biased downwards, less so with more
    particles, since the floor is under their mean. The floor is under each datum, so a batch gives an unbiased
    estimate of the sum over all data; that of the paper is under the mean over a batch.

    Kingma et al. 2016, "Improved variational inference with inverse autoregressive flow", section C.8.

    Args:
        nats: the floor of each latent site and datum, 0 or more; at 0 it is the ELBO where the KL is a closed form.
        num_particles: K, the draws of each datum, over which the mean is taken.
        **options: see `Objective`.

    Raises:
        InputError: if an argument is out of range; in training, naming the site, if a latent is not reparameterised.
    """

    def __init__(self, nats: float = 0.5, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.nats = _not_negative("nats", nats)

    def bound(self, *parts: Tensor) -> Tensor:
        """From log p(x|z) and the KL of each latent site."""
        log_likelihood, *kls = parts
        floored = [torch.clamp(kl.mean(0), min=self.nats) for kl in kls]
        return log_likelihood.mean(0) - sum(floored)


def _not_negative(argument: str, value: Any) -> float:
    good = (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
    if not good:
        raise InputError(argument, "a finite number, 0 or more", describe(value))
    return float(value)
