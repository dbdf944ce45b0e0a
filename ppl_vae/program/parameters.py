"""Whose parameters are whose: programs in one process share none, whatever the parameters are called."""

from __future__ import annotations

import weakref
from typing import Any

import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message, apply_stack
from torch import nn


def expose_parameters(name: str, module: nn.Module) -> None:
    """Tell whatever Pyro handler is listening about a module's parameters, without Pyro's global store.

    `pyro.module` writes parameters into one store for the whole process, by name: a second model with the
    same names then trains (or freezes) the first one's. Here the parameter itself is the value of its
    ``param`` site, so `pyro.infer.SVI` finds and trains it and nothing else can.
    """
    if not _PYRO_STACK:
        return
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            _param_site(f"{name}.{key}", parameter)


def _param_site(name: str, parameter: nn.Parameter) -> None:
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # Pyro's convention
    apply_stack(
        Message(
            type="param", name=name, fn=_never_called, is_observed=False, args=(name, parameter), kwargs={},
            value=parameter, scale=1.0, mask=None, cond_indep_stack=(), done=True, stop=False,
            continuation=None, infer={},
        )
    )  # fmt: skip


def _never_called(*_: Any, **__: Any) -> None:
    raise AssertionError("a parameter site with a value was evaluated")


class OwnParameters(Messenger):
    """Answers ``pyro.param`` from a program's own store instead of the global one.

    Args:
        own: the store that the program trains.
        scratch: where first values go that nobody has trained. While evaluating, a name is looked up in
            ``own``, then in Pyro's global store (somebody may have trained it there), then in ``scratch``;
            ``None`` means that the program is being trained and ``own`` takes everything.
    """

    def __init__(self, own: ParamStoreDict, scratch: ParamStoreDict | None) -> None:
        super().__init__()
        self.own, self.scratch = own, scratch

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None:
            return
        name, *rest = msg["args"]
        if rest and isinstance(rest[0], nn.Parameter):
            # A module's own parameter (pyro.module): the module keeps it, under any name.
            rest[0].unconstrained = weakref.ref(rest[0])  # type: ignore[attr-defined]
            msg["value"], msg["done"] = rest[0], True
            return
        if self.scratch is None or name in self.own:
            msg["fn"] = self.own.get_param
        elif name not in pyro.get_param_store():
            msg["fn"] = self.scratch.get_param


def leaf(site: Any) -> torch.Tensor:
    """The unconstrained tensor behind a parameter site."""
    leaf: torch.Tensor = site["value"].unconstrained()
    return leaf
