"""Pyro's state that belongs to the whole process: kept as it is by every section of `ppl_vae.exclusive`."""

from __future__ import annotations

from typing import Any

import pyro.distributions.util
import pyro.infer.util
import pyro.nn.module
import pyro.poutine.util
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_PARAM_STORE, _PYRO_STACK
from torch.distributions import Distribution

from ppl_vae import exclusive

_FLAGS: tuple[tuple[Any, str], ...] = (
    (pyro.nn.module, "_MODULE_LOCAL_PARAMS"),
    (pyro.distributions.util, "_VALIDATION_ENABLED"),
    (pyro.poutine.util, "_VALIDATION_ENABLED"),
    (pyro.infer.util, "_VALIDATION_ENABLED"),
    (Distribution, "_validate_args"),
)
_STORE = ("_params", "_param_to_name", "_constraints")


class PyroState:
    """The stack of handlers, the plates' dimensions, the settings that programs are run under, the parameter store.

    Of the store it is the three dicts, not what is in them: Pyro swaps them while a `PyroModule` with parameters of
    its own runs. They are put back after a failure only, since a program may add parameters to them.
    """

    def read(self) -> tuple[list[Any], list[str | None], list[Any], list[Any]]:
        """The state as it is now."""
        flags = [getattr(owner, name) for owner, name in _FLAGS]
        store = [getattr(_PYRO_PARAM_STORE, name) for name in _STORE]
        return [*_PYRO_STACK], [*_DIM_ALLOCATOR._stack], flags, store

    def write(self, value: tuple[list[Any], list[str | None], list[Any], list[Any]], failed: bool) -> None:
        """Put back what `read` returned."""
        stack, dims, flags, store = value
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:] = stack, dims
        for (owner, name), flag in zip(_FLAGS, flags, strict=True):
            if getattr(owner, name) is not flag:
                setattr(owner, name, flag)
        if failed:
            for name, part in zip(_STORE, store, strict=True):
                setattr(_PYRO_PARAM_STORE, name, part)


exclusive.keep(PyroState())
