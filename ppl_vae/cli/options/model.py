"""The options of models, and the VAE and objective that they name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyro.infer import ELBO
from torch import nn

from ppl_vae import config, likelihoods, memory, objectives, posteriors, priors, rng
from ppl_vae._part import families
from ppl_vae.data import Dataset
from ppl_vae.errors import InputError, UsageError, option, under_options
from ppl_vae.likelihoods import Likelihood
from ppl_vae.networks import MLP, ConvNet, Network
from ppl_vae.posteriors import Posterior
from ppl_vae.priors import Prior
from ppl_vae.support import choices, suited
from ppl_vae.trust import Trust
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_ROLES: dict[str, tuple[type, str, str]] = {
    "prior": (Prior, "a Prior", "MyPrior"),
    "likelihood": (Likelihood, "a Likelihood", "MyLikelihood"),
    "posterior": (Posterior, "a Posterior", "MyPosterior"),
    "network": (Network, "a networks.Network", "MyNetwork"),
    "encoder": (Network, "a networks.Network", "MyEncoder"),
    "decoder": (Network, "a networks.Network", "MyDecoder"),
    "objective": (ELBO, "an ELBO", "MyELBO"),
}
_PACKAGES: dict[type, ModuleType] = {Prior: priors, Likelihood: likelihoods, Posterior: posteriors}
_OURS: dict[type, list[str]] = {
    Network: ["MLP", "ConvNet"],
    ELBO: [*objectives.NAMES, "Trace_ELBO", "TraceMeanField_ELBO", "another of Pyro's"],
    **{base: [kind.__name__ for kind in families(package, base)] for base, package in _PACKAGES.items()},
}
CLASSES = {
    role: f"{', '.join(_OURS[base])}, or the import path of {what} of your own (my_file.{mine})"
    for role, (base, what, mine) in _ROLES.items()
}
"""What the options that take a class expect, in words."""


def add_options(parser: ArgumentParser) -> None:
    """``--latent-dim``, and an option for each part."""
    model = parser.add_argument_group(
        "model",
        "Each part is a class of ppl_vae, given by its name, or a class of your own, given by its import path\n"
        "(my_file.MyPrior for a file my_file.py in the current folder). The options of the class are written as in\n"
        "--prior.components 500; the sizes of x and z are filled in. --prior.help VampPrior lists them.",
    )
    model.add_argument("--latent-dim", type=int, default=8, help="the dimension of the latent vector z")
    suits = f"p(x|z). Default: the first of these that suits the values of the data: {suited()}"
    networks = Callable[[Any, Any], Network]
    for name, kind, default, text in (
        ("prior", Callable[[int], Prior], "ppl_vae.priors.StandardNormal", "p(z)"),
        ("likelihood", Callable[[Any], Likelihood] | None, None, suits),
        ("posterior", Callable[[int], Posterior], "ppl_vae.posteriors.MeanFieldNormal", "q(z|x)"),
        ("network", networks, "ppl_vae.networks.MLP", "the network of the encoder and of the decoder"),
        ("encoder", networks | None, None, "a class for the encoder alone (default: that of --network)"),
        ("decoder", networks | None, None, "a class for the decoder alone (default: that of --network)"),
    ):
        usual = None if default is None else {"class_path": default}
        model.add_argument(option(name), type=kind, default=usual, help=text, metavar="CLASS")
    model.add_argument(
        "--hidden",
        type=int | list[int] | None,
        help='widths of the hidden layers, in the order of the encoder: "[200, 200]". Short for --network.hidden',
    )
    model.add_argument(
        "--activation",
        type=str | None,
        help="tanh, relu, softplus, elu, gelu, silu, leaky_relu or sigmoid. Short for --network.activation",
    )


def resolve(settings: dict[str, Any]) -> None:
    """Put the networks' classes and options in the place of the short options; the likelihood waits for data."""
    for role in _ROLES:
        if settings[role] is not None:
            given = settings[role].get("init_args") or {}
            settings[role] = {"class_path": settings[role]["class_path"], "init_args": dict(given)}
    for short in ("hidden", "activation"):
        value = settings.pop(short, None)
        if value is None:
            continue
        if short not in inspect.signature(_find("network", settings["network"])).parameters:
            raise UsageError(
                option(short), f"a --network that has {short}", settings["network"]["class_path"]
            )
        settings["network"]["init_args"][short] = value


def convolutional(settings: dict[str, Any]) -> bool:
    """Whether a network wants images as ``(C, H, W)``."""
    roles = [role for role in ("network", "encoder", "decoder") if settings[role] is not None]
    return any(issubclass(_find(role, settings[role]), ConvNet) for role in roles)


def default_likelihood(dataset: Dataset) -> dict[str, Any]:
    """The first likelihood that suits the data; raises `InputError` for grey levels, which have none."""
    summary = dataset.summary()
    if summary is None:
        raise InputError(
            "--likelihood",
            "a choice, since no likelihood is natural for grey levels in [0, 1] (Gaussian would do; or --view "
            "dynamic or threshold for Bernoulli)",
            "none",
        )
    family, arguments = choices(summary)[0]
    made = family(dataset.shape, **arguments).init_args
    return {
        "class_path": f"ppl_vae.likelihoods.{family.__name__}",
        "init_args": {name: value for name, value in made.items() if name != "shape"},
    }


def build(settings: dict[str, Any], dataset: Dataset) -> VAE:
    """The VAE that the resolved ``settings`` name; raises `InputError` naming the option at fault."""
    dim, shape, seed = settings["latent_dim"], tuple(dataset.shape), settings["seed"]
    memory.check_model(settings, dataset.shape.numel(), dataset.sizes["train"])
    # A user's own class may draw its start from torch's global generator: that too is a function of the seed.
    with rng.seeded("cpu", seed, "command line"):
        prior = _make("prior", settings["prior"], dim)
        likelihood = _make("likelihood", settings["likelihood"], shape)
        posterior = _make("posterior", settings["posterior"], dim)
        encoder, decoder = _network("encoder", settings), _network("decoder", settings)
        with under_options((*_ROLES, "hidden", "activation"), features="--prior"):
            return VAE(prior, likelihood, posterior, encoder=encoder, decoder=decoder, seed=seed)


def objective(settings: dict[str, Any]) -> ELBO:
    """The objective; raises `InputError` naming the option at fault."""
    made: ELBO = _make("objective", settings["objective"])
    return made


def _find(role: str, spec: dict[str, Any]) -> type:
    """The class that ``spec`` names, which the parser has imported."""
    return Trust().find(spec["class_path"], _ROLES[role][0], option(role))


def _make(role: str, spec: dict[str, Any], *sizes: Any, reverse: bool = False) -> Any:
    """The object that ``spec`` names, of these sizes; raises `InputError` naming the option at fault."""
    kind, given = _find(role, spec), dict(spec["init_args"])
    if reverse and issubclass(kind, MLP) and isinstance(given.get("hidden"), Sequence):
        given["hidden"] = given["hidden"][::-1]
    names = {name: f"{option(role)}.{name}" for name in given}
    for short in ("hidden", "activation"):
        names[short] = f"{option(role)}.{short}" if role in ("encoder", "decoder") else option(short)
    return config.make(kind, sizes, given, option(role), {"dim": "--latent-dim", **names})


def _network(side: str, settings: dict[str, Any]) -> Callable[[Sequence[int], Sequence[int]], nn.Module]:
    role = side if settings[side] is not None else "network"

    def factory(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
        reverse = side == "decoder" and role == "network"
        made: nn.Module = _make(role, settings[role], in_shape, out_shape, reverse=reverse)
        return made

    return factory
