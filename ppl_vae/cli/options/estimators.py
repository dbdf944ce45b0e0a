"""An estimator's options: its arguments, with the types, defaults and texts of its signature and docstring.

They are read from the source of the library, which is not imported: ``--help`` answers without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from typing import Any

from ppl_vae import signatures
from ppl_vae.cli.options import values
from ppl_vae.cli.options.parser import check_numbers, option_type
from ppl_vae.errors import InputError, UsageError, check_one_of, describe, option
from ppl_vae.signatures import Argument

_VALUES = {name.capitalize(): kind for name, kind in values.TYPES.items()}
_PACKAGE = "ppl_vae.evidence"
_PRECISION = "precision"
_COMMANDS = ("method", "seed", "compile", "precision", "chunk_size", "checkpoint")
"""Arguments that are no options of an estimator: a command has options of its own for them."""
_REHEARSAL = {
    "num_samples": 4,
    "num_chains": 2,
    "num_steps": 2,
    "num_islands": 2,
    "num_particles": 4,
    "prior_draws": 4,
}
_REHEARSAL |= {"scrambles": 2, "most": 4, "pilot": 4, "max_steps": 1}  # of the values


_ROUNDED = Argument(
    ("str",),
    None,
    "the precision of matrix products: full (the default), or on GPUs bfloat16 or tf32, with results not certified",
)


@dataclass(frozen=True)
class Estimator:
    """An estimator of ``ppl_vae.evidence``, whose arguments are options.

    Attributes:
        path: its module there, and its name.
        only: those of its arguments that are options; None for all that have a type which can be written.
        compiled: whether ``compile`` and ``precision`` are options, too.
    """

    path: str
    only: tuple[str, ...] | None = None
    compiled: bool = True

    @property
    def parameters(self) -> dict[str, Argument]:
        """Its options by name."""
        known = signatures.read(f"{_PACKAGE}.{self.path}").arguments
        found = {name: each for name, each in known.items() if name not in _COMMANDS and _kind(each)}
        chosen = {name: each for name, each in found.items() if self.only is None or name in self.only}
        return chosen | ({_PRECISION: _ROUNDED} if self.compiled else {})

    @property
    def summary(self) -> str:
        """The first line of its docstring, and whether it is a bound."""
        first, *rest = signatures.read(f"{_PACKAGE}.{self.path}").docstring.splitlines()
        lower = any('bound="lower"' in line for line in rest)
        return f"{first.rstrip('.')}: {'a stochastic lower bound' if lower else 'no bound'}"

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        estimator: Callable[..., Any] = getattr(import_module(_PACKAGE), self.path.rpartition(".")[2])
        return estimator


Methods = Mapping[str, Estimator]
"""What each ``--method`` is."""


def add_options(parser: Any, methods: Methods, what: str) -> None:
    """``--method``, whose default is the first, and a group with an option for every argument of the estimators."""
    parser.add_argument("--method", type=str, default=next(iter(methods)), help=what)
    group = parser.add_argument_group("method", "each option is for the methods in brackets")
    for name, owners in _owners(methods).items():
        texts = [each.text for each in owners.values()]
        text = next((each for each in texts if not each.startswith("as ")), texts[0])
        said = {method: each.default for method, each in owners.items() if each.default is not None}
        if len(set(said.values())) == 1:
            text += f" (default: {next(iter(said.values()))})"
        elif said:
            text += f" (default: {', '.join(f'{method} {default}' for method, default in said.items())})"
        more: dict[str, Any] = {}
        if name in values.EXPECTED:
            text += f". {values.HOW[name]}; {option(name)}.help CLASS lists the options of a class"
            more["metavar"] = "CLASS"
        kind = _kind(next(iter(owners.values())))
        text = f"[{', '.join(owners)}] {text}".replace("%", "%%")
        group.add_argument(option(name), type=kind | None, help=text, **more)


def summaries(methods: Methods) -> str:
    """A line for each method, for the description of a command."""
    width = max(map(len, methods))
    return "\n".join(f"  {method:<{width}}  {each.summary}" for method, each in methods.items())


def check(settings: dict[str, Any], methods: Methods) -> None:
    """Refuse an unknown method, an option of another method, and counts that are none.

    What else does not fit is refused by the estimator itself, in a rehearsal.

    Raises:
        InputError: naming the option at fault.
    """
    method = check_one_of("--method", settings["method"], methods)
    counts = []
    for name, owners in _owners(methods).items():
        given = settings[name]
        if given is not None and method not in owners:
            expected = f"none with --method {method} (it belongs to {' or '.join(owners)})"
            received = given["class_path"] if name in values.EXPECTED else describe(given)
            raise UsageError(option(name), expected, received)
        if all("int" in each.types and each.default != 0 for each in owners.values()):
            counts.append(name)
    check_numbers(settings, counts=counts)


def resolve(settings: dict[str, Any], method: Estimator) -> dict[str, Any]:
    """Put the estimator's defaults in the place of what was not given; returns its arguments.

    What is there without an option is no argument: a proposal that is the guide, full precision, and the 0 of an
    option whose default is 0.

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
    if arguments.get(_PRECISION) == "full":
        del arguments[_PRECISION]  # as it is without the option
    return arguments


@contextmanager
def reduced(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments for a rehearsal: no more samples, chains and steps than show that all of them fit.

    An `InputError` inside tells what was given, not what was rehearsed.
    """
    fewer = {name: _reduced(name, value) for name, value in arguments.items()}
    try:
        yield fewer
    except InputError as error:
        if error.argument in arguments and fewer[error.argument] != arguments[error.argument]:
            received = describe(arguments[error.argument])
            raise InputError(error.argument, error.expected, received) from error
        raise


def _reduced(name: str, value: Any) -> Any:
    if name in _REHEARSAL and isinstance(value, int):
        return min(value, _REHEARSAL[name])
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("ppl_vae."):
        inner = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **{name: _reduced(name, each) for name, each in inner.items()})
    return value


def _kind(argument: Argument) -> Any:
    """What jsonargparse takes for it; None if it is no option."""
    return option_type(argument, _VALUES)


def _owners(methods: Methods) -> dict[str, dict[str, Argument]]:
    """Every option by name, with what it is for each method that has it."""
    found: dict[str, dict[str, Argument]] = {}
    for method, each in methods.items():
        for name, parameter in each.parameters.items():
            found.setdefault(name, {})[method] = parameter
    return found
