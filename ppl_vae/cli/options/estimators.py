"""An estimator's options: its arguments, with the types, defaults and texts of its signature and docstring.

They are read from the source of the library, which is not imported: ``--help`` answers without torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module, resources
from typing import Any

from ppl_vae.cli.oneline import UsageError, option
from ppl_vae.cli.options import values
from ppl_vae.cli.parsing import check_numbers
from ppl_vae.errors import InputError, check_one_of, describe

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, **values.TYPES}
_COMMANDS = ("method", "seed", "compile", "precision", "chunk_size", "checkpoint")
"""Arguments that are no options of an estimator: a command has options of its own for them."""
_FEW = {
    "num_samples": 4,
    "num_chains": 2,
    "num_steps": 2,
    "num_islands": 2,
    "num_particles": 4,
    "prior_draws": 4,
}
_FEW |= {"scrambles": 2, "most": 4, "pilot": 4, "max_steps": 1}  # of the values


@dataclass(frozen=True)
class Parameter:
    """An argument of an estimator.

    Attributes:
        type: what jsonargparse takes for it.
        default: the signature's, where that is a number or a word.
        text: the first sentence that the docstring says of it.
    """

    type: Any
    default: Any
    text: str


@dataclass(frozen=True)
class Estimator:
    """An estimator of ``ppl_vae.evidence``, whose arguments are options.

    Attributes:
        path: its module there, and its name.
        only: those of its arguments that are options; None for all that have a type which can be written.
        compiled: whether it takes ``compile`` and ``precision``.
    """

    path: str
    only: tuple[str, ...] | None = None
    compiled: bool = True

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Its options by name."""
        found = _parameters(f"ppl_vae.evidence.{self.path}")
        return {name: each for name, each in found.items() if self.only is None or name in self.only}

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        estimator: Callable[..., Any] = getattr(
            import_module("ppl_vae.evidence"), self.path.rpartition(".")[2]
        )
        return estimator


Methods = Mapping[str, Estimator]
"""What each ``--method`` is."""


def add_options(parser: Any, methods: Methods) -> None:
    """An option for every argument of the estimators, to a parser or a group of one."""
    for name in _names(methods):
        owners = {key: each.parameters[name] for key, each in methods.items() if name in each.parameters}
        first = next(iter(owners.values()))
        text = next((each.text for each in owners.values() if not each.text.startswith("as ")), first.text)
        defaults: dict[Any, list[str]] = {}
        for method, each in owners.items():
            if each.default is not None:
                defaults.setdefault(each.default, []).append(method)
        said = [
            f"{each}" if len(defaults) == 1 else f"{', '.join(of)} {each}" for each, of in defaults.items()
        ]
        text = f"[{', '.join(owners)}] {text}" + f" (default: {'; '.join(said)})" * bool(said)
        more: dict[str, Any] = {}
        if name in values.EXPECTED:
            text += f". {values.HOW[name]}; {option(name)}.help CLASS lists the options of a class"
            more["metavar"] = "CLASS"
        parser.add_argument(option(name), type=first.type | None, help=text.replace("%", "%%"), **more)


def add_precision(parser: Any, methods: Methods) -> None:
    """``--precision``, to a parser or a group of one."""
    owners = ", ".join(method for method, each in methods.items() if each.compiled)
    parser.add_argument(
        "--precision",
        type=str | None,
        help=f"[{owners}] of matrix products: full (the default), or bfloat16 or tf32 (GPUs only), whose result is not "
        "certified",
    )


