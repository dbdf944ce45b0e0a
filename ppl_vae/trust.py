"""Trust: the classes that a file may name.

A saved model names the classes of its parts by their import paths, and importing a module runs its code. Permitted are
therefore only ppl_vae's own classes, classes of modules that this process has already imported, and classes of packages
that the user trusts; only the last are imported. Before anything is called, the class must have the right base class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from ppl_vae.errors import InputError, describe, one_line

T = TypeVar("T")

_OWN = "ppl_vae"


@dataclass(frozen=True)
class Trust:
    """The classes that a file may name in addition to ppl_vae's own.

    Attributes:
        packages: names of trusted packages (or modules), which may be imported.
        imported: whether classes of modules that this process has already imported are permitted, too.
        how: how the user can trust ``{package}`` or its ``{module}``, for messages.
    """

    packages: tuple[str, ...] = ()
    imported: bool = True
    how: str = 'import {module} first, or pass trusted=("{package}",)'

    @classmethod
    def of(cls, packages: Any, argument: str = "trusted", **options: Any) -> Trust:
        """Trust in packages by name; raises `InputError`, naming ``argument``, if one is not a valid name."""
        given = (packages,) if isinstance(packages, str) else packages
        good = isinstance(given, Sequence) and all(_is_path(name) for name in given)
        if not good:
            expected = "names of packages, such as my_package"
            raise InputError(argument, expected, describe(packages))
        return cls(tuple(given), **options)

    def find(self, path: Any, base: type[T], argument: str) -> type[T]:
        """The subclass of ``base`` that an import path names.

        Args:
            path: the import path, ``"module.Class"``; anything else is refused.
            base: the required base class.
            argument: the argument or file that names the class, for messages.

        Raises:
            InputError: if the module is not trusted (it is then not imported), has no such class, or cannot be
                imported.
        """
        expected = f"the import path of a {base.__name__}"
        if not _is_path(path) or "." not in path:
            raise InputError(argument, expected, describe(path))
        module_name, _, name = path.rpartition(".")
        module = self._module(module_name, path, expected, argument)
        # Not getattr, since a module's __getattr__ may import something.
        kind = vars(module).get(name)
        if not isinstance(kind, type):
            what = "no such name in that module" if kind is None else f"no class but a {type(kind).__name__}"
            raise InputError(argument, expected, f"{path!r} ({what})")
        if not issubclass(kind, base):
            raise InputError(argument, expected, f"{path!r} (no {base.__name__})")
        return kind

    def _module(self, name: str, path: str, expected: str, argument: str) -> ModuleType:
        package = name.split(".")[0]
        loaded = sys.modules.get(name)
        if package == _OWN:
            if loaded is None:  # every module with a class that is saved is there once ppl_vae.vae is
                raise InputError(argument, expected, f"{path!r} (no such module)")
            return loaded
        if any(f"{name}.".startswith(f"{known}.") for known in self.packages):
            if "__main__" in name.split(".")[1:]:
                raise InputError(argument, expected, f"{path!r} (a program, and no module of classes)")
            return loaded if loaded is not None else _imported(name, path, expected, argument)
        if self.imported and loaded is not None:
            return loaded
        how = self.how.format(package=package, module=name)
        raise InputError(argument, f"a class of {_OWN}, or of a package that you trust ({how})", f"{path!r}")


def _imported(name: str, path: str, expected: str, argument: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        text = f"{path!r} ({type(error).__name__}: {one_line(error, 160)})"
        raise InputError(argument, expected, text) from error


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and all(part.isidentifier() for part in path.split("."))
