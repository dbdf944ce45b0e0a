"""Part: the base class of a VAE's priors, likelihoods, posteriors and networks, which record their constructor call.

A saved model consists of its parameters and the constructor calls that rebuild it. A user's own class needs only to
inherit from `Prior`, `Likelihood` or `Posterior` and to have an ordinary ``__init__``.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Mapping
from copy import copy
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ppl_vae.errors import InputError, describe


class _RecordsItsCall(ABCMeta):
    """Metaclass that stores the constructor's arguments on the object, before ``__init__`` can change them.

    Defaults are stored, too, so that a saved model does not change with a default. A default that JSON cannot represent
    (a function, for example) is not stored.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature for ``help`` and editors: that of the constructor, not that of `__call__`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return inspect.Signature(list(signature.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        signature = inspect.signature(cls)
        given = signature.bind(*args, **kwargs).arguments
        arguments: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(given.get(name, {}))
            elif name in given:
                value = given[name]
                arguments[name] = copy(value) if isinstance(value, list | dict) else value
            elif _is_plain(parameter.default):
                arguments[name] = parameter.default
        made = super().__call__(*args, **kwargs)
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
        if "." in kind.__qualname__:
            raise InputError(
                kind.__qualname__,
                "a class at the top of its module in a part that is saved",
                "one inside another",
            )
        for name, parameter in inspect.signature(kind).parameters.items():
            if name in self.init_args and parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.POSITIONAL_ONLY,
            ):
                raise InputError(
                    f"{kind.__name__}({name})",
                    "arguments that can be given by name in a part that is saved",
                    describe(self.init_args[name]),
                )
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


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is made of JSON's types alone."""
    try:
        _plain(object, "", value)
    except InputError:
        return False
    return True


def families(package: ModuleType, base: type) -> list[Any]:
    """The classes of one kind that a package exports, in the order of its ``__all__``, without ``base`` itself."""
    found = (getattr(package, name) for name in package.__all__)
    return [kind for kind in found if issubclass(kind, base) and kind is not base]
