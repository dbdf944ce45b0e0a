"""Inverse CDF: draws of a guide as a function of uniform numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.distributions import Delta, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    Beta,
    Distribution,
    Gamma,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, device_of
from ppl_vae.program.handlers import Replayed, is_latent
from ppl_vae.program.program import Program
from ppl_vae.program.sites import family
from ppl_vae.program.tracing import Handler

_WRAPPERS = (Independent, MaskedDistribution)


def num_uniforms(program: Program, x: Data) -> int:
    """The number of uniform numbers for a draw of one datum's latents.

    Raises:
        ProgramError: naming a guide site whose distribution cannot be inverted.
    """
    counting = _Inverting(None, device_of(x))
    with torch.no_grad(), rng.seeded(device_of(x), 0, "quasi"), program.evaluating():
        program.run("guide", x, 1, counting)
    return counting.used


def log_weights_at(program: Program, x: Data, uniforms: Tensor) -> Tensor:
    """log p(x, z) - log q(z|x), ``(S, N)`` float64 in nats, at the z that uniform numbers determine.

    Each latent is the guide's inverse distribution function at its part of the numbers, site by site in the guide's
    order, given the latents before it (Rosenblatt, 1952). For a multivariate Gaussian it is loc + L times the normal
    quantiles, and for a transformed distribution the transform of its base.

    Args:
        program: the program.
        x: the data.
        uniforms: ``(S, N, D)`` float64, strictly between 0 and 1, with D from `num_uniforms`.
    """
    with program.evaluating():
        guide = program.run("guide", x, uniforms.shape[0], _Inverting(uniforms))
        model = program.run("model", x, uniforms.shape[0], Replayed(guide.latents()))
        return model.total(outside=guide.sites) - guide.total()


class _Inverting(Handler):
    """Sets latent sites to the values that uniform numbers determine; without numbers, counts how many are needed."""

    def __init__(self, uniforms: Tensor | None, device: torch.device | None = None) -> None:
        super().__init__()
        self.uniforms, self.device, self.used = uniforms, device, 0

    def _pyro_sample(self, msg: Any) -> None:
        # The plates of the guide were here before: fn has its sample and data axes.
        if not is_latent(msg):
            return
        base = _base(msg["fn"])
        if isinstance(base, Delta):
            return  # computed from sites before it
        shape = base.batch_shape + base.event_shape
        folded = self.layout.folded  # there is one axis before the numbers of a datum, and else there are two
        if folded and len(msg["fn"].batch_shape) > 1:
            expected = "no plate but the data plate, for points that are not independent"
            raise ProgramError(f"guide site {msg['name']!r}", expected, "another plate")
        number = shape[1 if folded else 2 :].numel()
        if self.uniforms is None:
            u = torch.full(shape, 0.5, dtype=torch.float64, device=self.device)
        else:
            u = self.uniforms[..., self.used : self.used + number].reshape(shape)
        self.used += number
        value = _quantile(msg["fn"], u)
        if value is None:
            expected = (
                "a Gaussian, a transform of one, or a distribution of one number with an inverse distribution "
                "function (Gamma, Beta and StudentT have one here)"
            )
            raise ProgramError(f"guide site {msg['name']!r}", expected, f"a {family(msg['fn'])}")
        msg["value"] = value


def _base(fn: Any) -> Any:
    """The distribution inside all wrappers and transforms, whose quantiles are needed."""
    while isinstance(fn, (*_WRAPPERS, TransformedDistribution)):
        fn = fn.base_dist
    return fn


def _quantile(fn: Any, u: Tensor) -> Tensor | None:
    """The quantile of ``fn`` at uniform numbers ``u``, in its own dtype; None if it cannot be computed."""
    if isinstance(fn, _WRAPPERS):
        return _quantile(fn.base_dist, u)
    if isinstance(fn, TransformedDistribution):
        value = _quantile(fn.base_dist, u)
        if value is not None:
            for transform in fn.transforms:
                value = transform(value)
        return value
    if isinstance(fn, Normal):
        return fn.loc + fn.scale * _normal(u, fn.loc)
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal):
        return fn.loc + (fn.scale_tril @ _normal(u, fn.loc).unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, Gamma):
        return _inside(fn, _scipy("gammaincinv", fn.concentration, u) / fn.rate.double())
    if isinstance(fn, Beta):
        return _inside(fn, _scipy("betaincinv", fn.concentration1, fn.concentration0, u))
    if isinstance(fn, StudentT):
        return _inside(fn, fn.loc + fn.scale * _scipy("stdtrit", fn.df, u))
    own = type(fn).icdf is not Distribution.icdf and not fn.event_shape and not fn.support.is_discrete
    if not own:
        return None
    try:
        return _inside(fn, fn.icdf(u))
    except NotImplementedError:
        return None


def _normal(u: Tensor, like: Tensor) -> Tensor:
    # In float64 for all networks: in float32 a u near 1 is rounded to 1, and its quantile is infinite.
    return torch.special.ndtri(u).to(like)


def _scipy(inverse: str, *arguments: Tensor) -> Tensor:
    """A function of `scipy.special`, by name."""
    from scipy import special  # here, because its import takes as long as that of ppl_vae

    value = getattr(special, inverse)(*(argument.detach().double().cpu().numpy() for argument in arguments))
    return torch.from_numpy(np.asarray(value)).to(arguments[0].device)


def _inside(fn: Any, value: Tensor) -> Tensor:
    """``value`` in the dtype of ``fn``, but not rounded onto an end of the support, where densities may be infinite."""
    like = getattr(fn, next(iter(fn.arg_constraints)))
    value = value.to(like)
    tiny, infinity = torch.finfo(value.dtype).tiny, value.new_tensor(torch.inf)
    low, high = (getattr(fn.support, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is not None:
        bound = torch.as_tensor(low, dtype=value.dtype, device=value.device)
        value = torch.maximum(value, torch.maximum(torch.nextafter(bound, infinity), bound + tiny))
    if high is not None:
        bound = torch.as_tensor(high, dtype=value.dtype, device=value.device)
        value = torch.minimum(value, torch.nextafter(bound, -infinity))
    return value
