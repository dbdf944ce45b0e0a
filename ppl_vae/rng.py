"""Random streams: the same seed gives the same numbers, independently of other work and its order.

Pyro's distributions draw from torch's global generator only. All parts of the library therefore draw inside of `seeded`
or `forked`, which restore the global state afterwards, and each unit of work (an epoch, a tile of data and samples) has
its own stream. Results then do not depend on the division of the work. Threads that use this module do not draw from
the global generator at the same time: they wait, or take turns at the start of a unit of work, each with its own state.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch

from ppl_vae.exclusive import Own, give_way


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """A 32-bit seed for stream ``index`` of ``purpose`` under the user's ``seed``.

    ``(h(seed, purpose) + index) mod 2**32``. torch's CPU generator uses only the low 32 bits of a seed. The streams of
    one purpose are therefore numbered consecutively, so that they are different without relying on a hash.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + index) % 2**32


def generator(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` with stream ``index`` of ``purpose``, for draws that do not go through Pyro."""
    give_way()
    return torch.Generator(device).manual_seed(derive(seed, purpose, index))


State = tuple[torch.Tensor, torch.Tensor | None]
"""Torch's global random state: the CPU's, and a GPU's."""


def state(device: torch.device | str = "cpu") -> State:
    """Torch's global random state, of the CPU and of ``device``."""
    device = torch.device(device)
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_state(value: State, device: torch.device | str = "cpu") -> None:
    """Restore a state from `state` for ``device``."""
    torch.set_rng_state(value[0])
    if value[1] is not None:
        torch.cuda.set_rng_state(value[1], torch.device(device))


def forked(device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """Restore torch's global random state (of the CPU and of ``device``) at the end of the context."""
    return Own(lambda: state(device), lambda value: set_state(value, device))


def reseed(device: torch.device | str, seed: int, purpose: str, index: int = 0) -> None:
    """Set the global generators of the CPU and of ``device`` to a stream. Call it only inside of `forked`."""
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
    """A context with stream ``index`` of ``purpose``; the global random state is restored afterwards."""
    return Own(
        lambda: state(device),
        lambda value: set_state(value, device),
        lambda: reseed(device, seed, purpose, index),
    )
