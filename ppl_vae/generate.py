"""Generation from a trained VAE: samples, reconstructions, and interpolations between data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pyro.distributions import TorchDistribution

from ppl_vae import rng
from ppl_vae.entries import Read
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.modes import in_mode
from ppl_vae.program import Data, device_of, take
from ppl_vae.program import num_data as num_data_of
from ppl_vae.vae import VAE

_CHUNK = 1000  # images in a pass; the random streams depend on it
_DRAWS = 256  # number of draws that estimate an unknown mean


Covariates = Mapping[str, torch.Tensor]
"""The entries of data beside x that p(x|...) is conditioned on: of each datum, or of one that stands for all."""


@torch.no_grad()
def sample(
    vae: VAE, num_data: int, *, covariates: Covariates | None = None, seed: int = 0, mean: bool = False
) -> torch.Tensor:
    """Draws from the model: z ~ p(z), then x ~ p(x|z), or E[x|z] with ``mean``: ``(num_data, *shape)``.

    The latent draws are those of ``seed`` either way, so samples and means of one seed belong together.

    Args:
        vae: the model.
        num_data: how many.
        covariates: those of each datum, for a VAE that was made with some; or of one datum, for all alike.
        seed: the draws are a function of it.
        mean: whether to give E[x|z].
    """
    check_positive_int("num_data", num_data)
    check_seed(seed)
    entries = _checked(vae, covariates, num_data)
    parameter = next(vae.parameters())
    drawn = []
    with in_mode([vae], training=False), rng.forked(parameter.device):
        for i, start in enumerate(range(0, num_data, _CHUNK)):
            rng.reseed(parameter.device, seed, "sample z", i)
            given = vae.read(take(entries, slice(start, start + _CHUNK)) if entries else None)
            z = vae.prior_given(given).expand((min(_CHUNK, num_data - start),)).sample().to(parameter)
            rng.reseed(parameter.device, seed, "sample x", i)
            drawn.append(_decode_mean(vae, z, given) if mean else vae.decode_given(z, given).sample())
    return torch.cat(drawn)


@torch.no_grad()
def reconstruct(vae: VAE, x: Data, *, covariates: Covariates | None = None) -> torch.Tensor:
    """E[x|z] at the mean of q(z|x), ``(N, *shape)``, for data ``x``.

    Args:
        vae: the model.
        x: the data ``(N, *shape)``, or a dict of their entries.
        covariates: others than those of ``x`` to decode with: what the data would look like in another batch, say.
    """
    vae.check_data(x)
    entries = _checked(vae, covariates, num_data_of(x)) if covariates is not None else None
    found = []
    with in_mode([vae], training=False):
        for start in range(0, num_data_of(x), _CHUNK):
            part, chunk = take(x, slice(start, start + _CHUNK)), slice(start, start + _CHUNK)
            given = vae.read(part if entries is None else take(entries, chunk))
            found.append(_decode_mean(vae, _encode_mean(vae, part), given))
    return torch.cat(found)


@torch.no_grad()
def interpolate(
    vae: VAE, x0: Data, x1: Data, *, steps: int = 9, covariates: Covariates | None = None
) -> torch.Tensor:
    """E[x|z] along the straight line between the posterior means of two data: ``(steps, *shape)``.

    Args:
        vae: the model.
        x0: the datum at the start, ``shape``; or a dict of its entries.
        x1: the datum at the end, likewise.
        steps: points on the line, both ends included.
        covariates: those to decode with, of each point or of one for all; by default those of ``x0``.
    """
    if check_positive_int("steps", steps) < 2:
        raise InputError("steps", "at least 2", steps)
    ends = []
    for name, value in (("x0", x0), ("x1", x1)):
        entries = value if isinstance(value, Mapping) else {"x": value}
        x = entries.get("x")
        if not isinstance(x, torch.Tensor) or x.shape != vae.shape:
            raise InputError(name, f"one datum, a tensor of shape {tuple(vae.shape)}", describe(value))
        ends.append({key: entry[None] for key, entry in entries.items()})
        vae.check_data(ends[-1] if isinstance(value, Mapping) else x[None], name)
    first, last = ends
    if first.keys() != last.keys():
        raise InputError(
            "x1", f"the entries of x0: {', '.join(map(repr, first))}", ", ".join(map(repr, last))
        )
    joined = {key: torch.cat([first[key], last[key]]) for key in first}
    both: Data = joined if vae.entries.several else joined["x"]
    with in_mode([vae], training=False):
        means = _encode_mean(vae, both)
        weight = torch.linspace(0, 1, steps, dtype=means.dtype, device=means.device)[:, None]
        given = take(both, slice(0, 1)) if covariates is None else _checked(vae, covariates, steps)
        return _decode_mean(vae, (1 - weight) * means[0] + weight * means[1], vae.read(given))


@torch.no_grad()
def latent_means(vae: VAE, x: Data) -> torch.Tensor:
    """The mean of q(z|x) for each datum, ``(N, latent_dim)``; of a family that knows no mean, that of 256 draws."""
    vae.check_data(x)
    starts = range(0, num_data_of(x), _CHUNK)
    with in_mode([vae], training=False):
        return torch.cat([_encode_mean(vae, take(x, slice(start, start + _CHUNK))) for start in starts])


@torch.no_grad()
def decode_means(vae: VAE, z: torch.Tensor, *, covariates: Covariates | None = None) -> torch.Tensor:
    """E[x|z] for latents ``(..., N, latent_dim)``: ``(..., N, *shape)``; covariates of N data, or of one."""
    entries = _checked(vae, covariates, z.shape[-2] if z.ndim > 1 else 1)
    with in_mode([vae], training=False):
        return _decode_mean(vae, z, vae.read(entries))


def _checked(vae: VAE, covariates: Covariates | None, n: int) -> dict[str, torch.Tensor] | None:
    """The covariates of N data, where the VAE has some; those of one datum stand for all."""
    if not vae.entries.given:
        if covariates is not None:
            raise InputError("covariates", "None, of a VAE that was made without", describe(covariates))
        return None
    if not isinstance(covariates, Mapping):
        expected = f"a dict with {', '.join(map(repr, vae.entries.given))}"
        raise InputError("covariates", expected, describe(covariates))
    entries = {name: value for name, value in covariates.items() if name in vae.entries.given}
    vae.entries.check(covariates, next(vae.parameters()).dtype, "covariates", drawn=True)
    if num_data_of(entries) not in (1, n):
        raise InputError("covariates", f"those of {n} data, or of one", f"of {num_data_of(entries)} data")
    return {name: value.expand(n, *value.shape[1:]) for name, value in entries.items()}


def _encode_mean(vae: VAE, x: Data) -> torch.Tensor:
    return _mean(lambda: vae.encode(x).mean, lambda: vae.encode(x), device_of(x))


def _decode_mean(vae: VAE, z: torch.Tensor, given: Read) -> torch.Tensor:
    params = vae.params_given(z, given)
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
