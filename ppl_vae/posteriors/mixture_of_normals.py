"""A mixture of diagonal Gaussians, reparameterised."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ppl_vae.errors import check_positive_int
from ppl_vae.posteriors.base import Posterior


class MixtureOfNormals(Posterior):
    """q(z|x) = sum_k w_k N(z; m_k, diag(s_k²)), with w = softmax(logits) and s_k = exp(log_scale_k).

    log q(z|x) in nats, exact: all K components are scored. Draws are reparameterised, so that SVI trains weights,
    locations and scales without bias (`ReparameterisedMixture`). Where components are many standard deviations apart,
    the gradient of the weights stays unbiased but comes from rare draws between them: its variance is large.

    Parameters of zero give the standard normal. Components that start equal stay equal; those that a network of random
    weights emits do not.

    Args:
        dim: the number of latent dimensions.
        components: the number of components, K.
    """

    def __init__(self, dim: int, components: int = 5) -> None:
        super().__init__(dim)
        self.components = check_positive_int("components", components)
        self.param_shapes = {
            "logits": torch.Size([components]),
            "loc": torch.Size([components, dim]),
            "log_scale": torch.Size([components, dim]),
        }

    def forward(self, params: Mapping[str, torch.Tensor]) -> TorchDistribution:
        """q(z|x): batch shape ``(...)``, event shape ``(dim,)``; params ``(..., *param_shapes[name])``."""
        components = dist.Normal(params["loc"], params["log_scale"].exp()).to_event(1)
        return ReparameterisedMixture(dist.Categorical(logits=params["logits"]), components)


class ReparameterisedMixture(dist.MixtureSameFamily):
    """A mixture of diagonal Gaussians over vectors, whose draws move with the parameters (first derivatives only).

    A draw z is moved by a velocity field under which the density at z changes as the mixture does (the continuity
    equation), so that the gradient of E[f(z)] is the mean of f's gradient times the velocity:

    - For locations and scales, the velocity is the mean, over the components that z may come from, of their own:
      sum_k p(k|z) (dm_k + ds_k (z - m_k) / s_k). It is the pathwise gradient of a known component, averaged over it.
    - For the weights, it is implicit: u_i = P(z_i | z_1 ... z_(i-1)), coordinate by coordinate, is held fixed
      (Graves 2016, "Stochastic backpropagation through mixture density distributions"; Figurnov et al. 2018, "Implicit
      reparameterization gradients").
    """

    has_rsample = True

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> torch.Tensor:
        """Draws ``(*sample_shape, ..., dim)``: those of `sample`, with derivatives."""
        z: torch.Tensor = self.sample(torch.Size(sample_shape))
        normal = self.component_distribution.base_dist
        logits, loc, scale = self.mixture_distribution.logits, normal.loc, normal.scale
        if not torch.is_grad_enabled() or not (
            logits.requires_grad or loc.requires_grad or scale.requires_grad
        ):
            return z
        u = ((z.unsqueeze(-2) - loc) / scale).detach()  # (..., K, dim), as all that follows
        terms = -0.5 * u.square() - scale.detach().log()
        from_component = (logits.detach() + terms.sum(-1)).softmax(-1).unsqueeze(-1)
        moved = loc - loc.detach() + u * (scale - scale.detach())
        return z + (from_component * moved).sum(-2) - _moved_by_weights(logits, terms, u, scale.detach())


def _moved_by_weights(
    logits: torch.Tensor, terms: torch.Tensor, u: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Zeros ``(..., dim)`` whose derivatives say how far the weights move u_i, measured in z.

    Args:
        logits: of the weights, ``(..., K)``: the one argument with derivatives.
        terms: log densities of each coordinate in each component, up to a constant, ``(..., K, dim)``.
        u: the standardised coordinates, ``(..., K, dim)``.
        scale: the standard deviations, ``(..., K, dim)``.
    """
    before = terms.cumsum(-1) - terms
    share = (logits.unsqueeze(-1) + before).softmax(-2)  # p(k | z_1 ... z_(i-1))
    fixed = share.detach()
    # Whichever tail z_i is in is measured, so that no digits are lost far out.
    sign = torch.where((fixed * torch.special.ndtr(u)).sum(-2, keepdim=True) > 0.5, -1.0, 1.0).to(u)
    tail = torch.special.ndtr(sign * u)
    probability = (share * tail).sum(-2)
    density = (fixed * (-0.5 * u.square()).exp() / scale).sum(-2) / (2 * torch.pi) ** 0.5
    # du_i/dz_j: through the coordinate itself, and through the components that the coordinates before it speak for.
    spread = sign * fixed * (tail - probability.detach().unsqueeze(-2))
    jacobian = (spread.mT @ (-u / scale)).tril(-1) + density.diag_embed()
    change = sign.squeeze(-2) * (probability - probability.detach())
    return torch.linalg.solve_triangular(jacobian, change.unsqueeze(-1), upper=False).squeeze(-1)
