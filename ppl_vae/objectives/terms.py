"""The log densities of a run of model and guide, for each particle and datum apart."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import prod
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor

from ppl_vae.errors import ProgramError
from ppl_vae.program.sites import sample_sites

PARTICLES = "num_particles_vectorized"  # Pyro's name of the plate of particles

Scale = Tensor | float


class Terms:
    """What a run of model and guide came to; log densities are ``(K, *data)``, float64, in nats.

    ``data`` are the axes of the plates that all sites are in, and axes of size 1 for other plates.

    Args:
        model_trace: of the model; with log densities.
        guide_trace: of the guide; with score parts.
        num_particles: K of this run.
        folded: whether particles are copies of the data on the data axis.
        afresh: whether the guide's densities are computed again from the values alone.

    Attributes:
        model: the model's sites that carry density, by name.
        guide: the guide's.
        scale: what is outside of the logarithm; broadcasts to ``(*data)``.

    Raises:
        ProgramError: naming the site, if the model has a latent that the guide does not sample.
    """

    def __init__(
        self, model_trace: Any, guide_trace: Any, num_particles: int, *, folded: bool, afresh: bool
    ) -> None:
        self.model, self.guide = sample_sites(model_trace), sample_sites(guide_trace)
        self.num_particles, self.folded, self.afresh = num_particles, folded, afresh
        missing = [n for n, site in self.model.items() if not site["is_observed"] and n not in self.guide]
        if missing:
            expected = "a latent that the guide samples too (TraceEnum_ELBO sums over discrete ones)"
            raise ProgramError(f"model site {missing[0]!r}", expected, "no such guide site")
        if not self.model:
            raise ProgramError("model", "at least one sample site", "none")
        sites = [*self.model.values(), *self.guide.values()]
        plates = [{f.name: f for f in _plates(site)} for site in sites]
        shared = set.intersection(*(set(found) for found in plates))
        self._shared = {plates[0][name].dim for name in shared}
        self._names = shared
        whole = prod(_thinned(plates[0][name]) for name in shared)
        self.scale = self._common(whole)

    # ---- sums over sites --------------------------------------------------------------------------------

    def log_model(self) -> Tensor:
        """log p(x, z)."""
        return self._sum(self.log_prob(site) for site in self.model.values())

    def log_likelihood(self) -> Tensor:
        """log p(x|z)."""
        return self._sum(self.log_prob(site) for site in self.model.values() if site["is_observed"])

    def log_guide(self) -> Tensor:
        """log q(z|x)."""
        return self._sum(self.log_prob(self._scored(site)) for site in self.guide.values())

    def log_score(self) -> Tensor:
        """log q of the latents that are not reparameterised, without scales."""
        scored = {name: site for name, site in self.guide.items() if is_scored(site)}
        for name, site in scored.items():
            if getattr(site["fn"], "has_rsample", False):
                expected = "a distribution that is reparameterised, or is not"
                raise ProgramError(f"guide site {name!r}", expected, "one that is in part")
        return self._sum(self.reduce(site, _masked(site)) for site in scored.values())

    @cached_property
    def latents(self) -> list[str]:
        """The names of the model's latent sites."""
        return [name for name, site in self.model.items() if not site["is_observed"]]

    @property
    def same_order(self) -> bool:
        """Whether model and guide sample their latents in one order: a KL of each site in closed form is then right."""
        return self.latents == [name for name in self.guide if name in self.latents]

    @property
    def guide_factor(self) -> Scale:
        """What log q is multiplied by inside of the logarithm; raises `ProgramError` where latents differ in it."""
        factors = {name: self._factor(site) for name, site in self.guide.items()}
        numbers = {name: value for name, value in factors.items() if not isinstance(value, Tensor)}
        for name, value in numbers.items():
            if len(numbers) < len(factors) or value != next(iter(numbers.values())):
                raise ProgramError(
                    f"guide site {name!r}", "the scale of the other latents", f"{value:g} of it"
                )
        return next(iter(factors.values()), 1.0)

    # ---- one site ---------------------------------------------------------------------------------------

    def log_prob(self, site: Any) -> Tensor:
        """The log density of a site, masked, scaled by what is inside of the logarithm."""
        return self.reduce(site, scale_and_mask(site["unscaled_log_prob"], self._factor(site), site["mask"]))

    def scaled(self, site: Any, value: Tensor) -> Tensor:
        """A value on a site's batch, such as a KL, masked and scaled as the site's log density is."""
        value = value.expand(torch.broadcast_shapes(value.shape, site["fn"].batch_shape))
        return self.filled(self.reduce(site, scale_and_mask(value, self._factor(site), site["mask"])))

    def filled(self, value: Tensor) -> Tensor:
        """A value with an axis for each plate, that of particles first: ``(K, *data)``."""
        depth = 2 if self.folded else self._depth
        value = value.reshape((1,) * max(depth - value.ndim, 0) + value.shape)
        return value.expand(self.num_particles, *value.shape[1:])

    def reduce(self, site: Any, value: Tensor) -> Tensor:
        """A value on a site's batch, summed over all but particles and data."""
        if self.folded:
            value = value.unflatten(0, (self.num_particles, -1)) if value.ndim else value
            return value.double()
        keep = self._shared | {f.dim for f in site["cond_indep_stack"] if f.name == PARTICLES}
        summed = [dim for dim in range(-value.ndim, 0) if dim not in keep]
        value = value.sum(summed, keepdim=True) if summed else value
        return value.double()

    # ---- what is refused --------------------------------------------------------------------------------

    def check_paths(self, objective: str) -> None:
        """Refuse, by name, latents that are not reparameterised."""
        for name, site in self.guide.items():
            if is_scored(site):
                kind = type(site["fn"]).__name__
                if hasattr(site["fn"], "base_dist"):
                    kind = type(site["fn"].base_dist).__name__
                raise ProgramError(
                    f"guide site {name!r}",
                    f"a reparameterised distribution, which {objective} differentiates draws of (VIMCO, "
                    "WakeWake and Thermodynamic need none)",
                    f"a {kind}",
                )

    def check_whole(self) -> None:
        """Refuse, by name, a subsampled plate that not all sites are in: the logarithm of its estimate is biased."""
        for site in (*self.model.values(), *self.guide.values()):
            for frame in site["cond_indep_stack"]:
                if frame.name not in self._names and _thinned(frame) != 1.0:
                    raise ProgramError(
                        f"plate {frame.name!r}",
                        "a plate that all sites are in, if it is subsampled and there are several particles",
                        f"site {site['name']!r} in {frame.size} out of {frame.full_size}, others outside",
                    )

    # ---- inside -----------------------------------------------------------------------------------------

    def _scored(self, site: Any) -> Any:
        """The site, scored at another tensor of the same value: a flow then inverts it, and uses no cache."""
        if not self.afresh:
            return site
        fn, value = site["fn"], site["value"]
        try:
            return {**site, "unscaled_log_prob": fn.log_prob(value.view_as(value))}
        except (KeyError, NotImplementedError) as error:
            raise ProgramError(
                f"guide site {site['name']!r}",
                "a distribution that can score any value, as a flow with an inverse",
                f"a {type(fn).__name__} that cannot",
            ) from error

    def _sum(self, values: Iterable[Tensor]) -> Tensor:
        zero = next(iter(self.model.values()))["unscaled_log_prob"].new_zeros((), dtype=torch.float64)
        return self.filled(sum(values, zero))

    @cached_property
    def _depth(self) -> int:
        """The number of axes of log densities, that of particles among them, which is the leftmost."""
        sites = (*self.model.values(), *self.guide.values())
        frames = [f for site in sites for f in site["cond_indep_stack"] if f.vectorized]
        particles = [-f.dim for f in frames if f.name == PARTICLES]
        return particles[0] if particles else 1 + max((-f.dim for f in frames), default=0)

    def _common(self, whole: float) -> Scale:
        """The scale that the observed sites have in common, where it is one for each datum; else that of the plates."""
        observed = [site["scale"] for site in self.model.values() if site["is_observed"]]
        scales = observed or [site["scale"] for site in self.model.values()]
        if all(isinstance(scale, Tensor) for scale in scales):
            first: Tensor = scales[0]
            uneven = {d for d in range(-first.ndim, 0) if first.shape[d] > 1} - self._shared
            return whole if uneven or (self.folded and first.numel() > 1) else first
        if any(isinstance(scale, Tensor) for scale in scales):
            return whole
        return float(scales[0]) if len(set(scales)) == 1 else whole

    def _factor(self, site: Any) -> Scale:
        """A site's scale without what is outside of the logarithm."""
        scale, outer = site["scale"], self.scale
        if not isinstance(scale, Tensor) and not isinstance(outer, Tensor):
            return 1.0 if scale == outer else scale / outer
        if not isinstance(outer, Tensor):
            return scale if outer == 1.0 else scale / outer
        scale = torch.as_tensor(scale, dtype=outer.dtype, device=outer.device)
        same, one = scale == outer, torch.ones_like(outer)  # the same also where both are 0
        return torch.where(same, one, scale / torch.where(same, one, outer))


def is_scored(site: Any) -> bool:
    """Whether a guide's site is not reparameterised, or only in part."""
    return not is_identically_zero(site["score_parts"].score_function)


def _masked(site: Any) -> Tensor:
    masked: Tensor = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
    return masked


def _plates(site: Any) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]


def _thinned(frame: Any) -> float:
    """By how much a plate is larger than its subsample."""
    return 1.0 if frame.full_size is None or not frame.size else frame.full_size / frame.size
