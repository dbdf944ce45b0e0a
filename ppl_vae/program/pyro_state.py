"""Pyro's state of the whole process, and torch's that programs run under: `ppl_vae.exclusive` puts it back."""

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
    """The stack of handlers, the plates' dimensions, settings, the parameter store; whether gradients are recorded.

    Of the store it is the three dicts, not what is in them: Pyro swaps them while a `PyroModule` with parameters of
    its own runs. They are put back after a failure only, since a program may add parameters to them.
    """

    def read(self) -> _State:
        """The state as it is now."""
        flags = [getattr(owner, name) for owner, name in _FLAGS]
        store = [getattr(_PYRO_PARAM_STORE, name) for name in _STORE]
        return [*_PYRO_STACK], [*_DIM_ALLOCATOR._stack], flags, store, torch.is_grad_enabled()

    def write(self, value: _State, failed: bool) -> None:
        """Put back what `read` returned."""
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
    """Pyro's and torch's validation off, and both as they were afterwards."""
    # Pyro puts its own flags back, and torch's to what Pyro's was: a user may have set torch's alone.
    validating = Distribution._validate_args
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        Distribution.set_default_validate_args(validating)


exclusive.keep(PyroState())
