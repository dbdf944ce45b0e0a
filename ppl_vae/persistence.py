"""Saving and loading a VAE: one safetensors file with the parts' constructor calls as JSON, without pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import files, rng
from ppl_vae._part import Part
from ppl_vae.config import rebuild
from ppl_vae.errors import InputError, describe, one_line
from ppl_vae.likelihoods import Likelihood
from ppl_vae.posteriors import Posterior
from ppl_vae.priors import Prior
from ppl_vae.stored import Stored
from ppl_vae.trust import Trust
from ppl_vae.vae import VAE

_FORMAT = "ppl_vae VAE 1"
_PARTS: dict[str, type[Part]] = {
    "prior": Prior,
    "likelihood": Likelihood,
    "posterior": Posterior,
    "encoder": Part,
    "decoder": Part,
}
_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_FEW = 2**20  # numbers that may be allocated for any content of the file


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write a VAE to one file, atomically.

    For the user's own networks that are not a `Part`, only the parameters are saved; pass the networks to `load` again.

    Raises:
        InputError: if a part was made with arguments that JSON cannot represent.
    """
    if not isinstance(vae, VAE):
        raise InputError("vae", "a VAE", describe(vae))
    dtype = str(next(vae.parameters()).dtype).removeprefix("torch.")
    files.write_tensors(path, vae.state_dict(), {"format": _FORMAT, "dtype": dtype, "config": vae.config()})


def load(
    path: str | os.PathLike[str],
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    trusted: Sequence[str] = (),
) -> VAE:
    """The VAE that `save` wrote, on the CPU.

    The file names the classes of its parts, and importing a class runs the code of its module. A class must therefore
    belong to ppl_vae, to a module that this process has already imported, or to a package in ``trusted``, which is then
    imported. It must be a `Prior`, `Likelihood`, `Posterior` or network `Part`, depending on its role.

    Args:
        path: the file.
        encoder: the network, if the VAE was made with the user's own.
        decoder: likewise.
        trusted: names of packages (or modules) whose classes the file may name, such as ``("my_package",)``.

    Raises:
        InputError: naming the file, if it is missing, a pickle, another kind of file, or was changed; naming the part
            and its class, if the class is not trusted or cannot be made; naming a parameter that is not finite, or has
            another shape or dtype than in the part.
    """
    return load_trusting(path, Trust.of(trusted), encoder=encoder, decoder=decoder)


