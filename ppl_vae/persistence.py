"""Saving and loading a VAE: one safetensors file with the parts' constructor calls as JSON. Never a pickle."""

from __future__ import annotations

import os

import torch
from torch import nn

from ppl_vae import files, rng
from ppl_vae._part import rebuild
from ppl_vae.errors import InputError, describe
from ppl_vae.vae import VAE

_FORMAT = "ppl_vae VAE 1"
_PARTS = {"prior", "likelihood", "posterior", "encoder", "decoder"}


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write a VAE to one file, atomically.

    Networks of the user's own that are not a `Part` are saved by their parameters only: `load` must be given
    the networks again.

    Raises:
        InputError: if a part was made with arguments that JSON cannot hold.
    """
    if not isinstance(vae, VAE):
        raise InputError("vae", "a VAE", describe(vae))
    dtype = str(next(vae.parameters()).dtype).removeprefix("torch.")
    files.write_tensors(path, vae.state_dict(), {"format": _FORMAT, "dtype": dtype, "config": vae.config()})


def load(
    path: str | os.PathLike[str], *, encoder: nn.Module | None = None, decoder: nn.Module | None = None
) -> VAE:
    """The VAE that `save` wrote, on the CPU.

    Args:
        path: the file.
        encoder: the network, if the VAE was made with one of the user's own.
        decoder: likewise.

    Raises:
        InputError: naming the file, if it is missing, no such file, a pickle, or of another kind; naming the
            part, if it cannot be made again.
    """
    tensors, metadata = files.read_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise InputError(str(path), "a VAE saved by ppl_vae", "a file of another kind")
    config, dtype = metadata.get("config"), getattr(torch, str(metadata.get("dtype")), None)
    if not isinstance(config, dict) or not config.keys() >= _PARTS or not isinstance(dtype, torch.dtype):
        raise InputError(str(path), "a VAE saved by ppl_vae", "one whose metadata are not complete")
    with rng.forked():  # parts draw their first parameters, only to have them replaced
        parts = {
            name: rebuild(config[name], f"{path}: {name}") for name in ("prior", "likelihood", "posterior")
        }
        networks: dict[str, nn.Module] = {}
        for role, given in (("encoder", encoder), ("decoder", decoder)):
            if given is None and config[role] is None:
                raise InputError(role, f"the network that {path} was saved with (not one of ppl_vae's)", None)
            networks[role] = given if given is not None else rebuild(config[role], f"{path}: {role}")
        vae = VAE(**parts, encoder=networks["encoder"], decoder=networks["decoder"]).to(dtype)
    try:
        vae.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(str(path), "parameters that fit the VAE's parts", error) from None
    return vae.eval()
