"""Log evidence in closed form: a VAE with an affine decoder, Gaussian data and a Gaussian prior.

This package does not import `VAE`, so the argument is any object with ``prior()``, ``decode(z)`` and, if it has one,
``check_data(x)``.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from ppl_vae import rng
from ppl_vae.errors import InputError, describe
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.results.diagnostics import NumericalError
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Cost, Curves, Estimate
from ppl_vae.evidence.running.blocks import evidence_of
from ppl_vae.modes import in_mode
from ppl_vae.program import Program

_PROBES = (
    64  # latents, besides two on each axis, at which the decoder is checked: up to 5 standard deviations out
)
_AFFINE = 1e-9  # the largest relative deviation from an affine decoder: rounding in float64
_EPS = torch.finfo(torch.float64).eps


def linear_gaussian(vae: Any, x: Tensor) -> Evidence:
    """log p(x) of each datum in closed form, for an affine decoder and Gaussian data.

    With p(z) = N(m, C), p(x|z) = N(x; W z + b, Psi) and Psi diagonal, p(x) = N(x; W m + b, W C W^T + Psi): factor
    analysis, or probabilistic PCA if Psi is a multiple of the identity (Tipping and Bishop, "Probabilistic principal
    component analysis", 1999). W and b are computed from the decoder at the origin and at the unit vectors, in a copy
    of the VAE in float64. The figures are those of the VAE in exact arithmetic, to round-off.

    Args:
        vae: a `VAE`, or an object with ``prior()``, a distribution over ``(D,)``, and ``decode(z)``, a distribution
            over x for latents ``(S, D)``. Its guide is not used.
        x: the data ``(N, *shape)``.

    Returns:
        `Evidence` with ``basis="computed"`` and ``bound="consistent"``: for each datum in nats, ``(N,)`` float64. The
        standard error is a bound of the rounding error. Nothing is sampled, so the ELBO, ESS and k-hat are NaN and the
        curve is empty. For the ELBO of the best mean-field guide, see `best_mean_field_elbo`.

    Raises:
        InputError: if the decoder is not affine, the likelihood is not Gaussian with the same scale for all z, the
            prior is not Gaussian, or the data do not fit.
    """
    model, flat = _read(vae, x)
    mean, precision, factor = _posterior(model, flat)
    # p(x) = p(x|z) p(z) / p(z|x) for any z; at the posterior mean each term is a sum of squares, so nothing cancels.
    residual = flat - mean @ model.W.T - model.b
    away = mean - model.mean
    terms = torch.stack(
        [
            -(residual**2 / model.noise).sum(-1) / 2,
            -(torch.cholesky_solve(away.T, model.factor).T * away).sum(-1) / 2,
        ]
    )
    constant = -(len(model.b) * math.log(2 * math.pi) + model.noise.log().sum()) / 2
    constant = constant - model.factor.diagonal().log().sum() - factor.diagonal().log().sum()
    sizes = flat.abs() + mean.abs() @ model.W.abs().T + model.b.abs()
    rounding = (residual.abs() / model.noise * sizes).sum(-1) + terms.abs().sum(0) + constant.abs()
    rounding = _EPS * (4 * rounding + len(model.b) + len(precision))
    probes = 3 * model.W.shape[1] + 1 + _PROBES
    figures = computed_figures(terms.sum(0) + constant, rounding, 1 + probes / len(flat))
    return computed_evidence(figures, method="linear Gaussian")


def linear_gaussian_posterior(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The exact posterior p(z|x) = N(mean, covariance) of the VAEs that `linear_gaussian` takes.

    Precision C^-1 + W^T Psi^-1 W; mean = covariance (C^-1 m + W^T Psi^-1 (x - b)).

    Args:
        vae: as in `linear_gaussian`.
        x: the data ``(N, *shape)``.

    Returns:
        The means ``(N, D)`` and the covariance ``(D, D)``, which is the same for all data, float64.

    Raises:
        InputError: as for `linear_gaussian`.
    """
    mean, _, factor = _posterior(*_read(vae, x))
    return mean, torch.cholesky_inverse(factor)


def best_mean_field_elbo(vae: Any, x: Tensor) -> Tensor:
    """The largest ELBO of all factorised Gaussian guides, ``(N,)`` float64, in nats.

    The factorised Gaussian that is closest to N(mean, L^-1) in KL(q || p) has the same mean and the variances 1 / L_dd
    (Turner and Sahani, "Two problems with variational expectation maximisation for time series models", 2011). The ELBO
    is therefore log p(x) - (sum_d log L_dd - log det L) / 2. The difference is the gap that remains with perfect
    amortisation and training.

    Args:
        vae: as in `linear_gaussian`.
        x: the data ``(N, *shape)``.

    Raises:
        InputError: as for `linear_gaussian`.
    """
    evidence = linear_gaussian(vae, x)
    _, precision, factor = _posterior(*_read(vae, x[:1]))
    divergence = precision.diagonal().log().sum() / 2 - factor.diagonal().log().sum()
    return evidence.log_evidence - divergence


def computed_figures(log_evidence: Tensor, error: Tensor, density_evals: Tensor | float) -> Figures:
    """The figures of values ``(N,)`` that were computed, not estimated, with a bound of their error, in nats."""
    N = len(log_evidence)
    return Figures(
        Estimate(log_evidence, torch.where(log_evidence.isinf(), math.nan, error)),
        Estimate.none(N),
        NumericalError.of(N),
        Curves.none(N),
        Cost(torch.zeros_like(log_evidence) + density_evals),
        num_samples=1,
    )


def computed_evidence(figures: Figures, *, method: str, seed: int = 0, details: str = "") -> Evidence:
    """The `Evidence` of computed figures."""
    return evidence_of(figures, NumericalError, method=method, bound="consistent", seed=seed, details=details)


@dataclass(frozen=True)
class _Model:
    """x = W z + b + N(0, diag(noise)), z ~ N(mean, factor factor^T); float64, on the CPU."""

    W: Tensor
    b: Tensor
    noise: Tensor
    mean: Tensor
    factor: Tensor


def _posterior(model: _Model, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(N, D)``, precision ``(D, D)`` and its Cholesky factor, for data ``(N, P)``."""
    scaled = model.W / model.noise[:, None]
    precision = torch.cholesky_inverse(model.factor) + model.W.T @ scaled
    factor = torch.linalg.cholesky(precision)
    start = flat - model.W @ model.mean - model.b
    return model.mean + torch.cholesky_solve((start @ scaled).T, factor).T, precision, factor


def _read(vae: Any, x: Tensor) -> tuple[_Model, Tensor]:
    """The linear model of a VAE, and the data as ``(N, P)``; raises `InputError` if the VAE is not linear Gaussian."""
    if isinstance(vae, Program) or not all(
        callable(getattr(vae, name, None)) for name in ("prior", "decode")
    ):
        raise InputError("vae", "a VAE: an object with prior() and decode(z)", describe(vae))
    if not isinstance(x, Tensor) or x.ndim < 1 or not len(x):
        raise InputError("x", "a tensor of data (N, *shape), N > 0", describe(x))
    if callable(getattr(vae, "check_data", None)):
        vae.check_data(x)
    module = isinstance(vae, nn.Module)
    exact = copy.deepcopy(vae).to("cpu", torch.float64) if module else vae
    with torch.no_grad(), in_mode([exact] if module else [], training=False):
        mean, factor = _gaussian_prior(exact.prior())
        W, b, noise = _affine_decoder(exact.decode, mean, factor)
    flat = x.detach().to("cpu", torch.float64).flatten(1)
    if flat.shape[1] != len(b):
        raise InputError("x", f"{len(b)} numbers for each datum, as from the decoder", tuple(x.shape))
    return _Model(W, b, noise, mean, factor), flat


def _core(distribution: Any) -> Any:
    """The distribution without to_event, expand and mask."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _gaussian_prior(prior: Any) -> tuple[Tensor, Tensor]:
    core = _core(prior)
    if prior.batch_shape or len(prior.event_shape) != 1 or not isinstance(core, Normal | MultivariateNormal):
        expected = "a normal prior, diagonal or full, over a vector"
        raise InputError("vae.prior", expected, f"a {type(core).__name__} of event shape {prior.event_shape}")
    dim = prior.event_shape[0]
    mean = prior.mean.double().expand(dim).clone()
    if isinstance(core, Normal):
        return mean, torch.diag(prior.variance.double().sqrt().expand(dim))
    return mean, core.scale_tril.double().expand(dim, dim).clone()


def _affine_decoder(decode: Any, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dim = len(mean)
    draws = torch.randn(_PROBES, dim, dtype=torch.float64, generator=rng.generator(0, "affine"))
    # Up to five standard deviations: the region beyond has less than a millionth of the prior's mass.
    radii = torch.linspace(0.1, 5.0, _PROBES, dtype=torch.float64)[:, None]
    axes = 5 * torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)])
    probes = mean + torch.cat([radii * draws / draws.norm(dim=-1, keepdim=True), axes]) @ factor.T
    z = torch.cat([torch.zeros(1, dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64), probes])
    likelihood = decode(z)
    core = _core(likelihood)
    if not isinstance(core, Normal):
        raise InputError("vae.likelihood", "Gaussian data", f"a {type(core).__name__}")
    loc = likelihood.mean.double().flatten(1)
    noise = likelihood.variance.double().flatten(1)
    b, W = loc[0], (loc[1 : dim + 1] - loc[0]).T
    error = (loc[dim + 1 :] - probes @ W.T - b).abs()
    sizes = probes.abs() @ W.abs().T + b.abs() + loc.abs().amax()
    worst = float((error / sizes).nan_to_num(0.0).max())
    if worst > _AFFINE:
        expected = "a decoder that is affine in z (else: quadrature in up to 3 dimensions, importance)"
        raise InputError(
            "vae.decoder", expected, f"a decoder with a relative deviation of {worst:.2g} from an affine one"
        )
    if not torch.allclose(noise, noise[:1], rtol=_AFFINE, atol=0.0):
        raise InputError("vae.likelihood", "a scale that does not depend on z", "a scale that depends on z")
    return W, b, noise[0]
