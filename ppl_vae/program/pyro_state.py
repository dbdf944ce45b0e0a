"""The global state of Pyro and torch that runs of a program change; `ppl_vae.exclusive` restores it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions.util
import pyro.infer.util
import pyro.nn.module
import pyro.poutine.util
import torch
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


_State = tuple[list[Any], list[str | None], list[Any], list[Any], bool]


class PyroState:
    """The stack of handlers, the dimensions of plates, settings, the parameter store, and the gradient mode of torch.

    For the store, the three dicts themselves are saved, not their content: Pyro exchanges them while a `PyroModule`
    with its own parameters runs. They are restored only after an error, since a program may add parameters to them.
    """

    def read(self) -> _State:
        """The current state."""
        flags = [getattr(owner, name) for owner, name in _FLAGS]
        store = [getattr(_PYRO_PARAM_STORE, name) for name in _STORE]
        return [*_PYRO_STACK], [*_DIM_ALLOCATOR._stack], flags, store, torch.is_grad_enabled()

    def write(self, value: _State, failed: bool) -> None:
        """Restore a state from `read`."""
        stack, dims, flags, store, gradients = value
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:] = stack, dims
        for (owner, name), flag in zip(_FLAGS, flags, strict=True):
            if getattr(owner, name) is not flag:
                setattr(owner, name, flag)
        if torch.is_grad_enabled() is not gradients:
            torch._C._set_grad_enabled(gradients)
        if failed:
            for name, part in zip(_STORE, store, strict=True):
                setattr(_PYRO_PARAM_STORE, name, part)


@contextmanager
@exclusive.shielded
def unvalidated() -> Iterator[None]:
    """Switch the validation of Pyro and torch off inside of the context, and restore both afterwards."""
    # Pyro restores its own flags, and sets torch's flag to its own; but a user may have set only torch's.
    validating = Distribution._validate_args
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        Distribution.set_default_validate_args(validating)


exclusive.keep(PyroState())
