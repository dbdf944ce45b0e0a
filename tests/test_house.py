"""Sizes and imports: no file, function or dataclass too large, and no modules that import one another."""

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path

import grimp
import pytest

import ppl_vae

ROOT = Path(ppl_vae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
MAX_LINES, MAX_FUNCTION, MAX_FIELDS = 400, 80, 12


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def lines_of_code(function, source):
    """The lines of a function but for its docstring, blank lines and lines of comment."""
    documented = function.body[0] if ast.get_docstring(function) is not None else None
    left_out = set(range(documented.lineno, documented.end_lineno + 1)) if documented else set()
    lines = (
        source[n - 1].strip() for n in range(function.lineno, function.end_lineno + 1) if n not in left_out
    )
    return sum(bool(line) and not line.startswith("#") for line in lines)


def long_functions():
    """Names of the functions and methods with more lines of code than allowed."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        source = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if function and lines_of_code(node, source) > MAX_FUNCTION:
                yield f"{name_of(path)}.{node.name}"


def large_dataclasses():
    """Names of the dataclasses with more fields than allowed, those that they inherit among them."""
    for path in FILES:
        if path.name == "__main__.py":
            continue
        module = importlib.import_module(name_of(path))
        for name, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__ and dataclasses.is_dataclass(value)
            if own and len(dataclasses.fields(value)) > MAX_FIELDS:
                yield f"{module.__name__}.{name}"


def circles(imports):
    """Sets of modules that import one another, directly or through others."""
    reached = {module: set(direct) for module, direct in imports.items()}
    changed = True
    while changed:
        changed = False
        for found in reached.values():
            more = set().union(*(reached[other] for other in found)) - found
            found |= more
            changed |= bool(more)
    inside = (frozenset(m for m in found if module in reached[m]) for module, found in reached.items())
    return {circle for circle in inside if circle}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_test_file_is_too_long():
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS.rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES} == {}


def test_no_function_is_too_long():
    assert sorted(long_functions()) == []


def test_no_dataclass_has_too_many_fields():
    assert sorted(large_dataclasses()) == []


def test_no_modules_import_one_another():
    """Imports inside of functions and those for type checking only count, too."""
    graph = grimp.build_graph("ppl_vae", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert circles(imports) == set()


def test_circles_are_found():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": set()}
    assert circles(imports) == {frozenset("bc")}
