"""Configurations: objects from {class_path, init_args}, settings as YAML, and differences between settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from ppl_vae.errors import InputError, describe, one_line, relabel
from ppl_vae.trust import Trust

if TYPE_CHECKING:
    from torch import nn


def dump_yaml(settings: Mapping[str, Any]) -> str:
    """YAML in the order given."""
    return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """JSON's types: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def difference(ours: Any, theirs: Any, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], Any, Any] | None:
    """The first difference between two sets of options: its path, our value, their value."""
    ours, theirs = _plain(ours), _plain(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *theirs]:
            found = difference(ours.get(key), theirs.get(key), (*path, key))
            if found is not None:
                return found
        return None
    if ours == theirs and type(ours) is type(theirs):
        return None
    return path, ours, theirs


def rebuild(
    config: Any, argument: str = "config", base: type[nn.Module] | None = None, trust: Trust | None = None
) -> Any:
    """Make the part that ``config()`` described.

    Args:
        config: the description.
        argument: its name in messages.
        base: the base class of the part: `Part` by default.
        trust: the packages whose classes are permitted.

    Raises:
        InputError: naming ``argument``, if the class is not trusted, is not a subclass of ``base``, or cannot be made.
    """
    if not isinstance(config, Mapping) or not config.keys() >= {"class_path", "init_args"}:
        raise InputError(argument, "a class_path and its init_args", describe(config))
    from ppl_vae._part import Part

    kind: type = (trust or Trust()).find(config["class_path"], Part if base is None else base, argument)
    given = config["init_args"]
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(argument, "init_args that are a mapping", describe(given))
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{argument}: {error.argument}", error.expected, error.received) from None
    except Exception as error:
        expected = f"arguments that {kind.__name__} takes"
        raise InputError(argument, expected, f"{type(error).__name__}: {one_line(error, 160)}") from error


def make(
    kind: type, sizes: Sequence[Any], given: Mapping[str, Any], argument: str, names: Mapping[str, str]
) -> Any:
    """Make an object of a class that the user named.

    Args:
        kind: the class.
        sizes: its first arguments.
        given: the other arguments, by name.
        argument: the argument or option that named the class, for messages.
        names: the user's names of the class's arguments.

    Raises:
        InputError: naming the argument at fault, or ``argument`` if the constructor raises anything else.
    """
    for name, value in given.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(names[name], "an integer of 64 bits", value)
    try:
        return kind(*sizes, **given)
    except InputError as error:
        raise relabel(error, names) from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        text = f"{kind.__module__}.{kind.__qualname__}, which raised {type(error).__name__}: {first}"
        raise InputError(argument, "a class that can be made", text) from error
