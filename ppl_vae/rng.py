"""Random streams: a seed in, the same numbers out, whatever runs before, beside or in what order.

Pyro's distributions draw from torch's global generator and take none of their own. So every part of the
library that draws does it inside `seeded`, which puts the global state back afterwards, and gives every unit
of work (an epoch, a tile of data and samples) a stream of its own. Results then cannot depend on how work is
cut or shared out. Other threads do not draw from the global generator meanwhile if they, too, go through here: they
wait, or have their turn, with a state of their own, where a unit of work begins: where it takes its stream.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch

from ppl_vae.exclusive import Own, give_way


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """A 32-bit seed for stream ``index`` of ``purpose`` under the user's ``seed``.

    ``(h(seed, purpose) + index) mod 2**32``. torch's CPU generator uses only the low 32 bits of a seed, so the
    streams of one run are kept apart by counting, not by hoping that hashes do not collide.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + index) % 2**32


def generator(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device``, on stream ``index`` of ``purpose``, for draws that need not go through Pyro."""
    give_way()
    return torch.Generator(device).manual_seed(derive(seed, purpose, index))


State = tuple[torch.Tensor, torch.Tensor | None]
"""Torch's global random state: the CPU's, and a GPU's."""


def state(device: torch.device | str = "cpu") -> State:
    """Torch's global random state, of the CPU and of ``device``."""
    device = torch.device(device)
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_state(value: State, device: torch.device | str = "cpu") -> None:
    """Put back what `state` returned for ``device``."""
    torch.set_rng_state(value[0])
    if value[1] is not None:
        torch.cuda.set_rng_state(value[1], torch.device(device))


def forked(device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """Put torch's global random state (of the CPU and of ``device``) back on the way out."""
    return Own(lambda: state(device), lambda value: set_state(value, device))


def reseed(device: torch.device | str, seed: int, purpose: str, index: int = 0) -> None:
    """Set the global generators of the CPU and of ``device`` to a stream. Only ever call it inside `forked`."""
    give_way()
    value = derive(seed, purpose, index)
    torch.default_generator.manual_seed(value)
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)


def seeded(
    device: torch.device | str, seed: int, purpose: str, index: int = 0
) -> AbstractContextManager[object]:
    """Run a block on stream ``index`` of ``purpose``; the global random state is as before afterwards."""
    return Own(
        lambda: state(device),
        lambda value: set_state(value, device),
        lambda: reseed(device, seed, purpose, index),
    )
