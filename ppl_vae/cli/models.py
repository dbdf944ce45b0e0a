"""The options of models, and the VAE and objective that they name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyro.infer import ELBO
from torch import nn

from ppl_vae import likelihoods, posteriors, priors, rng
from ppl_vae._part import families
from ppl_vae.cli import memory
from ppl_vae.cli.oneline import UsageError, option, relabel
from ppl_vae.cli.options import values
from ppl_vae.data import Dataset
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Likelihood
from ppl_vae.likelihoods.summary import Summary
from ppl_vae.networks import MLP, ConvNet, Network
from ppl_vae.posteriors import Posterior
from ppl_vae.priors import Prior
from ppl_vae.support import choices
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_OWN = "or the import path of {} of your own (my_file.{})"


def _listed(package: ModuleType, base: type) -> str:
    return "".join(f"{kind.__name__}, " for kind in families(package, base))


CLASSES = {
    "prior": _listed(priors, Prior) + _OWN.format("a Prior", "MyPrior"),
    "likelihood": _listed(likelihoods, Likelihood) + _OWN.format("a Likelihood", "MyLikelihood"),
    "posterior": _listed(posteriors, Posterior) + _OWN.format("a Posterior", "MyPosterior"),
    "network": "MLP, ConvNet, " + _OWN.format("a networks.Network", "MyNetwork"),
    "encoder": "MLP, ConvNet, " + _OWN.format("a networks.Network", "MyEncoder"),
    "decoder": "MLP, ConvNet, " + _OWN.format("a networks.Network", "MyDecoder"),
    "objective": "Trace_ELBO, TraceMeanField_ELBO, another of Pyro's, " + _OWN.format("an ELBO", "MyELBO"),
    **values.EXPECTED,
}
_BASES: dict[str, type] = {
    "prior": Prior,
    "likelihood": Likelihood,
    "posterior": Posterior,
    "network": Network,
    "encoder": Network,
    "decoder": Network,
    "objective": ELBO,
    **values.TYPES,
}


def add_options(parser: ArgumentParser) -> None:
    """``--latent-dim``, and an option for each part."""
    model = parser.add_argument_group(
        "model",
        "a part is a class of ppl_vae by its name, or one of your own by its import path (my_file.MyPrior for a file\n"
        "my_file.py in the current folder); its options follow, as in --prior.components 500. The sizes are supplied.\n"
        "--prior.help VampPrior lists the options of a class.",
    )
    model.add_argument("--latent-dim", type=int, default=8, help="numbers in the latent vector z")
    model.add_argument(
        "--prior",
        type=Callable[[int], Prior],
        default={"class_path": "ppl_vae.priors.StandardNormal"},
        help="p(z)",
        metavar="CLASS",
    )
    model.add_argument(
        "--likelihood",
        type=Callable[[Any], Likelihood] | None,
        help="p(x|z). Default: the first of these that suits the values of the data: " + _suited(),
        metavar="CLASS",
    )
    model.add_argument(
        "--posterior",
        type=Callable[[int], Posterior],
        default={"class_path": "ppl_vae.posteriors.MeanFieldNormal"},
        help="q(z|x)",
        metavar="CLASS",
    )
    for name, text in (
        ("network", "the encoder and the decoder. Default: MLP"),
        ("encoder", "another class for the encoder alone"),
        ("decoder", "another class for the decoder alone"),
    ):
        model.add_argument(
            f"--{name}",
            type=Callable[[Any, Any], Network] | None,
            help=text,
            metavar="CLASS",
        )
    model.add_argument(
        "--hidden",
        type=int | list[int] | None,
        help='widths of the hidden layers, encoder first to last: "[200, 200]", short for --network.hidden',
    )
    model.add_argument(
        "--activation",
        type=str | None,
        help="tanh, relu, softplus, elu, gelu, silu, leaky_relu or sigmoid, short for --network.activation",
    )


def resolve(settings: dict[str, Any]) -> None:
    """Put the networks' classes and options in the place of the short options; the likelihood waits for data."""
    settings["network"] = _with_defaults(
        "network", settings["network"] or {"class_path": "ppl_vae.networks.MLP"}
    )
    for short in ("hidden", "activation"):
        value = settings.pop(short, None)
        if value is None:
            continue
        parameters = inspect.signature(import_class("network", settings["network"])).parameters
        if short not in parameters:
            raise UsageError(
                option(short), f"a --network that has {short}", settings["network"]["class_path"]
            )
        settings["network"]["init_args"][short] = value
    for role in ("prior", "posterior", "likelihood", "encoder", "decoder", "objective"):
        if settings[role] is not None:
            settings[role] = _with_defaults(role, settings[role])


def convolutional(settings: dict[str, Any]) -> bool:
    """Whether a network wants images as ``(C, H, W)``."""
    specs = [(role, settings[role]) for role in ("network", "encoder", "decoder")]
    return any(spec is not None and issubclass(import_class(role, spec), ConvNet) for role, spec in specs)


