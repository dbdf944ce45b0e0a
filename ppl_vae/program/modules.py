"""The networks of a program: the modules that own its model and guide, and the modules that its runs use.

A model is often a function, and its networks are in a closure, a global variable, or a plain object. They are found in
four ways: the owner of a method; the objects that a function can reach by its names (`reachable`); the ``pyro.module``
statements of a run; and the modules that a run calls.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.exclusive import shielded
from ppl_vae.modes import change, put_back

_MOST = 5000  # the largest number of objects to inspect; a program has a few dozen
_DEPTH = 10
_LIBRARIES = frozenset({"torch", "pyro", "numpy", "ppl_vae", *sys.stdlib_module_names})
_HOLDERS = frozenset({"pyro", "argparse", "collections", "contextlib", "functools", "types", "weakref"})
"""Libraries whose objects may contain a user's objects: handlers, namespaces, containers, wrappers."""
_PLAIN = (Tensor, str, bytes, int, float, complex, types.ModuleType, types.BuiltinFunctionType)
_INTERNAL = frozenset(vars(nn.Module()))


class Networks:
    """The networks of a program, in the order in which they were found, by weak references.

    Args:
        programs: model and guide.

    Attributes:
        owners: the modules that model and guide are, or whose methods they are.
        told: whether the user was warned that Pyro's parameter store and a module have different values.
        alike: for each parameter's name, the tensors of store and module that were found to be equal.
    """

    def __init__(self, *programs: Callable[..., Any]) -> None:
        self._programs = programs
        owners = [fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None) for fn in programs]
        self.owners = tuple(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))
        self.told = False
        self.alike: dict[str, tuple[int, ...]] = {}
        self._found: dict[int, weakref.ref[nn.Module]] = {}
        self._near: list[weakref.ref[nn.Module]] | None = None
        self._run: _Run | None = None

    def __iter__(self) -> Iterator[nn.Module]:
        yield from self.owners
        for ref in [*self._found.values()]:
            module = ref()
            if module is not None:
                yield module

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> tuple[type[Networks], tuple[Callable[..., Any], ...]]:
        # A copy of a program has copies of the networks, and finds them again.
        return Networks, self._programs

    @property
    def idle(self) -> bool:
        """Whether no run is in progress inside `evaluating`."""
        return self._run is None

    def note(self, module: nn.Module) -> None:
        """Add a module to the program's networks, and put it into evaluation mode; only inside of `evaluating`."""
        run = self._run
        if run is None or id(module) in run.used:
            return
        named = id(module) in run.evaluated
        run.evaluate([module], used=True)
        self._found = {key: ref for key, ref in self._found.items() if ref() is not None}
        self._found[id(module)] = weakref.ref(module)
        if not named:
            self._near = None  # the names may now refer to other modules
            run.evaluate(self._nearby())

    @contextmanager
    @shielded
    def evaluating(self) -> Iterator[None]:
        """Put all networks into evaluation mode, including those found inside; their modes are restored afterwards."""
        outer, run = self._run, _Run()
        hook = None
        try:
            run.evaluate(self, used=True)
            run.evaluate(self._nearby())
            self._run = run
            if not run.compiled:
                hook = register_module_forward_pre_hook(self._called)
            yield
        finally:
            self._run = outer
            if hook is not None:
                hook.remove()
            put_back(run.changed, training=False)

    def _called(self, module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        run = self._run
        if run is not None and id(module) not in run.used and run.thread == threading.get_ident():
            self.note(module)

    def _nearby(self) -> list[nn.Module]:
        if self._near is None:
            self._near = [weakref.ref(module) for module in reachable(*self._programs)]
        return [module for ref in self._near if (module := ref()) is not None]


class _Run:
    """A run in evaluation mode.

    Attributes:
        changed: the modules that it put into evaluation mode.
        used: the ids of the modules that it is known to use, and of their children.
        evaluated: the ids of all modules that were put into evaluation mode. They are kept alive, so ids are unique.
        compiled: whether one was compiled by torch.compile, which does not support a hook on all modules.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.changed: list[nn.Module] = []
        self.used: set[int] = set()
        self.evaluated: set[int] = set()
        self.compiled = False
        self._alive: list[nn.Module] = []

    def evaluate(self, modules: Iterable[nn.Module], used: bool = False) -> None:
        """Put modules into evaluation mode."""
        modules = [*modules]
        self._alive += modules
        change(modules, False, self.changed)
        for module in modules:
            for child in module.modules():
                self.evaluated.add(id(child))
                if used:
                    self.used.add(id(child))
                self.compiled = self.compiled or _is_compiled(child)


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None


def reachable(*programs: Any) -> list[nn.Module]:
    """The modules that functions can reach by names: in closures, globals, defaults, partials, attributes, containers.

    Nothing is called, and objects of libraries are not inspected. The result may have more modules than a run uses.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # the objects are kept alive, so ids are unique
    level: list[Any] = [*programs]
    for _ in range(_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if id(value) in seen or len(seen) >= _MOST:
                continue
            seen[id(value)] = value
            if isinstance(value, nn.Module):
                found[id(value)] = value
            deeper += _inside(value)
        level = deeper
    return list(found.values())


def _inside(value: Any) -> list[Any]:
    """The objects in a container or object, or those that a function can reach by names."""
    if value is None or isinstance(value, _PLAIN):
        return []
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        return _named_by(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [*value]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, classmethod | staticmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, type):
        return _shared(value)
    library = type(value).__module__.partition(".")[0]
    if library in _LIBRARIES:
        return _attributes(value) if library in _HOLDERS else []
    return [*_attributes(value), *_shared(type(value))]


def _shared(kind: type) -> list[Any]:
    """The methods and attributes of a class, including those inherited from a user's classes."""
    classes = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES]
    return [item for base in classes for name, item in vars(base).items() if not _is_data(name)]


def _attributes(value: Any) -> list[Any]:
    """The attributes of an object, without those in which a module stores its children."""
    own = getattr(value, "__dict__", None)
    held = [item for name, item in own.items() if name not in _INTERNAL] if isinstance(own, dict) else []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = [slots] if isinstance(slots, str) else [*slots]
        held += [item for name in names if (item := _slot(kind, name, value)) is not None]
    return held


def _slot(kind: type, name: str, value: Any) -> Any:
    descriptor = kind.__dict__.get(name)
    try:
        return descriptor.__get__(value) if isinstance(descriptor, types.MemberDescriptorType) else None
    except AttributeError:  # not set
        return None


def _named_by(function: types.FunctionType) -> list[Any]:
    """The objects that a function's code can name: closure, defaults, globals, also of functions inside of it."""
    found: list[Any] = [function.__defaults__, function.__kwdefaults__, function.__dict__]
    found += [_content(cell) for cell in function.__closure__ or ()]
    if str(function.__module__).partition(".")[0] in _LIBRARIES:
        return found
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for name in code.co_names:
            value = function.__globals__.get(name)
            found.append(value)
            if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] not in _LIBRARIES:
                found += [vars(value)[other] for other in code.co_names if other in vars(value)]
    return found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_data(name: str) -> bool:
    """Whether a name of a class is Python's own data about the class, and not a method."""
    return name.startswith("__") and name.endswith("__") and name != "__call__"
