"""Which classes a file may name: what is looked up, what is imported, and what is refused unseen.

A saved model names the classes of its parts by their import paths, and importing a module runs it. So a file decides
nothing: ppl_vae's own classes are there already, a class of the user's is looked up among the modules that this process
has imported, and a module is imported only if the user has said that he trusts it. What is found must then be a class
of the right kind, before anything is called.
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
    """What a file may name besides ppl_vae's own classes.

    Attributes:
        packages: names of packages (or modules), which may be imported for a class in them.
        imported: whether modules that this process has already imported count, too.
        how: how the user says that he trusts ``{package}`` or its ``{module}``, for messages.
    """

    packages: tuple[str, ...] = ()
    imported: bool = True
    how: str = 'import {module} first, or pass trusted=("{package}",)'

    @classmethod
    def of(cls, packages: Any, argument: str = "trusted", **options: Any) -> Trust:
        """Trust in packages given by name; raises `InputError`, naming ``argument``, if one is no name."""
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
            base: what the class must be a subclass of.
            argument: what names the class, for messages.

        Raises:
            InputError: if the module is not trusted (it is not imported then), has no such class, or fails to be
                imported.
        """
        expected = f"the import path of a {base.__name__}"
        if not _is_path(path) or "." not in path:
            raise InputError(argument, expected, describe(path))
        module_name, _, name = path.rpartition(".")
        module = self._module(module_name, path, expected, argument)
        # Not getattr: a module may answer that by importing something.
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
