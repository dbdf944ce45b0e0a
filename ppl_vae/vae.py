"""A variational autoencoder: prior, likelihood, posterior and two networks, as a plain Pyro model and guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from ppl_vae import rng
from ppl_vae._part import Part
from ppl_vae.entries import Entries, Read, filled, is_by_number, observed_mean, observed_part
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.modes import in_mode
from ppl_vae.networks import MLP
from ppl_vae.posteriors.base import Posterior
from ppl_vae.priors.base import Prior
from ppl_vae.program import Data, Program, expose_parameters
from ppl_vae.program.filled import on_support
from ppl_vae.support import check_support

Network = nn.Module | Callable[[Sequence[int], Sequence[int]], nn.Module]
"""A network, or a factory ``(in_shape, out_shape) -> network`` such as the classes in `ppl_vae.networks`."""


class VAE(nn.Module):
    """p(z) p(x|z) with the amortised posterior q(z|x), composed from parts.

    `model` and `guide` are plain Pyro programs with the sites ``"z"`` and ``"x"`` inside
    ``pyro.plate("data", N, dim=-1)``; any Pyro tool accepts them. Their parameters stay in this module and
    never enter Pyro's global store, so two VAEs in one process cannot share any.

    Args:
        prior: p(z).
        likelihood: p(x|z); gives the shape of a datum. One with an ``exposure`` needs data with that entry, a positive
            number for each datum.
        posterior: q(z|x), of the prior's dimension.
        hidden: the widths of the hidden layers of the encoder; the decoder mirrors them.
        activation: their activation, by name (see `ppl_vae.networks.MLP`).
        encoder: a network (or factory) in the place of the encoder: ``(B, *shape)`` to ``(B, ...)`` with as many
            numbers a datum as ``posterior.param_shapes`` asks for.
        decoder: likewise for the decoder: ``(B, dim)`` to as many numbers as ``likelihood.param_shapes`` asks for.
        seed: the networks' start is a function of it.
        missing: whether numbers of x may be missing. The data are then a dict ``{"x": x, "mask": mask}``, the mask of
            type bool and of x's shape, true where a number was observed; a tensor stands for data of which all numbers
            were. log p is that of the observed numbers, and what x holds elsewhere, NaN or anything, is never looked
            at. The encoder's input has twice the numbers: the features of x, with their mean over the observed training
            data where a number is missing, and the mask; both are stacked on the first axis.
        covariates: what p(x|...) is conditioned on, by name, and how many numbers each of them has, such as
            ``{"batch": 3, "age": 1}``. The data are then a dict with these entries beside ``"x"``: ``(N, numbers)``, or
            ``(N,)`` of integers from 0, the categories of which ``numbers`` is the number. Encoder and decoder see them
            beside x and z, and so does a prior with ``num_covariates``.

    Raises:
        InputError: if the parts do not fit together; says which, and the sizes.
    """

    started: torch.Tensor
    fill: torch.Tensor

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        posterior: Posterior,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        encoder: Network | None = None,
        decoder: Network | None = None,
        seed: int = 0,
        missing: bool = False,
        covariates: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        for argument, part, kind in (
            ("prior", prior, Prior),
            ("likelihood", likelihood, Likelihood),
            ("posterior", posterior, Posterior),
        ):
            if not isinstance(part, kind):
                raise InputError(argument, f"an instance of ppl_vae's {kind.__name__}", describe(part))
        if prior.dim != posterior.dim:
            raise InputError("posterior", f"the prior's dimension {prior.dim}", posterior.dim)
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        self.latent_dim = prior.dim
        self.shape = likelihood.shape
        self.entries = Entries(
            self.shape, missing, {} if covariates is None else covariates, likelihood.exposure
        )
        if prior.num_covariates not in (0, self.entries.num_covariates):
            raise InputError(
                "prior", f"one of {self.entries.num_covariates} covariates", prior.num_covariates
            )
        if not isinstance(hidden, Sequence):
            raise InputError("hidden", "a sequence of widths such as (200, 200)", describe(hidden))
        # Whether `start_from` was called: kept with the parameters, so that training goes on from where it was.
        self.register_buffer("started", torch.tensor(False))
        if missing:
            _check_for_missing(likelihood)
            self.register_buffer("fill", torch.zeros(self.shape))
        with rng.seeded("cpu", check_seed(seed), "networks"):
            seen = self.entries.encoder_shape
            self.encoder = _network("encoder", encoder, seen, posterior.out_shape, hidden, activation)
            self.decoder = _network(
                "decoder",
                decoder,
                torch.Size([self.latent_dim + self.entries.num_covariates]),
                likelihood.out_shape,
                hidden[::-1],
                activation,
            )
            # A prior made of encodings (VampPrior) draws its first parameters here, on the same stream.
            prior.bind(self.encode_features, self.entries.features_shape)
        self.program = Program(self.model, self.guide, check_data=self.check_data)

    # ---- the two programs -----------------------------------------------------------------------------

    def model(self, x: Data | None = None, num_data: int | None = None) -> torch.Tensor:
        """p(z) p(x|z) as a Pyro model.

        Args:
            x: the data ``(N, *shape)``, observed at site ``"x"``; ``None`` draws them. Or a dict of several entries, as
                the VAE was made for.
            num_data: N, when ``x`` is ``None``.

        Returns:
            the value of site ``"x"``.
        """
        expose_parameters("vae", self)
        given, n = self.read(x), check_positive_int("num_data", num_data) if x is None else _length(x)
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", self.prior_given(given))
            p = observed_part(self.decode_given(z, given), given.mask, self.likelihood.support)
            drawn: torch.Tensor = pyro.sample("x", p, obs=given.x)
        return drawn

    def guide(self, x: Data) -> torch.Tensor:
        """q(z|x) as a Pyro guide.

        Args:
            x: the data ``(N, *shape)``, or a dict of several entries.

        Returns:
            the value of site ``"z"``, ``(N, latent_dim)`` (samples on the left where a tool asks for many).
        """
        expose_parameters("vae", self)
        with pyro.plate("data", _length(x), dim=-1):
            z: torch.Tensor = pyro.sample("z", self.encode(x))
        return z

    # ---- the same densities as functions ----------------------------------------------------------------

    def encode(self, x: Data) -> TorchDistribution:
        """q(z|x) for data ``(..., *shape)``: batch shape ``(...)``, event shape ``(latent_dim,)``."""
        given = self.read(x)
        return self.encode_features(self.features(given), given.mask)

    def read(self, x: Data | None) -> Read:
        """The entries of data; see `Entries.read`."""
        return self.entries.read(x, next((p.dtype for p in self.parameters()), torch.get_default_dtype()))

    def features(self, given: Read) -> torch.Tensor:
        """What the encoder sees of x, ``(..., *shape)``: its features, and `fill` where nothing was observed.

        Covariates stand beside it, on the first axis of a datum.
        """
        x = given.x
        if x is None:
            raise InputError("x", "data with an entry 'x'", None)
        features = self.likelihood.features(filled(x, given.mask, self.likelihood.support))
        features = features if given.mask is None else torch.where(given.mask, features, self.fill)
        return self.entries.with_covariates(features, given.covariates)

    def encode_features(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> TorchDistribution:
        """q(z|x) from `features`, and which numbers were observed: all of them without a mask."""
        features = self.entries.with_mask(features, mask)
        flat = _run(self.encoder, features, len(self.shape))
        q: TorchDistribution = self.posterior(_split(flat, self.posterior.param_shapes))
        return q

    def prior_given(self, given: Read) -> TorchDistribution:
        """p(z), or p(z|covariates) of batch shape ``(N,)`` where the prior takes them."""
        p: TorchDistribution = self.prior(given.covariates) if self.prior.num_covariates else self.prior()
        return p

    def decoder_params(self, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        """The likelihood's unconstrained parameters, ``(..., *param_shapes[name])``.

        Args:
            seen: what the decoder sees: latents ``(..., dim)``, and covariates, if there are any, to their right.
        """
        return _split(_run(self.decoder, seen, 1), self.likelihood.param_shapes)

    def params_given(self, z: torch.Tensor, given: Read) -> dict[str, torch.Tensor]:
        """The likelihood's parameters for latents ``(..., N, dim)`` and the entries of N data."""
        covariates = given.covariates
        if covariates is not None:
            z = torch.cat([z, covariates.expand(*z.shape[:-1], -1)], -1)
        params = self.decoder_params(z)
        return params if given.exposure is None else self.likelihood.exposed(params, given.exposure)

    def decode(self, z: torch.Tensor, x: Data | None = None) -> TorchDistribution:
        """p(x|z) for latents ``(..., latent_dim)``: batch shape ``(...)``, event shape ``shape``.

        Args:
            z: the latents.
            x: data whose covariates p(x|z) is conditioned on, of a VAE that has some.
        """
        return self.decode_given(z, self.read(x))

    def decode_given(self, z: torch.Tensor, given: Read) -> TorchDistribution:
        """`decode`, with the entries read."""
        p: TorchDistribution = self.likelihood(self.params_given(z, given))
        return p

    # ---- data -----------------------------------------------------------------------------------------

    def check_data(self, x: Data, argument: str = "x") -> None:
        """Refuse data of another shape, or outside the likelihood's support, naming likelihoods that would fit.

        Raises:
            InputError: naming ``argument``, what was expected and what came (with the index of the datum).
        """
        given = self.entries.check(x, next(self.parameters()).dtype, argument)
        value = given.x
        if value is None:
            raise AssertionError("data without x")
        support = self.likelihood.support
        check_support(filled(value, given.mask, support), support, type(self.likelihood).__name__, argument)

    def start_from(self, x: Data, *, seed: int = 0) -> None:
        """Set, in place, what has a natural start in training data ``(N, *shape)``, or in a dict of several entries.

        The decoder's output bias starts at the parameters that best describe the mean of the data (if the
        decoder has ``set_output_bias``); a prior of pseudo-inputs starts from random data; what the encoder sees of a
        missing number is the mean of those that were observed. `fit` calls it the first time that it trains this VAE;
        later training goes on from where it was, also after saving.
        """
        given = self.read(x)
        with torch.no_grad():
            if self.entries.missing:
                alone = given._replace(covariates=None)
                self.fill.copy_(observed_mean(self.features(alone), given.mask))
            set_output_bias = getattr(self.decoder, "set_output_bias", None)
            if set_output_bias is not None:
                start = self.likelihood.initial_params(self._mean(given))
                if given.exposure is not None:  # the decoder's mean is that of an exposure of 1
                    start = self.likelihood.exposed(start, 1 / given.exposure.mean(0))
                set_output_bias(torch.cat([start[name].flatten() for name in self.likelihood.param_shapes]))
            self.prior.start_from(self.features(given), rng.generator(seed, "prior start"))
            self.started.fill_(True)

    def _mean(self, given: Read) -> torch.Tensor:
        """The mean of the observed numbers of data, ``shape``."""
        if given.x is None:
            raise InputError("x", "data with an entry 'x'", None)
        return observed_mean(given.x, given.mask)

    # ---- saving ---------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """How to build this VAE again, in plain JSON types; a network that is not a `Part` is left out."""
        parts = {name: getattr(self, name).config() for name in ("prior", "likelihood", "posterior")}
        networks = {
            name: network.config() if isinstance(network, Part) else None
            for name, network in (("encoder", self.encoder), ("decoder", self.decoder))
        }
        options: dict[str, Any] = {
            "missing": self.entries.missing,
            "covariates": dict(self.entries.covariates),
        }
        return {**parts, **networks, **{name: value for name, value in options.items() if value}}