def load_trusting(
    path: str | os.PathLike[str],
    trust: Trust,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> VAE:
    """`load` with a `Trust`."""
    source, given = os.fspath(path), {"encoder": encoder, "decoder": decoder}
    # The classes are checked first: if one is refused, nothing is made, and no other error is reported.
    tensors, metadata = files.read_tensors(
        path, inspect=lambda found: _check_classes(found, source, trust, given)
    )
    config, dtype = metadata["config"], _DTYPES[metadata["dtype"]]
    _check_sizes(config, [role for role in _PARTS if given.get(role) is None], tensors, source, trust)
    with rng.forked():  # parts draw their first parameters, only to have them replaced
        parts = {
            name: rebuild(config[name], f"{source}: {name}", _PARTS[name], trust)
            for name in ("prior", "likelihood", "posterior")
        }
        networks: dict[str, nn.Module] = {
            role: network if network is not None else rebuild(config[role], f"{source}: {role}", Part, trust)
            for role, network in given.items()
        }
        try:
            vae = VAE(
                **parts, encoder=networks["encoder"], decoder=networks["decoder"], **_options(config)
            ).to(dtype)
        except InputError as error:
            if given.get(error.argument) is not None:
                raise
            raise InputError(f"{source}: {error.argument}", error.expected, error.received) from None
        except Exception as error:  # a part of the user's own may raise anything
            received = f"{type(error).__name__}: {one_line(error, 160)}"
            raise InputError(source, "parts that make a VAE", received) from error
    _check_parameters(vae, tensors, source)
    vae.load_state_dict(tensors)
    return vae.eval()


def _check_classes(metadata: Any, source: str, trust: Trust, given: Mapping[str, nn.Module | None]) -> None:
    """Refuse metadata that are none of a VAE, or that name classes that may not be used here."""
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise InputError(source, "a VAE saved by ppl_vae", "a file of another kind")
    config = metadata.get("config")
    if (
        not isinstance(config, dict)
        or not config.keys() >= _PARTS.keys()
        or metadata.get("dtype") not in list(_DTYPES)
    ):
        raise InputError(source, "a VAE saved by ppl_vae", "one whose metadata are not complete")
    for role, base in _PARTS.items():
        spec = config[role]
        if role in given and given[role] is not None:
            continue
        if role in given and spec is None:
            raise InputError(role, f"the network that {source} was saved with (not one of ppl_vae's)", None)
        if not isinstance(spec, dict) or not isinstance(spec.get("init_args"), dict):
            raise InputError(f"{source}: {role}", "a class_path and its init_args", describe(spec))
        trust.find(spec.get("class_path"), base, f"{source}: {role}")


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a VAE beside its parts, which a file has only if they were given."""
    return {name: config[name] for name in ("missing", "covariates") if name in config}


def _check_sizes(
    config: Mapping[str, Any],
    roles: Sequence[str],
    tensors: Mapping[str, Tensor],
    source: str,
    trust: Trust,
) -> None:
    """Refuse sizes of ppl_vae's own parts, in ``roles``, that the file has no parameters for, unallocated."""
    there = max(sum(value.numel() for value in tensors.values()), _FEW)

    def check(where: str, needed: int, value: object) -> None:
        if needed > there:
            expected = f"sizes for which the file has parameters ({there} numbers)"
            raise InputError(f"{source}: {where}", expected, describe(value))

    covariates = config.get("covariates")
    for name, number in covariates.items() if isinstance(covariates, dict) else ():
        check(f"covariates: {name}", _product(number), number)
    own = {role: config[role] for role in roles if config[role]["class_path"].startswith("ppl_vae.")}
    arguments = {role: spec["init_args"] for role, spec in own.items()}
    for role, given in arguments.items():
        for name in ("dim", "components", "shape", "in_shape", "out_shape"):
            check(f"{role}: {name}", _product(given.get(name)), given.get(name))
    prior = arguments.get("prior", {})
    vamp = own.get("prior", {}).get("class_path", "").endswith("VampPrior")  # whose components are data
    each = _product(arguments.get("likelihood", {}).get("shape") if vamp else prior.get("dim"))
    check("prior: components", _product(prior.get("components")) * each, prior)
    for role in ("encoder", "decoder"):
        if role in arguments:
            with torch.device("meta"):  # which knows shapes and allocates nothing
                made = rebuild(config[role], f"{source}: {role}", Part, trust)
            check(role, sum(value.numel() for value in made.parameters()), arguments[role])


def _product(sizes: Any) -> int:
    """The product of sizes that are integers; 0 for anything else, which the part itself will refuse."""
    given = sizes if isinstance(sizes, list) else [sizes]
    return math.prod(given) if given and all(type(size) is int for size in given) else 0


def _check_parameters(vae: VAE, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not the VAE's in name, shape and dtype, and parameters that are not finite."""
    state, buffers = vae.state_dict(), {name for name, _ in vae.named_buffers()}
    stored = Stored(source, tensors, {})
    for name in state:
        if name not in tensors:
            raise InputError(source, "parameters that fit the VAE's parts", f"none called {name!r}")
    for name, value in tensors.items():
        if name not in state or value.shape != state[name].shape or value.dtype != state[name].dtype:
            ours = describe(state[name]) if name in state else "no such tensor"
            raise InputError(
                source, "parameters that fit the VAE's parts", f"{name}: {describe(value)}, not {ours}"
            )
        if value.is_floating_point() and name not in buffers:
            largest = torch.finfo(value.dtype).max
            stored.tensor(name, dtype=value.dtype, low=-largest, high=largest)
        elif value.is_floating_point() and bool(value.isnan().any()):
            raise stored.wrong(name, "numbers", "NaN")
