"""Whose parameters are whose: programs in one process share none, whatever the parameters are called."""

from __future__ import annotations

import weakref
from typing import Any

import pyro
import torch
from pyro.nn.module import _Context
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message, apply_stack
from torch import nn

if not hasattr(_Context, "param_state"):
    # A PyroModule made while `module_local_params` was off lacks what the setting needs of it, and Pyro raises
    # AttributeError when it is switched on, as here, around a program; None makes Pyro start an empty state.
    _Context.param_state = None  # type: ignore[assignment]


def expose_parameters(name: str, module: nn.Module) -> None:
    """Tell whatever Pyro handler is listening about a module's parameters, without Pyro's global store.

    `pyro.module` writes parameters into one store for the whole process, by name: a second model with the
    same names then trains (or freezes) the first one's. Here the parameter itself is the value of its
    ``param`` site, so `pyro.infer.SVI` finds and trains it and nothing else can.
    """
    if not _PYRO_STACK:
        return
    one_is_enough = any(isinstance(handler, OwnParameters) and not handler.listed for handler in _PYRO_STACK)
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            param_site(f"{name}.{key}", parameter)
            if one_is_enough:
                return


def param_site(name: str, parameter: torch.Tensor) -> None:
    """Tell whatever Pyro handler is listening about one leaf tensor, under a name."""
    _refer(parameter)
    apply_stack(
        Message(
            type="param", name=name, fn=_never_called, is_observed=False, args=(name, parameter), kwargs={},
            value=parameter, scale=1.0, mask=None, cond_indep_stack=(), done=True, stop=False,
            continuation=None, infer={},
        )
    )  # fmt: skip


def _refer(parameter: torch.Tensor) -> None:
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # Pyro's convention


def _never_called(*_: Any, **__: Any) -> None:
    raise AssertionError("a parameter site with a value was evaluated")


class OwnParameters(Messenger):
    """Answers ``pyro.param`` from a program's own store instead of the global one.

    Args:
        own: the store that the program trains.
        scratch: where first values go that nobody has trained. While evaluating, a name is looked up in
            ``own``, then in Pyro's global store (somebody may have trained it there), then in ``scratch``;
            ``None`` means that the program is being trained and ``own`` takes everything.
        owned: where the parameters of modules are noted, while training.
        role: "model" or "guide" in training. Parameters that modules bring have it put before their names: two
            modules may use one name for two parameters, and SVI, which goes by names, would train only one.
        listed: whether `expose_parameters` is to name all parameters of a module, or only the first. Listing them
            takes a quarter of the time that Pyro adds to a step, so `fit`, which asked for them once, does without;
            but Pyro's ELBOs go backward only if they saw a parameter.
    """

    def __init__(
        self,
        own: ParamStoreDict,
        scratch: ParamStoreDict | None,
        owned: dict[int, nn.Parameter],
        role: str = "",
        listed: bool = True,
    ) -> None:
        super().__init__()
        self.own, self.scratch, self.owned, self.role, self.listed = own, scratch, owned, role, listed
        self.trained = ParamStoreDict()

    def __enter__(self) -> OwnParameters:
        # Pyro hides its global store while a PyroModule with local parameters runs: know it from before.
        store = pyro.get_param_store()
        if self.scratch is not None and store:
            self.trained.set_state(
                {"params": dict(store.named_parameters()), "constraints": dict(store._constraints)}
            )
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.role:
            # A PyroModule that ran saved the global store, and Pyro strips what is in it of this reference, by
            # which SVI finds a parameter: those of the guide, too, when it is the model that ran.
            for parameter in self.owned.values():
                _refer(parameter)

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None:
            return
        name, *rest = msg["args"]
        if rest and isinstance(rest[0], nn.Parameter):
            # A module's own parameter (pyro.module): the module keeps it, under any name.
            _refer(rest[0])
            self.owned[id(rest[0])] = rest[0]
            msg["value"], msg["done"] = rest[0], True
            self._rename(msg)
            return
        if getattr(msg["fn"], "__func__", None) is not ParamStoreDict.get_param:
            self._rename(msg)  # a PyroModule's own parameter, which it brings itself
            return
        if self.scratch is None or name in self.own:
            msg["fn"] = self.own.get_param
        elif name in self.trained:
            msg["fn"] = self.trained.get_param
        else:
            msg["fn"] = self.scratch.get_param

    def _rename(self, msg: Any) -> None:
        if self.role:
            msg["name"] = f"{self.role}.{msg['name']}"


def leaf(site: Any) -> torch.Tensor:
    """The unconstrained tensor behind a parameter site."""
    leaf: torch.Tensor = site["value"].unconstrained()
    return leaf
