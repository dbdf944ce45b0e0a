"""Small programs with fixed parameters and data, for the recorded numbers.

Nothing is drawn here: parameters and data are cosines of their indices, so that no change of a generator or of how a
network starts moves them. All are float64, but for `vae` of another dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppl_vae as pv

PIXELS, LATENTS = 5, 2


@dataclass
class Case:
    """A program with its data.

    Attributes:
        program: the program.
        x: the data.
        module: what holds its parameters; for a VAE's program the VAE.
        z: latents of the data, one sample.
    """

    program: pv.Program
    x: Tensor
    module: Any = None
    z: dict[str, Tensor] | None = None


def waves(*shape: int, phase: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers from -1 to 1 without a pattern: cosines of the squares of the indices."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.cos(phase + 0.7 * index + 0.3 * index**2).reshape(shape).to(dtype)


def bits(num_data: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Binary data ``(N, PIXELS)``."""
    return (waves(num_data, PIXELS, phase=0.4) > 0).to(dtype)


def reals(num_data: int, size: int = 3) -> Tensor:
    """Real data ``(N, size)``."""
    return 1.5 * waves(num_data, size, phase=1.1)


def fixed(vae: pv.VAE, size: float = 1.0) -> pv.VAE:
    """The same VAE with weights of its networks that are not those of its seed."""
    with torch.no_grad():
        for phase, network in enumerate((vae.encoder, vae.decoder)):
            for index, parameter in enumerate(network.parameters()):
                parameter.copy_(size * waves(*parameter.shape, phase=1.0 + phase + 0.37 * index))
    return vae


def seeded() -> pv.VAE:
    """A VAE as its seed makes it, float32."""
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(PIXELS),
        posterior=pv.posteriors.MeanFieldNormal(LATENTS),
        hidden=(4,),
        seed=5,
    )


def vae(num_data: int = 3, dtype: torch.dtype = torch.float64) -> Case:
    """Binary data, two normal latents, and a guide that is off, but not far."""
    made = fixed(seeded().double(), 0.8).to(dtype)
    return Case(made.program, bits(num_data, dtype), made)


def linear_vae(num_data: int = 3) -> Case:
    """A VAE whose decoder is affine and whose data are normal: its log evidence has a closed form."""
    made = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Gaussian(3, scale=0.7),
        posterior=pv.posteriors.MultivariateNormal(LATENTS),
        encoder=nn.Linear(3, 5),
        decoder=nn.Linear(LATENTS, 3),
    ).double()
    return Case(fixed(made, 0.5).program, reals(num_data), made)


def gamma_poisson() -> Case:
    """A rate with a gamma prior, counts, and the exact posterior widened as the guide."""
    a, b, widen = 2.5, 0.5, 1.3
    x = torch.tensor([0.0, 3.0, 9.0], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(a), b))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.Gamma((a + x) / widen, x.new_tensor((b + 1) / widen)))

    return Case(pv.Program(model, guide), x, z={"rate": ((a + x) / (b + 1))[None]})


def folded() -> Case:
    """A decoder with ``softmax(z, dim=1)``, which is right without a sample axis only: S copies of the data are run."""
    weights = waves(LATENTS, 3, phase=0.2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
            loc = 2 * torch.softmax(z, dim=1) @ weights
            pyro.sample("x", dist.Normal(loc, 0.5 + scale.unsqueeze(-1)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.3 * x[:, :LATENTS], 1.0).to_event(1))
            pyro.sample("scale", dist.LogNormal(0.1 * z.sum(-1), 0.5))

    return Case(pv.Program(model, guide), reals(2))


class Mixture(nn.Module):
    """One of three components; ``enumerated``: the model marks it for enumeration and the guide leaves it out."""

    def __init__(self, *, enumerated: bool = False) -> None:
        super().__init__()
        self.means = nn.Parameter(2 * waves(3, 3, phase=0.9))
        self.encoder = nn.Linear(3, 3).double()
        with torch.no_grad():
            self.encoder.weight.copy_(self.means)
            self.encoder.bias.copy_(-self.means.square().sum(-1) / 2)
        self.enumerated = enumerated

    def model(self, x: Tensor) -> None:
        """The mixture."""
        pyro.module("mixture", self)
        infer = {"enumerate": "parallel"} if self.enumerated else {}
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(self.means.new_tensor([0.2, 0.3, 0.5])), infer=infer)
            pyro.sample("x", dist.Normal(self.means[k], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The posterior of equal shares, flattened."""
        pyro.module("mixture", self)
        with pyro.plate("data", len(x), dim=-1):
            if not self.enumerated:
                pyro.sample("k", dist.Categorical(logits=self.encoder(x) / 2))


def mixture(num_data: int = 3, *, enumerated: bool = False) -> Case:
    """A discrete latent."""
    module = Mixture(enumerated=enumerated)
    return Case(pv.Program(module.model, module.guide), reals(num_data), module)


def of_parts(name: str) -> Case:
    """A VAE with one part that is not that of `vae`."""
    prior: pv.priors.Prior = pv.priors.StandardNormal(LATENTS)
    likelihood: pv.likelihoods.Likelihood = pv.likelihoods.Bernoulli(PIXELS)
    posterior: pv.posteriors.Posterior = pv.posteriors.MeanFieldNormal(LATENTS)
    x = bits(3)
    if name == "prior: mixture of Gaussians":
        prior = pv.priors.MixtureOfGaussians(LATENTS, components=3)
    elif name == "prior: VampPrior":
        prior = pv.priors.VampPrior(LATENTS, components=3)
    elif name == "likelihood: Binomial":
        likelihood, x = pv.likelihoods.Binomial(PIXELS, 4), (4 * waves(3, PIXELS, phase=0.4)).abs().round()
    elif name == "likelihood: Gaussian, learned scale":
        likelihood, x = pv.likelihoods.Gaussian(PIXELS, scale="learned"), reals(3, PIXELS)
    elif name == "likelihood: Gaussian, scale of the decoder":
        likelihood, x = pv.likelihoods.Gaussian(PIXELS, scale="decoder"), reals(3, PIXELS)
    elif name == "posterior: full normal":
        posterior = pv.posteriors.MultivariateNormal(LATENTS)
    else:
        raise ValueError(name)
    made = fixed(pv.VAE(prior, likelihood, posterior, hidden=(4,)).double(), 0.8)
    with torch.no_grad():
        for index, part in enumerate((made.prior, made.likelihood)):
            for parameter in part.parameters():
                parameter.copy_(0.5 + 0.4 * waves(*parameter.shape, phase=0.5 + index))
    return Case(made.program, x, made)


PARTS = (
    "prior: mixture of Gaussians",
    "prior: VampPrior",
    "likelihood: Binomial",
    "likelihood: Gaussian, learned scale",
    "likelihood: Gaussian, scale of the decoder",
    "posterior: full normal",
)
