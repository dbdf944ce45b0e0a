"""What the swappable parts of a VAE have in common: they remember how they were made.

A saved model is its parameters and the constructor calls that rebuild it; a user's own class gets this by
inheriting from `Prior`, `Likelihood` or `Posterior` and writing a plain ``__init__``.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ppl_vae.errors import InputError, describe


class _RecordsItsCall(ABCMeta):
    """Metaclass that keeps the constructor's arguments on the new object, before ``__init__`` can change them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(parameter.name, {}))
        object.__setattr__(made, "init_args", arguments)
        return made


class Part(nn.Module, metaclass=_RecordsItsCall):
    """A module that can be rebuilt from ``config()``.

    Attributes:
        init_args: the constructor's arguments, by name.
    """

    init_args: dict[str, Any]

    def config(self) -> dict[str, Any]:
        """``{"class_path": ..., "init_args": ...}`` in plain JSON types.

        Raises:
            InputError: if an argument of the constructor is not made of numbers, strings, lists and dicts.
        """
        kind = type(self)
        return {
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "init_args": {name: _plain(kind, name, value) for name, value in self.init_args.items()},
        }


def _plain(kind: type, name: str, value: Any) -> Any:
    """``value`` in JSON's types: tuples and sizes become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | torch.Size):
        return [_plain(kind, name, item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(kind, name, item) for key, item in value.items()}
    raise InputError(
        f"{kind.__name__}({name}=...)",
        "numbers, strings, lists or dicts in a part that is saved",
        describe(value),
    )


def rebuild(config: Any, argument: str = "config") -> Any:
    """Make the part that ``config()`` described; raises `InputError` naming ``argument`` if it cannot be made."""
    try:
        module_name, _, class_name = config["class_path"].rpartition(".")
        kind = getattr(import_module(module_name), class_name)
        init_args = dict(config["init_args"])
    except (KeyError, TypeError, AttributeError, ValueError, ImportError) as error:
        raise InputError(argument, "a class_path that can be imported and its init_args", error) from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise InputError(argument, "the class path of a torch.nn.Module", describe(config["class_path"]))
    try:
        return kind(**init_args)
    except TypeError as error:
        raise InputError(argument, f"arguments that {class_name} takes", error) from None
