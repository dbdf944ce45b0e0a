"""Parameters of programs: each program has its own, even if Pyro's global store has the same names."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn.module import _Context
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER, ParamStoreDict, normalize_param_name
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message, apply_stack
from torch import nn
from torch.distributions import transform_to

from ppl_vae.errors import ParameterStoreWarning
from ppl_vae.program.modules import Networks

STORED = "_ppl_vae_stored"
"""Key in ``infer`` of a module's parameter site with ``update_module_params=True``: the store's value or None."""

if not hasattr(_Context, "param_state"):
    # A PyroModule that was made while `module_local_params` was off lacks an attribute for this setting, and Pyro
    # raises AttributeError when the setting is switched on around a program. None makes Pyro start an empty state.
    _Context.param_state = None  # type: ignore[assignment]


def expose_parameters(name: str, module: nn.Module) -> None:
    """Report a module's parameters to Pyro's handlers, without Pyro's global store.

    `pyro.module` writes parameters into one store for the whole process, by name: a second model with the same names
    then trains (or freezes) the parameters of the first one. Here the parameter itself is the value of its ``param``
    site, so `pyro.infer.SVI` finds and trains exactly this parameter.
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
    """Report one leaf tensor to Pyro's handlers, under a name."""
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
    """Takes the values of ``pyro.param`` from a program's own store instead of the global one.

    Args:
        own: the store that the program trains.
        scratch: the store of initial values that were never trained. During evaluation, a name is looked up in ``own``,
            then in Pyro's global store (where it may have been trained), then in ``scratch``. ``None`` means that the
            program is being trained, and all values are in ``own``.
        owned: during training, a dict to which the parameters of modules are added.
        role: "model" or "guide" during training. It is prepended to the names of modules' parameters: two modules may
            use one name for two parameters, and SVI, which identifies parameters by name, would train only one.
        listed: whether `expose_parameters` reports all parameters of a module, or only the first. Reporting all takes a
            quarter of the time that Pyro adds to a step, and `fit` knows them already. But one is needed: Pyro's ELBOs
            compute gradients only if they have seen a parameter.
        networks: the networks to which modules of ``pyro.module`` statements are added, during evaluation.
    """

    def __init__(
        self,
        own: ParamStoreDict,
        scratch: ParamStoreDict | None,
        owned: dict[int, nn.Parameter],
        role: str = "",
        listed: bool = True,
        networks: Networks | None = None,
    ) -> None:
        super().__init__()
        self.own, self.scratch, self.owned, self.role, self.listed = own, scratch, owned, role, listed
        self.trained, self.networks = ParamStoreDict(), networks
        self._stored: Mapping[str, torch.Tensor] = {}
        self._constraints: Mapping[str, Any] = {}

    def __enter__(self) -> OwnParameters:
        # Pyro hides its global store while a PyroModule with local parameters runs, so it is read before.
        store = pyro.get_param_store()
        self._stored, self._constraints = store._params, store._constraints
        if self.scratch is not None and store:
            self.trained.set_state(
                {"params": dict(store.named_parameters()), "constraints": dict(store._constraints)}
            )
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.role:
            # A PyroModule saves the global store when it runs, and Pyro then removes from all parameters in it this
            # reference, by which SVI finds a parameter. A run of the model does this to the guide's parameters, too.
            for parameter in self.owned.values():
                _refer(parameter)

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None:
            return
        name, *rest = msg["args"]
        announced = _announced(sys._getframe(1)) if _MODULE_NAMESPACE_DIVIDER in name else None
        if rest and (isinstance(rest[0], nn.Parameter) or announced is not None):
            # A module's own parameter (pyro.module): the module keeps it, under any name.
            parameter = self._of_module(msg, name, rest[0], announced)
            _refer(parameter)
            self.owned[id(parameter)] = parameter
            msg["value"], msg["done"], msg["fn"] = parameter, True, _never_called
            self._rename(msg)
            return
        if getattr(msg["fn"], "__func__", None) is not ParamStoreDict.get_param:
            if name in self._stored and self.scratch is not None:
                self._compare(name, leaf({"value": msg["fn"]()}), _COPY)
            self._rename(msg)  # a PyroModule's own parameter, which it brings itself
            return
        if self.scratch is None or name in self.own:
            msg["fn"] = self.own.get_param
        elif name in self.trained:
            msg["fn"] = self.trained.get_param
        else:
            msg["fn"] = self.scratch.get_param

    def _of_module(self, msg: Any, name: str, parameter: Any, announced: Mapping[str, Any] | None) -> Any:
        """A module's parameter: its own, or the store's if ``update_module_params`` is set, as in plain Pyro."""
        if announced is not None and self.networks is not None and self.scratch is not None:
            self.networks.note(announced["nn_module"])
        stored = self._stored.get(name)
        if announced is not None and announced["update_module_params"]:
            msg["infer"] = {**(msg["infer"] or {}), STORED: stored}
            if stored is not None and stored is not parameter:
                return transform_to(self._constraints[name])(stored)  # pyro.module puts it into the module
        elif stored is not None and stored is not parameter and self.scratch is not None:
            self._compare(name, parameter, _COPY if announced is None else _FLAG)
        return parameter

    def _compare(self, name: str, parameter: torch.Tensor, remedy: str) -> None:
        """Warn, once for each program, if the store and a module have different values."""
        stored = self._stored[name]
        if self.networks is None or self.networks.told or stored is parameter:
            return
        # Once for each pair of tensors: a run that is captured as a graph must not read values of a tensor.
        key = (id(stored), stored._version, id(parameter), parameter._version)
        if self.networks.alike.get(name) == key:
            return
        if stored.shape == parameter.shape and bool((stored == parameter).all()):
            self.networks.alike[name] = key
            return
        self.networks.told = True
        warnings.warn(
            f"{normalize_param_name(name)}: Pyro's parameter store has other values than the module, and the module's "
            f"are used; to use the store's, {remedy}; if they belong to another program, call pyro.clear_param_store()",
            ParameterStoreWarning,
            stacklevel=2,
        )

    def _rename(self, msg: Any) -> None:
        if self.role:
            msg["name"] = f"{self.role}.{msg['name']}"


def leaf(site: Any) -> torch.Tensor:
    """The unconstrained tensor behind a parameter site."""
    leaf: torch.Tensor = site["value"].unconstrained()
    return leaf


def leaves_of(model: Callable[..., Any], guide: Callable[..., Any], x: Any) -> dict[str, torch.Tensor]:
    """The trainable leaf tensors (unconstrained) in a run of model and guide on ``x``, each once, by site name."""
    with torch.no_grad(), poutine.trace(param_only=True) as capture:
        guide_trace = poutine.trace(guide).get_trace(x)
        poutine.replay(model, trace=guide_trace)(x)
    leaves = {name: leaf(site) for name, site in capture.trace.nodes.items() if site["type"] == "param"}
    first = {id(value): name for name, value in reversed(leaves.items())}  # a module may be in both
    return {name: value for name, value in leaves.items() if first[id(value)] == name}


def _announced(frame: FrameType | None) -> Mapping[str, Any] | None:
    """The arguments of the ``pyro.module`` statement that made a parameter's statement; None if there is none."""
    for _ in range(_FRAMES):
        if frame is None:
            return None
        if frame.f_code is _STATEMENT:
            return frame.f_locals
        frame = frame.f_back
    return None


_FLAG, _COPY = "pass update_module_params=True to pyro.module", "copy them into the module first"
_STATEMENT = pyro.primitives.module.__code__
_FRAMES = 12  # between a handler and the statement there are only Pyro's frames
