"""The VampPrior: a mixture of the encoder's own posteriors at learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.priors.base import Prior

# Repeated training data are told apart by noise of this many standard deviations of the features.
_NOISE = 0.01


class VampPrior(Prior):
    """p(z) = 1/K sum_k q(z|u_k), with learned pseudo-inputs u_k.

    From Tomczak & Welling (2018, "VAE with a VampPrior"): the aggregate posterior (the prior that maximises the average
    ELBO), at K points instead of all data. It is a normalised density for any posterior family, and has gradients with
    respect to the pseudo-inputs and the encoder. Each call encodes the K pseudo-inputs once, and log p(z) (in nats) of
    ``(..., dim)`` needs ``(..., K, dim)`` numbers in memory.

    The pseudo-inputs are unconstrained points in the space of the encoder's features (`Likelihood.features`). They
    exist after a VAE has bound the prior. They start from small noise, and ``fit`` sets them to random training data
    by `start_from`.

    Args:
        dim: the number of latent dimensions.
        components: the number of pseudo-inputs, K.

    Attributes:
        pseudo_inputs: u, ``(components, *shape)``; None until the prior is bound.
    """

    pseudo_inputs: nn.Parameter | None
    _encode: Callable[[torch.Tensor], TorchDistribution] | None

    def __init__(self, dim: int, components: int = 500) -> None:
        super().__init__(dim)
        self.components = check_positive_int("components", components)
        self.register_parameter("pseudo_inputs", None)
        self._encode = None

    def bind(self, encode: Callable[[torch.Tensor], TorchDistribution], shape: torch.Size) -> None:
        """Create the pseudo-inputs, and keep ``encode`` to build the components with.

        Args:
            encode: maps encoder features ``(K, *shape)`` to q(z|u), of batch shape ``(K,)`` and event shape
                ``(dim,)``. A bound method: a deep copy of its owner then holds a prior bound to the copy.
            shape: the shape of one datum.

        Raises:
            InputError: if the prior is already bound, since it belongs to one VAE.
        """
        if self._encode is not None:
            raise InputError("prior", "a VampPrior that no VAE holds yet", "one that is bound already")
        # Through __dict__: the encoder belongs to the VAE, and must not become a submodule here as well.
        self.__dict__["_encode"] = encode
        generator = torch.Generator().manual_seed(0)
        self.pseudo_inputs = nn.Parameter(_NOISE * torch.randn(self.components, *shape, generator=generator))

    def start_from(self, features: torch.Tensor, generator: torch.Generator) -> None:
        """Set the pseudo-inputs to random training data, in place.

        They are drawn without replacement if there are enough data. Otherwise they are drawn with replacement, and get
        a little noise (1 % of the features' standard deviation), so that they are different.

        Args:
            features: encoder features of the training data, ``(N, *shape)``.
            generator: the generator of the random numbers.

        Raises:
            InputError: if the prior is not bound, or the features have another shape.
        """
        _, target = self._bound()
        n = len(features) if features.dim() else 0
        if n == 0 or features.shape[1:] != target.shape[1:]:
            raise InputError(
                "features", f"a tensor (N, {', '.join(map(str, target.shape[1:]))})", describe(features)
            )
        device = generator.device
        if n >= self.components:
            chosen = torch.randperm(n, generator=generator, device=device)[: self.components]
        else:
            chosen = torch.randint(n, (self.components,), generator=generator, device=device)
        with torch.no_grad():
            target.copy_(features[chosen.to(features.device)])
            if n < self.components:
                noise = torch.randn(target.shape, generator=generator, device=device).to(target)
                target.add_(noise, alpha=_NOISE * float(features.double().std(correction=0)))

    def forward(self) -> TorchDistribution:
        """p(z): batch shape ``()``, event shape ``(dim,)``; raises `InputError` before `bind`."""
        encode, pseudo_inputs = self._bound()
        weights = dist.Categorical(logits=pseudo_inputs.new_zeros(self.components))
        p: TorchDistribution = dist.MixtureSameFamily(weights, encode(pseudo_inputs))
        return p

    def _bound(self) -> tuple[Callable[[torch.Tensor], TorchDistribution], nn.Parameter]:
        if self._encode is None or self.pseudo_inputs is None:
            raise InputError(
                "prior", "a VampPrior that a VAE holds (its components come from the encoder)", "none"
            )
        return self._encode, self.pseudo_inputs
