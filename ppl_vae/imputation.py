"""Imputation: draws of the numbers that are missing, given those that were observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import InputError, ProgramError, check_positive_int, check_seed, describe
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.handlers import Replayed
from ppl_vae.program.masks import counted, expanded
from ppl_vae.program.sites import refuse_nan
from ppl_vae.program.tracing import Run

_NUMBERS = 2**24  # of all sites, that are held together beside the result; part of what the seed means


@dataclass(frozen=True)
class Imputed:
    """Weighted draws from p(x_missing | x_observed), for each datum apart.

    Their weights are importance weights normalised by their own sum. Averages under them, and quantiles, have a bias of
    order 1 / `ess`, and spread too little where `ess` is small: use more samples, or a guide nearer to the posterior.

    Attributes:
        draws: ``(S, N, *shape)``: x, with what was missing drawn.
        log_weights: log p(x_observed, z) - log q(z) of each draw, ``(S, N)`` float64 in nats, not normalised.
        mask: which numbers were observed, bool ``(N, *shape)``.
    """

    draws: Tensor
    log_weights: Tensor
    mask: Tensor

    @property
    def weights(self) -> Tensor:
        """The weights of each datum, which sum to 1 over its draws: ``(S, N)``."""
        return self.log_weights.softmax(0)

    @property
    def ess(self) -> Tensor:
        """The effective sample size of each datum, 1 / sum_s w_s²: ``(N,)``, from 1 to S."""
        return 1 / self.weights.square().sum(0)

    @property
    def mean(self) -> Tensor:
        """E[x_missing | x_observed] in the place of what was missing: ``(N, *shape)``."""
        weights = self.weights.to(self.draws)
        average = torch.einsum("sn,sn...->n...", weights, self.draws)
        return torch.where(self.mask, self.draws[0], average)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Both ends of the central interval that holds ``level`` of the weight: ``(N, *shape)`` each."""
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise InputError("level", "a number between 0 and 1", describe(level))
        values, order = self.draws.sort(dim=0)
        weights = self.weights.reshape(*self.log_weights.shape, *(1,) * (values.ndim - 2))
        below = weights.expand_as(values).gather(0, order).cumsum(0)
        ends = []
        for share in ((1 - level) / 2, (1 + level) / 2):
            index = (below < share).sum(0, keepdim=True).clamp(max=len(values) - 1)
            ends.append(values.gather(0, index)[0])
        return ends[0], ends[1]

    def resample(self, num_samples: int, *, seed: int = 0) -> Tensor:
        """Draws of equal weight, taken from `draws` with replacement: ``(num_samples, N, *shape)``."""
        check_positive_int("num_samples", num_samples)
        generator = rng.generator(check_seed(seed), "resample", device=self.draws.device)
        chosen = torch.multinomial(self.weights.T, num_samples, replacement=True, generator=generator)
        return self.draws[chosen.T, torch.arange(self.draws.shape[1], device=self.draws.device)]


@torch.no_grad()
def impute(
    target: Any, x: Data, num_samples: int = 1000, *, site: str | None = None, seed: int = 0
) -> Imputed:
    """Draw what is missing from p(x_missing | x_observed), for each datum apart.

    z_s ~ q(z|x) and x_missing,s ~ p(x_missing | z_s), weighted by p(x_observed, z_s) / q(z_s|x). All draws are kept:
    ``num_samples`` times the data.

    Args:
        target: a `VAE` that was made with ``missing=True``, or a `Program` with an observed site that is masked
            (`pyro.poutine.mask`, ``.mask(...)``), whose numbers are independent given the latents.
        x: the data, with their mask.
        num_samples: S, the draws of each datum.
        site: the observed site whose numbers are missing; it need be named only if several sites are masked.
        seed: the draws are a function of it.

    Raises:
        InputError: if an argument or the data do not fit; `ProgramError` if the site cannot be drawn from.

    Source: Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets" (2019).
    """
    program = target if isinstance(target, Program) else getattr(target, "program", None)
    if not isinstance(program, Program):
        raise InputError("target", "a VAE or a Program", describe(target))
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    n, device = num_data(x), device_of(x)
    sites = program.check(x)
    step = max(1, _NUMBERS // (num_samples * sites.numbers_per_datum))
    parts = []
    for i, start in enumerate(range(0, n, step)):
        part = take(x, slice(start, start + step))
        if step < n:
            program.check(part, offset=start)
        with rng.seeded(device, seed, "impute", i), program.evaluating():
            guide = program.run("guide", part, num_samples)
            model = program.run("model", part, num_samples, Replayed(guide.latents()))
            log_weights = model.total(outside=guide.sites) - guide.total()
            refuse_nan(log_weights, "log weight", start)
            drawn, mask = _drawn(model, _incomplete(model, site))
        parts.append((drawn, log_weights, mask))
    draws, weights, masks = zip(*parts, strict=True)
    return Imputed(torch.cat(draws, 1), torch.cat(weights, 1), torch.cat(masks))


def _incomplete(model: Run, site: str | None) -> str:
    """The observed site that has missing numbers."""
    observed = [name for name, found in model.sites.items() if found["is_observed"]]
    if site is not None:
        if site not in observed:
            raise InputError("site", f"an observed site of the model: {', '.join(observed)}", describe(site))
        return site
    masked = [name for name in observed if _mask(model, name) is not None] or observed
    if len(masked) > 1:
        raise InputError("site", f"one of the sites {', '.join(masked)}, of which several are masked", None)
    return masked[0]


def _mask(model: Run, name: str) -> Tensor | None:
    return counted(model.sites[name]["fn"], model.sites[name]["mask"])


def _drawn(model: Run, name: str) -> tuple[Tensor, Tensor]:
    """The values of a site with what is masked drawn, ``(S, N, *event)``, and what is not, ``(N, *event)``."""
    fn = model.sites[name]["fn"]
    try:
        sampled = fn.sample()
    except NotImplementedError:
        raise ProgramError(
            f"model site {name!r}", "a distribution that can be drawn from", type(fn).__name__
        ) from None
    drawn = model.layout.stack(model.sites[name], sampled, model.num_samples, len(fn.event_shape))
    found = _mask(model, name)
    if found is None:
        kept = torch.ones_like(drawn, dtype=torch.bool)
    else:
        kept = model.stack(name, found)
        kept = expanded(kept, drawn.ndim).expand_as(drawn)
    return torch.where(kept, model.value(name), drawn), kept[0]
