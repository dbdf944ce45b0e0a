"""Networks: encoders and decoders.

A VAE takes any ``nn.Module`` as an encoder or a decoder, or a factory ``(in_shape, out_shape) -> nn.Module``
(`NetworkFactory`); the classes here are such factories. A network

- must map ``(..., *in_shape)`` to ``(..., *out_shape)`` for any number of leading dimensions, including none, since
  samples, chains and data are leading dimensions;
- may have ``set_output_bias(values)``: the decoder's output then starts from the mean of the data.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import linear

from ppl_vae._part import Part
from ppl_vae.errors import InputError, check_one_of, check_positive_int, describe

__all__ = ["ACTIVATIONS", "MLP", "ConvNet", "Network", "NetworkFactory"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
"""The activations by name."""


class NetworkFactory(Protocol):
    """A function that makes a network from its sizes: `MLP`, `ConvNet`, or your own function."""

    def __call__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
        """A module that maps ``(..., *in_shape)`` to ``(..., *out_shape)``."""


class Network(Part):
    """A map from ``(..., *in_shape)`` to ``(..., *out_shape)``, with any number of leading dimensions.

    A subclass builds its layers, calls `start_weights`, and writes `map_batch` for one leading dimension.

    Args:
        in_shape: the shape of one input: an int, or a sequence of ints.
        out_shape: the shape of one output: an int, or a sequence of ints.

    Attributes:
        output_bias: the bias that `map_batch` adds to the output at the end, ``out_shape``; starts at zero.
    """

    def __init__(self, in_shape: int | Sequence[int], out_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.in_shape = torch.Size(_sizes("in_shape", in_shape))
        self.out_shape = torch.Size(_sizes("out_shape", out_shape))
        self.output_bias = nn.Parameter(torch.zeros(self.out_shape))

    @abstractmethod
    def map_batch(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, *in_shape)`` to ``(B, *out_shape)``, or flat, with `output_bias` added."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., *in_shape)`` to ``(..., *out_shape)``; raises `InputError` if x has another shape."""
        split = x.dim() - len(self.in_shape)
        if split < 0 or x.shape[split:] != self.in_shape:
            raise InputError("x", f"a tensor of shape (..., {_words(self.in_shape)})", describe(x))
        leading = x.shape[:split]
        return self.map_batch(x.reshape(math.prod(leading), *self.in_shape)).reshape(
            *leading, *self.out_shape
        )

    def set_output_bias(self, values: torch.Tensor) -> None:
        """Copy ``values`` (of ``out_shape``, or flat) into the output's bias, in place."""
        if values.shape not in (self.out_shape, torch.Size([self.out_shape.numel()])):
            raise InputError(
                "values", f"a tensor of shape ({_words(self.out_shape)}), or flat", describe(values)
            )
        with torch.no_grad():
            self.output_bias.copy_(values.reshape(self.out_shape))

    def start_weights(self) -> None:
        """Glorot & Bengio's (2010) uniform start of the weights; zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class MLP(Network):
    """Fully connected layers.

    h_0 = x, h_j = a(W_j h_{j-1} + b_j), output = W h_J + b. Weights start uniform as in Glorot & Bengio
    (2010, "Understanding the difficulty of training deep feedforward neural networks"), drawn from torch's
    global random state; biases start at zero.

    Args:
        in_shape: the shape of one input: an int, or a sequence of ints.
        out_shape: the shape of one output: an int, or a sequence of ints.
        hidden: the widths of the hidden layers; none gives an affine map.
        activation: the name of a: one of `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: int | Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__(in_shape, out_shape)
        act = ACTIVATIONS[check_one_of("activation", activation, ACTIVATIONS)]
        widths = [self.in_shape.numel(), *_sizes("hidden", hidden, empty=True)]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), act()]
        self.last = nn.Linear(widths[-1], self.out_shape.numel(), bias=False)
        self.layers = nn.Sequential(*layers)
        self.start_weights()

    def map_batch(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, *in_shape)`` to ``(B, *out_shape)``, flat."""
        return linear(self.layers(x), self.last.weight, self.output_bias.flatten())


class ConvNet(Network):
    """Convolutions: an encoder of images if ``in_shape`` is ``(C, H, W)``, a decoder if ``out_shape`` is.

    The encoder halves H and W (rounding up) with a 3x3 convolution of stride 2 for each of ``channels``, and then has a
    dense layer of ``hidden`` units and a dense output. The decoder has the same layers in reverse order: transposed
    convolutions that restore any H and W, also odd ones, and a bias for each number of its output. Weights start as in
    `MLP`, biases at zero.

    Args:
        in_shape: the shape of one input: an int, or a sequence of ints.
        out_shape: the shape of one output: an int, or a sequence of ints. One of the two is ``(C, H, W)``.
        channels: the encoder's channels, first to last; the decoder has them in reverse order.
        hidden: the width of the dense layer.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        channels: int | Sequence[int] = (16, 32),
        hidden: int = 128,
        activation: str = "relu",
    ) -> None:
        super().__init__(in_shape, out_shape)
        encodes, decodes = len(self.in_shape) == 3, len(self.out_shape) == 3
        if encodes == decodes:
            raise InputError(
                "ConvNet(in_shape, out_shape)",
                "exactly one of the two to be (C, H, W)",
                f"({_words(self.in_shape)}) and ({_words(self.out_shape)})",
            )
        act = ACTIVATIONS[check_one_of("activation", activation, ACTIVATIONS)]
        check_positive_int("hidden", hidden)
        image = self.in_shape if encodes else self.out_shape
        depths = [image[0], *_sizes("channels", channels)]
        heights, widths = [image[1]], [image[2]]
        for _ in depths[1:]:
            heights.append((heights[-1] + 1) // 2)
            widths.append((widths[-1] + 1) // 2)
        small = torch.Size([depths[-1], heights[-1], widths[-1]])
        layers: list[nn.Module] = []
        if encodes:
            for c_in, c_out in pairwise(depths):
                layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), act()]
            layers += [nn.Flatten(), nn.Linear(small.numel(), hidden), act()]
            layers.append(nn.Linear(hidden, self.out_shape.numel(), bias=False))
        else:
            layers += [nn.Flatten(), nn.Linear(self.in_shape.numel(), hidden), act()]
            layers += [nn.Linear(hidden, small.numel()), nn.Unflatten(1, small)]
            for j in range(len(depths) - 1, 0, -1):
                # This transposed convolution makes 2h - 1 of h; an even size needs one row or column more.
                extra = (1 - heights[j - 1] % 2, 1 - widths[j - 1] % 2)
                up = nn.ConvTranspose2d(
                    depths[j], depths[j - 1], 3, stride=2, padding=1, output_padding=extra, bias=j > 1
                )
                layers += [act(), up]
        self.layers = nn.Sequential(*layers)
        self.start_weights()

    def map_batch(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, *in_shape)`` to ``(B, *out_shape)``."""
        out: torch.Tensor = self.layers(x).reshape(len(x), *self.out_shape) + self.output_bias
        return out


def _sizes(argument: str, value: int | Sequence[int], empty: bool = False) -> tuple[int, ...]:
    """``value`` as a tuple of positive integers; an int stands for a tuple of one."""
    sizes: Any = (value,) if isinstance(value, int) else value
    good = isinstance(sizes, Sequence) and not isinstance(sizes, str) and (empty or len(sizes) > 0)
    if not good or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise InputError(argument, "a positive integer or a sequence of them", describe(value))
    return tuple(sizes)


def _words(shape: torch.Size) -> str:
    """``shape`` without its brackets."""
    return ", ".join(map(str, shape))