def _check_for_missing(likelihood: Likelihood) -> None:
    """Refuse a likelihood that is joint over the numbers of x: the density of some of them is an integral there."""
    params = {name: torch.zeros(shape) for name, shape in likelihood.param_shapes.items()}
    with torch.no_grad():
        p = likelihood(params)
    if not is_by_number(p):
        expected = "with missing=True, a likelihood whose numbers are independent given z (one that ends in .to_event)"
        raise InputError("likelihood", expected, f"a {type(likelihood).__name__}, which is joint over them")
    point = on_support(likelihood.support, torch.zeros(likelihood.shape))
    if not bool(torch.as_tensor(likelihood.support.check(point)).all()):
        expected = "with missing=True, a support that torch knows a map to (torch.distributions.transform_to)"
        raise InputError("likelihood", expected, describe(likelihood.support))


def _length(x: Data) -> int:
    return len(x if isinstance(x, torch.Tensor) else next(iter(x.values())))


def _network(
    role: str,
    given: Network | None,
    in_shape: torch.Size,
    out_shape: torch.Size,
    hidden: Sequence[int],
    activation: str,
) -> nn.Module:
    """The user's network, or one from the user's factory, or an MLP; checked to give the right number of outputs."""
    if given is None:
        return MLP(in_shape, out_shape, hidden=hidden, activation=activation)
    if not isinstance(given, nn.Module):
        if not callable(given):
            expected = "a torch.nn.Module or a factory (in_shape, out_shape) -> Module"
            raise InputError(role, expected, describe(given))
        given = given(tuple(in_shape), tuple(out_shape))
        if not isinstance(given, nn.Module):
            raise InputError(role, "a factory that returns a torch.nn.Module", describe(given))
    parameter = next(given.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), in_mode([given], training=False):
            probe = given(torch.zeros(2, *in_shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError) as error:
        expected = f"a network that accepts input of shape (B, {', '.join(map(str, in_shape))})"
        raise InputError(role, expected, error) from error
    wanted = out_shape.numel()
    if not isinstance(probe, torch.Tensor) or probe.numel() != 2 * wanted or len(probe) != 2:
        expected = f"{wanted} outputs a datum, (2, {wanted}) for a batch of 2"
        raise InputError(role, expected, describe(probe))
    return given


def _run(network: nn.Module, x: torch.Tensor, event_ndim: int) -> torch.Tensor:
    """Apply a network to ``(..., *event)`` with the leading axes folded into one; outputs ``(..., numbers)``.

    Folding is what lets any module of the user's stand here: convolutions and batch normalisation know one
    batch axis, evidence needs two.
    """
    leading = x.shape[: x.ndim - event_ndim]
    out: torch.Tensor = network(x.reshape(-1, *x.shape[x.ndim - event_ndim :]))
    return out.reshape(*leading, -1)


def _split(flat: torch.Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Cut the last axis of ``flat`` into named parameters of the declared shapes."""
    leading = flat.shape[:-1]
    pieces = flat.split([math.prod(shape) for shape in shapes.values()], dim=-1)
    named = zip(shapes.items(), pieces, strict=True)
    return {name: piece.reshape(*leading, *shape) for (name, shape), piece in named}