def default_likelihood(dataset: Dataset) -> dict[str, Any]:
    """The likelihood that the data call for; raises `InputError` for grey levels, which have none."""
    splits = [x for x in (dataset.train, dataset.valid, dataset.test) if x is not None]
    summaries = {
        "binary": lambda: Summary(0.0, 1.0, finite=True, integers=True),
        "counts": lambda: Summary(
            0.0, dataset.total_count or max(int(x.max()) for x in splits), finite=True, integers=True
        ),
        "real": lambda: Summary(-math.inf, math.inf, finite=True, integers=False),
    }
    if dataset.values in summaries:
        family, arguments = choices(summaries[dataset.values]())[0]
        spec = {"class_path": f"ppl_vae.likelihoods.{family.__name__}", "init_args": arguments}
        return _with_defaults("likelihood", spec)
    raise InputError(
        "--likelihood",
        "a choice, since no likelihood is natural for grey levels in [0, 1] (Gaussian would do; or --view dynamic or "
        "threshold for Bernoulli)",
        "none",
    )


def _suited() -> str:
    """Every likelihood with the data that it suits, as its `suits` says."""
    lines = {kind.__name__: inspect.getdoc(kind.suits) or "" for kind in families(likelihoods, Likelihood)}
    first = {name: text.partition("\n")[0].rstrip(".") for name, text in lines.items()}
    return ", ".join(f"{name} ({text[:1].lower()}{text[1:]})" for name, text in first.items())


def build(settings: dict[str, Any], dataset: Dataset) -> VAE:
    """The VAE that the resolved ``settings`` name; raises `InputError` naming the option at fault."""
    dim, shape, seed = settings["latent_dim"], tuple(dataset.shape), settings["seed"]
    memory.check_model(settings, dataset.shape.numel(), dataset.sizes["train"])
    # A user's own class may draw its start from torch's global generator: that too is a function of the seed.
    with rng.seeded("cpu", seed, "command line"):
        prior = make("prior", settings["prior"], dim)
        likelihood = make("likelihood", settings["likelihood"], shape)
        posterior = make("posterior", settings["posterior"], dim)
        try:
            return VAE(
                prior,
                likelihood,
                posterior,
                encoder=_network("encoder", settings),
                decoder=_network("decoder", settings),
                seed=seed,
            )
        except InputError as error:
            names = {role: option(role) for role in (*_BASES, "hidden", "activation")}
            raise relabel(error, names | {"features": "--prior"}) from error


def objective(settings: dict[str, Any]) -> ELBO:
    """The objective; raises `InputError` naming the option at fault."""
    made: ELBO = make("objective", settings["objective"])
    return made


def import_class(role: str, spec: dict[str, Any]) -> type:
    """The class that ``spec`` names; raises `UsageError` if it is none, or not one for this ``role``."""
    path = spec["class_path"]
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(option(role), CLASSES[role], f"{path!r} ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, _BASES[role])):
        raise UsageError(option(role), CLASSES[role], f"{path!r} (no {_BASES[role].__name__})")
    return kind


def _with_defaults(role: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the options that the class has by default, so that a run does not change when they do."""
    kind = import_class(role, spec)
    given = dict(spec.get("init_args") or {})
    supplied = {"network": 2, "encoder": 2, "decoder": 2, "objective": 0}.get(role, 1)  # the sizes, by us
    for name, parameter in list(inspect.signature(kind).parameters.items())[supplied:]:
        plain = parameter.default is None or isinstance(
            parameter.default, bool | int | float | str | list | tuple
        )
        if (
            name not in given
            and plain
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ):
            given[name] = parameter.default
    return {"class_path": spec["class_path"], "init_args": given}


def make(role: str, spec: dict[str, Any], *sizes: Any, reverse: bool = False) -> Any:
    """The object that ``spec`` names, of these sizes; raises `InputError` naming the option at fault."""
    kind, given = import_class(role, spec), dict(spec["init_args"])
    if reverse and issubclass(kind, MLP) and isinstance(given.get("hidden"), Sequence):
        given["hidden"] = given["hidden"][::-1]
    names = {name: f"{option(role)}.{name}" for name in given}
    for short in ("hidden", "activation"):
        names[short] = f"{option(role)}.{short}" if role in ("encoder", "decoder") else option(short)
    for name, value in given.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(names[name], "an integer of 64 bits", value)
    try:
        return kind(*sizes, **given)
    except InputError as error:
        raise relabel(error, {"dim": "--latent-dim", **names}) from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise InputError(
            option(role), "a class that can be made", f"{spec['class_path']}, which raised {text}"
        ) from error


def _network(side: str, settings: dict[str, Any]) -> Callable[[Sequence[int], Sequence[int]], nn.Module]:
    role = side if settings[side] is not None else "network"

    def factory(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
        reverse = side == "decoder" and role == "network"
        made: nn.Module = make(role, settings[role], in_shape, out_shape, reverse=reverse)
        return made

    return factory
