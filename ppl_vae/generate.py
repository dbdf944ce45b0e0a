"""Generation from a trained VAE: samples, reconstructions, and interpolations between data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.modes import in_mode
from ppl_vae.vae import VAE

_CHUNK = 1000  # images in a pass; the random streams depend on it
_DRAWS = 256  # number of draws that estimate an unknown mean


@torch.no_grad()
def sample(vae: VAE, num_data: int, *, seed: int = 0, mean: bool = False) -> torch.Tensor:
    """Draws from the model: z ~ p(z), then x ~ p(x|z), or E[x|z] with ``mean``: ``(num_data, *shape)``.

    The latent draws depend on ``seed`` only, so samples and means with the same seed belong together.
    """
    check_positive_int("num_data", num_data)
    check_seed(seed)
    parameter = next(vae.parameters())
    drawn = []
    with in_mode([vae], training=False), rng.forked(parameter.device):
        for i, start in enumerate(range(0, num_data, _CHUNK)):
            rng.reseed(parameter.device, seed, "sample z", i)
            z = vae.prior().expand((min(_CHUNK, num_data - start),)).sample().to(parameter)
            rng.reseed(parameter.device, seed, "sample x", i)
            params = vae.decoder_params(z)
            drawn.append(_decode_mean(vae, z) if mean else vae.likelihood(params).sample())
    return torch.cat(drawn)


@torch.no_grad()
def reconstruct(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """E[x|z] at the mean of q(z|x), ``(N, *shape)``, for data ``x`` ``(N, *shape)``."""
    vae.check_data(x)
    with in_mode([vae], training=False):
        return torch.cat([_decode_mean(vae, _encode_mean(vae, part)) for part in x.split(_CHUNK)])


@torch.no_grad()
def interpolate(vae: VAE, x0: torch.Tensor, x1: torch.Tensor, *, steps: int = 9) -> torch.Tensor:
    """E[x|z] along the straight line between the posterior means of two data: ``(steps, *shape)``.

    Args:
        vae: the model.
        x0: the datum at the start, ``shape``.
        x1: the datum at the end, ``shape``.
        steps: the number of points on the line, including both ends.
    """
    if check_positive_int("steps", steps) < 2:
        raise InputError("steps", "at least 2", steps)
    for name, value in (("x0", x0), ("x1", x1)):
        if not isinstance(value, torch.Tensor) or value.shape != vae.shape:
            raise InputError(name, f"one datum, a tensor of shape {tuple(vae.shape)}", describe(value))
        vae.check_data(value[None], name)
    with in_mode([vae], training=False):
        ends = _encode_mean(vae, torch.stack([x0, x1]))
        weight = torch.linspace(0, 1, steps, dtype=ends.dtype, device=ends.device)[:, None]
        return _decode_mean(vae, (1 - weight) * ends[0] + weight * ends[1])


@torch.no_grad()
def latent_means(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """The mean of q(z|x) for each datum, ``(N, latent_dim)``; the mean of 256 draws if the family has no known mean."""
    vae.check_data(x)
    with in_mode([vae], training=False):
        return torch.cat([_encode_mean(vae, part) for part in x.split(_CHUNK)])


@torch.no_grad()
def decode_means(vae: VAE, z: torch.Tensor) -> torch.Tensor:
    """E[x|z] for latents ``(..., latent_dim)``: ``(..., *shape)``."""
    with in_mode([vae], training=False):
        return _decode_mean(vae, z)


def _encode_mean(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    return _mean(lambda: vae.encode(x).mean, lambda: vae.encode(x), x.device)


def _decode_mean(vae: VAE, z: torch.Tensor) -> torch.Tensor:
    params = vae.decoder_params(z)
    return _mean(lambda: vae.likelihood.mean(params), lambda: vae.likelihood(params), z.device)


def _mean(
    known: Callable[[], torch.Tensor], distribution: Callable[[], TorchDistribution], device: torch.device
) -> torch.Tensor:
    """The mean of a distribution, or the mean of draws if it is not known, as for a flow."""
    try:
        return known()
    except (NotImplementedError, AttributeError):
        with rng.seeded(device, 0, "means by draws"):
            return torch.stack([distribution().sample() for _ in range(_DRAWS)]).mean(0)
