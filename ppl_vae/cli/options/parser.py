"""Command lines and YAML files into plain dictionaries of options."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from ppl_vae import reading, signatures
from ppl_vae.cli.errors import HelpShown, from_jsonargparse
from ppl_vae.config import dump_yaml
from ppl_vae.errors import (
    InputError,
    UsageError,
    check_positive_float,
    check_positive_int,
    check_seed,
    describe,
    option,
)

_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Sequence[int]": list[int]}
_WIDTH = 110
_LONGEST = 2**16  # characters of an option's value
_TIDY = (
    (r"type: (Callable\[\[.*?\], \w+\]( \| null)?|<class 'ELBO'>), (default: null, )?", ""),  # said in words
    (r"\{'class_path': '[\w.]*?(\w+)'\}", r"\1"),
    (r"known subclasses:.*?(?=\)$)", lambda match: re.sub(r"\b(?:\w+\.)+(?=\w)", "", match[0])),
    (r" \| null, default: null", ""),  # an option that is not given; the text says what happens then
    (r", default: null\)", ")"),
    (r"default: null(, )?", ""),
    (r"\(default: False\)", ""),
    (r"\(type: (\w+), known subclasses: \1\)", ""),  # any class that can do it: the text says so
    (r"type: list\[int\]", "type: list of int"),
    (r"known subclasses: TraceEnum_ELBO.*?(?=\)$)", ""),  # some of Pyro's objectives cannot be used
    (r", \)$", ")"),
)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's types and defaults without what only Python's programmers would read."""

    def __init__(self, prog: str, **options: Any) -> None:
        options.setdefault("width", min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))
        super().__init__(prog, **options)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        for pattern, replacement in _TIDY:
            text = re.sub(pattern, replacement, text)
        return text.strip()


class _Parser(ArgumentParser):
    """One that tells its own end, after ``--help``, from that of a user's module which calls ``sys.exit``."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002
        """Raise `HelpShown`."""
        raise HelpShown(status)


def make_parser(command: str, description: str, examples: str) -> ArgumentParser:
    """A parser that raises instead of ending the process."""
    return _Parser(
        prog=f"ppl-vae {command}",
        description=description,
        epilog=examples,
        formatter_class=_Formatter,
        exit_on_error=False,
        print_config=None,
        default_env=False,
        allow_abbrev=False,
    )


def add_from(
    group: Any, function: Callable[..., Any], names: Sequence[str], texts: Mapping[str, str]
) -> None:
    """Options that are arguments of a function, with its types, defaults and texts; ``texts`` has others for some."""
    known = signatures.read(function).arguments
    for name in names:
        kind, text = option_type(known[name]), texts.get(name, known[name].text)
        group.add_argument(option(name), type=kind, default=known[name].default, help=text)


def option_type(argument: signatures.Argument, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """What jsonargparse takes for an argument, ``more`` types by name included; None if it is no option."""
    kinds = {**_TYPES, **more}
    kind = next((kinds[each] for each in argument.types if each in kinds), None)
    return kind | None if kind is not None and "None" in argument.types else kind


def parse(
    parser: ArgumentParser, argv: Sequence[str], classes: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The options by name, as plain values.

    Args:
        parser: from `make_parser`.
        argv: the arguments after the command.
        classes: for each option that takes a class, what it expects in words.

    Raises:
        UsageError: in one line, whatever is wrong.
    """
    _check_texts(argv)
    try:
        parsed = parser.parse_args(_own_defaults(parser, argv, classes))
    except (ArgumentError, argparse.ArgumentError) as error:
        raise from_jsonargparse(error, classes) from error
    except UnicodeDecodeError as error:
        raise UsageError("--config", "a YAML file of options", error) from error
    settings: dict[str, Any] = parsed.as_dict()
    for name, expected in classes.items():
        value = settings.get(name)
        if value is not None and not (isinstance(value, dict) and "class_path" in value):
            raise UsageError(option(name), expected, "a function")
    return settings


def _own_defaults(parser: ArgumentParser, argv: Sequence[str], classes: Iterable[str]) -> list[str]:
    """The arguments, such that a chosen class has its own defaults.

    jsonargparse would give it those arguments of the option's default class, and of another class in a file of options,
    that both classes have.
    """
    given, arguments = dict(_values(argv)), list(argv)
    content: dict[str, Any] = {}
    files = {path: reading.read_yaml(path) for key, path in _values(argv) if key == "--config"}
    for each in files.values():
        content |= each
    parser.set_defaults({name: None for name in classes if option(name) in given or content.get(name)})
    others = [
        name for name in classes if content.get(name) and _differ(content[name], given.get(option(name)))
    ]
    for path in files if others else ():
        text = dump_yaml({name: value for name, value in files[path].items() if name not in others})
        arguments = [text if each == path else each for each in arguments]
        arguments = [f"--config={text}" if each == f"--config={path}" else each for each in arguments]
    return arguments


def _differ(spec: Any, name: str | None) -> bool:
    """Whether a class is given by name, and is not that of a specification."""
    path = str(spec.get("class_path") if isinstance(spec, dict) else spec)
    return name is not None and path.rpartition(".")[2] != name.rpartition(".")[2]


def _values(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; an empty name for what stands alone."""
    before = ""
    for argument in argv:
        key, equals, value = argument.partition("=")
        if argument.startswith("--") and not equals:
            before = key
            continue
        yield (key, value) if argument.startswith("--") else (before, argument)
        before = ""


def _check_texts(argv: Sequence[str]) -> None:
    """Refuse texts and files that jsonargparse's recursive reader of YAML could not bear, or would wait for.

    Every value is YAML to it, and those of ``--config`` are files of YAML.
    """
    for key, value in _values(argv):
        if key == "--config":
            try:
                content = reading.read_yaml(value)
            except InputError as error:
                raise UsageError("--config", error.expected, f"{value} ({error.received})") from None
            if "config" in content:  # jsonargparse would read that file, too
                raise UsageError("--config", "a YAML file of options that names no other", value)
        elif len(value) > _LONGEST:
            raise UsageError(key or "options", f"a value of at most {_LONGEST} characters", len(value))
        elif any(mark in value for mark in "[{&*\n"):
            reading.check_yaml(value, key or "options", "a value")


def check_numbers(
    settings: Mapping[str, Any],
    *,
    counts: Sequence[str] = (),
    rates: Sequence[str] = (),
    seeds: Sequence[str] = (),
) -> None:
    """Refuse counts below 1 or of more than 64 bits, rates that are not positive and finite, and bad seeds.

    None is "not given".
    """
    for name in (*counts, *rates, *seeds):
        argument, value = option(name), settings[name]
        if value is None:
            continue
        if name in seeds:
            check_seed(value, argument)
        elif name in rates:
            check_positive_float(argument, value)
        elif check_positive_int(argument, value) >= 2**63:
            raise InputError(argument, "a positive integer below 2**63", describe(value))
