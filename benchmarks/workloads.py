"""What is computed: the architectures, their parameters, the data, and how much arithmetic a step is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

Layer = tuple[torch.Tensor, torch.Tensor]
"""Weights ``(out, in)`` and bias ``(out,)``."""


class Parameters(NamedTuple):
    """A VAE's numbers. The encoder's last layer emits loc and log scale, ``2 * latent``; the decoder's logits."""

    encoder: list[Layer]
    decoder: list[Layer]

    def double(self) -> Parameters:
        """The same in float64."""
        return Parameters(*([(weight.double(), bias.double()) for weight, bias in net] for net in self))

    def copy(self, *, trained: bool = False) -> Parameters:
        """A copy of one's own, that asks for gradients if it is to be trained."""

        def own(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().clone().requires_grad_(trained)

        return Parameters(*([(own(weight), own(bias)) for weight, bias in net] for net in self))

    def tensors(self) -> list[torch.Tensor]:
        """All of them in a row."""
        return [tensor for net in self for layer in net for tensor in layer]

    def named(self) -> dict[str, torch.Tensor]:
        """By name: ``encoder.0.weight`` and so on, as the JAX contestants take them."""
        return {
            f"{net}.{i}.{kind}": tensor.detach()
            for net, layers in zip(self._fields, self, strict=True)
            for i, layer in enumerate(layers)
            for kind, tensor in zip(("weight", "bias"), layer, strict=True)
        }


@dataclass(frozen=True)
class Architecture:
    """A VAE of dense layers: encoder ``data - hidden - latent``, the decoder its mirror image, Bernoulli output."""

    data: int
    hidden: tuple[int, ...]
    latent: int
    activation: str

    def __str__(self) -> str:
        return "-".join(map(str, (self.data, *self.hidden, self.latent))) + f" {self.activation}"

    @property
    def encoder(self) -> list[tuple[int, int]]:
        """``(in, out)`` of the encoder's layers."""
        return list(pairwise((self.data, *self.hidden, 2 * self.latent)))

    @property
    def decoder(self) -> list[tuple[int, int]]:
        """``(in, out)`` of the decoder's layers."""
        return list(pairwise((self.latent, *self.hidden[::-1], self.data)))

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum(n * m + m for n, m in self.encoder + self.decoder)

    @property
    def decoder_flops(self) -> int:
        """Operations of the decoder's matrix products for one latent."""
        return sum(2 * n * m for n, m in self.decoder)

    def step_products(self, batch_size: int, particles: int = 1) -> list[tuple[int, int, int]]:
        """The matrix products ``(rows, inner, columns)`` of a training step: forward, to weights, to inputs."""
        products = []
        for i, (n, m) in enumerate(self.encoder + self.decoder):
            rows = batch_size if i < len(self.encoder) else batch_size * particles
            products += [(rows, n, m), (m, rows, n)]
            if i:  # nobody asks for the gradient in the data
                products.append((rows, m, n))
        return products

    def decoder_products(self, rows: int) -> list[tuple[int, int, int]]:
        """The matrix products of the decoder for so many latents."""
        return [(rows, n, m) for n, m in self.decoder]


ONE_LAYER = Architecture(784, (400,), 50, "softplus")
TWO_LAYER = Architecture(784, (200, 200), 50, "tanh")


def flops(products: list[tuple[int, int, int]]) -> int:
    """Operations of matrix products."""
    return sum(2 * m * k * n for m, k, n in products)


def binary_data(num_data: int, dim: int = 784, seed: int = 0) -> torch.Tensor:
    """Noisy copies of ten random templates, ``(num_data, dim)``: something to learn, and nothing to download."""
    generator = torch.Generator().manual_seed(seed)
    templates = torch.where(torch.rand(10, dim, generator=generator) < 0.2, 0.8, 0.05)
    which = torch.randint(10, (num_data,), generator=generator)
    return torch.bernoulli(templates[which], generator=generator)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Standard normal numbers that every contestant is given alike."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
