"""Configurations in plain types: written as YAML, and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


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
    """The first option in which two sets of them differ: where it is, our value, theirs."""
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