def check(settings: dict[str, Any], methods: Methods) -> None:
    """Refuse an unknown method, an option of another method, and counts that are none.

    What else does not fit is refused by the estimator itself, in a rehearsal.

    Raises:
        InputError: naming the option at fault.
    """
    method = check_one_of("--method", settings["method"], methods)
    owners = {
        name: [key for key, each in methods.items() if name in each.parameters] for name in _names(methods)
    }
    if "precision" in settings:
        owners["precision"] = [key for key, each in methods.items() if each.compiled]
    for name, those in owners.items():
        given = settings[name]
        if given is not None and method not in those:
            expected = f"none with --method {method} (it belongs to {' or '.join(those)})"
            received = given["class_path"] if name in values.EXPECTED else describe(given)
            raise UsageError(option(name), expected, received)
    unset = {name for each in methods.values() for name, one in each.parameters.items() if one.default == 0}
    parameters = methods[method].parameters
    integers = [name for name, each in parameters.items() if each.type is int]
    check_numbers(settings, counts=[name for name in integers if name not in unset])


def resolve(settings: dict[str, Any], method: Estimator) -> dict[str, Any]:
    """Put the estimator's defaults in the place of what was not given; returns its arguments.

    What is not done unless it is asked for is None in ``settings``: a proposal that is the guide, full precision, and
    the 0 of an option whose default is 0.

    Raises:
        InputError: naming an option that a class does not take.
    """
    arguments: dict[str, Any] = {}
    for name, parameter in method.parameters.items():
        if name in values.EXPECTED:
            settings[name] = values.spec(name, settings[name])
        elif settings[name] is None or settings[name] == parameter.default:
            settings[name] = parameter.default or None
        if settings[name] is not None:
            arguments[name] = values.make(name, settings[name]) if name in values.EXPECTED else settings[name]
    if settings.get("precision") == "full":
        settings["precision"] = None
    if settings.get("precision") is not None:
        arguments["precision"] = settings["precision"]
    return arguments


@contextmanager
def few(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments for a rehearsal: no more samples, chains and steps than show that all of them fit.

    An `InputError` inside tells what was given, not what was rehearsed.
    """
    fewer = {name: _fewer(name, value) for name, value in arguments.items()}
    try:
        yield fewer
    except InputError as error:
        if error.argument in arguments and fewer[error.argument] != arguments[error.argument]:
            received = describe(arguments[error.argument])
            raise InputError(error.argument, error.expected, received) from error
        raise


def _fewer(name: str, value: Any) -> Any:
    if name in _FEW and isinstance(value, int):
        return min(value, _FEW[name])
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("ppl_vae."):
        inner = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **{name: _fewer(name, each) for name, each in inner.items()})
    return value


def _names(methods: Methods) -> list[str]:
    return list(dict.fromkeys(name for each in methods.values() for name in each.parameters))


@lru_cache
def _parameters(path: str) -> dict[str, Parameter]:
    """The arguments of a function that can be options, from the source of its module."""
    module, _, name = path.rpartition(".")
    function = next(
        node for node in _tree(module).body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    texts = _texts(ast.get_docstring(function) or "")
    positional, keyword = function.args.args, function.args.kwonlyargs
    defaults = [None] * (len(positional) - len(function.args.defaults)) + [*function.args.defaults]
    found: dict[str, Parameter] = {}
    for argument, default in zip(
        [*positional, *keyword], [*defaults, *function.args.kw_defaults], strict=True
    ):
        words = [] if argument.annotation is None else ast.unparse(argument.annotation).split(" | ")
        types = [_TYPES[word] for word in words if word in _TYPES]
        if types and argument.arg not in _COMMANDS:
            found[argument.arg] = Parameter(types[0], _value(default, module), texts.get(argument.arg, ""))
    return found


def _texts(docstring: str) -> dict[str, str]:
    """The first sentence of each entry of a docstring's Args, without what only Python's programmers would read."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL
    )
    plain = {name: re.sub(r" \(see [^)]*\)|`", "", " ".join(text.split())) for name, text in entries}
    return {name: re.split(r"\.(?: |$)", text)[0] for name, text in plain.items()}


def _value(node: ast.expr | None, module: str) -> Any:
    """A default: a literal, or a module's constant by its name; None for any other."""
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
