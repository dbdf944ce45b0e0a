"""A VAE whose posterior is a user's own: flows without a mean, and others; the parts in their usual place."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from case import Case, grid, seeded
from pyro.distributions import transforms as T  # noqa: N812
from torch import nn
from torch.distributions import constraints

import ppl_vae as pv

_BITS = (seeded(141, 5, 6) > 0).float()
_REAL = seeded(142, 5, 4)


class Flow(pv.posteriors.Posterior):
    """Affine couplings over a normal: no `.mean`."""

    def __init__(self, dim: int, layers: int = 2) -> None:
        super().__init__(dim)
        self.flows = nn.ModuleList([T.affine_coupling(dim, hidden_dims=[8]) for _ in range(layers)])
        self.param_shapes = {"loc": torch.Size([dim]), "log_scale": torch.Size([dim])}

    def forward(self, parameters):
        base = dist.Normal(parameters["loc"], parameters["log_scale"].exp()).to_event(1)
        return dist.TransformedDistribution(base, list(self.flows))


class Planar(Flow):
    """A flow that can score only what it drew."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 0)
        self.flows = nn.ModuleList([T.planar(dim)])


class HeavyTails(pv.posteriors.Posterior):
    """Student's t in each dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.param_shapes = {"loc": torch.Size([dim]), "log_scale": torch.Size([dim])}

    def forward(self, parameters):
        return dist.StudentT(5.0, parameters["loc"], parameters["log_scale"].exp()).to_event(1)


class LowRank(pv.posteriors.Posterior):
    """A covariance of low rank; torch writes in place into a product of the encoder's outputs."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.param_shapes = dict.fromkeys(("loc", "log_scale", "factor"), torch.Size([dim]))

    def forward(self, parameters):
        factor, variance = parameters["factor"][..., None], (2 * parameters["log_scale"]).exp()
        return dist.LowRankMultivariateNormal(parameters["loc"], factor, variance)


class Squashed(pv.posteriors.Posterior):
    """On (-1, 1) by tanh, where the prior is on all of the reals: a part of the support."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.param_shapes = {"loc": torch.Size([dim])}

    def forward(self, parameters):
        base = dist.Normal(parameters["loc"], 1.0).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.TanhTransform()])


class CountingAxes(pv.posteriors.Posterior):
    """A full covariance, put together by counted axes: parameters of shape (N, D * D)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.param_shapes = {"loc": torch.Size([dim]), "factor": torch.Size([dim * dim])}

    def forward(self, parameters):
        loc, factor = parameters["loc"], parameters["factor"]
        rows = factor.view(len(factor), loc.shape[1], loc.shape[1]).tril(-1) * 0.3
        return dist.MultivariateNormal(loc, scale_tril=rows + torch.eye(loc.shape[1]))


class SoftmaxBits(pv.likelihoods.Likelihood):
    """Bits whose logits are normalised over axis 1."""

    base_measure = "counting"

    def __init__(self, shape: int) -> None:
        super().__init__(shape)
        self.param_shapes = {"logits": self.shape}

    @property
    def support(self):
        return constraints.boolean

    def forward(self, parameters):
        logits = parameters["logits"]
        centred = logits - logits.mean(1, keepdim=True)
        return dist.Bernoulli(logits=centred).to_event(1)


def _vae(name, posterior, likelihood, x, *, prior=None, **options):
    """An untrained VAE of small weights; its evidence on a grid of its two latents."""
    with torch.random.fork_rng():
        torch.manual_seed(143)
        vae = pv.VAE(prior or pv.priors.StandardNormal(2), likelihood, posterior, hidden=(4,))
        with torch.no_grad():
            for parameter_name, parameter in vae.named_parameters():
                parameter.mul_(0.3 if "encoder" in parameter_name else 1.0)
    exact = None if options.get("refused") else grid(vae.eval().model, 2, nodes=61)
    options = {
        "names": ("z", "x", "posterior", "likelihood"),
        "plain": False,
        "trains": False,
        "hard": True,
        **options,
    }
    return Case(name, lambda: vae.program, x, exact, **options)


def _make(make):
    """Networks of a part are made under a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(144)
        return make()


CASES = [
    _vae(
        "low_rank",
        LowRank(2),
        pv.likelihoods.Bernoulli(6),
        _BITS,
        accepts=("importance", "annealed_captured"),
    ),
    _vae(
        "flow", _make(lambda: Flow(2)), pv.likelihoods.Bernoulli(6), _BITS, accepts=("importance", "annealed")
    ),
    _vae("planar", _make(lambda: Planar(2)), pv.likelihoods.Bernoulli(6), _BITS),
    _vae("heavy_tails", HeavyTails(2), pv.likelihoods.Bernoulli(6), _BITS),
    _vae("squashed", Squashed(2), pv.likelihoods.Bernoulli(6), _BITS, refused="'z'"),
    _vae("counting_axes", CountingAxes(2), pv.likelihoods.Bernoulli(6), _BITS),
    _vae("likelihood_counting_axes", pv.posteriors.MeanFieldNormal(2), SoftmaxBits(6), _BITS),
    _vae("usual", pv.posteriors.MeanFieldNormal(2), pv.likelihoods.Gaussian(4), _REAL),
    _vae("full_covariance", pv.posteriors.MultivariateNormal(2), pv.likelihoods.Gaussian(4), _REAL),
]
