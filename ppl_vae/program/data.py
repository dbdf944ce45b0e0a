"""Data of a program: a tensor, or a dict of tensors, with the data on the first axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ppl_vae.errors import InputError, describe

Data = torch.Tensor | Mapping[str, torch.Tensor]
"""The argument of model and guide: a tensor ``(N, ...)``, or a dict of tensors with the same first axis."""

Latents = Mapping[str, torch.Tensor]
"""Values of the latent sites, by name: ``(S, N, *event)`` each."""


def num_data(x: Data, argument: str = "x") -> int:
    """N, the length of the first axis of ``x``.

    Raises:
        InputError: if ``x`` is neither a tensor nor a dict of tensors, is empty, or its tensors have different N.
    """
    for name, value in {"": x}.items() if isinstance(x, torch.Tensor) else _entries(x):
        if isinstance(value, torch.Tensor) and (value.layout is not torch.strided or value.is_nested):
            where = f"{argument}[{name!r}]" if name else argument
            raise InputError(where, "a dense tensor (x.to_dense() of a sparse one)", str(value.layout))
    if isinstance(x, torch.Tensor):
        if x.ndim == 0 or len(x) == 0:
            raise InputError(argument, "a tensor with at least one datum on its first axis", describe(x))
        return len(x)
    if not isinstance(x, Mapping) or not x or not all(isinstance(v, torch.Tensor) for v in x.values()):
        raise InputError(
            argument, "a tensor, or a dict of tensors, with N data on the first axis", describe(x)
        )
    sizes = {name: (len(value) if value.ndim else 0) for name, value in x.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise InputError(argument, "tensors with the same positive number of data", sizes)
    return next(iter(sizes.values()))


def _entries(x: object) -> Iterable[tuple[object, object]]:
    return x.items() if isinstance(x, Mapping) else ()


def take(x: Data, index: slice | torch.Tensor) -> Data:
    """The data of ``x`` at ``index`` of the first axis."""
    if isinstance(x, torch.Tensor):
        # index_select copies whole rows; x[index] goes through general indexing, five times slower here.
        return x[index] if isinstance(index, slice) else x.index_select(0, index)
    return {
        name: value[index] if isinstance(index, slice) else value.index_select(0, index)
        for name, value in x.items()
    }


def kind_of(x: Data) -> tuple[object, ...]:
    """The names, shapes, dtypes and devices of data; a program runs in the same way for all data of one kind."""
    entries = [("", x)] if isinstance(x, torch.Tensor) else x.items()
    return tuple((name, value.shape, value.dtype, value.device) for name, value in entries)


def device_of(x: Data) -> torch.device:
    """The device of ``x``."""
    return (x if isinstance(x, torch.Tensor) else next(iter(x.values()))).device


def to_device(x: Data, device: torch.device | str) -> Data:
    """``x`` on ``device``."""
    if isinstance(x, torch.Tensor):
        return x.to(device)
    return {name: value.to(device) for name, value in x.items()}


def write_back(
    observed: torch.Tensor,
    draw: torch.Tensor,
    x: Mapping[str, torch.Tensor],
    drawn: Mapping[str, torch.Tensor],
) -> bool:
    """Write ``draw`` into ``drawn``, at the place in memory that ``observed`` has in the same tensor of ``x``."""
    for name, value in x.items():
        if observed.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
            offset = observed.storage_offset() - value.storage_offset()
            target = drawn[name].as_strided(observed.shape, observed.stride(), offset)
            target.copy_(draw.reshape(observed.shape))
            return True
    return False
