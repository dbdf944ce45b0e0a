"""Signatures: the arguments of the package's functions, with types, defaults and texts, read from source.

Nothing is imported for it: what lists options does not wait for torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple


class Argument(NamedTuple):
    """An argument of a function.

    Attributes:
        types: its annotation, as it is written, split at ``|``.
        default: a literal, or the value of a module's constant; None for any other default, and for none.
        text: the first sentence that the docstring says of it, without markup and references.
    """

    types: tuple[str, ...]
    default: Any
    text: str


class Function(NamedTuple):
    """A function.

    Attributes:
        docstring: without its indentation.
        arguments: by name.
    """

    docstring: str
    arguments: dict[str, Argument]


def read(function: Callable[..., Any] | str) -> Function:
    """What the source says of a function, which may be named by its import path; it stands in a module of its own."""
    path = function if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"
    return _read(*path.rsplit(".", 1))


@lru_cache
def _read(module: str, name: str) -> Function:
    functions = (node for node in _tree(module).body if isinstance(node, ast.FunctionDef))
    found = next(node for node in functions if node.name == name)
    docstring, given = ast.get_docstring(found) or "", found.args
    texts = describe_arguments(docstring)
    required = [None] * (len(given.args) - len(given.defaults))
    defaults = [*required, *given.defaults, *given.kw_defaults]
    arguments = {}
    for each, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True):
        types = () if each.annotation is None else tuple(ast.unparse(each.annotation).split(" | "))
        arguments[each.arg] = Argument(types, _value(default, module), texts.get(each.arg, ""))
    return Function(docstring, arguments)


def describe_arguments(docstring: str) -> dict[str, str]:
    """The first sentence that the section ``Args`` of a docstring says of each argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    pattern = r"^    (\w+): (.*?)(?=^    \w|\Z)"
    entries = re.findall(pattern, section[1] if section else "", re.MULTILINE | re.DOTALL)
    plain = {name: re.sub(r" \(see [^)]*\)|`", "", " ".join(text.split())) for name, text in entries}
    return {name: re.split(r"\.(?: |$)", text)[0] for name, text in plain.items()}


def _value(node: ast.expr | None, module: str) -> Any:
    if isinstance(node, ast.Name):
        for each in _tree(module).body:
            if isinstance(each, ast.Assign) and any(ast.unparse(to) == node.id for to in each.targets):
                return _value(each.value, module)
            if isinstance(each, ast.ImportFrom) and any(alias.name == node.id for alias in each.names):
                return _value(node, each.module or "")
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


@lru_cache
def _tree(module: str) -> ast.Module:
    """The source of one of the package's modules."""
    package, *names = module.split(".")
    source = resources.files(package).joinpath(f"{'/'.join(names)}.py")
    return ast.parse(source.read_text(encoding="utf-8"))
