"""Guards: the assumptions of a captured graph, which are checked before each use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.program import matmul_precision
from ppl_vae.program.parameters import STORED, leaf

_PLAIN = (bool, int, float, str, type(None))
_INTERNAL = frozenset(vars(nn.Module()))


class Recording:
    """The modules and parameters that a run of a program uses.

    Attributes:
        modules: all modules that were called, with their children.
        leaves: the unconstrained tensors of parameter sites, by name.
        kept: the parameters that come, or would come, from a parameter store: (name in the store, tensor or None).
    """

    def __init__(self, known: Iterable[nn.Module] = ()) -> None:
        self.modules: list[nn.Module] = []
        self.leaves: dict[str, Tensor] = {}
        self.kept: list[tuple[str, Tensor | None]] = []
        self._ids: set[int] = set()
        for module in known:
            self._note(module)

    def _note(self, module: nn.Module) -> None:
        if id(module) not in self._ids:
            for child in module.modules():
                if id(child) not in self._ids:
                    self._ids.add(id(child))
                    self.modules.append(child)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record the modules and parameters of a run inside of the context."""
        thread = threading.get_ident()

        def note(module: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread:  # the hook is all threads'
                self._note(module)

        hook = register_module_forward_pre_hook(note)
        try:
            with poutine.trace(param_only=True) as tracer:
                yield
        finally:
            hook.remove()
        for name, site in tracer.trace.nodes.items():
            value: Any = site["value"]
            # A parameter of a module that keeps its own may be without Pyro's reference to what is behind it.
            self.leaves[name] = leaf(site) if hasattr(value, "unconstrained") else value
            infer: Any = site["infer"] or {}
            if STORED in infer:
                self.kept.append((site["args"][0], infer[STORED]))
            elif getattr(site["fn"], "__func__", None) is ParamStoreDict.get_param:
                self.kept.append((site["args"][0], self.leaves[name]))

    def tensors(self) -> list[Tensor]:
        """All parameters and buffers that were used, each once."""
        found = [t for m in self.modules for group in (m._parameters, m._buffers) for t in group.values()]
        every = [*self.leaves.values(), *(t for t in found if t is not None)]
        return list({id(t): t for t in every}.values())


class Guards:
    """The conditions under which a graph is still that of a program.

    All parameters and buffers must be the same objects, with the same dtype and device. Modules must be in the same
    mode, and have the same plain attributes (numbers, flags, strings).

    Args:
        recording: the recording of the captured run.
        fixed: the tensors that the graph reads.
        stores: the stores of ``pyro.param`` statements, in the order of look-up.
        modeless: modules whose mode is not checked, since the program sets it.
        trained: leaves whose ``requires_grad`` must not change.
    """

    def __init__(
        self,
        recording: Recording,
        fixed: Sequence[Tensor],
        stores: Sequence[ParamStoreDict],
        modeless: Iterable[nn.Module] = (),
        trained: Iterable[Tensor] = (),
    ) -> None:
        ignored = {id(child) for module in modeless for child in module.modules()}
        # Weakly: a module may hold the program that holds these.
        self._modules = [
            (weakref.ref(module), None if id(module) in ignored else module.training, _state(module))
            for module in recording.modules
        ]
        self._fixed = [(t, t.dtype, t.device, t.shape, t.stride()) for t in fixed]
        self._trained = [(t, t.requires_grad) for t in trained]
        self._stores, self._kept = tuple(stores), recording.kept

    def hold(self) -> bool:
        """Whether all conditions hold."""
        for t, dtype, device, shape, stride in self._fixed:
            if t.dtype is not dtype or t.shape != shape or t.stride() != stride or t.device != device:
                return False
        if any(t.requires_grad is not wanted for t, wanted in self._trained):
            return False
        for ref, mode, (tensors, plain) in self._modules:
            module = ref()
            if module is None or (mode is not None and module.training is not mode):
                return False
            if tensors != (*map(id, module._parameters.values()), *map(id, module._buffers.values())):
                return False
            attributes = module.__dict__
            for name, value in plain:
                now = attributes.get(name, attributes)
                if now is not value and (isinstance(value, Tensor) or now != value):
                    return False
        return all(self._look_up(name) is value for name, value in self._kept)

    def _look_up(self, name: str) -> Tensor | None:
        for store in self._stores:
            if name in store._params:
                found: Tensor = store._params[name]
                return found
        return None


def _state(module: nn.Module) -> tuple[tuple[int, ...], list[tuple[str, Any]]]:
    """The ids of a module's tensors, and the attributes that may have become constants of a graph."""
    tensors = (*map(id, module._parameters.values()), *map(id, module._buffers.values()))
    plain = [
        (name, value)
        for name, value in vars(module).items()
        if name not in _INTERNAL and (type(value) in _PLAIN or isinstance(value, Tensor))
    ]
    return tensors, plain


def world() -> tuple[Any, ...]:
    """The settings of torch, and of a run, that become a part of a graph."""
    autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    dtypes = (torch.get_autocast_dtype("cpu"), torch.get_autocast_dtype("cuda")) if any(autocast) else ()
    return (
        matmul_precision.current(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        autocast,
        dtypes,
    )


def signature(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """Shapes, strides, dtypes and devices of tensors, and which of them are the same object."""
    first: dict[int, int] = {}
    return tuple(
        (t.shape, t.stride(), t.dtype, t.device, first.setdefault(id(t), i)) for i, t in enumerate(tensors)
    )
